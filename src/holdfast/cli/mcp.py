"""`holdfast mcp`: the accounts for language models, on standard input and output or over HTTP."""

from __future__ import annotations

import argparse
import signal
import sys
from importlib.util import find_spec
from pathlib import Path

from holdfast.adapter import Secret
from holdfast.cli.exits import CommandFailed, Exit
from holdfast.config import TOKEN_LENGTH, is_loopback, state_dir_of


def mcp(args: argparse.Namespace) -> int:
    """``holdfast mcp``."""
    if find_spec("mcp") is None:
        raise CommandFailed("the package `mcp` is not installed", "pip install 'holdfast[mcp]'")
    state_dir_of(args.config)  # a mistake in the file is told now, not to a model later
    token = _token(args.token_file)
    if args.listen is None:
        if token is not None:
            raise CommandFailed("--token-file is for --listen", exit=Exit.USAGE)
        _stdio(args.config, args.read_only)
    else:
        _http(args.config, args.read_only, args.listen, token)
    return Exit.OK


def _stdio(config: Path, read_only: bool) -> None:
    import asyncio

    from holdfast.mcp.desk import Desk
    from holdfast.mcp.server import build

    # The package reads on a thread that no exception ends; there is nothing to put away.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    asyncio.run(build(Desk(config), read_only=read_only).run_stdio_async())


def _http(config: Path, read_only: bool, address: tuple[str, int], token: Secret | None) -> None:
    host, port = address
    if token is None and not is_loopback(host):
        raise CommandFailed(
            f"{host} lets other machines in, and there is no token",
            "add --token-file FILE, or listen on 127.0.0.1",
            Exit.USAGE,
        )

    from holdfast.mcp.desk import Desk
    from holdfast.mcp.http import serve
    from holdfast.mcp.server import build

    def ready(url: str) -> None:
        print(f"holdfast: listening on {url}", file=sys.stderr, flush=True)

    try:
        serve(build(Desk(config), read_only=read_only), host, port, token, ready)
    except OSError as error:
        raise CommandFailed(
            f"can not listen on {host}:{port}: {error.strerror}", "name another address"
        ) from None


def _token(path: Path | None) -> Secret | None:
    """The token of a file. Raises CommandFailed."""
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise CommandFailed(f"the token file {path} can not be read: {reason}") from None
    if len(text) < TOKEN_LENGTH:
        raise CommandFailed(
            f"the token in {path} is shorter than {TOKEN_LENGTH} characters",
            "make one with `openssl rand -hex 32`",
        )
    return Secret(text)
