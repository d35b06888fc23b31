"""The demo's picture in the terminal: a live table, or plain lines where there is no terminal."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from typing import Any

from holdfast.lab.play import Demo
from holdfast.observe.status import AccountStatus

REFRESH = 0.25
"""Seconds between two pictures."""

WORDS = {"account": 10, "state": 10, "cable": 5, "next try, why": 18}
"""Columns of words and their widths: with the counts they fill a line of 80 characters."""

COUNTS = ("messages", "answered", "gap", "lost", "lied")

FRAME = 5
"""Lines of the picture that are neither accounts nor news."""

COLOURS = {"connected": "green", "retrying": "yellow", "fatal": "red", "connecting": "cyan"}


async def show(play: Demo, url: str) -> None:
    """Draw until cancelled, then draw the last picture."""
    if sys.stdout.isatty() and importlib.util.find_spec("rich") is not None:
        await _live(play, url)
    else:
        await _lines(play, url)


async def _live(play: Demo, url: str) -> None:
    from rich.live import Live

    with Live(refresh_per_second=8) as live:
        try:
            while True:
                live.update(picture(play, url, live.console.height))
                await asyncio.sleep(REFRESH)
        finally:
            live.update(picture(play, url, live.console.height))


async def _lines(play: Demo, url: str) -> None:
    print(f"dashboard: {url}", flush=True)
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
                + (f", {verdict.gap} in a reported gap" if verdict.gap else "")
            )


def _news(play: Demo, shown: int) -> int:
    new = play.told - shown
    for text in list(play.events)[-new:] if new else ():
        print(text, flush=True)
    return play.told


def picture(play: Demo, url: str, height: int) -> Any:
    """The table, as many news as fit under it into ``height`` lines, and where to read more."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(
        title="Holdfast: cables are being pulled",
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    for column, wide in WORDS.items():
        table.add_column(column, no_wrap=True, width=wide)
    for column in COUNTS:
        table.add_column(column, no_wrap=True, justify="right")
    status = play.gateway.status()
    for stage, verdict in zip(play.stages.values(), play.verdicts(), strict=True):
        entry = status.accounts[stage.name]
        table.add_row(
            Text(stage.name, "bold"),
            Text(entry.state, COLOURS.get(entry.state, "")),
            Text("out", "bold red") if stage.cable.broken else "",
            _why(entry, status.written_at),
            str(verdict.received),
            str(verdict.answered),
            str(verdict.gap),
            str(stage.waiting_too_long()),
            f"{verdict.lie_s:.1f} s",
        )
    room = max(1, height - len(play.stages) - FRAME)
    return Group(
        table,
        *(Text(text, "dim", no_wrap=True) for text in list(play.events)[-room:]),
        Text(f"dashboard: {url}   stop with Ctrl-C", "dim", no_wrap=True),
    )


def _why(entry: AccountStatus, now: float) -> str:
    """Why it is not connected, and when it tries again."""
    if entry.state == "connected" or entry.cause is None:
        return ""
    code = entry.cause.code.removeprefix(f"{entry.platform}_")
    if entry.next_retry_at is None:
        return code
    return f"{max(0.0, entry.next_retry_at - now):.1f} s {code}"
