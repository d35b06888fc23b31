"""One long connection of the simulated Feishu platform, as the server holds it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from holdfast.lab.simulators.feishu_frames import Frame
from holdfast.lab.simulators.feishu_rules import Event

OUTBOX = 10_000
"""Frames that may wait for a client that does not read, before it is dropped."""


@dataclass(frozen=True, slots=True)
class Push:
    """An event on its way: the frames that carry it, and when they were written."""

    event: Event
    frames: Sequence[Frame]
    at: float


@dataclass(frozen=True, slots=True)
class Bye:
    """A close frame, to follow what was queued before it."""

    code: int
    reason: str


class Link:
    """One accepted socket. Sending is queued and never waits.

    ``live`` tells whether pushes go to it, ``frozen`` whether it is half-open: it takes
    everything, answers nothing, and TCP stays. ``unacked`` are the pushes written to it, by the
    header message_id. ``heard_at`` is when the client last showed a sign of life.
    """

    def __init__(
        self, number: int, ws: web.WebSocketResponse, request: web.Request, now: float
    ) -> None:
        self.number, self.ws, self.heard_at = number, ws, now
        self.service = int(request.query.get("service_id", "0"))
        self.live = True
        self.frozen = self.closing = False
        self.unacked: dict[str, Push] = {}
        self.watch: asyncio.TimerHandle | None = None
        self._transport = request.transport
        self._outbox: asyncio.Queue[bytes | str | Bye] = asyncio.Queue(OUTBOX)

    def send(self, item: Frame | bytes | str | Bye) -> None:
        """Queue a frame. A frozen or closing link takes nothing any more."""
        if self.frozen or self.closing:
            return
        self.closing = isinstance(item, Bye)
        try:
            self._outbox.put_nowait(item.encode() if isinstance(item, Frame) else item)
        except asyncio.QueueFull:
            self.abort()

    def freeze(self) -> None:
        """Go silent both ways; what was queued before still leaves."""
        self.frozen = True
        if isinstance(self._transport, asyncio.Transport):
            # Unread, so that neither a ping nor a close frame of the peer is answered.
            self._transport.pause_reading()

    def abort(self) -> None:
        """Reset the connection now. Nothing queued is sent any more."""
        self.frozen, self.closing = True, False
        if self._transport is None or self._transport.is_closing():
            return
        raw = self._transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    async def write(self) -> None:
        """Write the queue until a close frame was exchanged or the peer is gone."""
        with contextlib.suppress(ConnectionError):
            while True:
                item = await self._outbox.get()
                self._outbox.task_done()
                match item:
                    case bytes():
                        await self.ws.send_bytes(item)
                    case str():
                        await self.ws.send_str(item)
                    case Bye(code, reason):
                        await self.ws.close(code=code, message=reason.encode())
                        return

    async def flushed(self, timeout: float = 1.0) -> None:
        """Wait until the queue was handed to the socket; give up after ``timeout`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._outbox.join()
