"""The client WebSocket: every frame is life, every end is WebSocketClosed, every close bounded."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest
from aiohttp import WSMsgType, web

from holdfast.adapter import HttpFailed, WebSocketClosed
from holdfast.gateway.dns import Resolver
from holdfast.gateway.net import HttpClient, Net
from holdfast.gateway.websocket import LiveWebSocket
from holdfast.lab.faults.backlog import FullBacklog
from holdfast.lab.faults.html import HtmlPortal
from holdfast.lab.faults.relay import Relay
from holdfast.lab.faults.tls import Authority, Flaw
from holdfast.supervision import Kind
from tests.gateway.raw import hang, raw, says
from tests.gateway.tools import now, until

Play = Callable[[web.WebSocketResponse], Awaitable[None]]


@dataclass
class Line:
    """A client, what it dialled, and when it heard a sign of life."""

    client: HttpClient
    lives: list[float] = field(default_factory=list)

    async def dial(self, url: str, *, max_size: int = 1_000) -> LiveWebSocket:
        """Dial."""
        return await self.client.websocket(
            url,
            headers=None,
            max_size=max_size,
            close_code=4000,
            alive=lambda: self.lives.append(now()),
        )

    async def refused(self, url: str) -> HttpFailed:
        """Dial in vain."""
        with pytest.raises(HttpFailed) as caught:
            await self.dial(url)
        assert "secret" not in str(caught.value)
        return caught.value


@contextlib.asynccontextmanager
async def line(net: Net | None = None) -> AsyncIterator[Line]:
    """A line that leaves no socket."""
    made = Line((net or Net(Resolver())).client())
    try:
        yield made
    finally:
        await made.client.close()
        await asyncio.sleep(0)
        assert made.client.sockets.open == 0


@contextlib.asynccontextmanager
async def serving(play: Play) -> AsyncIterator[int]:
    """A WebSocket server on a port; ``play`` is its side of every connection."""

    async def handle(request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(autoping=False, timeout=0.1)
        await ws.prepare(request)
        with contextlib.suppress(ConnectionError):
            await play(ws)
        return ws

    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def ws(port: int) -> str:
    """A URL with a secret in it."""
    return f"ws://127.0.0.1:{port}/gate?token=secret"


async def echo(talk: web.WebSocketResponse) -> None:
    """Say everything back."""
    async for message in talk:
        if message.type is WSMsgType.TEXT:
            await talk.send_str(message.data)
        elif message.type is WSMsgType.BINARY:
            await talk.send_bytes(message.data)
        elif message.type is WSMsgType.PING:
            await talk.pong(message.data)


# -- frames ---------------------------------------------------------------------------------------


async def test_data_frames_are_life_and_keep_their_type() -> None:
    async with serving(echo) as port, line() as made:
        conn = await made.dial(ws(port))
        frames: list[str | bytes] = ["text", b"bytes"]
        for number, sent in enumerate(frames, 1):
            await conn.send(sent)
            assert await conn.receive() == sent
            assert len(made.lives) == number
        await conn.close()


async def test_frames_that_came_together_are_life_once_and_the_next_one_again() -> None:
    async def play(talk: web.WebSocketResponse) -> None:
        for number in range(100):
            await talk.send_str(str(number))
        await talk.receive()
        await talk.send_str("later")
        await talk.receive()

    async with serving(play) as port, line() as made:
        conn = await made.dial(ws(port))
        assert [await conn.receive() for _ in range(100)] == [str(n) for n in range(100)]
        together = len(made.lives)
        assert 1 <= together < 100
        await conn.send("go on")
        assert await conn.receive() == "later"
        assert len(made.lives) == together + 1
        await conn.close()


async def test_pings_are_answered_and_control_frames_are_life() -> None:
    pongs: list[bytes] = []

    async def play(talk: web.WebSocketResponse) -> None:
        assert (await talk.receive()).type is WSMsgType.PING
        await talk.pong()
        await talk.receive()
        await talk.ping(b"are you there")
        pongs.append((await talk.receive()).data)
        await talk.receive()
        await talk.send_str("done")
        await talk.receive()

    async with serving(play) as port, line() as made:
        conn = await made.dial(ws(port))
        receiving = asyncio.create_task(conn.receive())
        await conn.ping()
        for lives in (1, 2):  # the pong, then the ping
            await until(lambda: len(made.lives) == lives)  # noqa: B023
            await conn.send("go on")
        assert await receiving == "done"
        assert pongs == [b"are you there"]
        assert len(made.lives) == 3
        await conn.close()


# -- ends -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [1000, 1001, 4004, 4009])
async def test_the_peers_close_code_is_told(code: int) -> None:
    async def play(talk: web.WebSocketResponse) -> None:
        await talk.close(code=code, message=b"because")

    async with serving(play) as port, line() as made:
        conn = await made.dial(ws(port))
        with pytest.raises(WebSocketClosed) as caught:
            await conn.receive()
        assert (caught.value.code, caught.value.reason) == (code, "because")
        with pytest.raises(WebSocketClosed):
            await conn.receive()
        with pytest.raises(WebSocketClosed):
            await conn.send("too late")
        with pytest.raises(WebSocketClosed):
            await conn.ping()


async def test_the_iterator_ends_with_the_close_and_never_without_a_word() -> None:
    async def play(talk: web.WebSocketResponse) -> None:
        await talk.send_str("one")
        await talk.close(code=1000)

    async with serving(play) as port, line() as made:
        conn = await made.dial(ws(port))
        seen: list[str | bytes] = []

        async def read() -> None:
            async for frame in conn:
                seen.append(frame)  # noqa: PERF401  it ends with an error

        with pytest.raises(WebSocketClosed):
            await read()
        assert seen == ["one"]


@pytest.mark.parametrize("how", ["rst", "fin"])
async def test_a_lost_connection_is_code_1006(how: str) -> None:
    async with serving(echo) as port, Relay("127.0.0.1", port) as relay, line() as made:
        conn = await made.dial(relay.url("ws"))
        asyncio.get_running_loop().call_later(1, getattr(relay, how))
        with pytest.raises(WebSocketClosed) as caught:
            await conn.receive()
        assert caught.value.code == 1006
        assert caught.value.cause.kind is Kind.LOST


async def test_a_frame_that_is_too_big_ends_the_connection_with_1009() -> None:
    async def play(talk: web.WebSocketResponse) -> None:
        await talk.send_str("x" * 2_000)
        await talk.receive()

    async with serving(play) as port, line() as made:
        conn = await made.dial(ws(port), max_size=1_000)
        with pytest.raises(WebSocketClosed) as caught:
            await conn.receive()
        assert caught.value.code == 1009


async def test_an_abort_wakes_the_reader_of_a_holed_connection_at_once() -> None:
    async with serving(echo) as port, Relay("127.0.0.1", port) as relay, line() as made:
        conn = await made.dial(relay.url("ws"))
        relay.hole()
        reader = asyncio.create_task(conn.receive())
        await asyncio.sleep(100)
        assert not reader.done()
        began = now()
        made.client.abort()
        with pytest.raises(WebSocketClosed):
            await reader
        assert now() - began < 0.1


async def test_a_close_is_bounded_when_the_peer_does_not_answer() -> None:
    async with serving(echo) as port, Relay("127.0.0.1", port) as relay, line() as made:
        conn = await made.dial(relay.url("ws"))
        relay.hole()
        began = now()
        await conn.close()
        await made.client.close()
        assert now() - began <= 3
        assert made.client.sockets.open == 0


async def test_a_tls_close_is_bounded_too() -> None:
    authority = Authority()
    context = authority.server_context()

    async def handle(request: web.Request) -> web.WebSocketResponse:
        talk = web.WebSocketResponse(timeout=0.1)
        await talk.prepare(request)
        await asyncio.Event().wait()  # neither the close frame nor TLS's own is ever answered
        return talk

    app = web.Application()
    app.router.add_get("/", handle)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    net = Net(Resolver(), None, authority.client_context())
    async with line(net) as made:
        conn = await made.dial(f"wss://127.0.0.1:{runner.addresses[0][1]}/")
        began = now()
        await conn.close()
        await made.client.close()
        assert now() - began <= 3.5
        await asyncio.sleep(0.1)
        assert made.client.sockets.open == 0
    await runner.cleanup()


# -- dials that fail ------------------------------------------------------------------------------


async def test_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    async with line() as made:
        error = await made.refused(ws(port))
    assert (error.cause.kind, error.sent) == (Kind.UNREACHABLE, False)


async def test_a_connect_that_hangs_is_unreachable_and_bounded() -> None:
    with FullBacklog() as full:
        async with line() as made:
            began = now()
            error = await made.refused(ws(full.port))
            assert now() - began <= 6
    assert (error.cause.code, error.cause.kind) == ("connect_timeout", Kind.UNREACHABLE)
    assert not error.sent


async def test_an_upgrade_that_is_never_answered() -> None:
    async with raw(hang) as server, line() as made:
        began = now()
        error = await made.refused(ws(server.port))
        assert now() - began <= 20
    assert (error.cause.kind, error.sent) == (Kind.TIMEOUT, True)


async def test_a_web_page_instead_of_an_upgrade() -> None:
    async with HtmlPortal() as portal, line() as made:
        error = await made.refused(ws(portal.port))
        assert portal.asked[0].upgrade
    assert (error.cause.kind, error.cause.code) == (Kind.UNREACHABLE, "upgrade_200")


async def test_an_upgrade_that_is_throttled_says_until_when() -> None:
    answer = b"HTTP/1.1 429 Slow Down\r\nRetry-After: 90\r\nContent-Length: 0\r\n\r\n"
    async with raw(says(answer)) as server, line() as made:
        error = await made.refused(ws(server.port))
    assert (error.cause.kind, error.cause.code) == (Kind.THROTTLED, "upgrade_429")
    assert error.cause.retry_after == 90


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_an_upgrade_is_never_redirected(status: int) -> None:
    logins = 0

    async def play(talk: web.WebSocketResponse) -> None:
        nonlocal logins
        logins += 1

    async with serving(play) as port:
        answer = f"HTTP/1.1 {status} Moved\r\nContent-Length: 0\r\nLocation: {ws(port)}\r\n\r\n"
        async with raw(says(answer.encode())) as server, line() as made:
            error = await made.refused(ws(server.port))
    assert error.cause.code == f"upgrade_{status}"
    assert logins == 0


async def test_not_http_at_all() -> None:
    async with raw(says(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")) as server, line() as made:
        error = await made.refused(ws(server.port))
    assert (error.cause.kind, error.cause.code) == (Kind.PROTOCOL, "bad_http")


async def test_an_upgrade_with_the_wrong_key() -> None:
    answer = (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: nonsense\r\n\r\n"
    )
    async with raw(says(answer)) as server, line() as made:
        error = await made.refused(ws(server.port))
    assert error.cause.code == "upgrade_101"


async def test_a_flawed_certificate() -> None:
    authority = Authority()
    net = Net(Resolver(), None, authority.client_context())
    async with HtmlPortal(tls=authority.server_context(Flaw.EXPIRED)) as portal, line(net) as made:
        error = await made.refused(portal.url("wss"))
    assert (error.cause.kind, error.cause.code) == (Kind.UNREACHABLE, "tls")


async def test_the_close_says_the_code_it_was_told() -> None:
    codes: list[int | None] = []

    async def note(talk: web.WebSocketResponse) -> None:
        await echo(talk)
        codes.append(talk.close_code)

    async with serving(note) as port, line() as made:
        conn = await made.dial(ws(port))
        await conn.close()
        await until(lambda: codes)
    assert codes == [4000]
