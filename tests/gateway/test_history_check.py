"""A connection that lives and delivers nothing: the history is asked, twice, and then it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from holdfast.adapter import HISTORY_CHECK, Continuity, Link
from holdfast.gateway.deafness import IN_FLIGHT, LIMIT
from holdfast.supervision import Kind, Published
from tests.gateway.parrot import Aviary, Parrot
from tests.harness import Running, running

FIVE_MINUTES = 300.0


class Reader(Parrot):
    """A parrot with a history; ``answers`` are those of the next looks, then there is nothing."""

    traits: ClassVar = replace(Parrot.traits, history_check=HISTORY_CHECK)

    def __init__(self, settings: Any, tools: Any) -> None:
        super().__init__(settings, tools)
        self.answers: list[str | BaseException | None] = []
        self.looks: list[float] = []
        self.hangs = False

    async def overlooked(self, link: Link) -> str | None:
        """See `Adapter.overlooked`."""
        self.looks.append(now())
        if self.hangs:
            await asyncio.Event().wait()
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, BaseException):
            raise answer
        return answer


@asynccontextmanager
async def reader(kind: type[Parrot] = Reader) -> AsyncIterator[tuple[Aviary, Running, Any]]:
    """A connected parrot on a server of its own, whose heartbeats are always acknowledged."""
    async with Aviary(beat=20.0) as aviary, running(kind, aviary.config) as bot:
        await bot.connected()
        yield aviary, bot, bot.adapter


async def until(condition: Callable[[], object]) -> None:
    """Wait for what may take a few checks."""
    async with asyncio.timeout(6 * HISTORY_CHECK):
        while not condition():  # noqa: ASYNC110  what it waits for tells nobody
            await asyncio.sleep(0.5)


def now() -> float:
    return asyncio.get_running_loop().time()


async def test_what_is_found_twice_ends_connection_and_session() -> None:
    async with reader() as (aviary, bot, adapter):
        await aviary.say("told")
        async with asyncio.timeout(1):
            while not bot.messages:  # noqa: ASYNC110  the moment matters
                await asyncio.sleep(0.01)
        heard_at = now()
        adapter.answers += ["message 7", "message 7"]
        await bot.published(Published.RETRYING)
        found = now() - heard_at
        assert HISTORY_CHECK + IN_FLIGHT - 1.0 <= found <= FIVE_MINUTES
        cause = bot.account.view().cause
        assert cause is not None
        assert (cause.kind, cause.code) == (Kind.SESSION, "parrot_deaf")
        assert "message 7" in cause.message
        await bot.connected()
        assert now() - heard_at - found < 10.0
        assert aviary.logins[-1]["resume"] is False
        gap = bot.account.last_gap
        assert gap is not None
        assert gap.until - gap.since >= HISTORY_CHECK  # not only since the last heartbeat
        assert aviary.open == 1


def test_the_worst_case_stays_below_five_minutes() -> None:
    assert HISTORY_CHECK + IN_FLIGHT + 2 * LIMIT < FIVE_MINUTES


@pytest.mark.parametrize("second", [None, OSError("no route")])
async def test_what_is_found_once_was_on_its_way(second: BaseException | None) -> None:
    async with reader() as (_, bot, adapter):
        adapter.answers += ["message 7", second]
        await until(lambda: len(adapter.looks) == 2)
        assert adapter.looks[1] - adapter.looks[0] == pytest.approx(IN_FLIGHT, abs=0.1)
        await asyncio.sleep(10)
        assert bot.account.view().generation == 1


async def test_a_message_between_the_looks_acquits_the_connection() -> None:
    async with reader() as (aviary, bot, adapter):
        adapter.answers += ["message 7", "message 8"]
        await until(lambda: len(adapter.looks) == 1)
        await aviary.say("7")
        await until(lambda: len(adapter.looks) == 2)
        await asyncio.sleep(10)
        assert bot.account.view().generation == 1
        assert [message.id for message in bot.messages] == ["7"]


async def test_nobody_looks_while_messages_come_in() -> None:
    async with reader() as (aviary, _, adapter):
        for number in range(10):
            await asyncio.sleep(HISTORY_CHECK - 10)
            await aviary.say(str(number))
        assert adapter.looks == []
        last = now()
        await until(lambda: len(adapter.looks) == 1)
        assert now() - last == pytest.approx(HISTORY_CHECK, abs=1.0)


async def test_a_quiet_connection_is_looked_after_again_and_again() -> None:
    async with reader() as (_, bot, adapter):
        await asyncio.sleep(10 * HISTORY_CHECK + 1)
        assert len(adapter.looks) == 10
        assert bot.account.view().generation == 1


async def test_a_failing_look_is_no_evidence_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with reader() as (_, bot, adapter):
        adapter.answers += [OSError("no route"), ValueError("odd"), None, OSError("no route")]
        with caplog.at_level(logging.WARNING, "holdfast.deafness"):
            await until(lambda: len(adapter.looks) == 2)
            await until(lambda: len(caplog.records) == 1)
            assert "account=bot code=unreachable message='no route'" in caplog.text
            await until(lambda: len(adapter.looks) == 5)
        assert len(caplog.records) == 2  # it had succeeded in between
        assert bot.account.view().generation == 1


async def test_a_look_that_hangs_is_given_up_and_repeated() -> None:
    async with reader() as (_, bot, adapter):
        adapter.hangs = True
        await until(lambda: len(adapter.looks) == 2)
        between = adapter.looks[1] - adapter.looks[0]
        assert between == pytest.approx(LIMIT + HISTORY_CHECK, abs=1.0)
        assert bot.account.view().generation == 1


async def test_a_platform_without_a_history_is_never_asked() -> None:
    class Mute(Reader):
        traits: ClassVar = Parrot.traits

    async with reader(Mute) as (_, _, adapter):
        await asyncio.sleep(10 * HISTORY_CHECK)
        assert adapter.looks == []


async def test_a_stop_in_the_middle_of_a_look_ends_it() -> None:
    async with reader() as (_, bot, adapter):
        adapter.answers += ["message 7", "message 7"]
        await until(lambda: len(adapter.looks) == 1)
        began = now()
        await bot.account.stop()
        assert now() - began < 5.0
        await asyncio.sleep(2 * HISTORY_CHECK)
        assert len(adapter.looks) == 1


async def test_a_connection_that_caught_up_reports_no_gap() -> None:
    class Catching(Reader):
        async def run(self, link: Link) -> None:
            link.ready(Continuity.CAUGHT_UP, silence=1e6, grace=1.0)
            await asyncio.Event().wait()

    async with reader(Catching) as (_, bot, adapter):
        adapter.answers += ["message 7", "message 7"]
        await bot.account.until(lambda view: view.generation == 2)
        await bot.connected()
        assert bot.account.last_gap is None
