"""The API of a real gateway, asked over its real socket."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp

from holdfast.config import Config
from holdfast.gateway.gateway import Gateway
from holdfast.store.protocol import Store
from holdfast.web.control_server import ControlServer
from tests.web.gateway import running


@dataclass
class Site:
    """A gateway and a client of it."""

    gateway: Gateway
    session: aiohttp.ClientSession

    async def ask(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """The status and the document of an answer."""
        url = "http://localhost" + path
        async with self.session.request(method, url, json=body) as answer:
            assert answer.content_type == "application/json"
            return answer.status, await answer.json()

    async def get(self, path: str) -> Any:
        """What a question is answered with."""
        status, body = await self.ask("GET", "/api/v1" + path)
        assert status == 200, body
        return body

    async def post(self, path: str, body: Any = None) -> Any:
        """What an order is answered with."""
        status, answer = await self.ask("POST", "/api/v1" + path, body)
        assert status == 200, answer
        return answer


@contextlib.asynccontextmanager
async def serving(config: Config, store: Store | None = None) -> AsyncIterator[Site]:
    """A gateway whose accounts are all connected, and its server."""
    async with running(config, store) as gateway:
        server = ControlServer(gateway)
        await server.start()
        connector = aiohttp.UnixConnector(str(server.path))
        try:
            async with aiohttp.ClientSession(connector=connector) as session:
                yield Site(gateway, session)
        finally:
            await server.stop()
            assert not server.path.exists()
