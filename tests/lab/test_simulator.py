"""What every simulated platform has in common."""

from __future__ import annotations

import aiohttp
import pytest
from aiohttp import web

from holdfast.lab.simulator import Simulator


class Hasty(Simulator):
    """A platform whose clients never wait for an answer."""

    platform = "hasty"

    def routes(self, app: web.Application) -> None:
        """See `Simulator.routes`."""
        app.router.add_get("/", self._answer)

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        request.transport.close()
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        return ws


async def test_a_client_that_is_gone_before_its_answer_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with Hasty() as sim, aiohttp.ClientSession() as client:
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.ws_connect(sim.url)
    assert "aiohttp.server" not in {record.name for record in caplog.records}
