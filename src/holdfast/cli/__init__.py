"""The command line. A command's code, and what it needs, is imported only when it is called."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import cast

from holdfast.cli.exits import CommandFailed, Exit
from holdfast.errors import AccountInUse, ConfigError, HoldfastError, StoreError

INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. A user's mistake is one line on standard error."""
    from holdfast.cli.parser import build

    _settle_streams()
    parser = build()
    try:
        args = parser.parse_args(argv)
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else Exit.FAILED
    if args.command is None:
        parser.print_help(sys.stderr)
        return Exit.USAGE
    for name, value in vars(args).items():
        if name != "config" and not _is_text(str(value)):
            encoding = sys.getfilesystemencoding().upper()
            print(f"holdfast: {name} {str(value)!r} is not {encoding}", file=sys.stderr)
            return Exit.USAGE
    if args.config is None:
        args.config = Path(os.environ.get("HOLDFAST_CONFIG") or "holdfast.toml")
    try:
        code = _command(args.run)(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has had enough; nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except (HoldfastError, OSError) as error:
        told = " ".join(str(error).split()) or type(error).__name__  # some say nothing
        print(f"holdfast: {told}", file=sys.stderr)
        return _exit_of(error)
    return code


def _settle_streams() -> None:
    """Every standard stream is there, and no text is too strange to be printed."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed; its number is not to become the journal's
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_text(value: str) -> bool:
    """Python keeps bytes that are no text as halves of a character, which nothing can encode."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _command(name: str) -> Callable[[object], int]:
    module, _, function = name.partition(":")
    return cast(Callable[[object], int], getattr(import_module(module), function))


def _exit_of(error: Exception) -> Exit:
    match error:
        case CommandFailed():
            return error.exit
        case AccountInUse() | StoreError(code="store_in_use"):
            return Exit.IN_USE
        case ConfigError():
            return Exit.CONFIG
        case _:
            return Exit.FAILED
