"""A reverse proxy passes requests on unchanged, and is broken exactly as it is told."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from holdfast.lab.faults.reverse_proxy import PAGE, Asked, Fate, Mode, ReverseProxy


class Backend:
    """A server that answers with what it was asked, at once or when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.hung_up = asyncio.Event()
        self.polled = asyncio.Event()
        self.release = asyncio.Event()
        self.url = ""

    async def mirror(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.asked.append(f"{request.method} {request.raw_path}")
        seen = {
            "method": request.method,
            "path": request.raw_path,
            "headers": {k.lower(): v for k, v in request.headers.items()},
            "body": body.decode(),
        }
        return web.json_response(seen, status=203, headers={"X-Served": "yes"})

    async def packed(self, request: web.Request) -> web.Response:
        return web.Response(body=gzip.compress(b"packed"), headers={"Content-Encoding": "gzip"})

    async def elsewhere(self, request: web.Request) -> web.Response:
        response = web.Response(status=302, headers={"Location": "/other"})
        response.set_cookie("a", "1")
        response.set_cookie("b", "2")
        return response

    async def poll(self, request: web.Request) -> web.Response:
        self.polled.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.hung_up.set()
            raise
        return web.Response(text="news")

    async def crash(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()


@asynccontextmanager
async def scene() -> AsyncIterator[tuple[Backend, ReverseProxy, aiohttp.ClientSession]]:
    backend = Backend()
    app = web.Application()
    app.router.add_get("/packed", backend.packed)
    app.router.add_get("/moved", backend.elsewhere)
    app.router.add_route("*", "/poll", backend.poll)
    app.router.add_get("/crash", backend.crash)
    app.router.add_route("*", "/{path:.*}", backend.mirror)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        backend.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with ReverseProxy(backend.url) as proxy, aiohttp.ClientSession() as http:
            yield backend, proxy, http
    finally:
        await runner.cleanup()


async def _ask(http: aiohttp.ClientSession, method: str, url: str) -> tuple[int, str]:
    """Ask once: what was to be changed (POST) aiohttp does not repeat by itself."""
    async with http.request(method, url, data="x" if method == "POST" else None) as answer:
        return answer.status, await answer.text()


async def polling(
    backend: Backend, proxy: ReverseProxy, http: aiohttp.ClientSession
) -> asyncio.Task[tuple[int, str]]:
    """A long poll that the server holds."""

    task = asyncio.create_task(_ask(http, "POST", f"{proxy.url}/poll"))
    await backend.polled.wait()
    return task


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_a_request_arrives_as_it_was_made(method: str) -> None:
    async with scene() as (_, proxy, http):
        path = "/rooms/%21a%3Ab/send%2Fx?since=s%3A1&timeout=5000"
        url = URL(proxy.url + path, encoded=True)
        headers = {"Authorization": "Bearer t", "X-Hop": "1", "Connection": "keep-alive, X-Hop"}
        async with http.request(method, url, data="body", headers=headers) as answer:
            assert (answer.status, answer.headers["X-Served"]) == (203, "yes")
            seen = await answer.json()
        assert (seen["method"], seen["path"], seen["body"]) == (method, path, "body")
        assert seen["headers"]["authorization"] == "Bearer t"
        assert "x-hop" not in seen["headers"]
        assert (proxy.log[0].method, proxy.log[0].path) == (method, path)
        assert (proxy.log[0].fate, proxy.log[0].status) == (Fate.ANSWERED, 203)


async def test_an_answer_arrives_as_it_was_given() -> None:
    async with scene() as (_, proxy, http):
        async with http.get(f"{proxy.url}/packed") as answer:
            assert (await answer.text(), answer.headers["Content-Encoding"]) == ("packed", "gzip")
        async with http.get(f"{proxy.url}/moved", allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (302, "/other")
            assert len(answer.headers.getall("Set-Cookie")) == 2
        async with (
            http.head(f"{proxy.url}/packed") as answer,
            http.head(f"{proxy.upstream}/packed") as direct,
        ):
            assert answer.headers["Content-Length"] == direct.headers["Content-Length"] != "0"


async def test_a_long_poll_is_held_and_passed_on() -> None:
    async with scene() as (backend, proxy, http):
        poll = await polling(backend, proxy, http)
        await asyncio.sleep(100)
        assert not poll.done()
        backend.release.set()
        assert await poll == (200, "news")


async def test_a_client_that_goes_hangs_up_on_the_server_too() -> None:
    async with scene() as (backend, proxy, http):
        poll = await polling(backend, proxy, http)
        poll.cancel()
        async with asyncio.timeout(5):
            await backend.hung_up.wait()


async def test_a_status_is_given_to_new_requests_and_those_under_way() -> None:
    async with scene() as (backend, proxy, http):
        poll = await polling(backend, proxy, http)
        proxy.status(503, "<b>maintenance</b>")
        assert await poll == (503, "<b>maintenance</b>")
        async with http.post(f"{proxy.url}/x", data="y") as answer:
            assert (answer.status, answer.content_type) == (503, "text/html")
        assert backend.asked == []
        assert {asked.fate for asked in proxy.log} == {Fate.REFUSED}
        proxy.heal()
        async with http.get(f"{proxy.url}/x") as answer:
            assert answer.status == 203
        assert backend.asked == ["GET /x"]


@pytest.mark.parametrize("early", [True, False], ids=["under way", "new"])
async def test_hanging_gives_no_answer_and_healing_resets(early: bool) -> None:
    async with scene() as (backend, proxy, http):
        if early:
            poll = await polling(backend, proxy, http)
            proxy.hang()
        else:
            proxy.hang()
            poll = asyncio.create_task(_ask(http, "POST", f"{proxy.url}/x"))
        backend.release.set()
        await asyncio.sleep(100)
        assert not poll.done()
        assert proxy.mode is Mode.HANG
        proxy.heal()
        with pytest.raises(aiohttp.ClientConnectionError):
            await poll
        assert backend.asked == []
        assert [asked.fate for asked in proxy.log] == [Fate.LOST]


async def test_a_swallowed_answer_is_the_chosen_ones_and_the_server_was_asked() -> None:
    async with scene() as (backend, proxy, http):
        proxy.swallow_answer(2, method="POST", path="/send/")
        fates: list[str] = []
        for method, path in (
            ("POST", "/typing/1"),
            ("POST", "/send/1"),
            ("GET", "/send/1"),
            ("POST", "/send/2"),
            ("POST", "/send/3"),
        ):
            try:
                await _ask(http, method, proxy.url + path)
                fates.append("answered")
            except aiohttp.ClientConnectionError:
                fates.append("reset")
        assert fates == ["answered", "reset", "answered", "reset", "answered"]
        assert backend.asked[1:] == ["POST /send/1", "GET /send/1", "POST /send/2", "POST /send/3"]
        swallowed = [asked for asked in proxy.log if asked.fate is Fate.SWALLOWED]
        assert [(asked.path, asked.status) for asked in swallowed] == [
            ("/send/1", 203),
            ("/send/2", 203),
        ]


async def test_a_server_that_is_gone_or_goes_is_a_bad_gateway() -> None:
    async with scene() as (_, proxy, http):
        assert await _ask(http, "GET", f"{proxy.url}/crash") == (502, PAGE)
        proxy.upstream = "http://127.0.0.1:1"
        assert await _ask(http, "GET", f"{proxy.url}/x") == (502, PAGE)
        last: Asked = proxy.log[-1]
        assert (last.fate, last.status) == (Fate.REFUSED, None)


async def test_the_port_survives_stop_and_start() -> None:
    async with scene() as (_, proxy, http):
        port = proxy.port
        await proxy.stop()
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get(f"{proxy.url}/x")
        await proxy.start()
        assert proxy.port == port
        assert (await _ask(http, "GET", f"{proxy.url}/x"))[0] == 203
