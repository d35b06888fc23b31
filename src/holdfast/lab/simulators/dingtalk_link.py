"""One stream connection of the simulated DingTalk platform, as the server holds it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from dataclasses import dataclass

from aiohttp import web

from holdfast.lab.simulators.dingtalk_platform import origin
from holdfast.lab.simulators.dingtalk_rules import Push, Ticket

OUTBOX = 10_000
"""Frames that may wait for a client that does not read, before it is dropped."""


@dataclass(frozen=True, slots=True)
class Fragments:
    """A text frame to be sent in several WebSocket fragments, ``delay`` seconds apart."""

    text: str
    parts: int
    delay: float

    def encode(self) -> list[bytes]:
        """The fragments on the wire: unmasked, uncompressed (RFC 6455, 5.2 and 5.4)."""
        data = self.text.encode()
        size = -(-len(data) // self.parts)
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        last = len(pieces) - 1
        return [self._header(i == 0, i == last, len(p)) + p for i, p in enumerate(pieces)]

    @staticmethod
    def _header(first: bool, last: bool, length: int) -> bytes:
        head = (0x80 if last else 0) | (0x1 if first else 0)
        if length < 126:
            return bytes((head, length))
        return (
            struct.pack("!BBH", head, 126, length)
            if length < 1 << 16
            else (struct.pack("!BBQ", head, 127, length))
        )


@dataclass(frozen=True, slots=True)
class Bye:
    """A close frame, to follow what was queued before it."""

    code: int
    reason: str


class Link:
    """One accepted socket. Sending is queued and never waits.

    ``live`` tells whether pushes go to it, ``frozen`` whether it is half-open: it takes
    everything, answers nothing, and TCP stays. ``unacked`` are the pushes written to it that the
    client has not acknowledged, by messageId.
    """

    def __init__(
        self, number: int, ws: web.WebSocketResponse, request: web.Request, ticket: Ticket
    ) -> None:
        self.number, self.ws = number, ws
        self.origin, self.subscriptions = origin(request), ticket.subscriptions
        self.live = True
        self.frozen = self.closing = False
        self.unacked: dict[str, Push] = {}
        self.pings: dict[str, str] = {}
        """The newest ping, until it is answered."""
        self.overdue = False
        """The ping before was never answered."""
        self.timers: list[asyncio.TimerHandle] = []
        self._transport = request.transport
        self._outbox: asyncio.Queue[str | Fragments | Bye] = asyncio.Queue(OUTBOX)

    def send(self, item: str | Fragments | Bye) -> None:
        """Queue a frame. A frozen or closing link takes nothing any more."""
        if self.frozen or self.closing:
            return
        self.closing = isinstance(item, Bye)
        try:
            self._outbox.put_nowait(item)
        except asyncio.QueueFull:
            self.abort()

    def freeze(self) -> None:
        """Go silent both ways; what was queued before still leaves."""
        self.frozen = True
        if isinstance(self._transport, asyncio.Transport):
            # Unread, so that neither a ping nor a close frame of the peer is answered.
            self._transport.pause_reading()

    def hang_up(self) -> None:
        """Close the TCP connection without a close frame."""
        self.frozen = True
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Reset the connection now. Nothing queued is sent any more."""
        self.frozen, self.closing = True, False
        if self._transport is None or self._transport.is_closing():
            return
        raw = self._transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def cancel_timers(self) -> None:
        """Stop pinging and rotating."""
        while self.timers:
            self.timers.pop().cancel()

    async def write(self) -> None:
        """Write the queue until a close frame was exchanged or the peer is gone."""
        with contextlib.suppress(ConnectionError):
            while True:
                item = await self._outbox.get()
                self._outbox.task_done()
                match item:
                    case str():
                        await self.ws.send_str(item)
                    case Fragments():
                        await self._write_fragments(item)
                    case Bye(code, reason):
                        await self.ws.close(code=code, message=reason.encode())
                        return

    async def _write_fragments(self, item: Fragments) -> None:
        for piece in item.encode():
            if isinstance(self._transport, asyncio.Transport):
                self._transport.write(piece)
            await asyncio.sleep(item.delay)

    async def flushed(self, timeout: float = 1.0) -> None:
        """Wait until the queue was handed to the socket; give up after ``timeout`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._outbox.join()
