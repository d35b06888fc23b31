"""Commands that need no running gateway: init, check, demo and version."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from holdfast import __version__
from holdfast.cli import tables
from holdfast.cli.exits import CommandFailed, Exit
from holdfast.cli.journal import JOURNAL
from holdfast.cli.starter import starter
from holdfast.cli.tables import Cell, Table, Tone
from holdfast.observe.status import CauseStatus, cause_status

if TYPE_CHECKING:
    from holdfast.adapter import Adapter, Health
    from holdfast.config import AccountConfig, Config
    from holdfast.gateway.net import HttpClient

CHECK_LIMIT = 30.0
"""Seconds an account's check may take in all."""

OF_THE_PROGRAM = "python:__main__:"
"""Begins the name of an agent that only the program which runs the gateway has."""


# -- version --------------------------------------------------------------------------------------


def version(args: argparse.Namespace) -> int:
    """``holdfast version``."""
    if args.json:
        tables.show_json({"version": __version__})
    else:
        print(f"holdfast {__version__}")
    return Exit.OK


# -- init -----------------------------------------------------------------------------------------


def init(args: argparse.Namespace) -> int:
    """``holdfast init``."""
    path: Path = args.file or args.config
    _write_new(path, starter(args.platform or ["telegram"]))
    if args.json:
        tables.show_json({"written": str(path)})
    else:
        print(f"wrote {path}; fill it in, then run `holdfast --config {path} check`")
    return Exit.OK


def _write_new(path: Path, text: str) -> None:
    try:
        number = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise CommandFailed(
            f"{path} exists and is left as it is", "name another file: holdfast init FILE"
        ) from None
    except OSError as error:
        raise CommandFailed(f"{path} can not be written: {error.strerror}") from None
    with os.fdopen(number, "w", encoding="utf-8") as file:
        file.write(text)


# -- check ----------------------------------------------------------------------------------------


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """How one account's check ended."""

    account: str
    platform: str
    identity: str
    good: bool
    cause: CauseStatus | None
    notes: tuple[str, ...]


def check(args: argparse.Namespace) -> int:
    """``holdfast check``."""
    from holdfast.config import check_state_dir, load
    from holdfast.store.aside import diagnose

    config = load(args.config)
    check_state_dir(config.state_dir, f"{config.path}: [gateway] state_dir")
    for warning in config.warnings:
        print(f"holdfast: warning: {warning}", file=sys.stderr)
    unknown = [name for name in args.accounts if name not in config.accounts]
    if unknown:
        known = ", ".join(sorted(config.accounts))
        raise CommandFailed(f"there is no account {unknown[0]!r}; there are: {known}")
    troubles = diagnose(config.state_dir / JOURNAL)
    for trouble in troubles:
        print(f"holdfast: {trouble}", file=sys.stderr)
    verdicts = asyncio.run(_check(config, args.accounts or list(config.accounts)))
    if args.json:
        tables.show_json(verdicts)
    else:
        _show(verdicts)
    good = not troubles and all(verdict.good for verdict in verdicts)
    return Exit.OK if good else Exit.FAILED


async def _check(config: Config, names: Sequence[str]) -> list[Verdict]:
    """Verdicts in the order of ``names``. Raises ConfigError."""
    from holdfast import agents
    from holdfast.config import check_identities
    from holdfast.gateway.dns import Resolver

    resolver = Resolver()
    made = {name: _adapter(config, account, resolver) for name, account in config.accounts.items()}
    for name, account in config.accounts.items():
        if not account.agent.startswith(OF_THE_PROGRAM):
            where = f"{config.path}: [accounts.{name}] agent"
            agents.load(account.agent, where, config.path.parent)
    check_identities(
        {name: (adapter.platform, adapter.identity) for name, (adapter, _) in made.items()},
        str(config.path),
    )
    healths = await asyncio.gather(*(_health(*made[name]) for name in names))
    return [
        Verdict(
            account=name,
            platform=config.accounts[name].platform,
            identity=health.identity,
            good=health.cause is None,
            cause=cause_status(health.cause),
            notes=(*health.notes, *_unseen(config.accounts[name])),
        )
        for name, health in zip(names, healths, strict=True)
    ]


def _unseen(account: AccountConfig) -> tuple[str, ...]:
    """What only the program that runs the gateway can tell."""
    foreign = account.agent.startswith(OF_THE_PROGRAM)
    return ("its agent was not looked at: it is one of the program's own",) if foreign else ()


def _adapter(
    config: Config, account: AccountConfig, resolver: object
) -> tuple[Adapter, HttpClient]:
    from holdfast.gateway.account import AccountTools
    from holdfast.gateway.net import Net

    client = Net(resolver, account.proxy).client()  # type: ignore[arg-type]
    tools = AccountTools(client, config.gateway.hook_url)
    return account.adapter(account.settings, tools), client


async def _health(adapter: Adapter, client: HttpClient) -> Health:
    """The adapter's own check, bounded; an error is a verdict too."""
    from holdfast.adapter import Health
    from holdfast.gateway.classify import classified, cleaned
    from holdfast.secrets import redaction_of

    try:
        async with asyncio.timeout(CHECK_LIMIT):
            health = await adapter.check()
    except Exception as error:
        return Health(cause=classified(adapter, error))
    else:
        cause = health.cause and cleaned(health.cause, redaction_of(adapter))
        return replace(health, cause=cause)
    finally:
        await client.close()


def _show(verdicts: Sequence[Verdict]) -> None:
    table = Table(("ACCOUNT", "PLATFORM", "IDENTITY", "VERDICT", "WHAT TO DO"))
    for verdict in verdicts:
        cause = verdict.cause
        if cause is None:
            table.add(
                verdict.account,
                verdict.platform,
                verdict.identity,
                Cell("good", Tone.GOOD),
                "; ".join(verdict.notes) or "nothing",
            )
        else:
            table.add(
                verdict.account,
                verdict.platform,
                verdict.identity or "-",
                Cell(f"bad: {cause.code}: {cause.message}".rstrip(": "), Tone.BAD),
                cause.hint,
            )
    tables.show(table)


# -- demo -----------------------------------------------------------------------------------------


def demo(args: argparse.Namespace) -> int:
    """``holdfast demo``."""
    return int(import_module("holdfast.lab.demo").main(args.seconds, args.json, args.port))
