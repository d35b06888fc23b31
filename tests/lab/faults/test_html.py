"""T11: every request gets a web page, whatever it asked for."""

from __future__ import annotations

import aiohttp
import pytest

from holdfast.lab.faults.html import Asked, HtmlPortal
from holdfast.lab.faults.tls import Authority


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_every_method_and_path_gets_the_page(method: str) -> None:
    async with HtmlPortal() as portal, aiohttp.ClientSession() as http:
        url = portal.url("http", "/bot123/getUpdates?offset=7")
        async with http.request(method, url, json={"a": 1}) as reply:
            assert (reply.status, reply.content_type) == (200, "text/html")
            assert "<html>" in await reply.text()
        assert list(portal.asked) == [Asked(method, "/bot123/getUpdates?offset=7", False)]


async def test_an_upgrade_gets_the_page_too() -> None:
    async with HtmlPortal() as portal, aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await http.ws_connect(portal.url("ws", "/gateway"))
        assert caught.value.status == 200
        assert portal.asked[0].upgrade


async def test_status_and_page_can_change_while_it_runs() -> None:
    async with HtmlPortal() as portal, aiohttp.ClientSession() as http:
        portal.status, portal.page = 403, "<b>blocked</b>"
        async with http.get(portal.url("http")) as reply:
            assert (reply.status, await reply.text()) == (403, "<b>blocked</b>")
        assert portal.count == 1


async def test_over_tls() -> None:
    authority = Authority()
    async with (
        HtmlPortal(tls=authority.server_context()) as portal,
        aiohttp.ClientSession() as http,
    ):
        async with http.get(portal.url("https"), ssl=authority.client_context()) as reply:
            assert reply.status == 200


async def test_the_port_survives_stop_and_start() -> None:
    portal = HtmlPortal()
    async with aiohttp.ClientSession() as http:
        async with portal:
            port = portal.port
        with pytest.raises(aiohttp.ClientConnectorError):
            await http.get(portal.url("http"))
        async with portal:
            assert portal.port == port
            async with http.get(portal.url("http")) as reply:
                assert reply.status == 200
