"""T11: a portal or firewall that answers every request with a web page, upgrades included."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from aiohttp import web

PAGE = """<!DOCTYPE html>
<html><head><title>Welcome to the guest network</title></head>
<body><h1>Please sign in</h1><form method="post" action="/login"><button>Accept</button></form>
</body></html>
"""

LOG_SIZE = 1_000
"""Requests that are remembered; the oldest go first."""

STOP_TIMEOUT = 0.2
"""Seconds that requests under way have to finish at a stop."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request that got the page instead of an answer."""

    method: str
    path: str
    upgrade: bool
    """Whether it asked for a WebSocket."""


class HtmlPortal:
    """A server on loopback that says ``200 text/html`` to everything. An async context manager.

    ``status``, ``page`` and ``headers`` may be changed while it runs (a firewall's 403, a proxy's
    503). With an SSL context it speaks TLS. ``asked`` holds the last requests, ``count`` counts
    them all.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        status: int = 200,
        page: str = PAGE,
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.host, self.port = host, port
        self.status, self.page, self.headers = status, page, dict(headers or {})
        self.count = 0
        self.asked: deque[Asked] = deque(maxlen=LOG_SIZE)
        self._tls = tls
        self._runner: web.ServerRunner | None = None

    def url(self, scheme: str, path: str = "") -> str:
        """The portal's address, for example ``http://127.0.0.1:40123``."""
        return f"{scheme}://{self.host}:{self.port}{path}"

    async def start(self) -> Self:
        """Listen. Port 0 lets the kernel choose; the choice is kept over stop and start."""
        server = web.Server(self._answer, access_log=None)
        self._runner = web.ServerRunner(server, shutdown_timeout=STOP_TIMEOUT)
        await self._runner.setup()
        site = web.TCPSite(
            self._runner, self.host, self.port, ssl_context=self._tls, reuse_address=True
        )
        await site.start()
        self.port = self._runner.addresses[0][1]
        return self

    async def stop(self) -> None:
        """Stop listening and close every connection."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        upgrade = request.headers.get("Upgrade", "").lower() == "websocket"
        self.count += 1
        self.asked.append(Asked(request.method, request.path_qs, upgrade))
        return web.Response(
            text=self.page, status=self.status, content_type="text/html", headers=self.headers
        )
