"""`GET /metrics`: what Prometheus scrapes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

from aiohttp import web
from aiohttp.hdrs import ACCEPT, CONTENT_TYPE

from holdfast.errors import StoreError
from holdfast.gateway.gateway import Gateway
from holdfast.observe.metrics import Reading, Served
from holdfast.store.protocol import Counts
from holdfast.threads import DAEMONS
from holdfast.web.problem import Problem

__all__ = ["PATH", "MetricsApi"]

log = logging.getLogger("holdfast.web")

PATH = "/metrics"

JOURNAL_LIMIT = 2.0
"""Seconds the journal gets to count; Prometheus' own limit for a scrape is 10 s by default."""


class MetricsApi:
    """The handler of one gateway; `add_to` puts it into any application.

    Every answer is made of a reading of its own, so it never says of an account what the status
    does not. The client library is loaded by the first question.
    """

    def __init__(self, gateway: Gateway, served: Callable[[], Served] | None = None) -> None:
        """``served`` is what the server tells of itself, if there is one to ask."""
        self._gateway, self._served = gateway, served
        self._one = asyncio.Lock()

    def add_to(self, app: web.Application) -> None:
        """Add the route."""
        app.add_routes([web.get(PATH, self._metrics)])

    async def _metrics(self, request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall(ACCEPT, []))
        loop = asyncio.get_running_loop()
        async with self._one:  # however many ask, one thread writes
            waiting = await self._waiting()
            served = None if self._served is None else self._served()
            reading = replace(self._gateway.reading(), waiting=waiting, served=served)
            text, kind = await loop.run_in_executor(DAEMONS, _render, reading, accept)
        return web.Response(body=text, headers={CONTENT_TYPE: kind})

    async def _waiting(self) -> Mapping[str, Counts] | None:
        """What waits in the journal; a journal in trouble must not hide the rest."""
        try:
            async with asyncio.timeout(JOURNAL_LIMIT):
                return await self._gateway.store.counts()
        except (StoreError, TimeoutError) as error:
            log.debug("metrics without the journal error=%r", error)
            return None


def _render(reading: Reading, accept: str) -> tuple[bytes, str]:
    try:
        from holdfast.observe.exposition import render
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise Problem(
            501,
            "this gateway can not write metrics: prometheus-client is not installed",
            "install holdfast[metrics], then restart the gateway",
        ) from None
    return render(reading, accept)
