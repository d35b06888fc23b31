"""Every way in which a request fails has its cause, and says whether the peer may have seen it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver

from holdfast.adapter import HttpFailed, Part
from holdfast.gateway.dns import Resolver
from holdfast.gateway.net import IDLE_LIMIT, HttpClient, Net
from holdfast.lab.faults.backlog import FullBacklog, has_v6
from holdfast.lab.faults.dns import LabResolver
from holdfast.lab.faults.html import HtmlPortal
from holdfast.lab.faults.relay import Relay
from holdfast.lab.faults.tls import Authority, Flaw
from holdfast.supervision import Kind
from tests.gateway.raw import hang, head, raw, says
from tests.gateway.tools import now, until

SECRET = "bot123:polly-secret"
"""Some platforms carry their token in the path."""

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextlib.asynccontextmanager
async def client(
    resolver: AbstractResolver | None = None,
    proxy: str | None = None,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[HttpClient]:
    """A client, and the proof that it leaves no socket."""
    made = Net(resolver or Resolver(), proxy, tls).client()
    try:
        yield made
    finally:
        await made.close()
        await asyncio.sleep(0)
        assert made.sockets.open == 0


async def failure(made: HttpClient, url: str, **options: Any) -> HttpFailed:
    """How a request failed; its words never hold the secret of the URL."""
    with pytest.raises(HttpFailed) as caught:
        await made.request("GET", f"{url}/{SECRET}?access_token={SECRET}", **options)
    assert SECRET not in str(caught.value)
    assert "polly-secret" not in caught.value.cause.message
    return caught.value


def check(error: HttpFailed, kind: Kind, code: str, *, sent: bool) -> None:
    """Compare a failure with what is expected."""
    assert (error.cause.kind, error.cause.code, error.sent) == (kind, code, sent)


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
    return port


def reset(writer: asyncio.StreamWriter) -> None:
    """RST instead of FIN."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


# -- before the peer saw anything -----------------------------------------------------------------


async def test_refused() -> None:
    async with client() as made:
        error = await failure(made, f"http://127.0.0.1:{free_port()}")
    check(error, Kind.UNREACHABLE, "unreachable", sent=False)


async def test_a_name_that_does_not_exist() -> None:
    async with client(LabResolver()) as made:
        error = await failure(made, "http://parrot.invalid")
    check(error, Kind.UNREACHABLE, "dns", sent=False)


async def test_a_name_server_that_cannot_be_reached() -> None:
    resolver = LabResolver({"parrot.invalid": ["127.0.0.1"]})
    resolver.fail()
    async with client(resolver) as made:
        error = await failure(made, "http://parrot.invalid")
    check(error, Kind.UNREACHABLE, "dns", sent=False)


async def test_a_look_up_that_hangs_is_bounded_by_the_connect_limit() -> None:
    resolver = LabResolver()
    resolver.hang()
    async with client(resolver) as made:
        began = now()
        error = await failure(made, "http://parrot.invalid")
        assert now() - began <= 10
    check(error, Kind.UNREACHABLE, "connect_timeout", sent=False)


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNSPEC])
async def test_the_resolver_itself_gives_up_after_its_limit(
    family: socket.AddressFamily, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0
    asked: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()

    def never(*_: object) -> asyncio.Future[list[Any]]:
        nonlocal calls
        calls += 1
        return asked

    monkeypatch.setattr(asyncio.get_running_loop(), "run_in_executor", never)
    resolver = Resolver()
    began = now()
    results = await asyncio.gather(
        *(resolver.resolve("parrot.invalid", 443, family) for _ in range(5)),
        return_exceptions=True,
    )
    assert now() - began == pytest.approx(5)
    assert all(isinstance(result, socket.gaierror) for result in results)
    assert calls == 1  # equal look-ups share one thread, however many wait
    asked.set_result([])
    await asyncio.sleep(0)
    assert not resolver._running


async def test_no_host_name_at_all_is_an_ordinary_failure() -> None:
    with pytest.raises(socket.gaierror):
        await Resolver().resolve("a" * 300 + ".invalid")


async def test_a_connect_that_hangs() -> None:
    with FullBacklog() as full:
        async with client() as made:
            began = now()
            error = await failure(made, f"http://127.0.0.1:{full.port}")
            assert now() - began == pytest.approx(5, abs=0.5)
    check(error, Kind.UNREACHABLE, "connect_timeout", sent=False)


async def test_a_full_pool_is_waited_for_no_longer_than_a_connect() -> None:
    async with raw(hang) as server, client() as made:
        waiting = [
            asyncio.create_task(made.request("GET", server.url, timeout=60.0)) for _ in range(16)
        ]
        await until(lambda: server.open == 16)
        began = now()
        error = await failure(made, server.url, timeout=60.0)
        assert 10 <= now() - began <= 11  # aiohttp rounds up to whole seconds
        check(error, Kind.UNREACHABLE, "connect_timeout", sent=False)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)


@pytest.mark.parametrize("flaw", [Flaw.EXPIRED, Flaw.WRONG_NAME, Flaw.UNKNOWN_ISSUER])
async def test_a_flawed_certificate_is_never_accepted(flaw: Flaw) -> None:
    authority = Authority()
    async with HtmlPortal(tls=authority.server_context(flaw)) as portal:
        async with client(tls=authority.client_context()) as made:
            error = await failure(made, portal.url("https"))
        assert portal.count == 0
    check(error, Kind.UNREACHABLE, "tls", sent=False)
    assert "unverified" in error.cause.hint


async def test_a_good_certificate_is_accepted() -> None:
    authority = Authority()
    async with (
        HtmlPortal(tls=authority.server_context()) as portal,
        client(tls=authority.client_context()) as made,
    ):
        assert (await made.request("GET", portal.url("https"))).status == 200


async def test_plain_text_where_tls_was_expected() -> None:
    async with HtmlPortal() as portal, client() as made:
        error = await failure(made, portal.url("https"))
    check(error, Kind.UNREACHABLE, "tls", sent=False)


async def test_a_proxy_that_refuses_the_connection() -> None:
    async with client(proxy=f"http://127.0.0.1:{free_port()}") as made:
        error = await failure(made, "https://parrot.invalid")
    check(error, Kind.UNREACHABLE, "proxy", sent=False)


async def test_a_proxy_that_says_no() -> None:
    play = says(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
    async with raw(play) as proxy, client(proxy=proxy.url) as made:
        error = await failure(made, "https://parrot.invalid")
    check(error, Kind.UNREACHABLE, "proxy", sent=False)
    assert "407" in error.cause.message


async def test_a_url_that_is_none() -> None:
    async with client() as made:
        error = await failure(made, "http://[nonsense")
    check(error, Kind.REFUSED, "bad_url", sent=False)


@pytest.mark.skipif(not has_v6(), reason="no ::1")
async def test_a_dead_first_address_costs_a_quarter_second() -> None:
    async with HtmlPortal() as portal:
        with FullBacklog("::1", portal.port):
            resolver = LabResolver()
            resolver.dead_v6_first("parrot.invalid")
            async with client(resolver) as made:
                began = now()
                await made.request("GET", f"http://parrot.invalid:{portal.port}")
                assert now() - began == pytest.approx(0.25, abs=0.1)


# -- after the peer may have seen it --------------------------------------------------------------


async def test_no_answer() -> None:
    async with raw(hang) as server, client() as made:
        began = now()
        error = await failure(made, server.url, timeout=7.0)
        assert now() - began == pytest.approx(7, abs=0.1)
        await until(lambda: server.open == 0, 1)
    check(error, Kind.TIMEOUT, "http_timeout", sent=True)


async def test_reset_after_the_request() -> None:
    async with raw(says(b"", then=reset)) as server, client() as made:
        error = await failure(made, server.url)
    check(error, Kind.LOST, "http_lost", sent=True)


async def test_closed_after_the_request() -> None:
    async with raw(says(b"")) as server, client() as made:
        error = await failure(made, server.url)
    check(error, Kind.LOST, "http_lost", sent=True)


async def test_a_body_that_is_cut_off() -> None:
    play = says(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
    async with raw(play) as server, client() as made:
        error = await failure(made, server.url)
    check(error, Kind.LOST, "http_cut", sent=True)


async def test_a_body_that_is_too_large() -> None:
    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 1_000)
            await writer.drain()

    async with raw(flood) as server, client() as made:
        error = await failure(made, server.url, max_body=10_000)
        await until(lambda: server.open == 0, 1)
    check(error, Kind.PROTOCOL, "body_too_large", sent=True)


async def test_a_body_that_drips_is_ended_by_the_outer_limit() -> None:
    async with HtmlPortal(page="x" * 1_000) as portal:
        async with Relay("127.0.0.1", portal.port) as relay, client() as made:
            relay.drip(rate=2.0)
            began = now()
            error = await failure(made, relay.url("http"), timeout=20.0)
            assert 20 <= now() - began <= 21
    check(error, Kind.TIMEOUT, "http_timeout", sent=True)


async def test_what_is_not_http() -> None:
    async with raw(says(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")) as server, client() as made:
        error = await failure(made, server.url)
    check(error, Kind.PROTOCOL, "bad_http", sent=True)


# -- answers --------------------------------------------------------------------------------------


async def test_any_status_is_an_answer() -> None:
    async with HtmlPortal(status=503) as portal, client() as made:
        reply = await made.request("GET", portal.url("http"))
    assert reply.status == 503
    assert reply.headers["content-type"].startswith("text/html")
    assert b"sign in" in reply.body


async def test_redirects_are_answers_too() -> None:
    target = says(OK)
    async with raw(target) as other:
        answer = f"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: {other.url}\r\n\r\n"
        async with raw(says(answer.encode())) as server, client() as made:
            reply = await made.request("GET", server.url)
            assert reply.status == 302
            assert reply.headers["location"] == other.url
        assert other.connections == 0


async def test_bodies_in_every_form_arrive() -> None:
    seen: list[tuple[str, bytes]] = []

    async def take(request: web.Request) -> web.Response:
        seen.append((request.headers.get("Content-Type", ""), await request.read()))
        return web.json_response({"agent": request.headers["User-Agent"], "q": dict(request.query)})

    app = web.Application()
    app.router.add_post("/", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    async with client() as made:
        reply = await made.request("POST", url, json={"a": 1}, query={"x": "y"})
        await made.request("POST", url, form={"a": "1"})
        await made.request("POST", url, body=b"raw")
        await made.request("POST", url, parts=[Part(name="f", data=b"bytes", filename="n.bin")])
    await runner.cleanup()
    answer = reply.decode(dict[str, Any])
    assert answer["q"] == {"x": "y"}
    assert answer["agent"].startswith("holdfast/")
    types, bodies = zip(*seen, strict=True)
    assert [t.partition(";")[0] for t in types] == [
        "application/json",
        "application/x-www-form-urlencoded",
        "application/octet-stream",
        "multipart/form-data",
    ]
    assert bodies[:3] == (b'{"a":1}', b"a=1", b"raw")
    assert b'filename="n.bin"' in bodies[3]


async def test_large_bodies_are_sent_in_pieces() -> None:
    sizes: list[int] = []

    async def take(request: web.Request) -> web.Response:
        sizes.append(len(await request.read()))
        return web.Response()

    app = web.Application(client_max_size=2**23)
    app.router.add_post("/", take)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}/"
    large = bytes(3 * 2**20)
    async with client() as made:
        await made.request("POST", url, body=large)
        await made.request("POST", url, parts=[Part(name="f", data=large, filename="n.bin")])
    await runner.cleanup()
    assert sizes[0] == len(large)
    assert len(large) < sizes[1] < len(large) + 1_000


# -- sockets --------------------------------------------------------------------------------------


async def keeps_alive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An HTTP server that never closes by itself."""
    while True:
        await head(reader)
        writer.write(OK)


@pytest.mark.real_time  # aiohttp dates its pool by the machine's clock
async def test_an_idle_connection_is_reused_for_a_short_while_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert IDLE_LIMIT <= 5
    monkeypatch.setattr("holdfast.gateway.net.IDLE_LIMIT", 0.1)
    async with raw(keeps_alive) as server, client() as made:
        await made.request("GET", server.url)
        await made.request("GET", server.url)
        assert server.connections == 1
        await asyncio.sleep(0.15)
        await made.request("GET", server.url)
        assert server.connections == 2


async def test_sockets_are_kept_alive_by_the_kernel_and_counted() -> None:
    async with raw(keeps_alive) as server, client() as made:
        await made.request("GET", server.url)
        assert made.sockets.open == 1
        (sock,) = made.sockets._sockets
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 20
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL) == 5
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) == 3
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
        await made.close()
        assert made.sockets.open == 0
        await until(lambda: server.open == 0, 1)


async def test_an_abort_ends_a_request_at_once() -> None:
    async with raw(hang) as server, client() as made:
        task = asyncio.create_task(made.request("GET", server.url))
        await until(lambda: server.open == 1)
        began = now()
        made.abort()
        with pytest.raises(HttpFailed):
            await task
        assert now() - began < 0.1
        await until(lambda: server.open == 0, 1)


@pytest.mark.parametrize("how", ["close", "abort"])
async def test_a_closed_client_dials_no_more(how: str) -> None:
    async with raw(keeps_alive) as server, client() as made:
        await made.request("GET", server.url)
        if how == "close":
            await made.close()
        else:
            made.abort()
        error = await failure(made, server.url)
        assert not error.sent
        assert server.connections == 1


async def test_cancelling_a_request_leaves_no_socket() -> None:
    async with raw(hang) as server, client() as made:
        task = asyncio.create_task(made.request("GET", server.url))
        await until(lambda: server.open == 1)
        task.cancel()
        await asyncio.wait([task])
        await until(lambda: server.open == 0, 1)
        assert made.sockets.open == 0
