"""The plainest possible Telegram bot, for the tests of the simulator."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from holdfast.lab.simulators.telegram import TelegramSimulator

Json = dict[str, Any]


class Client:
    """The plainest possible bot."""

    def __init__(self, sim: TelegramSimulator, session: aiohttp.ClientSession) -> None:
        self.sim, self.session = sim, session

    async def raw(self, method: str, /, **params: Any) -> tuple[int, Json, aiohttp.ClientResponse]:
        url = f"{self.sim.url}/bot{self.sim.token}/{method}"
        async with self.session.post(url, json=params) as response:
            return response.status, await response.json(), response

    async def call(self, method: str, /, **params: Any) -> Any:
        status, body, _ = await self.raw(method, **params)
        assert status == 200, body
        assert body["ok"] is True
        return body["result"]

    async def refused(self, method: str, /, **params: Any) -> str:
        """The description of an error answer, checked for the form all of them have."""
        status, body, _ = await self.raw(method, **params)
        assert body["ok"] is False
        assert body["error_code"] == status
        return f"{status} {body['description']}"

    async def poll(self, offset: int = 0, timeout: int = 0, **params: Any) -> list[Json]:
        updates: list[Json] = await self.call(
            "getUpdates", offset=offset, timeout=timeout, **params
        )
        return updates


@asynccontextmanager
async def bot() -> AsyncIterator[tuple[TelegramSimulator, Client]]:
    async with TelegramSimulator() as sim, aiohttp.ClientSession() as session:
        yield sim, Client(sim, session)


@asynccontextmanager
async def parked(client: Client, offset: int = 0, timeout: int = 50) -> AsyncIterator[Any]:
    """A ``getUpdates`` the server has parked; the task ends with ``(status, body, response)``."""
    before = client.sim.count("link-open")
    task = asyncio.create_task(client.raw("getUpdates", offset=offset, timeout=timeout))
    await client.sim.until(lambda: client.sim.count("link-open") > before)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def texts(updates: list[Json]) -> list[str]:
    return [update["message"]["text"] for update in updates]


def clock() -> float:
    return asyncio.get_running_loop().time()
