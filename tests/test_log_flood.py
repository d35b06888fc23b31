"""Failure mode `log-flood`: an hour of outage is a handful of lines, whatever breaks and how.

The bound is that of the catalogue: 20 lines an hour and account, one when the account is lost, one
when it is restored with the time that took and the attempts, and each traceback once.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli import logs
from holdfast.lab.simulators.mattermost import MattermostSimulator
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.lab.stage import Stage
from tests.theatre import Theatre, theatre

HOUR = 3_600.0
MOST = 20


class Log:
    """What `holdfast run` would have written."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self.handler = logging.StreamHandler(self._stream)
        self.handler.setFormatter(logs.JsonLines(logs.Redaction()))
        self.handler.addFilter(logs.Repeats())

    def lines(self) -> list[dict[str, Any]]:
        """All lines so far."""
        return [json.loads(line) for line in self._stream.getvalue().splitlines()]

    def events(self) -> list[str]:
        """The event of every line so far."""
        return [line["event"] for line in self.lines()]


@pytest.fixture
def log() -> Iterator[Log]:
    """The log at the level people use."""
    made, root = Log(), logging.getLogger()
    level = root.level
    root.addHandler(made.handler)
    root.setLevel(logging.INFO)
    try:
        yield made
    finally:
        root.removeHandler(made.handler)
        root.setLevel(level)


async def connected_and_quiet(play: Theatre, log: Log) -> int:
    """Wait for a stable run; how many lines there are."""
    await play.until("bot", "connected")
    await asyncio.sleep(310)
    return len(log.lines())


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["refuse", "cut"])
@pytest.mark.parametrize("simulator", [TelegramSimulator, MattermostSimulator])
async def test_an_hour_without_network_is_one_line_lost_and_one_restored(
    tmp_path: Path, log: Log, simulator: Callable[[], Any], fault: str
) -> None:
    async with Stage("bot", simulator()) as stage, theatre(tmp_path, stage, every=30.0) as play:
        before = await connected_and_quiet(play, log)
        getattr(stage.relay, fault)()
        await play.until("bot", "retrying", timeout=120)
        await asyncio.sleep(HOUR)
        attempts = play.entry("bot").attempt
        stage.relay.heal()
        await play.until("bot", "connected", timeout=60)
        await asyncio.sleep(310)
        told = log.lines()[before:]
    assert attempts >= 15
    assert len(told) <= MOST, [line["text"] for line in told]
    events = [line["event"] for line in told]
    assert events.count("lost") == events.count("restored") == 1
    (restored,) = (line for line in told if line["event"] == "restored")
    assert restored["account"] == "bot"
    assert restored["attempts"] >= attempts
    assert re.search(r"after=3[67]\d\d\.\ds ", restored["text"])


@pytest.mark.slow
async def test_an_hour_of_coming_and_going_is_no_flood_either(tmp_path: Path, log: Log) -> None:
    """The connection comes up each time, and is cut before it is stable."""
    async with (
        Stage("bot", MattermostSimulator()) as stage,
        theatre(tmp_path, stage, every=30.0) as play,
    ):
        before = await connected_and_quiet(play, log)
        began, lives = play.now(), 0
        while play.now() - began < HOUR:
            stage.relay.rst()
            await play.until("bot", "retrying", timeout=60)
            await play.until("bot", "connected", timeout=600)
            lives += 1
            await asyncio.sleep(20)
        flood = log.events()[before:]
        await asyncio.sleep(310)
        told = log.events()[before:]
    assert lives >= 20
    assert len(flood) <= MOST, flood
    assert told.count("lost") == told.count("restored")  # and the end of it is told
    account = [event for event in told if event in ("lost", "restored")]
    assert account[-1] == "restored"


@pytest.mark.slow
async def test_a_revoked_token_is_one_line_in_an_hour(tmp_path: Path, log: Log) -> None:
    simulator = TelegramSimulator()
    async with Stage("bot", simulator) as stage, theatre(tmp_path, stage, every=30.0) as play:
        before = await connected_and_quiet(play, log)
        simulator.revoke_token()
        await play.until("bot", "fatal", timeout=120)
        await asyncio.sleep(HOUR)
        told = log.events()[before:]
    assert told.count("fatal") == 1
    assert len(told) <= MOST


def test_a_traceback_is_told_once_for_each_place(log: Log) -> None:
    def fail(kind: type[Exception], n: int) -> None:
        with contextlib.suppress(kind):
            try:
                raise kind(f"attempt {n}")
            except kind:
                logging.getLogger("holdfast.account").exception("oops account=%s", f"bot{n}")
                raise

    for n in range(4):
        fail(ValueError, n)
    fail(KeyError, 5)
    lines = log.lines()
    assert ["traceback" in line for line in lines] == [True, False, False, False, True]
    assert lines[1]["error"] == "ValueError: attempt 1"
    assert lines[1]["traceback_at"] == lines[0]["time"]


def test_repetitions_are_counted(log: Log) -> None:
    loud = logging.getLogger("holdfast.account")
    for n in range(100):
        loud.warning("gap account=bot since=%d", n)
        loud.warning("gap account=other since=%d", n)
    logging.getLogger("holdfast").warning("lost account=bot")
    logging.getLogger("holdfast").warning("lost account=bot")
    lines = log.lines()
    assert [line.get("repeats") for line in lines if "bot" in line["text"]] == [
        *(None, None, 4, 8, 16, 32, 64),
        *(None, None),
    ]


def test_after_an_hour_it_is_news_again() -> None:
    repeats = logs.Repeats()

    def passes(at: float) -> bool:
        record = logging.LogRecord("x", logging.INFO, "", 1, "the same", (), None)
        record.created = at
        return repeats.filter(record)

    assert [passes(at) for at in (0, 1, 2, 3_599, 3_600, 3_601, 3_602)] == [
        *(True, True, False, True),
        *(True, True, False),
    ]


def test_no_text_looks_like_another_line() -> None:
    record = logging.LogRecord(
        "x", logging.INFO, "", 1, "got text=%s", ("a\ntime=1 level=x",), None
    )
    lines = logs.Lines(logs.Redaction()).format(record).splitlines()
    assert lines[1] == "  time=1 level=x"


def test_an_event_of_several_words_is_quoted() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 1, "endpoint is back url=%s", ("u",), None)
    assert logs.Lines(logs.Redaction()).format(record).endswith('event="endpoint is back" url=u')
