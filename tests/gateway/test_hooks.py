"""The web hook server: routing, back-pressure, and addresses or paths that are taken."""

from __future__ import annotations

import asyncio
import contextlib
import io
import resource
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest

from holdfast.adapter import Continuity, Disconnect, Link, WebSocketClosed
from holdfast.gateway.door import HEAD_LIMIT, IDLE_LIMIT, SWEEP_EVERY, room
from holdfast.gateway.hooks import (
    ANSWER_LIMIT,
    FOR_SOCKETS,
    HEARTBEAT,
    MAX_BODY,
    MOST,
    SHARE,
    WAITING,
    HookServer,
    Request,
)
from holdfast.supervision import Kind, Published, State
from tests.gateway.parrot import Parrot
from tests.gateway.tools import now, until
from tests.harness import running

Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@contextlib.asynccontextmanager
async def server() -> AsyncIterator[tuple[HookServer, aiohttp.ClientSession]]:
    """A hook server and somebody who calls it."""
    hooks = HookServer("127.0.0.1", 0)
    await hooks.start()
    async with aiohttp.ClientSession(f"http://127.0.0.1:{hooks.port}") as caller:
        yield hooks, caller
    await hooks.stop()


async def answering(requests: AsyncIterator[Request], seen: list[Request]) -> None:
    """Answer all requests."""
    async for request in requests:
        seen.append(request)
        request.respond(201, b"thanks", "text/html")
        request.respond(500)  # a second answer is ignored


async def test_requests_are_routed_by_path() -> None:
    seen: dict[str, list[Request]] = {"/a": [], "/b": []}
    async with (
        server() as (hooks, caller),
        hooks.listen("/a", "one") as first,
        hooks.listen("/b", "two") as second,
    ):
        tasks = [
            asyncio.create_task(answering(first, seen["/a"])),
            asyncio.create_task(answering(second, seen["/b"])),
        ]
        async with caller.post("/a?x=1", data=b"body", headers={"X-Sign": "s"}) as reply:
            assert (reply.status, await reply.text(), reply.content_type) == (
                201,
                "thanks",
                "text/html",
            )
        (await caller.get("/b")).release()
        for task in tasks:
            task.cancel()
    (request,) = seen["/a"]
    assert (request.method, request.query, request.body) == ("POST", {"x": "1"}, b"body")
    assert request.headers["x-sign"] == "s"
    assert [r.method for r in seen["/b"]] == ["GET"]


async def test_an_unknown_path_is_404_and_a_known_one_between_connections_503() -> None:
    async with server() as (hooks, caller):
        async with caller.get("/a") as reply:
            assert reply.status == 404
        async with hooks.listen("/a", "one"):
            pass
        async with caller.get("/a") as reply:
            assert reply.status == 503
            assert float(reply.headers["Retry-After"]) > 0
        assert hooks.refused == 2


async def test_what_nobody_answers_is_503_in_the_end() -> None:
    async with server() as (hooks, caller), hooks.listen("/a", "one"):
        began = now()
        async with caller.get("/a") as reply:
            assert reply.status == 503
        assert now() - began == pytest.approx(ANSWER_LIMIT, abs=0.1)


async def test_who_waits_when_the_listener_ends_is_told_at_once() -> None:
    async with server() as (hooks, caller):
        async with hooks.listen("/a", "one"):
            call = asyncio.create_task(caller.get("/a"))
            await until(lambda: hooks._listeners["/a"].queue.qsize() == 1)
            began = now()
        reply = await call
        assert (reply.status, now() - began < 1) == (503, True)
        reply.release()


async def test_a_full_queue_is_503_at_once() -> None:
    async with server() as (hooks, caller), hooks.listen("/a", "one"):
        queue = hooks._listeners["/a"].queue
        for _ in range(WAITING):
            answer = asyncio.get_running_loop().create_future()
            queue.put_nowait(Request("GET", {}, {}, b"", answer))
        began = now()
        async with caller.get("/a") as reply:
            assert (reply.status, hooks.refused) == (503, 1)
        assert now() - began < 1


async def test_a_body_that_is_too_big_is_413() -> None:
    async with server() as (hooks, caller), hooks.listen("/a", "one"):
        async with caller.post("/a", data=io.BytesIO(bytes(MAX_BODY + 1))) as reply:
            assert reply.status == 413
        assert hooks.refused == 1
        assert hooks._listeners["/a"].queue.empty()


async def test_a_body_that_never_ends_holds_nobody_for_ever() -> None:
    async with server() as (hooks, _), hooks.listen("/a", "one"):
        reader, writer = await asyncio.open_connection("127.0.0.1", hooks.port)
        writer.write(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf")
        began = now()
        status = await reader.readline()
        assert status.split()[1] == b"503"
        assert now() - began == pytest.approx(ANSWER_LIMIT, abs=0.1)
        writer.close()


async def test_a_path_is_one_accounts_and_the_refusal_names_it() -> None:
    async with server() as (hooks, _), hooks.listen("/a", "one"):
        with pytest.raises(Disconnect) as caught:
            async with hooks.listen("/a", "two"):
                raise AssertionError
        assert caught.value.cause.kind is Kind.LOCAL
        assert caught.value.cause.code == "hook_path_taken"
        assert "'one'" in caught.value.cause.message


async def test_an_accounts_new_connection_takes_over_from_one_that_never_ends() -> None:
    async with server() as (hooks, caller):
        former = hooks.listen("/a", "one")
        await former.__aenter__()
        seen: list[Request] = []
        async with hooks.listen("/a", "one") as requests:
            task = asyncio.create_task(answering(requests, seen))
            # The end of the former one takes nothing from its successor.
            await former.__aexit__(None, None, None)
            async with caller.get("/a") as reply:
                assert reply.status == 201
            task.cancel()
        assert len(seen) == 1


async def test_two_accounts_that_start_at_once_start_one_server() -> None:
    hooks = HookServer("127.0.0.1", 0)
    listening = []

    async def listen(name: str) -> None:
        async with hooks.listen(f"/{name}", name):
            listening.append(hooks.port)
            await asyncio.sleep(1)

    await asyncio.gather(listen("one"), listen("two"))
    assert listening[0] == listening[1] != 0
    await hooks.stop()


async def test_no_account_believes_in_a_server_that_could_not_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        hooks = HookServer("127.0.0.1", taken.getsockname()[1])

        async def listen(name: str) -> None:
            async with hooks.listen(f"/{name}", name):
                raise AssertionError

        results = await asyncio.gather(listen("a"), listen("b"), return_exceptions=True)
    assert all(isinstance(result, Disconnect) for result in results)


class Called(Parrot):
    """A parrot on a web hook."""

    async def run(self, link: Link) -> None:
        """See `Adapter.run`."""
        async with link.hooks("/parrot") as requests:
            link.ready(Continuity.CAUGHT_UP)
            async for request in requests:
                link.alive()
                request.respond()


async def test_an_address_in_use_is_retried_until_it_is_free() -> None:
    config = {"platform": "parrot", "url": "http://127.0.0.1:9"}
    async with running(Called, config) as bot:
        await bot.connected()
        await bot.account.pause()
        await bot.hooks.stop()
        with socket.create_server(("127.0.0.1", bot.hooks.port)):
            bot.account.resume()
            view = await bot.account.until(lambda v: v.state is State.BACKOFF)
            assert view.cause is not None
            assert (view.cause.kind, view.cause.code) == (Kind.LOCAL, "hook_address")
            assert str(bot.hooks.port) in view.cause.message
            assert f"[web] listen, has 127.0.0.1:{bot.hooks.port}: end it" in view.cause.advice
            assert "hook_listen" in view.cause.advice
            await bot.account.until(lambda v: v.attempt >= 3)
        await bot.published(Published.CONNECTED)
        url = f"http://127.0.0.1:{bot.hooks.port}/parrot"
        async with aiohttp.ClientSession() as caller, caller.post(url) as reply:
            assert reply.status == 200


# -- connections ----------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def callers(hooks: HookServer, number: int, said: bytes = b"") -> AsyncIterator[list[Wire]]:
    """So many connections, each of which has said this much and says no more."""
    wires: list[Wire] = []
    try:
        for _ in range(number):
            wires.append(await asyncio.open_connection("127.0.0.1", hooks.port))
            wires[-1][1].write(said)
        await asyncio.sleep(0.01)
        yield wires
    finally:
        for _, writer in wires:
            writer.close()


@contextlib.asynccontextmanager
async def answered(hooks: HookServer) -> AsyncIterator[None]:
    """Requests to /a are answered."""
    async with hooks.listen("/a", "one") as requests:
        task = asyncio.create_task(answering(requests, []))
        yield
        task.cancel()


HALF = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf"


@pytest.mark.parametrize("said", [b"", b"POST /a HTTP/1.1\r\nHost: x\r\nX: y", HALF])
async def test_connections_that_say_too_little_keep_no_request_out(said: bytes) -> None:
    async with server() as (hooks, caller), answered(hooks):
        hooks.door.most = 20
        async with callers(hooks, 50, said) as wires:
            assert len(hooks.door) == 20
            began = now()
            async with caller.post("/a") as reply:
                assert reply.status == 201
            assert now() - began < 1
            assert await wires[0][0].read() == b""  # the oldest gave way
            assert not wires[-1][0].at_eof()


async def test_a_head_that_does_not_come_is_not_waited_for() -> None:
    async with server() as (hooks, _), callers(hooks, 1, b"GET /a HTTP/1.1\r\n") as wires:
        began = now()
        assert await wires[0][0].read() == b""
        assert now() - began <= HEAD_LIMIT + SWEEP_EVERY
        assert len(hooks.door) == 0


async def test_a_connection_is_kept_for_the_next_request_a_while() -> None:
    async with server() as (hooks, _), answered(hooks), callers(hooks, 1) as ((reader, writer),):
        for _ in range(2):
            writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await reader.readuntil(b"thanks")).startswith(b"HTTP/1.1 201")
            await asyncio.sleep(IDLE_LIMIT - 5)
        began = now()
        assert await reader.read() == b""
        assert now() - began < 10


async def test_requests_that_wait_for_their_answer_are_not_shut() -> None:
    async with server() as (hooks, caller), hooks.listen("/a", "one") as requests:
        hooks.door.most = 2
        call = asyncio.create_task(caller.get("/a"))
        waiting = await anext(requests)
        async with callers(hooks, 5):
            waiting.respond(200)
            async with await call as reply:
                assert reply.status == 200


async def test_a_sender_who_leaves_before_its_body_came_is_no_defect(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with server() as (hooks, _), answered(hooks):
        async with callers(hooks, 3, HALF) as wires:
            for _, writer in wires:
                writer.transport.abort()
            await until(lambda: hooks.refused == 3)
    assert caplog.text == ""


async def test_websockets_leave_room_for_requests() -> None:
    async with server() as (hooks, caller), answered(hooks):
        hooks.door.most = 4
        async with hooks.listen("/chat", "two") as requests, contextlib.AsyncExitStack() as stack:
            task = asyncio.create_task(_hold(requests, []))
            for _ in range(int(4 * FOR_SOCKETS)):
                await stack.enter_async_context(caller.ws_connect("/chat"))
            with pytest.raises(aiohttp.WSServerHandshakeError) as error:
                await caller.ws_connect("/chat")
            assert error.value.status == 503
            async with caller.post("/a") as reply:
                assert reply.status == 201
            task.cancel()


@pytest.mark.parametrize(("soft", "most"), [(300, 150), (1024, 512), (5_000, MOST)])
def test_the_connections_are_a_share_of_the_descriptors(soft: int, most: int) -> None:
    former, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    try:
        assert HookServer("127.0.0.1", 0).door.most == room(MOST, SHARE) == most
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (former, hard))


# -- WebSockets ----------------------------------------------------------------------------------


async def _echo(requests: AsyncIterator[Request], ends: list[int]) -> None:
    """Accept every WebSocket and say what it says."""
    async for request in requests:
        ws = await request.upgrade()
        try:
            async for frame in ws:
                await ws.send(frame)
        except WebSocketClosed as closed:
            ends.append(closed.code)


async def _hold(requests: AsyncIterator[Request], refused: list[int]) -> None:
    """Accept every WebSocket and never read it."""
    async for request in requests:
        try:
            await request.upgrade()
        except WebSocketClosed as closed:
            refused.append(closed.code)


async def test_a_request_becomes_a_websocket_until_its_caller_leaves() -> None:
    ends: list[int] = []
    async with server() as (hooks, caller), hooks.listen("/chat", "one") as requests:
        task = asyncio.create_task(_echo(requests, ends))
        for _ in range(2):
            async with caller.ws_connect("/chat") as ws:
                await ws.send_str("hello")
                await ws.send_bytes(b"there")
                assert await ws.receive_str() == "hello"
                assert await ws.receive_bytes() == b"there"
        await until(lambda: len(ends) == 2)
        assert ends == [1000, 1000]
        task.cancel()


async def test_websockets_end_with_their_listener() -> None:
    async with server() as (hooks, caller):
        async with hooks.listen("/chat", "one") as requests:
            task = asyncio.create_task(_echo(requests, []))
            ws = await caller.ws_connect("/chat")
        assert (await ws.receive()).type is aiohttp.WSMsgType.CLOSE
        task.cancel()
        await ws.close()


async def test_a_caller_that_falls_silent_is_given_up() -> None:
    ends: list[int] = []
    async with server() as (hooks, caller), hooks.listen("/chat", "one") as requests:
        task = asyncio.create_task(_echo(requests, ends))
        ws = await caller.ws_connect("/chat", autoping=False)
        began = now()
        await until(lambda: ends)
        assert HEARTBEAT <= now() - began <= 2 * HEARTBEAT
        task.cancel()
        await ws.close()


async def test_too_many_websockets_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("holdfast.gateway.hooks.SOCKETS", 1)
    refused: list[int] = []
    async with server() as (hooks, caller), hooks.listen("/chat", "one") as requests:
        task = asyncio.create_task(_hold(requests, refused))
        async with caller.ws_connect("/chat"):
            with pytest.raises(aiohttp.WSServerHandshakeError) as error:
                await caller.ws_connect("/chat")
            assert error.value.status == 503
        assert (refused, hooks.refused) == ([1013], 1)
        task.cancel()


async def test_what_asked_for_no_websocket_does_not_become_one() -> None:
    ends: list[int] = []

    async def accept(requests: AsyncIterator[Request]) -> None:
        async for request in requests:
            try:
                await request.upgrade()
            except WebSocketClosed as closed:
                ends.append(closed.code)
            with pytest.raises(WebSocketClosed):
                await request.upgrade()

    async with server() as (hooks, caller), hooks.listen("/chat", "one") as requests:
        task = asyncio.create_task(accept(requests))
        async with caller.get("/chat") as reply:
            assert reply.status == 400
        await until(lambda: ends == [1006])
        task.cancel()


@pytest.mark.parametrize(
    ("host", "base"), [("127.0.0.1", "127.0.0.1"), ("", "127.0.0.1"), ("0.0.0.0", "127.0.0.1")]
)
async def test_its_own_address_is_known_while_it_listens(host: str, base: str) -> None:
    hooks = HookServer(host, 0)
    assert hooks.url == ""
    await hooks.start()
    assert hooks.url == f"http://{base}:{hooks.port}"
    await hooks.stop()
    assert hooks.url == ""
