"""The demo's picture in the terminal: a live table, or plain lines where there is no terminal."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
import time
from typing import Any

from holdfast.lab.play import Demo
from holdfast.observe.status import AccountStatus

REFRESH = 0.25
"""Seconds between two pictures."""

COLOURS = {"connected": "green", "retrying": "yellow", "fatal": "red", "connecting": "cyan"}


async def show(play: Demo, url: str) -> None:
    """Draw until cancelled, then draw the last picture."""
    if sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
        await _live(play, url)
    else:
        await _lines(play, url)


async def _live(play: Demo, url: str) -> None:
    from rich.live import Live

    with Live(_picture(play, url), refresh_per_second=8) as live:
        try:
            while True:
                live.update(_picture(play, url))
                await asyncio.sleep(REFRESH)
        finally:
            live.update(_picture(play, url))


async def _lines(play: Demo, url: str) -> None:
    print(f"status: {url}", flush=True)
    shown = 0
    try:
        while True:
            shown = _news(play, shown)
            await asyncio.sleep(REFRESH)
    finally:
        _news(play, shown)
        for verdict in play.verdicts():
            print(
                f"{verdict.account}: {verdict.received} messages, {verdict.answered} answered, "
                f"{verdict.doubled} doubled, {verdict.lost} lost, {verdict.healed} faults healed, "
                f"slowest recovery {verdict.recovery_s} s, lied for {verdict.lie_s} s"
            )


def _news(play: Demo, shown: int) -> int:
    new = play.told - shown
    for text in list(play.events)[-new:] if new else ():
        print(text, flush=True)
    return play.told


def _picture(play: Demo, url: str) -> Any:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title="Holdfast: cables are being pulled", expand=True)
    for column in ("account", "state", "why", "next try", "messages", "answered", "lost", "lied"):
        table.add_column(column)
    entries = play.gateway.status().accounts
    for stage, verdict in zip(play.stages.values(), play.verdicts(), strict=True):
        entry = entries[stage.name]
        cut = Text(" cable out", "bold red") if stage.deaf() else Text("")
        table.add_row(
            Text(stage.name, "bold") + cut,
            Text(entry.state, COLOURS.get(entry.state, "")),
            entry.cause.code if entry.cause and entry.state != "connected" else "",
            _countdown(entry),
            str(verdict.received),
            str(verdict.answered),
            str(stage.waiting_too_long()),
            f"{verdict.lie_s:.1f} s",
        )
    return Group(
        table,
        *(Text(text, "dim") for text in play.events),
        Text(f"status as JSON: {url}   stop with Ctrl-C", "dim"),
    )


def _countdown(entry: AccountStatus) -> str:
    if entry.next_retry_at is None:
        return ""
    return f"in {max(0.0, entry.next_retry_at - time.time()):.1f} s"
