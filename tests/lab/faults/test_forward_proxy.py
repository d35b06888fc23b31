"""A forward proxy: tunnels and plain requests pass as they are, until they do not."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from aiohttp import web

from holdfast.lab.faults.forward_proxy import Asked, ForwardProxy
from holdfast.lab.faults.html import HtmlPortal
from holdfast.lab.faults.tls import Authority


async def _echo(request: web.Request) -> web.StreamResponse:
    if request.headers.get("Upgrade", "").lower() != "websocket":
        return web.Response(text=f"{request.method} {request.path_qs}")
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    async for message in ws:
        await ws.send_str(f"heard {message.data}")
    return ws


class Server:
    """A plain server. Use as ``async with Server() as url``."""

    async def __aenter__(self) -> str:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", _echo)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        return f"127.0.0.1:{self._runner.addresses[0][1]}"

    async def __aexit__(self, *exc: object) -> None:
        await self._runner.cleanup()


async def test_plain_requests_and_web_sockets_pass() -> None:
    async with Server() as place, ForwardProxy() as proxy, aiohttp.ClientSession() as session:
        for path in ("/a?b=c", "/d"):
            async with session.get(f"http://{place}{path}", proxy=proxy.url) as answer:
                assert await answer.text() == f"GET {path}"
        async with session.ws_connect(f"ws://{place}/ws", proxy=proxy.url) as ws:
            await ws.send_str("hello")
            assert (await ws.receive()).data == "heard hello"
    assert proxy.asked[0] == Asked("GET", f"http://{place}/a?b=c")
    assert proxy.count == 3


async def test_a_tunnel_passes_what_the_proxy_can_not_read() -> None:
    authority = Authority()
    async with (
        HtmlPortal(tls=authority.server_context()) as portal,
        ForwardProxy() as proxy,
        aiohttp.ClientSession() as session,
        session.get(portal.url("https"), proxy=proxy.url, ssl=authority.client_context()) as answer,
    ):
        assert answer.status == 200
        assert list(proxy.asked) == [Asked("CONNECT", f"127.0.0.1:{portal.port}")]


async def test_it_refuses_and_passes_again() -> None:
    async with Server() as place, ForwardProxy() as proxy, aiohttp.ClientSession() as session:
        proxy.refuse()
        async with session.get(f"http://{place}/", proxy=proxy.url) as answer:
            assert answer.status == 403
        proxy.ok()
        async with session.get(f"http://{place}/", proxy=proxy.url) as answer:
            assert answer.status == 200


async def test_it_hangs_until_it_is_well() -> None:
    async with Server() as place, ForwardProxy() as proxy, aiohttp.ClientSession() as session:
        proxy.hang()
        asking = asyncio.create_task(session.post(f"http://{place}/", proxy=proxy.url))
        _, waiting = await asyncio.wait([asking], timeout=100)
        assert waiting
        proxy.ok()
        with pytest.raises(aiohttp.ServerDisconnectedError):
            await asking


async def test_without_upgrades_a_web_socket_is_a_plain_request() -> None:
    async with Server() as place, ForwardProxy() as proxy, aiohttp.ClientSession() as session:
        proxy.strip_upgrades()
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await session.ws_connect(f"ws://{place}/", proxy=proxy.url)
        assert caught.value.status == 200


async def test_one_that_is_down_refuses_connects() -> None:
    async with Server() as place, ForwardProxy() as proxy, aiohttp.ClientSession() as session:
        await proxy.stop()
        with pytest.raises(aiohttp.ClientProxyConnectionError):
            await session.get(f"http://{place}/", proxy=proxy.url)


async def test_a_server_that_is_not_there_is_a_bad_gateway() -> None:
    async with ForwardProxy() as proxy, aiohttp.ClientSession() as session:
        async with Server() as place:
            pass
        async with session.get(f"http://{place}/", proxy=proxy.url) as answer:
            assert answer.status == 502
