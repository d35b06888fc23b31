"""The five ways to learn how accounts are, each as an outsider has it, and what they saw."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import re
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest

from holdfast.cli import main
from holdfast.observe.status import believed, doubt, read
from tests.cli.gateway import LIMIT
from tests.mcp.site import Model

UNKNOWN = "unknown"
"""What a reader says of an account of which nobody can tell how it is."""

Look = Callable[[], Awaitable[Mapping[str, str]]]
"""A look at all accounts: what each may be believed to be. Raises `Unanswered`."""


class Unanswered(Exception):
    """The reader was not answered, so whoever reads knows that the gateway is gone or hangs."""


def of_file(path: Path, clock: Callable[[], float] = time.time) -> Look:
    """The status file, by the three questions of docs/status.md."""

    async def look() -> Mapping[str, str]:
        try:
            document, now = read(path), clock()
        except FileNotFoundError as error:
            raise Unanswered("it was not written yet") from error
        if doubt(document, now) is not None:
            return dict.fromkeys(document.accounts, UNKNOWN)
        return {name: believed(entry, now) for name, entry in document.accounts.items()}

    return look


def of_ready(session: aiohttp.ClientSession, url: str, names: Iterable[str]) -> Look:
    """``/readyz``, account by account, as a probe of one of them asks."""

    async def look() -> Mapping[str, str]:
        return {name: await _ready(session, f"{url}/readyz?account={name}") for name in names}

    return look


async def _ready(session: aiohttp.ClientSession, url: str) -> str:
    try:
        async with session.get(url) as answer:
            told = await answer.json()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Unanswered(repr(error)) from error
    (state,) = [one["state"] for one in told.get("not_connected", {}).values()] or ["connected"]
    return str(state)


_STATE = re.compile(r'^holdfast_account_state\{account="([^"]+)",.*state="(\w+)"\} 1\.0$', re.M)


def of_metrics(session: aiohttp.ClientSession, url: str) -> Look:
    """``/metrics``, as Prometheus scrapes it."""

    async def look() -> Mapping[str, str]:
        try:
            async with session.get(url + "/metrics") as answer:
                assert answer.status == 200
                return dict(_STATE.findall(await answer.text()))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unanswered(repr(error)) from error

    return look


def of_mcp(model: Model) -> Look:
    """The tool that a language model asks first."""

    async def look() -> Mapping[str, str]:
        told = await model.call("list_accounts")
        return {one["account"]: one["state"] for one in told["accounts"]}

    return look


def of_command(config: Path, shown: pytest.CaptureFixture[str]) -> Look:
    """``holdfast status --json``; nothing else may write to standard output meanwhile."""

    async def look() -> Mapping[str, str]:
        shown.readouterr()
        await asyncio.to_thread(main, ["--config", str(config), "status", "--json"])
        told = json.loads(shown.readouterr().out)
        return {name: entry["believed"] for name, entry in told["accounts"].items()}

    return look


async def agreed(looks: Iterable[Look], states: Mapping[str, str]) -> None:
    """Wait until every reader tells these states."""
    async with asyncio.timeout(LIMIT):
        for look in looks:
            told: Mapping[str, str] = {}
            while told != states:
                await asyncio.sleep(0.05)
                with contextlib.suppress(Unanswered):
                    told = await look()


# -- what they saw --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seen:
    """A state that a reader told in several looks in a row, and when, on the loop's clock."""

    state: str
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class _Told:
    asked: float
    answered: float
    state: str


@dataclass(slots=True)
class Diary:
    """Everything one reader told, account by account."""

    looks: int = 0
    _told: dict[str, list[_Told]] = field(default_factory=dict)

    async def keep(self, look: Look, every: float) -> None:
        """Look again and again until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            asked = loop.time()
            for name, state in (await look()).items():
                self._told.setdefault(name, []).append(_Told(asked, loop.time(), state))
            self.looks += 1
            await asyncio.sleep(every)

    def of(self, name: str, *, proven: bool = False) -> list[Seen]:
        """An account's states, in order and without repeats.

        Each lasts until another one was told, which is too long by the time between two looks;
        or, if ``proven``, only as long as somebody who had looked in between would have been told
        it for certain, however slow the machine is.
        """
        runs = [
            list(run) for _, run in itertools.groupby(self._told[name], lambda told: told.state)
        ]
        ends = [*(run[0].answered for run in runs[1:]), runs[-1][-1].answered]
        return [
            Seen(run[0].state, run[0].answered, run[-1].asked if proven else end)
            for run, end in zip(runs, ends, strict=True)
        ]


def longest_disagreement(one: Iterable[Seen], other: Iterable[Seen]) -> float:
    """Seconds for which two readers told different states without a break, at the most."""
    longest, since, until = 0.0, 0.0, -1.0
    pairs = ((a, b) for a in one for b in other if a.state != b.state)
    apart = sorted((max(a.since, b.since), min(a.until, b.until)) for a, b in pairs)
    for begin, end in apart:
        if begin >= end:
            continue
        if begin > until:
            since = begin
        until = end
        longest = max(longest, until - since)
    return longest
