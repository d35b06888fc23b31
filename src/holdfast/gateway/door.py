"""The connections of an HTTP server: few, none for ever, and the oldest idle one leaves first.

aiohttp bounds the size of a request's head, not the time it takes, nor the number of connections.
A caller who opens hundreds and says nothing, one letter a minute, or the head of a request whose
body never comes, must cost the accounts neither descriptors nor memory.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable
from fractions import Fraction

from aiohttp import web

HEAD_LIMIT = 10.0
"""Seconds from the opening of a connection to its first whole head; nginx and Apache have 60 and
20, but are there for pages alone."""

IDLE_LIMIT = 60.0
"""Seconds between two requests, and for taking an answer; nginx's ``keepalive_timeout`` is 75. A
body has less, by whoever reads it."""

SWEEP_EVERY = 1.0
"""Seconds between two looks at the connections."""


def room(most: int, share: Fraction) -> int:
    """``most``, or that share of the descriptors this process may have, if that is less."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return most if soft == resource.RLIM_INFINITY else min(most, int(soft * share))


class Door:
    """Admits connections and shuts them."""

    def __init__(self, most: int, *, surplus: Callable[[], None], slow: Callable[[], None]) -> None:
        """``most`` connections at a time. ``surplus`` is called for each that was one too many,
        ``slow`` for each whose first head did not come in time."""
        self.most = most
        self._surplus, self._slow = surplus, slow
        self._idle: dict[web.RequestHandler, float] = {}
        """When it must have sent a request; the first is the oldest of its kind."""
        self._busy: set[web.RequestHandler] = set()
        self._new: set[web.RequestHandler] = set()
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._idle) + len(self._busy)

    def stop(self) -> None:
        """End the sweeping; who shut the server has shut its connections. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def admit(self, make: Callable[[], web.RequestHandler]) -> asyncio.Protocol:
        """The protocol of a connection that has just been accepted."""
        if len(self) >= self.most:
            self._forget_lost()
        if len(self) >= self.most:
            self._surplus()
            if not self._idle:
                return _Shut()
            self._shut(next(iter(self._idle)))
        protocol = make()
        self._new.add(protocol)
        self._wait(protocol, HEAD_LIMIT)
        return protocol

    @web.middleware
    async def attend(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """The head of a request has come. Until `hold`, its connection may still have to leave."""
        protocol = request.protocol
        self._new.discard(protocol)
        self._wait(protocol, IDLE_LIMIT)
        try:
            return await handler(request)
        finally:
            self._busy.discard(protocol)
            self._wait(protocol, IDLE_LIMIT)

    def hold(self, request: web.Request) -> None:
        """The whole request has come: its connection is busy until it was handled."""
        if self._idle.pop(request.protocol, None) is not None:
            self._busy.add(request.protocol)

    def _wait(self, protocol: web.RequestHandler, limit: float) -> None:
        """It is the newest of the idle ones, unless it is lost."""
        self._idle.pop(protocol, None)
        transport = protocol.transport
        if protocol not in self._new and (transport is None or transport.is_closing()):
            return
        loop = asyncio.get_running_loop()
        self._idle[protocol] = loop.time() + limit
        if self._timer is None:
            self._timer = loop.call_later(SWEEP_EVERY, self._sweep)

    def _sweep(self) -> None:
        self._forget_lost()
        loop = asyncio.get_running_loop()
        now = loop.time()
        for protocol in [late for late, due in self._idle.items() if due <= now]:
            if protocol in self._new:
                self._slow()
            self._shut(protocol)
        self._timer = loop.call_later(SWEEP_EVERY, self._sweep) if self._idle else None

    def _forget_lost(self) -> None:
        # A protocol gets its transport only in a turn of the loop after it was made.
        unborn = asyncio.get_running_loop().time() + HEAD_LIMIT - SWEEP_EVERY
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


class _Shut(asyncio.Protocol):
    """Drops its connection at once."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        if isinstance(transport, asyncio.Transport):
            transport.abort()
