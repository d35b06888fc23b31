"""Two sockets joined in the middle, and what can be done to the bytes between them.

A `Splice` is one connection through a `holdfast.lab.faults.relay.Relay`. Each direction is a
`Lane`: an ordered, bounded queue that may delay, trickle, stall or lose what it carries. Memory
per lane is bounded by `LIMIT` plus one read of the event loop: a lane that cannot deliver stops
reading its source, except when it is losing bytes anyway.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
import struct
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

LIMIT = 64 * 1024
"""Bytes queued in a lane before its source is no longer read; the size of asyncio's own buffers."""

_LINGER_ZERO = struct.pack("ii", 1, 0)


class _Signal(enum.Enum):
    """What TCP carries besides bytes."""

    EOF = enum.auto()
    RESET = enum.auto()


@dataclass(frozen=True, slots=True)
class Shape:
    """How a lane treats bytes that it does deliver."""

    delay: float = 0.0
    """Seconds between arrival and delivery."""
    rate: float | None = None
    """Bytes a second, one at a time; None is unlimited."""
    stalled: bool = False
    """Nothing is read and nothing delivered; what the sender's kernel holds comes later."""


@dataclass(slots=True)
class Traffic:
    """Bytes seen by one direction of a relay, over all its connections."""

    delivered: int = 0
    lost: int = 0


class Lane:
    """One direction of a splice. Bytes leave in the order in which they came, or not at all."""

    def __init__(self, splice: Splice, traffic: Traffic) -> None:
        self.source: End
        self.sink: End
        self.lost = False
        self.ended = False
        self._splice = splice
        self._traffic = traffic
        self._shape = Shape()
        self._queue: deque[tuple[float, bytes | _Signal]] = deque()
        self._queued = 0
        self._next_byte = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def feed(self, item: bytes | _Signal) -> None:
        """Take what the source sent: queue it, or lose it."""
        if self.lost or self.sink.gone:
            self._discard(item)
            return
        if item is _Signal.RESET:
            # A reset overtakes the data before it: TCP throws away what was not yet read.
            self._drop_queue()
        self._push(item)
        self.pump()

    def pump(self) -> None:
        """Deliver what is due, set a timer for what is not, and read on or stop reading."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue and self.sink.writable and not self._shape.stalled:
            due = self._due()
            if due > self._splice.loop.time():
                self._timer = self._splice.loop.call_at(due, self.pump)
                break
            self._deliver_one()
        self._regulate_source()

    def shape(self, shape: Shape) -> None:
        """Change how bytes are delivered, for those already queued too."""
        self._shape = shape
        self._next_byte = 0.0
        self.pump()

    def lose(self) -> None:
        """From now on bytes vanish, queued ones included. There is no way back."""
        self.lost = True
        self._drop_queue()
        self.pump()

    def end(self) -> None:
        """Send FIN to the sink behind what is queued; what the source sends later is lost."""
        if not self.lost:
            self.lost = True
            self._push(_Signal.EOF)
            self.pump()

    def close(self) -> None:
        """Forget the queue and the timer."""
        self._drop_queue()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _push(self, item: bytes | _Signal) -> None:
        self._queue.append((self._splice.loop.time(), item))
        self._queued += len(item) if isinstance(item, bytes) else 0

    def _due(self) -> float:
        arrived = self._queue[0][0]
        return max(arrived + self._shape.delay, self._next_byte)

    def _deliver_one(self) -> None:
        arrived, item = self._queue.popleft()
        if isinstance(item, _Signal):
            self._deliver_signal(item)
            return
        if self._shape.rate is not None:
            self._next_byte = self._splice.loop.time() + 1 / self._shape.rate
            if len(item) > 1:
                self._queue.appendleft((arrived, item[1:]))
                item = item[:1]
        self._queued -= len(item)
        self._traffic.delivered += len(item)
        self.sink.write(item)

    def _deliver_signal(self, signal: _Signal) -> None:
        if signal is _Signal.RESET:
            self.sink.reset()
        else:
            self.sink.write_eof()
            self._mark_ended()

    def _discard(self, item: bytes | _Signal) -> None:
        if isinstance(item, bytes):
            self._traffic.lost += len(item)
        elif item is _Signal.EOF:
            self._mark_ended()

    def _drop_queue(self) -> None:
        while self._queue:
            self._discard(self._queue.popleft()[1])
        self._queued = 0

    def _mark_ended(self) -> None:
        self.ended = True
        self._splice.lane_ended()

    def _regulate_source(self) -> None:
        blocked = self._shape.stalled or self.sink.full or self._queued >= LIMIT
        # Whoever loses bytes reads on, and so does whoever has nobody left to deliver to.
        self.source.read(self.lost or self.sink.gone or not blocked)


class End(asyncio.Protocol):
    """One of the two sockets of a splice."""

    def __init__(self, splice: Splice, outgoing: Lane, incoming: Lane) -> None:
        self.gone = False
        self.full = False
        self._splice = splice
        self._outgoing = outgoing
        self._incoming = incoming
        self._transport: asyncio.Transport | None = None
        self._saw_eof = False
        outgoing.source = self
        incoming.sink = self

    @property
    def made(self) -> bool:
        """Whether the socket was ever connected."""
        return self._transport is not None

    @property
    def writable(self) -> bool:
        """Whether bytes may be written now."""
        transport = self._transport
        return transport is not None and not transport.is_closing() and not self.full

    # -- what the loop calls ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not an isinstance check: the transports of uvloop do not inherit from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        if self._splice.dead:
            self.reset()
            return
        self._incoming.pump()
        self._outgoing.pump()

    def data_received(self, data: bytes) -> None:
        if self._splice.touched(self):
            self._outgoing.feed(data)

    def eof_received(self) -> bool:
        self._saw_eof = True
        self._outgoing.feed(_Signal.EOF)
        return True

    def pause_writing(self) -> None:
        self.full = True
        self._incoming.pump()

    def resume_writing(self) -> None:
        self.full = False
        self._incoming.pump()

    def connection_lost(self, exc: Exception | None) -> None:
        self.gone = True
        if exc is not None:
            self._outgoing.feed(_Signal.RESET)
        self._incoming.close()
        self._incoming.pump()
        self._splice.end_lost()

    # -- what a lane does ---------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Write to the socket; `writable` must hold."""
        assert self._transport is not None
        self._transport.write(data)

    def write_eof(self) -> None:
        """Send FIN and keep reading."""
        assert self._transport is not None
        if not self._transport.is_closing():
            # The peer may have reset the connection a moment ago: then shutdown says ENOTCONN.
            with contextlib.suppress(OSError):
                self._transport.write_eof()

    def read(self, wanted: bool) -> None:
        """Read the socket, or leave its bytes in the kernel."""
        # Once end-of-file was read, asyncio must not watch the socket again: it would be told anew.
        if self._transport is None or self.gone or self._saw_eof:
            return
        if wanted:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def close(self) -> None:
        """Close once everything written is out."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Send RST (linger 0 and abort)."""
        if self._transport is None or self.gone:
            return
        sock = self._transport.get_extra_info("socket")
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_ZERO)
        self._transport.abort()


class Splice:
    """One connection through a relay: the client's socket, the server's, a lane each way.

    ``on_done`` is called once, when no socket of the splice is open any more.
    """

    def __init__(
        self, to_server: Traffic, to_client: Traffic, on_done: Callable[[Splice], None]
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.dead = False
        self.to_server = Lane(self, to_server)
        self.to_client = Lane(self, to_client)
        self.client = End(self, outgoing=self.to_server, incoming=self.to_client)
        self.server = End(self, outgoing=self.to_client, incoming=self.to_server)
        self._lanes = (self.to_server, self.to_client)
        self._on_done: Callable[[Splice], None] | None = on_done
        self._last_byte = self.loop.time()
        self._idle_timer: asyncio.TimerHandle | None = None
        self._reset_on_client_byte = False

    @property
    def broken(self) -> bool:
        """Whether bytes of this connection may be missing, so that it must never carry more."""
        return any(lane.lost for lane in self._lanes)

    def shape(self, shape: Shape) -> None:
        """Shape both directions; a lane that lost bytes stays lost."""
        for lane in self._lanes:
            lane.shape(shape)

    def hole(self) -> None:
        """Lose everything both ways, including FIN and RST; both sockets stay open and read."""
        for lane in self._lanes:
            lane.lose()

    def reset(self) -> None:
        """RST to both sides, also to a side that is only being connected."""
        self.dead = True
        for end in (self.client, self.server):
            end.reset()
        self.end_lost()

    def watch_idle(
        self, seconds: float | None, reset: bool, on_forgotten: Callable[[], None]
    ) -> None:
        """Forget the connection after ``seconds`` without a byte either way, as a NAT does.

        From then on it is a hole; with ``reset`` the client's next byte is answered with RST,
        while the server learns nothing.
        """
        if self._idle_timer is not None:
            self._idle_timer.cancel()
            self._idle_timer = None
        if seconds is None:
            return

        def look() -> None:
            due = self._last_byte + seconds
            if due > self.loop.time():
                self._idle_timer = self.loop.call_at(due, look)
            elif not self.broken:
                self._reset_on_client_byte = reset
                self.hole()
                on_forgotten()

        self._idle_timer = self.loop.call_at(self._last_byte + seconds, look)

    # -- what the ends and lanes report -------------------------------------------------------

    def touched(self, end: End) -> bool:
        """Bytes came; False when they were answered with RST instead of being carried."""
        self._last_byte = self.loop.time()
        if self._reset_on_client_byte and end is self.client:
            end.reset()
            return False
        return True

    def lane_ended(self) -> None:
        """A direction is finished; when both are, so is the connection."""
        if all(lane.ended for lane in self._lanes):
            self.client.close()
            self.server.close()

    def end_lost(self) -> None:
        """A socket may have closed; when none is left, the splice is done."""
        ends = (self.client, self.server)
        open_ends = [end for end in ends if end.made and not end.gone]
        if open_ends or self._on_done is None or not (self.client.made or self.dead):
            return
        on_done, self._on_done = self._on_done, None
        self.dead = True
        for lane in self._lanes:
            lane.close()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        on_done(self)
