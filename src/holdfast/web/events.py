"""Server-sent events: the status as it changes, and every transition, to whoever looks.

The status is a level: a reader gets the newest snapshot, never a queue of old ones. Transitions
are numbered and kept in a ring, so a reader that was away for a moment (``Last-Event-ID``) gets
what it missed; of what the ring no longer holds it is told with one ``missed``. There is no queue
per reader: a slow one has only a place in the ring, and is dropped when it takes no byte for
`WRITE_LIMIT`. A stream ends with its session: nothing is told after the log-out, and within
`HEARTBEAT` it is closed.

The stream: https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
from aiohttp import web

from holdfast.gateway.gateway import Gateway
from holdfast.legible import encoded
from holdfast.observe.reporter import transition_of
from holdfast.observe.status import TTL, Status
from holdfast.store.protocol import Transition
from holdfast.supervision import Report
from holdfast.web.guard import ADMITTED
from holdfast.web.problem import Problem
from holdfast.web.routes import Query, operation

READERS = 32
"""Streams at a time. A browser opens one for each page that somebody looks at, and one more."""

RING = 1_000
"""Transitions kept for readers that come back."""

SNAPSHOT_EVERY = 1.0
"""Least seconds between two snapshots; also the pulse in which readers learn of changes."""

SHARE = 0.01
"""Part of the loop's time that snapshots may take: with thousands of accounts they come less
often."""

HEARTBEAT = TTL / 2
"""Seconds after which a quiet stream gets a new snapshot: the former says nothing after its time
to live. The standard advises a sign of life every 15 s or so."""

WRITE_LIMIT = 10.0
"""Seconds a reader may leave our bytes untaken."""

RETRY_MS = 2_000
"""What browsers wait before they come again."""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the ``data`` of the three kinds of events hold; each only its own field."""

    status: Status | None = None
    """``event: status``: the whole document; at once, and then as it changes."""
    transition: Transition | None = None
    """``event: transition``, with an id."""
    missed: int | None = None
    """``event: missed``: so many transitions at least are no longer known here; see the history."""


@dataclass(frozen=True, slots=True)
class _Numbered:
    number: int
    event: bytes
    """As it is written to every reader."""


class Hub:
    """What readers of a gateway share. Between `start` and `stop` it listens to the reports."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.readers = self.refused = self.dropped = 0
        """Streams now; those that were one too many; and those that were too slow."""
        self.epoch = secrets.token_hex(4)
        """Of this process: a number of another one means nothing here."""
        self.newest = 0
        self._ring: deque[_Numbered] = deque(maxlen=RING)
        self._snapshot = b""
        self._snapshot_due = float("-inf")
        self._changed = asyncio.Event()
        self._dirty = False
        self.closed = False

    def start(self) -> None:
        """Listen."""
        self.gateway.listeners.append(self._reported)

    def stop(self) -> None:
        """Listen no more, and end every stream. Idempotent."""
        if self._reported in self.gateway.listeners:
            self.gateway.listeners.remove(self._reported)
        self.closed = True
        self._wake()

    @property
    def id(self) -> str:
        """Of the newest transition, and of a status that tells of it."""
        return f"{self.epoch}-{self.newest}"

    def after(self, number: int) -> Iterator[_Numbered]:
        """The transitions after one, oldest first."""
        return (one for one in self._ring if one.number > number)

    def oldest(self) -> int:
        """Number of the oldest transition that is still here; of the next one when none is."""
        return self._ring[0].number if self._ring else self.newest + 1

    async def changed(self) -> None:
        """Wait until something was reported or a newer snapshot is due."""
        left = self._snapshot_due - asyncio.get_running_loop().time()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, left) if self._dirty else HEARTBEAT):
                await self._changed.wait()

    def snapshot(self) -> bytes:
        """The ``data`` of a status, encoded once for all readers, not older than it must be."""
        now = asyncio.get_running_loop().time()
        if now >= self._snapshot_due:
            self._dirty = False
            status = Event(status=self.gateway.status())
            self._snapshot = b"data: " + encoded(status) + b"\n\n"
            took = asyncio.get_running_loop().time() - now
            # However dear it is: the former says nothing after its time to live.
            self._snapshot_due = now + min(HEARTBEAT, max(SNAPSHOT_EVERY, took / SHARE))
        return self._snapshot

    def _reported(self, account: str, report: Report) -> None:
        desk = self.gateway.desks.get(account)
        if desk is None:
            return
        transition = transition_of(account, report, desk.account.wall(report.view.at))
        if transition is not None:
            self.newest += 1
            data = encoded(Event(transition=transition))
            event = _head("transition", self.id) + b"data: " + data + b"\n\n"
            self._ring.append(_Numbered(self.newest, event))
        self._dirty = True
        self._wake()

    def _wake(self) -> None:
        former, self._changed = self._changed, asyncio.Event()
        former.set()


class EventsApi:
    """The handler of the stream; `routes.add_to` puts it into any application."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    @operation(
        "GET",
        "/events",
        Event,
        "The status as it changes and every transition, as server-sent events.",
        query=(Query("last", "like the header Last-Event-ID: resume after this event"),),
        mime="text/event-stream",
    )
    async def _events(self, request: web.Request) -> web.StreamResponse:
        hub = self._hub
        if hub.closed:
            raise Problem(503, "the gateway is stopping")
        if hub.readers >= READERS:
            hub.refused += 1
            raise Problem(503, f"{READERS} streams are open", "close one, or ask for the status")
        hub.readers += 1
        try:
            return await self._stream(request)
        finally:
            hub.readers -= 1

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        await response.prepare(request)
        told = request.headers.get("Last-Event-ID") or request.query.get("last", "")
        reader = _Reader(self._hub, response, told)
        try:
            await reader.write(f"retry: {RETRY_MS}\n\n".encode())
            while not self._hub.closed and request[ADMITTED]():
                await reader.tell()
                await self._hub.changed()
                # Several transitions of one moment are one round.
                await asyncio.sleep(SNAPSHOT_EVERY / 10)
        except TimeoutError:
            self._hub.dropped += 1
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            pass  # it went away
        return response


class _Reader:
    """One stream and its place in the ring."""

    def __init__(self, hub: Hub, response: web.StreamResponse, last: str) -> None:
        self._hub, self._response = hub, response
        self._snapshot: bytes | None = None
        epoch, _, number = last.rpartition("-")
        known = epoch == hub.epoch and number.isdecimal() and len(number) < 16
        self._foreign = bool(last) and not known
        """It comes from another process, of whose transitions nothing is known here."""
        if known:
            self._told = min(int(number), hub.newest)
        else:
            self._told = 0 if last else hub.newest

    async def tell(self) -> None:
        """Write what is new to this reader. Raises TimeoutError, ConnectionError."""
        hub, parts = self._hub, []
        missed = hub.oldest() - self._told - 1
        if missed > 0 or self._foreign:
            told = msgspec.json.encode(Event(missed=missed))
            parts.append(_head("missed") + b"data: " + told + b"\n\n")
        parts += [one.event for one in hub.after(self._told)]
        self._told, self._foreign = hub.newest, False
        snapshot = hub.snapshot()
        if snapshot is not self._snapshot:
            self._snapshot = snapshot
            parts.append(_head("status", hub.id))
            await self.write(b"".join(parts))
            await self.write(snapshot)  # of thousands of accounts: not copied for each reader
        else:
            await self.write(b"".join(parts) or b": still here\n\n")

    async def write(self, data: bytes) -> None:
        """Hand bytes over. Raises TimeoutError, ConnectionError."""
        async with asyncio.timeout(WRITE_LIMIT):
            await self._response.write(data)


def _head(kind: str, id: str = "") -> bytes:
    """The lines of an event before its data."""
    return (f"event: {kind}\n" + (f"id: {id}\n" if id else "")).encode()
