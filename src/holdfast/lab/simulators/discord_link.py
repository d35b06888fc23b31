"""One socket of the simulated Discord gateway: encoding, compression, fragments, resets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import zlib
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from holdfast.lab.simulators.discord_rules import FRAMES_PER_MINUTE, Session, Window

TEXT, CONTINUATION, FIN = 0x1, 0x0, 0x80


class Link:
    """One accepted socket. Sending is queued and never waits; ``session`` is set when it is live.

    ``origin`` is the address the client came by: a relay's, if one stands before the simulator.
    A frozen link is half-open: it takes everything, answers nothing, and TCP stays. A leaving one
    answers heartbeats and carries no event any more.
    """

    OUTBOX = 10_000

    def __init__(self, number: int, ws: web.WebSocketResponse, request: web.Request) -> None:
        self.number, self.ws = number, ws
        self.origin = f"{request.scheme}://{request.host}"
        self.session: Session | None = None
        self.frozen = self.closing = self.leaving = False
        self.watchdog: asyncio.TimerHandle | None = None
        self.frames = Window(FRAMES_PER_MINUTE, 60.0)
        self._transport = request.transport
        # zstd-stream is answered with plain text, which clients accept.
        zlib_stream = request.query.get("compress") == "zlib-stream"
        self._deflate = zlib.compressobj() if zlib_stream else None
        self._outbox: asyncio.Queue[tuple[str, int] | tuple[int, str]]
        self._outbox = asyncio.Queue(self.OUTBOX)

    def send(self, frame: str | Mapping[str, Any], pieces: int = 1) -> None:
        """Queue a frame (text is sent as it is). A peer that reads nothing for long is dropped."""
        self._queue((frame if isinstance(frame, str) else json.dumps(frame), pieces))

    def close(self, code: int, reason: str = "") -> None:
        """Queue a close frame behind what was sent."""
        self._queue((code, reason))
        self.closing = self.closing or not self.frozen

    def _queue(self, item: tuple[str, int] | tuple[int, str]) -> None:
        if self.frozen or self.closing:
            return
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

    def abort(self) -> None:
        """Reset the connection now: no close frame, no FIN. Nothing queued is sent any more."""
        self.frozen, self.closing = True, False
        if self._transport is None or self._transport.is_closing():
            return
        raw = self._transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    async def write(self) -> None:
        """Write the queue to the socket until a close frame was exchanged or the peer is gone."""
        with contextlib.suppress(ConnectionError):
            while True:
                item = await self._outbox.get()
                self._outbox.task_done()
                match item:
                    case str(text), int(pieces):
                        await self._write(text, pieces)
                    case int(code), str(reason):
                        await self.ws.close(code=code, message=reason.encode())
                        return

    async def _write(self, text: str, pieces: int) -> None:
        if self._deflate is not None:
            data = self._deflate.compress(text.encode()) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
            # A payload is complete when the buffer ends in 00 00 ff ff, not with the message.
            for chunk in cut(data, pieces):
                await self.ws.send_bytes(chunk)
        elif pieces > 1 and isinstance(self._transport, asyncio.Transport):
            # aiohttp sends whole messages only; the fragments of RFC 6455, 5.4 are made here.
            self._transport.write(fragmented(text.encode(), pieces))
        else:
            await self.ws.send_str(text)

    async def flushed(self, timeout: float = 1.0) -> None:
        """Wait until the queue was handed to the socket; give up after ``timeout`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._outbox.join()


def cut(data: bytes, pieces: int) -> list[bytes]:
    """The data in at most ``pieces`` parts of about the same length."""
    size = max(1, -(-len(data) // pieces))
    return [data[i : i + size] for i in range(0, len(data), size)]


def fragmented(data: bytes, pieces: int) -> bytes:
    """A text message as unmasked WebSocket frames, of which only the last has FIN."""
    parts = cut(data, pieces)
    frames = bytearray()
    for i, part in enumerate(parts):
        head = (CONTINUATION if i else TEXT) | (FIN if i == len(parts) - 1 else 0)
        if len(part) < 126:
            frames += struct.pack("!BB", head, len(part))
        elif len(part) < 2**16:
            frames += struct.pack("!BBH", head, 126, len(part))
        else:
            frames += struct.pack("!BBQ", head, 127, len(part))
        frames += part
    return bytes(frames)
