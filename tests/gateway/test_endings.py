"""However a connection's task ends, it is one `Ended` with the right cause, and a reconnect."""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import ClassVar

import pytest

from holdfast.adapter import AdapterError, Continuity, Health, Link
from holdfast.errors import StoreError
from holdfast.supervision import Cause, Kind, Published, State
from holdfast.testing import MemoryStore
from tests.gateway.parrot import Aviary, Parrot, mute
from tests.gateway.tools import alive, census, now, until
from tests.harness import running

CONFIG = {"platform": "parrot", "url": "http://127.0.0.1:9"}
"""For adapters that never dial."""


class Scripted(Parrot):
    """The first connection ends as told; the next ones live."""

    end: ClassVar[BaseException | None] = None
    runs: int = 0

    async def run(self, link: Link) -> None:
        """See `Adapter.run`."""
        self.runs += 1
        link.ready(Continuity.FRESH)
        if self.runs == 1:
            if self.end is not None:
                raise self.end
            return
        await asyncio.Event().wait()


def ending(error: BaseException | None) -> type[Scripted]:
    """An adapter whose first connection ends that way."""
    return type("Ending", (Scripted,), {"end": error})


ENDS = [
    pytest.param(None, Kind.LOST, "returned", id="returns"),
    pytest.param(asyncio.CancelledError(), Kind.LOST, "cancelled", id="raises-cancelled"),
    pytest.param(ConnectionResetError(errno.ECONNRESET, "reset"), Kind.LOST, "reset", id="reset"),
    pytest.param(TimeoutError(), Kind.TIMEOUT, "timeout", id="timeout"),
    pytest.param(OSError(errno.EMFILE, "files"), Kind.LOCAL, "local_emfile", id="descriptors"),
    pytest.param(StoreError("disk_full", "full"), Kind.LOCAL, "disk_full", id="journal"),
    pytest.param(
        AdapterError(Cause(Kind.SESSION, "gone")), Kind.SESSION, "gone", id="adapter-error"
    ),
    pytest.param(
        ExceptionGroup("two", [ExceptionGroup("one", [AdapterError(Cause(Kind.LOST, "inner"))])]),
        Kind.LOST,
        "inner",
        id="nested-groups",
    ),
    pytest.param(RuntimeError("boom"), Kind.UNKNOWN, "unknown", id="unclassified"),
]


@pytest.mark.parametrize(("error", "kind", "code"), ENDS)
async def test_every_outcome_is_an_end_with_its_cause_and_a_new_connection(
    error: BaseException | None, kind: Kind, code: str
) -> None:
    async with running(ending(error), CONFIG) as bot:
        view = await bot.account.until(lambda v: v.state is State.BACKOFF and v.generation == 1)
        assert view.cause is not None
        assert (view.cause.kind, view.cause.code) == (kind, code)
        assert view.published is Published.RETRYING
        began = now()
        await bot.account.until(lambda v: v.state is State.LIVE and v.generation == 2)
        assert 0 < now() - began <= 1


async def test_cancelled_by_someone_else_is_an_end_like_any_other() -> None:
    async with Aviary() as aviary, running(Parrot, aviary.config) as bot:
        await bot.connected()
        (task,) = [t for t in asyncio.all_tasks() if t.get_name() == "bot #1 run"]
        task.cancel()
        view = await bot.account.until(lambda v: v.state is State.BACKOFF)
        assert view.cause is not None
        assert (view.cause.kind, view.cause.code) == (Kind.LOST, "cancelled")
        await bot.account.until(lambda v: v.state is State.LIVE and v.generation == 2)
        await until(lambda: aviary.open == 1)


async def test_an_unknown_error_is_logged_once_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(ending(RuntimeError("boom")), CONFIG) as bot:
        await bot.account.until(lambda v: v.state is State.LIVE and v.generation == 2)
    found = [r for r in caplog.records if r.levelno >= logging.ERROR]
    assert len(found) == 1
    assert found[0].exc_info is not None
    assert "boom" in str(found[0].exc_info[1])


async def test_the_same_unknown_error_for_hours_fills_no_disk(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Parrot):
        async def run(self, link: Link) -> None:
            raise RuntimeError("boom")

    async with running(Broken, CONFIG) as bot:
        await asyncio.sleep(3_600)
        assert bot.account.unknown_errors >= 10
    assert len([r for r in caplog.records if r.exc_info]) == 1
    assert len(caplog.records) <= 20


async def test_a_flood_of_bad_frames_is_counted_and_fills_no_disk(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with running(Parrot, CONFIG) as bot:
        for number in range(1_000):
            bot.account.skipped("not JSON", b"\0" * number)
        assert bot.account.skipped_frames == 1_000
    told = [r.getMessage() for r in caplog.records if "skipped" in r.getMessage()]
    assert 3 <= len(told) <= 20
    assert max(map(len, told)) < 1_200


async def test_a_known_end_logs_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async with running(ending(None), CONFIG) as bot:
        await bot.account.until(lambda v: v.state is State.LIVE and v.generation == 2)
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


async def test_a_step_that_never_ends_is_named_in_the_cause() -> None:
    async with Aviary() as aviary:
        aviary.script.append(mute)
        async with running(Parrot, aviary.config) as bot:
            began = now()
            view = await bot.account.until(lambda v: v.state is State.BACKOFF)
            assert 10 <= now() - began < 11
            assert view.cause is not None
            assert view.cause.kind is Kind.TIMEOUT
            assert view.cause.code == "parrot_hello_timeout"
            assert view.cause.step == "hello"
            await bot.connected()
            assert aviary.opened == 2


async def test_a_run_that_says_nothing_at_all_ends_with_the_whole_attempt() -> None:
    class Silent(Parrot):
        async def run(self, link: Link) -> None:
            await asyncio.Event().wait()

    async with running(Silent, CONFIG) as bot:
        began = now()
        view = await bot.account.until(lambda v: v.state is State.BACKOFF)
        assert 30 <= now() - began < 31
        assert view.cause is not None
        assert view.cause.code == "parrot_connect_timeout"


async def test_a_classifier_that_raises_hides_no_end(caplog: pytest.LogCaptureFixture) -> None:
    class Clumsy(ending(ConnectionResetError(errno.ECONNRESET, "reset"))):  # type: ignore[misc]
        def classify(self, error: BaseException) -> Cause | None:
            raise KeyError("classify")

    async with running(Clumsy, CONFIG) as bot:
        began = now()
        view = await bot.account.until(lambda v: v.state is State.BACKOFF)
        assert now() == began
        assert view.cause is not None
        assert view.cause.code == "reset"
        assert any("classify" in r.getMessage() for r in caplog.records)


async def test_a_listener_that_raises_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with running(ending(None), CONFIG) as bot:
        heard: list[str] = []

        def broken(account: object, report: object) -> None:
            heard.append("report")
            raise ValueError("a defect of the listener")

        bot.account._on_report = broken
        await bot.account.until(lambda v: v.state is State.LIVE and v.generation == 2)
        assert heard
    assert any("report" in r.getMessage() for r in caplog.records)


async def test_cancelled_before_its_first_step_nothing_leaks_and_nothing_warns(
    recwarn: pytest.WarningsRecorder,
) -> None:
    before = await census()
    async with Aviary() as aviary, running(Parrot, aviary.config) as bot:
        # The harness has started the account; its task has not had a turn of the loop yet.
        assert bot.account.view().state is State.CONNECTING
        await bot.account.stop()
        assert aviary.opened == 0
    assert (await census()) == before
    assert not recwarn.list


class Zombie(Parrot):
    """Swallows every cancellation, and goes on talking once it is let out."""

    freed: ClassVar[asyncio.Event]
    links: ClassVar[list[Link]]

    async def run(self, link: Link) -> None:
        """See `Adapter.run`."""
        self.links.append(link)
        if len(self.links) > 1:
            await super().run(link)
            return
        url = self.settings.url.replace("http", "ws") + "/ws"
        await link.websocket(url)
        link.ready(Continuity.FRESH)
        while not self.freed.is_set():
            try:
                await self.freed.wait()
            except asyncio.CancelledError:
                continue
        link.alive()
        link.acked()


async def test_a_task_that_swallows_its_cancellation_is_abandoned_and_replaced() -> None:
    Zombie.freed, Zombie.links = asyncio.Event(), []
    async with Aviary() as aviary:
        aviary.script.append(mute)
        async with running(Zombie, aviary.config) as bot:
            await bot.connected()
            await until(lambda: aviary.open == 1)
            began = now()
            bot.account.kick(operator=True)
            await bot.account.until(lambda v: v.generation == 2)
            assert now() - began < 5
            assert bot.account.view().abandoned == 1
            await until(lambda: aviary.opened == 2)
            # Its socket is gone from the server's side too.
            await until(lambda: aviary.open == 1, 1)
            await bot.connected()
            stale = bot.account.view().stale_events
            Zombie.freed.set()
            await until(lambda: bot.account.view().stale_events >= stale + 2)
            assert bot.account.view().state is State.LIVE
            assert bot.account.view().generation == 2


async def test_an_abandoned_connection_can_neither_store_nor_dial() -> None:
    Zombie.freed, Zombie.links = asyncio.Event(), []
    store = MemoryStore()
    async with Aviary() as aviary:
        aviary.script.append(mute)
        async with running(Zombie, aviary.config, store=store) as bot:
            await bot.connected()
            bot.account.kick(operator=True)
            await bot.account.until(lambda v: v.generation == 2 and v.state is State.LIVE)
            await aviary.say("7")
            await until(lambda: aviary.stored == ["7"])
            zombie = Zombie.links[0]
            zombie.cursor["seq"] = "1"
            opened = aviary.opened
            with pytest.raises(AdapterError):
                await zombie.commit()
            with pytest.raises(AdapterError):
                await zombie.websocket(aviary.url.replace("http", "ws") + "/ws")
            with pytest.raises(AdapterError):
                await zombie.http.request("GET", aviary.url)
            assert aviary.opened == opened
            assert await store.cursor("bot") == {"seq": "7"}
            Zombie.freed.set()


async def test_double_cancel_leaves_nothing_behind(recwarn: pytest.WarningsRecorder) -> None:
    before = await census()
    async with Aviary() as aviary:
        aviary.script.append(mute)
        async with running(Parrot, aviary.config):
            await until(lambda: aviary.open == 1)
            (task,) = [t for t in asyncio.all_tasks() if t.get_name() == "bot #1 run"]
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0)
            task.cancel()
            await until(lambda: aviary.open == 0, 5)
    assert (await census()) == before
    assert not recwarn.list


async def test_fifty_connections_leave_nothing_behind() -> None:
    async with Aviary() as aviary:
        async with running(Parrot, aviary.config, policy={"opens_limit": 1000}) as bot:
            await bot.connected()
            early = await census()
            for number in range(2, 52):
                bot.account.kick(operator=True)
                await alive(bot, number)
            late = await census()
            assert aviary.opened == 51
            await until(lambda: aviary.open == 1)
        assert len(late.tasks) == len(early.tasks)
        assert (late.threads, late.descriptors) == (early.threads, early.descriptors)


async def test_check_refused_blocks_and_check_passed_logs_in_at_once() -> None:
    class Judged(Parrot):
        verdicts: ClassVar[list[Cause | None]] = [Cause(Kind.CREDENTIALS, "no"), None]

        async def run(self, link: Link) -> None:
            raise AdapterError(Cause(Kind.CREDENTIALS, "no"))

        async def check(self) -> Health:
            return Health(cause=self.verdicts.pop(0))

    async with running(Judged, CONFIG) as bot:
        await bot.published(Published.FATAL)
        await bot.account.until(lambda v: v.generation == 2 and v.state is State.BLOCKED)
        await bot.account.until(lambda v: v.generation == 4)
        views = [report.view for report in bot.reports]
        asked, let_in = (next(v for v in views if v.generation == number) for number in (3, 4))
        assert (let_in.state, let_in.published) == (State.CONNECTING, Published.RETRYING)
        assert let_in.at - asked.at < 0.1
