"""The HTTP server of a real gateway, asked over its real TCP address."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from holdfast.adapter import Secret
from holdfast.config import Config, WebSettings
from holdfast.gateway.gateway import Gateway
from holdfast.observe.history import FILE_NAME, History
from holdfast.web.server import Extra, HttpServer
from tests.web.gateway import parrots, running

TOKEN = "correct horse battery staple"

BEARER = {"Authorization": f"Bearer {TOKEN}"}


@dataclass
class Site:
    """A gateway, its server and a client of that."""

    gateway: Gateway
    history: History
    server: HttpServer
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    async def ask(self, path: str, method: str = "GET", **how: Any) -> tuple[int, Any]:
        """The status and the document of an answer."""
        async with self.session.request(method, self.url + path, **how) as answer:
            return answer.status, await answer.json()

    async def get(self, path: str, **headers: str) -> Any:
        """What a question is answered with."""
        status, body = await self.ask("/api/v1" + path, headers=headers)
        assert status == 200, body
        return body

    async def raw(self, text: str) -> str:
        """All that comes back for bytes that no client would send."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        writer.write(text.encode())
        try:
            return (await reader.read()).decode()
        finally:
            writer.close()

    async def refused(self) -> dict[str, float]:
        """What a scraper is told of refusals, by the reason, without those that never were."""
        guard = self.server.guard
        headers = {"Cookie": f"{guard.cookie}={guard.sessions.begin()}"}
        async with (
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as scraper,
            scraper.get(self.url + "/metrics", headers=headers) as answer,
        ):
            assert answer.status == 200
            text = await answer.text()
        return {
            one.labels["reason"]: one.value
            for family in text_string_to_metric_families(text)
            for one in family.samples
            if one.name == "holdfast_web_refused_total" and one.value
        }

    def generations(self) -> set[int]:
        """Numbers of the accounts' connections: 1 as long as none was disturbed."""
        return {desk.account.view().generation for desk in self.gateway.desks.values()}


def guarded(directory: Path, **more: Any) -> Config:
    """Two parrots behind a token."""
    return flock(directory, token=Secret(TOKEN), **more)


def flock(directory: Path, **web: Any) -> Config:
    """Two parrots and their server's settings."""
    settings = WebSettings(**{"listen": "127.0.0.1:0", **web})
    return replace(parrots(directory, polly="oak", jack="elm"), web=settings)


@contextlib.asynccontextmanager
async def serving(config: Config, extras: Iterable[Extra] = ()) -> AsyncIterator[Site]:
    """A gateway whose accounts are all connected, its history and its server."""
    history = History(config.path.parent / FILE_NAME)
    await history.start()
    async with running(config) as gateway:
        gateway.listeners.append(history.report)
        server = HttpServer(gateway, history, extras)
        await server.start()
        try:
            # A jar keeps no cookie of an address, as of a machine of one's own, by itself.
            jar = aiohttp.CookieJar(unsafe=True)
            connector = aiohttp.TCPConnector(force_close=True)
            async with aiohttp.ClientSession(connector=connector, cookie_jar=jar) as session:
                yield Site(gateway, history, server, session)
        finally:
            await server.stop()
    await history.stop()
