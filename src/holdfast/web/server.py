"""The HTTP server of a running gateway: pages, API, events, probes, on one TCP address.

No trouble with it ever hinders an account: an address that can not be had is tried again, and
whatever callers do is bounded. The API is the very same as on the control socket, without what
writes files where it is told.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from fractions import Fraction
from typing import Protocol

from aiohttp import web

from holdfast.config import WebSettings
from holdfast.gateway.door import Door, room
from holdfast.gateway.gateway import Gateway
from holdfast.observe.history import History
from holdfast.observe.metrics import Served
from holdfast.web import routes
from holdfast.web.alerts_api import AlertsApi
from holdfast.web.answers import Handler, explain_mistakes
from holdfast.web.api import Api
from holdfast.web.control_server import STOP_LIMIT, handlers
from holdfast.web.events import EventsApi, Hub
from holdfast.web.guard import MAX_BODY, Guard, Refusal
from holdfast.web.history_api import HistoryApi, noted
from holdfast.web.letters_api import LettersApi
from holdfast.web.metrics_api import MetricsApi
from holdfast.web.pages import Pages, add_headers
from holdfast.web.probes import Probes
from holdfast.web.wire import Wire

log = logging.getLogger("holdfast.web")

MOST = 256
"""Connections at a time; nginx has 512."""

SHARE = Fraction(1, 4)
"""Of the descriptors: `MOST` of the 1024 that a process has by default."""

TRY_EVERY = 10.0
"""Seconds between two tries to listen on an address that can not be had: a former gateway may hold
it, or its interface may not be up yet."""

LINGER = 1.0
"""Seconds for which the rest of a refused body is read, so that the caller sees the answer."""


def table() -> list[routes.Operation]:
    """Every operation of the API; those that are ``local`` are on the control socket only."""
    owners = (Api, HistoryApi, LettersApi, AlertsApi, EventsApi)
    return [told for owner in owners for told, _ in routes.operations(owner)]


class Extra(Protocol):
    """Handlers from elsewhere, such as those of the demo; they are guarded like all others."""

    def add_to(self, app: web.Application) -> None:
        """Add their routes."""


class HttpServer:
    """Serves a gateway on the address of ``[web] listen``.

    ``extras`` are served beside what is here. The hub of the events listens to the gateway from
    `start` to `stop`.
    """

    def __init__(
        self,
        gateway: Gateway,
        history: History,
        extras: Iterable[Extra] = (),
        *,
        settings: WebSettings | None = None,
    ) -> None:
        """``settings`` are those of the gateway's configuration, unless others are given."""
        self._history = history
        self._settings = settings or gateway.config.web
        self.guard = Guard(self._settings, asyncio.get_running_loop().time)
        self.hub = Hub(gateway)
        refused = self.guard.refused
        self.door = Door(
            room(MOST, SHARE),
            surplus=lambda: refused.update([Refusal.CONNECTIONS]),
            slow=lambda: refused.update([Refusal.SLOW]),
        )
        self.port = 0
        """On which it listens; 0 while it does not."""
        self._app = web.Application(
            middlewares=[
                self.door.attend,
                explain_mistakes,
                self.guard.watch,
                self._held,
                noted(history),
                # Within the note, which is to hold the status of what a handler refuses.
                explain_mistakes,
            ],
            client_max_size=MAX_BODY,
        )
        self._app.on_response_prepare.append(add_headers)
        for owner in (*handlers(gateway, history), EventsApi(self.hub)):
            routes.add_to(self._app, owner)
        pages = Pages(self.guard, [told for told in table() if not told.local])
        metrics = MetricsApi(gateway, self.served)
        more: list[Extra] = [pages, Probes(gateway), metrics, *extras]
        for extra in more:
            extra.add_to(self._app)
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it; empty while nobody listens."""
        host = self._settings.listen.rpartition(":")[0]
        return f"http://{host}:{self.port}/" if self.port else ""

    @property
    def routes(self) -> list[web.AbstractRoute]:
        """What is served."""
        return list(self._app.router.routes())

    def served(self) -> Served:
        """What the metrics tell of it, true now."""
        return Served(
            refused={why.value: self.guard.refused[why] for why in Refusal},
            streams=self.hub.readers,
            streams_refused=self.hub.refused,
            streams_dropped=self.hub.dropped,
            history_ok=not self._history.trouble,
        )

    async def start(self) -> None:
        """Listen; idempotent. An address that can not be had is told once and tried again."""
        if not self._settings.listen or self._task is not None:
            return
        self._runner = web.AppRunner(
            self._app,
            access_log=None,
            logger=Wire(self.guard.refused),
            shutdown_timeout=STOP_LIMIT,
            lingering_time=LINGER,
        )
        await self._runner.setup()
        self.hub.start()
        listening = await self._listen(logging.WARNING)
        self._task = asyncio.create_task(self._insist(listening), name="web listener")

    async def stop(self) -> None:
        """Stop listening, end every stream and connection. Idempotent."""
        self.hub.stop()
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.wait([task])
        if self._server is not None:
            self._server.close()
            self._server, self.port = None, 0
        if self._runner is not None:
            runner, self._runner = self._runner, None
            await runner.cleanup()
        self.door.stop()

    @web.middleware
    async def _held(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Only what the guard let pass, with its whole body, keeps others out."""
        self.door.hold(request)
        return await handler(request)

    async def _insist(self, listening: bool) -> None:
        while not listening:
            await asyncio.sleep(TRY_EVERY)
            listening = await self._listen(logging.DEBUG)

    async def _listen(self, level: int) -> bool:
        host, _, port = self._settings.listen.rpartition(":")
        assert self._runner is not None
        make = self._runner.server
        assert make is not None
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.create_server(
                lambda: self.door.admit(make), host.strip("[]"), int(port)
            )
        except OSError as error:
            where = f"{self._settings.listen}: {error.strerror or error}"
            log.log(level, "no pages and no metrics yet, can not listen on %s", where)
            return False
        self.port = self._server.sockets[0].getsockname()[1]
        log.info("listening url=%s", self.url)
        return True
