"""A stop ends every state within 5 s and leaves nothing: no task, thread, descriptor or socket."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from holdfast.adapter import AdapterError, Continuity, Link
from holdfast.gateway.dns import Resolver
from holdfast.gateway.gateway import Gateway
from holdfast.gateway.notify import ServiceManager
from holdfast.lab.faults.backlog import FullBacklog
from holdfast.lab.faults.dns import LabResolver
from holdfast.messages import Inbound, Reply
from holdfast.observe import status
from holdfast.store.protocol import InboxState, OutboxState, Owed
from holdfast.supervision import Cause, Kind, Published, State
from holdfast.testing import MemoryStore
from tests.gateway.house import config, house, parrot, reach
from tests.gateway.parrot import Aviary, Parrot, Talk, closes, mute
from tests.gateway.tools import census, now, until
from tests.theatre import NoWatchdog

Situation = Callable[[Path, MemoryStore], contextlib.AbstractAsyncContextManager[Gateway]]
"""Brings a gateway's account "bot" into a state, and holds it there."""


@contextlib.asynccontextmanager
async def backing_off(home: Path, store: MemoryStore) -> AsyncIterator[Gateway]:
    async with Aviary() as aviary:
        aviary.script.append(closes(4008))
        async with house(home, parrot("bot", aviary.url), store=store) as gateway:
            await reach(gateway, "bot", State.BACKOFF)
            yield gateway


@contextlib.asynccontextmanager
async def connect_hanging(home: Path, store: MemoryStore) -> AsyncIterator[Gateway]:
    with FullBacklog() as full:
        url = f"http://127.0.0.1:{full.port}"
        async with house(home, parrot("bot", url), store=store) as gateway:
            await asyncio.sleep(1)
            yield gateway


@contextlib.asynccontextmanager
async def upgrade_hanging(home: Path, store: MemoryStore) -> AsyncIterator[Gateway]:
    async def hang(request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    app = web.Application()
    app.router.add_get("/ws", hang)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    async with house(home, parrot("bot", url), store=store) as gateway:
        await asyncio.sleep(1)
        yield gateway
    await runner.cleanup()


@contextlib.asynccontextmanager
async def dns_hanging(home: Path, store: MemoryStore) -> AsyncIterator[Gateway]:
    resolver = LabResolver()
    resolver.hang()
    account = parrot("bot", "http://parrot.invalid")
    async with house(home, account, store=store, resolver=resolver) as gateway:
        await asyncio.sleep(1)
        assert resolver.asked["parrot.invalid"]
        yield gateway


@contextlib.asynccontextmanager
async def login_hanging(home: Path, store: MemoryStore) -> AsyncIterator[Gateway]:
    async with Aviary() as aviary:
        aviary.script.append(mute)
        async with house(home, parrot("bot", aviary.url), store=store) as gateway:
            await until(lambda: aviary.open == 1)
            yield gateway


@contextlib.asynccontextmanager
async def live(home: Path, store: MemoryStore) -> AsyncIterator[Gateway]:
    async with Aviary() as aviary:
        async with house(home, parrot("bot", aviary.url), store=store) as gateway:
            await reach(gateway, "bot", State.LIVE)
            yield gateway
        await until(lambda: aviary.open == 0, 1)


@contextlib.asynccontextmanager
async def suspect(home: Path, store: MemoryStore) -> AsyncIterator[Gateway]:
    async with Aviary() as aviary:

        async def deaf(aviary: Aviary, talk: Talk) -> None:
            await talk.send_json({"op": "hello", "beat": None})
            await talk.receive()
            await talk.send_json({"op": "ready"})
            await asyncio.Event().wait()

        aviary.script.append(deaf)
        async with house(home, parrot("bot", aviary.url), store=store) as gateway:
            await reach(gateway, "bot", State.SUSPECT)
            await asyncio.sleep(1)
            yield gateway


class Stubborn(Parrot):
    """Swallows every cancellation, until its test lets it go."""

    freed: asyncio.Event

    async def run(self, link: Link) -> None:
        """See `Adapter.run`."""
        type(self).freed = asyncio.Event()
        link.ready(Continuity.FRESH)
        while not self.freed.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await self.freed.wait()


@contextlib.asynccontextmanager
async def closing(home: Path, store: MemoryStore) -> AsyncIterator[Gateway]:
    account = parrot("bot", "http://127.0.0.1:9", kind=Stubborn)
    async with house(home, account, store=store) as gateway:
        await reach(gateway, "bot", State.LIVE)
        gateway.kick("bot")
        assert gateway.desk("bot").account.view().state is State.CLOSING
        yield gateway
    Stubborn.freed.set()


class Banned(Parrot):
    """Refused for good."""

    async def run(self, link: Link) -> None:
        """See `Adapter.run`."""
        raise AdapterError(Cause(Kind.REFUSED, "banned"))


@contextlib.asynccontextmanager
async def blocked(home: Path, store: MemoryStore) -> AsyncIterator[Gateway]:
    account = parrot("bot", "http://127.0.0.1:9", kind=Banned)
    async with house(home, account, store=store) as gateway:
        await reach(gateway, "bot", Published.FATAL)
        yield gateway


async def sleepless(message: Inbound, turn: object) -> list[Reply]:
    """A handler that never ends."""
    await asyncio.Event().wait()
    raise AssertionError


@contextlib.asynccontextmanager
async def handler_busy(home: Path, store: MemoryStore) -> AsyncIterator[Gateway]:
    async with Aviary() as aviary:
        account = parrot("bot", aviary.url, agent="python:tests.gateway.test_stop:sleepless")
        async with house(home, account, store=store) as gateway:
            await reach(gateway, "bot", State.LIVE)
            await aviary.say("1")
            await until(lambda: gateway.desk("bot").lanes.depth == 1)
            await asyncio.sleep(1)
            yield gateway
    (row,) = store.inbox.values()
    # It was stopped, it did not fail: the attempt does not count towards a dead letter.
    assert (row.state, row.attempts) == (InboxState.RECEIVED, 0)


@contextlib.asynccontextmanager
async def send_hanging(home: Path, store: MemoryStore) -> AsyncIterator[Gateway]:
    async with Aviary() as aviary:
        asked = asyncio.Event()

        async def hang(body: dict[str, Any]) -> web.Response | None:
            asked.set()
            await asyncio.Event().wait()
            return None

        aviary.answer = hang
        async with house(home, parrot("bot", aviary.url), store=store) as gateway:
            await reach(gateway, "bot", State.LIVE)
            await aviary.say("1")
            await asked.wait()
            yield gateway
    assert [row.state for row in store.outbox.values()] == [OutboxState.SENDING]


SITUATIONS: list[Situation] = [
    backing_off,
    connect_hanging,
    upgrade_hanging,
    dns_hanging,
    login_hanging,
    live,
    suspect,
    closing,
    blocked,
    handler_busy,
    send_hanging,
]


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda s: s.__name__)
async def test_a_stop_ends_every_state_in_time_and_leaves_nothing(
    situation: Situation, tmp_path: Path
) -> None:
    before = await census()
    async with situation(tmp_path, MemoryStore()) as gateway:
        began = now()
        await gateway.stop()
        assert now() - began < 5
        view = gateway.desk("bot").account.view()
        assert (view.state, view.published) == (State.STOPPED, Published.STOPPED)
    assert await census() == before


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda s: s.__name__)
async def test_a_second_stop_meanwhile_is_harmless(situation: Situation, tmp_path: Path) -> None:
    async with situation(tmp_path, MemoryStore()) as gateway:
        began = now()
        account = gateway.desk("bot").account
        desk = gateway.desk("bot")
        await asyncio.gather(desk.stop(), desk.stop(), account.pause())
        await gateway.stop()
        assert now() - began < 10
        assert account.view().state is State.STOPPED


async def test_a_journal_that_hangs_does_not_hold_up_a_stop(tmp_path: Path) -> None:
    class Hanging(MemoryStore):
        stuck = False

        async def remember(self, account: str, key: str, value: bytes) -> None:
            if self.stuck:
                await asyncio.Event().wait()

    store = Hanging()
    async with Aviary() as aviary, house(tmp_path, parrot("bot", aviary.url), store=store) as home:
        await reach(home, "bot", State.LIVE)
        store.stuck = True
        began = now()
        await home.desk("bot").stop()
        assert now() - began < 5


async def test_a_stop_during_a_stubborn_close_with_a_hanging_journal_still_ends_in_time(
    tmp_path: Path,
) -> None:
    class Hanging(MemoryStore):
        async def remember(self, account: str, key: str, value: bytes) -> None:
            await asyncio.Event().wait()

    account = parrot("bot", "http://127.0.0.1:9", kind=Stubborn)
    async with house(tmp_path, account, store=Hanging()) as gateway:
        await reach(gateway, "bot", State.LIVE)
        began = now()
        await gateway.desk("bot").stop()
        assert now() - began < 5
        assert gateway.desk("bot").account.view().abandoned == 1
        Stubborn.freed.set()


async def test_a_send_under_way_at_the_stop_is_let_to_its_end(tmp_path: Path) -> None:
    store = MemoryStore()
    async with Aviary() as aviary:
        asked = asyncio.Event()

        async def slow(body: dict[str, Any]) -> web.Response | None:
            asked.set()
            await asyncio.sleep(1.5)
            return None

        aviary.answer = slow
        async with house(tmp_path, parrot("bot", aviary.url), store=store) as gateway:
            await reach(gateway, "bot", State.LIVE)
            await aviary.say("1")
            await asked.wait()
            await gateway.stop()
        assert [row.state for row in store.outbox.values()] == [OutboxState.SENT]
        assert len(aviary.sent) == 1


@pytest.mark.real_time
async def test_a_real_look_up_that_hangs_holds_up_neither_stop_nor_exit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = threading.Event()

    def hang(*args: object, **kwargs: object) -> list[Any]:
        release.wait(20)
        return []

    monkeypatch.setattr("holdfast.gateway.dns._addresses", hang)
    account = parrot("bot", "http://parrot.invalid")
    loop = asyncio.get_running_loop()
    async with house(tmp_path, account, resolver=Resolver()) as gateway:
        await asyncio.sleep(0.05)
        began = loop.time()
        await gateway.stop()
        assert loop.time() - began < 2
    hanging = [t for t in threading.enumerate() if "hang" in t.name]
    assert hanging
    assert all(thread.daemon for thread in hanging)
    release.set()


async def test_a_store_that_can_not_be_read_at_the_start_leaves_nothing(tmp_path: Path) -> None:
    from holdfast.errors import StoreError

    class Unreadable(MemoryStore):
        async def owed(self, account: str) -> Any:
            raise StoreError("disk_io", "can not be read")

    before = await census()
    with pytest.raises(StoreError):
        async with house(tmp_path, parrot("bot", "http://127.0.0.1:9"), store=Unreadable()):
            raise AssertionError
    assert await census() == before


async def test_a_start_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    asked = asyncio.Event()

    class Slow(MemoryStore):
        async def owed(self, account: str) -> list[Owed]:
            asked.set()
            await asyncio.Event().wait()
            return []

    async with Aviary() as aviary:
        before = asyncio.all_tasks()
        gateway = Gateway(
            config(tmp_path, parrot("bot", aviary.config["url"])),
            Slow(),
            service=ServiceManager({}),
            watchdog=NoWatchdog(),
        )
        starting = asyncio.create_task(gateway.start())
        await asked.wait()
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        left = asyncio.all_tasks() - before
        assert left == set()
    assert status.read(tmp_path / "state" / status.FILE_NAME).accounts["bot"].state == "stopped"
