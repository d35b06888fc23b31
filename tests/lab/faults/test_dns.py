"""T5 and T12: names resolve, fail, hang or lead astray, as aiohttp's connector sees it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from holdfast.lab.faults.backlog import FullBacklog, has_v6
from holdfast.lab.faults.dns import LabResolver
from holdfast.lab.faults.html import HtmlPortal


@asynccontextmanager
async def session(
    resolver: LabResolver, head_start: float | None = 0.25
) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(
        resolver=resolver, use_dns_cache=False, happy_eyeballs_delay=head_start
    )
    async with aiohttp.ClientSession(connector=connector) as opened:
        yield opened


async def test_a_known_name_leads_to_its_address_and_the_port_stays() -> None:
    resolver = LabResolver({"api.example.org": ["127.0.0.1"]})
    async with HtmlPortal() as server, session(resolver) as http:
        async with http.get(f"http://api.example.org:{server.port}/") as reply:
            assert reply.status == 200
    assert resolver.asked == {"api.example.org": 1}


async def test_answers_have_the_family_that_was_asked_for() -> None:
    resolver = LabResolver()
    resolver.dead_v6_first("both")

    async def hosts(family: socket.AddressFamily) -> list[str]:
        return [found["host"] for found in await resolver.resolve("both", 443, family)]

    assert await hosts(socket.AF_UNSPEC) == ["::1", "127.0.0.1"]
    assert await hosts(socket.AF_INET) == ["127.0.0.1"]
    assert await hosts(socket.AF_INET6) == ["::1"]
    assert {found["port"] for found in await resolver.resolve("both", 443)} == {443}


async def test_an_unknown_name_does_not_exist() -> None:
    resolver = LabResolver({"known": ["127.0.0.1"]})
    with pytest.raises(socket.gaierror) as caught:
        await resolver.resolve("example.org")
    assert caught.value.errno == socket.EAI_NONAME
    resolver.point("known")
    with pytest.raises(socket.gaierror):
        await resolver.resolve("known")


async def test_fail_fails_at_once_and_heals() -> None:
    loop = asyncio.get_running_loop()
    resolver = LabResolver({"api": ["127.0.0.1"]})
    resolver.fail()
    before = loop.time()
    async with session(resolver) as http:
        with pytest.raises(aiohttp.ClientConnectorDNSError, match="Temporary failure in name"):
            await http.get("http://api:1/")
    assert loop.time() == before
    resolver.fail(socket.EAI_NONAME)
    with pytest.raises(socket.gaierror) as caught:
        await resolver.resolve("api")
    assert caught.value.errno == socket.EAI_NONAME
    resolver.heal()
    assert len(await resolver.resolve("api")) == 1


async def test_hang_lasts_until_the_callers_limit_or_the_healing() -> None:
    resolver = LabResolver({"api": ["127.0.0.1"]})
    resolver.hang()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(600):
            await resolver.resolve("api")
    waiting = asyncio.create_task(resolver.resolve("api"))
    await asyncio.sleep(5)
    assert not waiting.done()
    resolver.ok()
    assert [found["host"] for found in await waiting] == ["127.0.0.1"]


async def test_a_hanging_lookup_can_end_in_failure() -> None:
    resolver = LabResolver({"api": ["127.0.0.1"]})
    resolver.hang()
    waiting = asyncio.create_task(resolver.resolve("api"))
    await asyncio.sleep(5)
    resolver.fail()
    with pytest.raises(socket.gaierror):
        await waiting


@pytest.mark.skipif(not has_v6(), reason="no ::1")
async def test_dead_v6_first_costs_the_head_start_or_everything() -> None:
    loop = asyncio.get_running_loop()
    resolver = LabResolver()
    resolver.dead_v6_first("api")
    async with HtmlPortal() as server:
        with FullBacklog("::1", server.port):
            url = f"http://api:{server.port}/"
            before = loop.time()
            async with session(resolver) as http, http.get(url) as reply:
                assert reply.status == 200
            assert loop.time() - before == pytest.approx(0.25, abs=0.1)

            limit = aiohttp.ClientTimeout(total=30)
            async with session(resolver, head_start=None) as http:
                with pytest.raises(TimeoutError):
                    await http.get(url, timeout=limit)
