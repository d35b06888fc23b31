"""Frames that have come together are stored together: in order, and acknowledged only then."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import aiohttp
import pytest
from aiohttp import web

from holdfast.adapter import Continuity, Link, WebSocketClosed
from holdfast.errors import StoreError
from holdfast.gateway.connection import BATCH
from holdfast.gateway.websocket import READ_AHEAD, LiveWebSocket
from holdfast.messages import Inbound
from holdfast.supervision import Kind, State
from tests.gateway.parrot import Aviary, Parrot, Talk
from tests.gateway.test_websocket import line, serving, ws
from tests.gateway.tools import Ledger, until
from tests.harness import running


def said(id: str) -> Inbound:
    """A message."""
    return Inbound(id=id, chat="c", sender="u", text="hi")


def online(play: Callable[[Link], Awaitable[None]]) -> type[Parrot]:
    """A parrot that is ready at once and does this with its link, then reads."""

    class Playing(Parrot):
        async def run(self, link: Link) -> None:
            socket = await link.websocket(self.settings.url.replace("http", "ws") + "/ws")
            link.ready(Continuity.FRESH)
            await play(link)
            async for _ in socket:
                link.alive()

    return Playing


# -- a burst --------------------------------------------------------------------------------------


async def test_what_comes_during_a_commit_is_stored_in_the_next_one() -> None:
    store = Ledger()
    ids = [str(n) for n in range(1, 51)]
    async with Aviary() as aviary, running(Parrot, aviary.config, store=store) as bot:
        await bot.connected()
        store.open.clear()
        await aviary.say("1")
        await until(lambda: store.held)
        for id in ids[1:]:
            await aviary.say(id)
        await asyncio.sleep(0.1)
        assert aviary.stored == []  # not before the commit
        store.open.set()
        await until(lambda: len(aviary.stored) == 50)
        assert store.batches == [(["1"], {"seq": "1"}), (ids[1:], {"seq": "50"})]
        assert aviary.stored == ids
        assert [m.id for m in bot.messages] == ids


async def test_a_lone_message_waits_for_no_other() -> None:
    store = Ledger()
    async with Aviary() as aviary, running(Parrot, aviary.config, store=store) as bot:
        await bot.connected()
        for id in ("1", "2"):
            await aviary.say(id)
            await until(lambda id=id: aviary.stored[-1:] == [id], timeout=1.0)  # type: ignore[misc]
        assert [ids for ids, _ in store.batches] == [["1"], ["2"]]


async def test_a_flood_is_stored_in_transactions_of_bounded_size() -> None:
    store = Ledger()

    async def flood(link: Link) -> None:
        for n in range(BATCH + 2):
            await link.take(said(str(n)))

    async with Aviary() as aviary, running(online(flood), aviary.config, store=store) as bot:
        await until(lambda: len(bot.messages) == BATCH + 2)
        assert [len(ids) for ids, _ in store.batches] == [BATCH, 2]


# -- ends -----------------------------------------------------------------------------------------


async def test_messages_right_before_a_close_are_stored() -> None:
    async def leave(aviary: Aviary, talk: Talk) -> None:
        await talk.send_json({"op": "hello", "beat": None})
        await talk.receive()
        await talk.send_json({"op": "ready"})
        for id in "123":
            await talk.send_json({"op": "say", "id": id, "chat": "c", "text": "hi"})
        await talk.close(code=4008)

    store = Ledger()
    async with Aviary() as aviary:
        aviary.script.append(leave)
        async with running(Parrot, aviary.config, store=store) as bot:
            view = await bot.account.until(lambda v: v.state is State.BACKOFF)
            assert view.cause is not None
            # The end's own cause, not that an acknowledgement found the socket closed.
            assert view.cause.code == "parrot_close_4008"
            assert [m.id for m in bot.messages] == ["1", "2", "3"]


async def test_what_a_goodbye_follows_is_stored_before_the_connection_ends() -> None:
    store = Ledger()
    async with Aviary() as aviary, running(Parrot, aviary.config, store=store) as bot:
        await bot.connected()
        store.open.clear()
        await aviary.say("1")
        await until(lambda: store.held)
        await aviary.say("2")
        await aviary.talks[-1].send_json({"op": "bye", "kind": "recycled"})
        await asyncio.sleep(0.1)
        store.open.set()
        view = await bot.account.until(lambda v: v.generation == 2)
        assert view.cause is None or view.cause.kind is Kind.RECYCLED
        assert [m.id for m in bot.messages] == ["1", "2"]
        assert aviary.stored == ["1", "2"]


# -- the contract of `Link.take` ------------------------------------------------------------------


async def test_a_cursor_is_never_stored_without_the_messages_it_has_passed() -> None:
    store, heard = Ledger(), list[str]()

    async def play(link: Link) -> None:
        async def then() -> None:
            heard.append(f"stored {store.batches[-1][0]}")

        link.cursor["seq"] = 2
        await link.take(said("1"))
        await link.take(said("2"), then)
        assert (store.batches, heard) == ([], [])
        await link.commit()

    async with Aviary() as aviary, running(online(play), aviary.config, store=store):
        await until(lambda: heard)
        assert store.batches == [(["1", "2"], {"seq": 2})]
        assert heard == ["stored ['1', '2']"]


async def test_what_could_not_be_stored_is_in_the_next_try_and_told_after_it_only() -> None:
    store, heard = Ledger(), list[str]()

    async def play(link: Link) -> None:
        async def then() -> None:
            heard.append(f"stored {store.batches[-1][0]}")

        link.cursor["seq"] = 2
        await link.take(said("1"), then)
        store.fail = StoreError("disk_full", "no space")
        with pytest.raises(StoreError):
            await link.deliver(said("2"))
        store.fail = None
        assert heard == []
        await link.commit()

    async with Aviary() as aviary, running(online(play), aviary.config, store=store):
        await until(lambda: heard)
        # What is delivered is its caller's to try again; the cursor has passed what was taken.
        assert store.batches == [(["1"], {"seq": 2})]
        assert heard == ["stored ['1']"]


async def test_a_frame_without_a_message_waits_for_those_before_it_and_for_nothing_else() -> None:
    store, heard = Ledger(), list[str]()

    async def play(link: Link) -> None:
        async def first() -> None:
            heard.append(f"first after {len(store.batches)}")

        async def last() -> None:
            heard.append(f"last after {len(store.batches)}")

        await link.take(None, first)
        assert heard == ["first after 0"]
        await link.take(said("1"))
        await link.take(None, last)
        assert heard == ["first after 0"]

    async with Aviary() as aviary, running(online(play), aviary.config, store=store):
        await until(lambda: len(heard) == 2)
        assert heard == ["first after 0", "last after 1"]


async def test_without_a_socket_a_message_is_stored_at_once() -> None:
    store, told = Ledger(), list[int]()

    class Deaf(Parrot):
        async def run(self, link: Link) -> None:
            link.ready(Continuity.FRESH)
            await link.take(said("1"))
            told.append(len(store.batches))
            await asyncio.Event().wait()

    async with Aviary() as aviary, running(Deaf, aviary.config, store=store) as bot:
        await until(lambda: told)
        assert told == [1]
        assert [m.id for m in bot.messages] == ["1"]


# -- reading ahead --------------------------------------------------------------------------------


async def test_a_cancelled_wait_loses_no_frame() -> None:
    async def play(talk: web.WebSocketResponse) -> None:
        await talk.receive()
        for text in ("one", "two"):
            await talk.send_str(text)
        await talk.receive()

    async with serving(play) as port, line() as made:
        conn = await made.dial(ws(port))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await conn.receive()
        await conn.send("go")
        assert [await conn.receive(), await conn.receive()] == ["one", "two"]
        await conn.close()


class Endless:
    """A peer that never pauses, as far as `LiveWebSocket` can tell."""

    close_code = None

    def __init__(self, data: str) -> None:
        self.data, self.read = data, 0

    async def receive(self) -> aiohttp.WSMessage:
        """The next frame, which is always there already."""
        self.read += 1
        return aiohttp.WSMessage(aiohttp.WSMsgType.TEXT, self.data, None)

    async def close(self, code: int = 1000) -> bool:
        """Say goodbye."""
        return True


@pytest.mark.parametrize("data", ["", "x" * 1_000, "x" * READ_AHEAD])
async def test_what_is_read_ahead_is_bounded(data: str) -> None:
    peer = Endless(data)
    conn = LiveWebSocket(peer, lambda: None)  # type: ignore[arg-type]
    assert await conn.receive() == data
    await asyncio.sleep(60)
    most = peer.read
    assert most * (len(data) + 100) < READ_AHEAD + 3 * (len(data) + 100)
    for _ in range(2 * most):  # the reader goes on when there is room again
        assert await conn.receive() == data
    assert peer.read >= 2 * most
    await conn.close()


async def test_a_frame_is_life_when_it_is_received_and_not_when_it_has_come() -> None:
    async def play(talk: web.WebSocketResponse) -> None:
        for text in ("one", "two", "three"):
            await talk.send_str(text)
        await talk.receive()

    async with serving(play) as port, line() as made:
        conn = await made.dial(ws(port))
        assert await conn.receive() == "one"
        await asyncio.sleep(10)
        assert len(made.lives) == 1  # whoever hangs must not look alive
        assert await conn.receive() == "two"
        assert len(made.lives) == 2
        await conn.close()


async def test_the_end_is_told_again_and_again_once_all_frames_are_received() -> None:
    async def play(talk: web.WebSocketResponse) -> None:
        await talk.send_str("last words")
        await talk.close(code=4001)

    async with serving(play) as port, line() as made:
        conn = await made.dial(ws(port))
        await asyncio.sleep(1)
        assert await conn.receive() == "last words"
        for _ in range(3):
            with pytest.raises(WebSocketClosed) as caught:
                await conn.receive()
            assert caught.value.code == 4001
