"""The connections of the HTTP server: few, none for ever, and the oldest idle one leaves first.

aiohttp bounds the size of a request's head, not the time it takes, nor the number of connections.
A caller who opens hundreds and says nothing, or one letter a minute, must cost the accounts neither
descriptors nor memory.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from aiohttp import web

from holdfast.web.answers import Handler
from holdfast.web.guard import Refusal

log = logging.getLogger("holdfast.web")

MOST = 256
"""Connections at a time, of the 1024 descriptors a process has by default; nginx has 512."""

HEAD_LIMIT = 10.0
"""Seconds from the opening of a connection to its first whole head; nginx and Apache have 60 and
20, but serve the world."""

IDLE_LIMIT = 60.0
"""Seconds between two requests, and for taking an answer; nginx's ``keepalive_timeout`` is 75."""

SWEEP_EVERY = 1.0
"""Seconds between two looks at the connections."""


class Door:
    """Admits connections and shuts them."""

    def __init__(self, refused: Counter[Refusal], clock: Callable[[], float]) -> None:
        self._refused, self._clock = refused, clock
        self._idle: dict[web.RequestHandler, float] = {}
        """When it must have sent a request; the first is the oldest of its kind."""
        self._busy: set[web.RequestHandler] = set()
        self._new: set[web.RequestHandler] = set()
        self._task: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._idle) + len(self._busy)

    def start(self) -> None:
        """Begin to sweep."""
        self._task = asyncio.create_task(self._sweep(), name="web connections")

    async def stop(self) -> None:
        """End the sweeping; who shuts the server shuts its connections. Idempotent."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.wait([task])

    def admit(self, make: Callable[[], web.RequestHandler]) -> asyncio.Protocol:
        """The protocol of a connection that has just been accepted."""
        if len(self) >= MOST:
            self._forget_lost()
        if len(self) >= MOST:
            self._refused[Refusal.CONNECTIONS] += 1
            if not self._idle:
                return _Shut()
            self._shut(next(iter(self._idle)))
        protocol = make()
        self._idle[protocol] = self._clock() + HEAD_LIMIT
        self._new.add(protocol)
        return protocol

    @web.middleware
    async def attend(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """A connection is busy while a request of it is handled."""
        protocol = request.protocol
        self._idle.pop(protocol, None)
        self._new.discard(protocol)
        self._busy.add(protocol)
        try:
            return await handler(request)
        finally:
            self._busy.discard(protocol)
            self._idle[protocol] = self._clock() + IDLE_LIMIT

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_EVERY)
            self._forget_lost()
            now = self._clock()
            for protocol in [late for late, due in self._idle.items() if due <= now]:
                if protocol in self._new:
                    self._refused[Refusal.SLOW] += 1
                self._shut(protocol)

    def _forget_lost(self) -> None:
        # A protocol gets its transport only in a turn of the loop after it was made.
        unborn = self._clock() + HEAD_LIMIT - SWEEP_EVERY
        for protocol in [one for one in self._idle if one.transport is None]:
            if protocol not in self._new or self._idle[protocol] <= unborn:
                self._forget(protocol)

    def _shut(self, protocol: web.RequestHandler) -> None:
        self._forget(protocol)
        transport = protocol.transport
        if not isinstance(transport, asyncio.Transport):
            return
        if transport.get_write_buffer_size():
            transport.abort()  # a polite close would wait for bytes that nobody takes
        else:
            transport.close()

    def _forget(self, protocol: web.RequestHandler) -> None:
        self._idle.pop(protocol, None)
        self._new.discard(protocol)


class Wire(logging.Logger):
    """Takes what aiohttp says of requests that can not be parsed: each would be a traceback.

    Nothing else gets there as an error, since our own middleware explains what handlers raise.
    """

    def __init__(self, refused: Counter[Refusal]) -> None:
        super().__init__("holdfast.web.wire", logging.CRITICAL)
        self._refused = refused

    def exception(self, msg: object, *args: object, **how: Any) -> None:
        """Count it."""
        self._refused[Refusal.HTTP] += 1
        log.debug("not HTTP error=%r", how.get("exc_info"))


class _Shut(asyncio.Protocol):
    """Drops its connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        if isinstance(transport, asyncio.Transport):
            transport.abort()
