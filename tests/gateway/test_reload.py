"""A reload loses nothing and leaves nobody stopped, whatever the disk does meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.adapter import Link, Outcome, SendFailed
from holdfast.agents import Turn
from holdfast.errors import StoreError
from holdfast.gateway.gateway import Gateway
from holdfast.messages import Inbound, Outbound, Receipt, Reply
from holdfast.store.protocol import Owed, Received, Store
from holdfast.store.sqlite import SqliteStore
from holdfast.supervision import Published
from holdfast.testing import MemoryStore, VirtualTimeLoop
from tests.gateway.house import config, house, parrot, reach
from tests.gateway.puppets import GONE, Puppet, Strings
from tests.gateway.tools import now, until


class Disk:
    """The disk of a journal; a commit takes as many virtual seconds as a test wants."""

    def __init__(self, store: SqliteStore) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        self._loop = loop
        self._seconds = 0.0
        self._over = threading.Event()
        self._commit: Callable[[list[Any]], Any] = store.custody.writer._commit
        store.custody.writer._commit = self._slowly  # type: ignore[method-assign]

    def slow(self, seconds: float) -> None:
        """The next commit takes so long."""
        self._seconds = seconds

    def _slowly(self, operations: list[Any]) -> Any:
        seconds, self._seconds = self._seconds, 0.0
        if seconds:
            self._loop.call_soon_threadsafe(self._hold, seconds)
            self._over.wait(20)
        return self._commit(operations)

    def _hold(self, seconds: float) -> None:
        self._loop.threads_busy -= 1  # the clock moves while this thread waits
        self._loop.call_later(seconds, self._let_go)

    def _let_go(self) -> None:
        self._loop.threads_busy += 1
        self._over.set()


def said(id: str) -> Inbound:
    """A message of the one chat."""
    return Inbound(id=id, chat="c", sender="u", text=id)


async def deaf_for(seconds: float) -> None:
    """Wait, whoever cancels it."""
    end = now() + seconds
    while now() < end:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(end - now())


@contextlib.asynccontextmanager
async def up(
    home: Path, store: Store, kind: type[Puppet] = Puppet
) -> AsyncIterator[tuple[Gateway, Strings]]:
    """A gateway whose one account is connected, and the strings of its platform."""
    strings = Puppet.strings["a"] = Strings()
    account = parrot("a", "http://puppet.invalid", kind=kind)
    async with house(home, account, store=store) as gateway:
        await reach(gateway, "a", Published.CONNECTED)
        yield gateway, strings


async def changed(gateway: Gateway, home: Path, **entry: Any) -> None:
    """Reload with another entry of the account; it is connected afterwards."""
    await gateway.reload(config(home, parrot("a", "http://puppet2.invalid", kind=Puppet, **entry)))
    await reach(gateway, "a", Published.CONNECTED)


async def settled(gateway: Gateway, store: SqliteStore) -> None:
    """Nothing waits, in the status and in the journal alike."""
    desk = gateway.desk("a")
    await until(lambda: not desk.lanes.depth and not desk.sender.depth)
    assert (await store.unhandled("a"), await store.owed("a")) == ([], [])


@pytest.mark.parametrize("seconds", [0.7, 5.0, 60.0])
async def test_what_is_being_stored_at_a_reload_is_answered_by_the_new_desk(
    tmp_path: Path, seconds: float
) -> None:
    store = await SqliteStore.open(tmp_path / "journal.db")
    async with up(tmp_path, store) as (gateway, strings):
        Disk(store).slow(seconds)
        saying = asyncio.create_task(strings.links[-1].deliver(said("one")))
        await asyncio.sleep(0.2)
        await changed(gateway, tmp_path)
        await asyncio.gather(saying, return_exceptions=True)
        link = strings.links[-1]
        await link.deliver(said("one"))  # the platform repeats what nobody acknowledged
        await link.deliver(said("two"))
        await settled(gateway, store)
        assert strings.sent == ["c: echo: one", "c: echo: two"]


async def test_an_attempt_that_a_reload_overtakes_while_it_is_stored_was_not_made(
    tmp_path: Path,
) -> None:
    store = await SqliteStore.open(tmp_path / "journal.db")
    found: list[Received] = []
    async with up(tmp_path, store) as (gateway, strings):
        unhandled = store.unhandled

        async def reading(account: str) -> list[Received]:
            found.extend(await unhandled(account))
            return found

        store.unhandled = reading  # type: ignore[method-assign]
        Disk(store).slow(5.0)
        saying = asyncio.create_task(strings.links[-1].deliver(said("one")))
        await asyncio.sleep(0.2)
        await changed(gateway, tmp_path)
        await asyncio.gather(saying, return_exceptions=True)
        assert [(row.message.id, row.state, row.attempts) for row in found] == [
            ("one", "received", 0)
        ]
        store.unhandled = unhandled  # type: ignore[method-assign]
        await settled(gateway, store)


async def test_an_answer_that_is_being_written_at_a_reload_is_sent_once(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "journal.db")
    async with up(tmp_path, store) as (gateway, strings):
        disk = Disk(store)

        async def agent(message: Inbound, turn: Turn) -> list[Reply]:
            disk.slow(5.0)
            return [Reply(text=f"answer to {message.id}")]

        gateway.desk("a").lanes.agent = agent
        await strings.links[-1].deliver(said("one"))
        await asyncio.sleep(0.2)
        await changed(gateway, tmp_path)
        await strings.links[-1].deliver(said("two"))
        await settled(gateway, store)
        assert strings.sent == ["c: answer to one", "c: echo: two"]


async def patient(message: Inbound, turn: Turn) -> Reply:
    """An agent that thinks for half a minute."""
    await asyncio.sleep(30)
    return Reply(text=f"answer to {message.id} in attempt {turn.attempt}")


async def test_an_agent_that_outlives_its_desk_writes_nothing_any_more(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "journal.db")
    async with up(tmp_path, store) as (gateway, strings):
        ended: list[float] = []

        async def deaf(message: Inbound, turn: Turn) -> list[Reply]:
            await deaf_for(20)
            ended.append(now())
            return [Reply(text="too late")]

        gateway.desk("a").lanes.agent = deaf
        await strings.links[-1].deliver(said("one"))
        await asyncio.sleep(0.2)
        await changed(gateway, tmp_path, agent="python:tests.gateway.test_reload:patient")
        assert not ended
        await settled(gateway, store)
        assert ended
        assert strings.sent == ["c: answer to one in attempt 1"]


async def test_an_account_that_is_taken_out_and_put_back_has_one_desk_at_a_time(
    tmp_path: Path,
) -> None:
    store = await SqliteStore.open(tmp_path / "journal.db")
    async with up(tmp_path, store) as (gateway, strings):
        Disk(store).slow(10.0)
        saying = asyncio.create_task(strings.links[-1].deliver(said("one")))
        await asyncio.sleep(0.2)
        await gateway.reload(config(tmp_path))
        await changed(gateway, tmp_path)
        await asyncio.gather(saying, return_exceptions=True)
        await settled(gateway, store)
        assert strings.sent == ["c: echo: one"]


class Deaf(Puppet):
    """Its first send ignores that it is cancelled, and fails long afterwards."""

    tries = 0

    async def send(self, message: Outbound) -> Receipt:
        """See `Adapter.send`."""
        type(self).tries += 1
        if type(self).tries == 1:
            await deaf_for(20)
            raise SendFailed(Outcome.REFUSED, GONE)
        return await super().send(message)


async def test_a_send_that_outlives_its_desk_writes_nothing_any_more(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "journal.db")
    async with up(tmp_path, store, Deaf) as (gateway, strings):
        await strings.links[-1].deliver(said("one"))
        await until(lambda: Deaf.tries)
        strings.fail(GONE)
        await gateway.reload(config(tmp_path, parrot("a", "http://puppet2.invalid", kind=Deaf)))
        await asyncio.sleep(60)
        strings.mend()
        gateway.kick("a")
        await settled(gateway, store)
        assert strings.sent == ["c: echo: one"]


class Slow(Puppet):
    """Takes three seconds to say goodbye."""

    async def run(self, link: Link) -> None:
        """See `Adapter.run`."""
        try:
            await super().run(link)
        finally:
            await asyncio.sleep(3)


# -- a journal that can not be read ---------------------------------------------------------------

READS = ("owed", "unhandled", "recall")


class Unreadable(MemoryStore):
    """A journal one of whose questions fails as often as a test wants."""

    def __init__(self, question: str) -> None:
        super().__init__()
        self.failures = 0
        ask = getattr(self, question)

        async def failing(*args: str) -> Any:
            if self.failures:
                self.failures -= 1
                raise StoreError("store_io", "reading it failed")
            return await ask(*args)

        setattr(self, question, failing)


@pytest.mark.parametrize("question", READS)
@pytest.mark.parametrize("failures", [1, 30])
async def test_a_journal_that_can_not_be_read_delays_a_reload(
    tmp_path: Path, question: str, failures: int
) -> None:
    store = Unreadable(question)
    async with up(tmp_path, store) as (gateway, strings):
        await gateway.pause("a")  # so that an answer waits
        await gateway.desk("a").account.accept((said("one"),), {})
        await until(lambda: gateway.desk("a").sender.depth)
        await store.remember("a", "paused", b"")
        store.failures = failures
        await changed(gateway, tmp_path)
        assert store.failures == 0
        await until(lambda: not gateway.desk("a").sender.depth)
        assert strings.sent == ["c: echo: one"]


@pytest.mark.parametrize("question", READS)
async def test_a_stop_ends_a_reload_that_can_not_read_the_journal(
    tmp_path: Path, question: str
) -> None:
    store = Unreadable(question)
    before = asyncio.all_tasks()
    async with up(tmp_path, store) as (gateway, _strings):
        store.failures = 1_000_000
        reloading = asyncio.create_task(changed(gateway, tmp_path))
        await asyncio.sleep(600)
        began = now()
        await gateway.stop()
        assert now() - began < 5
        reloading.cancel()
        await asyncio.wait([reloading])
    assert asyncio.all_tasks() == before


async def test_a_stop_during_a_reload_opens_nothing_any_more(tmp_path: Path) -> None:
    strings = Puppet.strings["a"] = Strings()
    account = parrot("a", "http://puppet.invalid", kind=Slow)
    async with house(tmp_path, account) as gateway:
        await reach(gateway, "a", Published.CONNECTED)
        new = config(tmp_path, parrot("a", "http://puppet2.invalid", kind=Slow))
        reloading = asyncio.create_task(gateway.reload(new))
        await asyncio.sleep(0.5)
        await gateway.stop()
        assert await reloading == []
        await asyncio.sleep(60)
        assert len(strings.links) == 1


async def test_a_desk_that_could_not_be_opened_is_by_the_next_reload(tmp_path: Path) -> None:
    store = MemoryStore()
    async with up(tmp_path, store) as (gateway, _strings):
        owed = store.owed

        async def defective(account: str) -> list[Owed]:
            raise ZeroDivisionError("a defect")

        store.owed = defective  # type: ignore[method-assign]
        with pytest.raises(ZeroDivisionError):
            await changed(gateway, tmp_path)
        store.owed = owed  # type: ignore[method-assign]
        await changed(gateway, tmp_path)
