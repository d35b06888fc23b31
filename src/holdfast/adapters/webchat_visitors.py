"""Who has the chat page open, and what he has seen. Nothing here does I/O but `Tab.write`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from holdfast.adapter import Outcome, SendFailed, WebSocket, WebSocketClosed
from holdfast.adapters import webchat_wire as wire
from holdfast.supervision import Cause, Kind

TABS = 8
"""Pages one visitor may have open; those he left without a close count until their pings fail."""

QUEUE = 64
"""Frames that may wait for one slow page. Further ones are dropped: what matters is repeated."""

BURST, PER_SECOND = 40.0, 5.0
"""Frames a visitor may send at once, and further ones a second, so that nobody starves another."""

BYTES = 262_144
"""Bytes that count as one more frame: the largest is worth 17."""

SEEN = 2 * wire.KNOWN
"""Messages of which a visitor is remembered to have seen them."""

REMEMBERED = 10_000
"""Visitors that are remembered; past it those who left first are forgotten."""


class Tab:
    """One open page. What is put goes out in order, and nobody waits for a slow one."""

    def __init__(self, ws: WebSocket) -> None:
        self._ws = ws
        self._queue: asyncio.Queue[str] = asyncio.Queue(QUEUE)

    def put(self, frame: wire.ToPage) -> None:
        """Send soon, or never if the page takes nothing."""
        with contextlib.suppress(asyncio.QueueFull):
            self._queue.put_nowait(wire.encode(frame))

    async def write(self) -> None:
        """Send what is put, until the page is gone or this is cancelled."""
        with contextlib.suppress(WebSocketClosed):
            while frame := await self._queue.get():
                await self._ws.send(frame)


@dataclass(slots=True)
class Bucket:
    """A token bucket on the loop's clock, for intake: it never waits, it says no."""

    now: float
    tokens: float = BURST

    def take(self, size: int, now: float) -> bool:
        """Whether a frame of so many bytes may come now."""
        self.tokens = min(BURST, self.tokens + (now - self.now) * PER_SECOND)
        self.now = now
        self.tokens -= 1.0 + size / BYTES
        return self.tokens >= 0.0


@dataclass(slots=True)
class Visitor:
    """One browser, with any number of pages open."""

    bucket: Bucket
    left_at: float
    """When its last page was gone, on the loop's clock; of no meaning while one is open."""
    tabs: set[Tab] = field(default_factory=set)
    seen: dict[str, None] = field(default_factory=dict)
    waiting: dict[str, asyncio.Future[bool]] = field(default_factory=dict)
    """Messages under way, by key; the result is whether the visitor saw it."""

    def saw(self, keys: Iterable[str]) -> None:
        """Messages are in the visitor's transcript: the first page to say so counts."""
        for key in keys:
            self.seen.pop(key, None)
            self.seen[key] = None
            self._settle(key, seen=True)
        while len(self.seen) > SEEN:
            del self.seen[next(iter(self.seen))]

    async def show(self, message: wire.Message, limit: float) -> None:
        """Return once the visitor has seen it. Raises SendFailed (unknown) in every other case."""
        self.waiting[message.id] = future = asyncio.get_running_loop().create_future()
        for tab in self.tabs:
            tab.put(message)
        try:
            async with asyncio.timeout(limit):
                seen = await future
        except TimeoutError:
            text = f"the visitor's page did not confirm the message within {limit:.0f} s"
            raise _unknown(Kind.TIMEOUT, "webchat_not_seen", text) from None
        finally:
            self.waiting.pop(message.id, None)
        if not seen:
            text = "the visitor left before the page confirmed the message"
            raise _unknown(Kind.LOST, "webchat_visitor_left", text)

    def left(self, now: float) -> None:
        """The last page is gone: nothing under way can be confirmed any more."""
        self.left_at = now
        for key in self.waiting:
            self._settle(key, seen=False)

    def _settle(self, key: str, *, seen: bool) -> None:
        future = self.waiting.get(key)
        if future is not None and not future.done():
            future.set_result(seen)


class Visitors:
    """Everybody this process has seen, the latest to leave last."""

    def __init__(self) -> None:
        self._known: dict[str, Visitor] = {}
        self._since: float | None = None

    def __len__(self) -> int:
        return len(self._known)

    def open(self, now: float) -> None:
        """The page is there to be visited. The first time is when absences begin to count."""
        if self._since is None:
            self._since = now

    def get(self, chat: str) -> Visitor | None:
        """A visitor this process has seen."""
        return self._known.get(chat)

    def enter(self, chat: str, tab: Tab, now: float) -> Visitor | None:
        """A page of a visitor is open; None when he has too many."""
        visitor = self._known.setdefault(chat, Visitor(Bucket(now), now))
        if len(visitor.tabs) >= TABS:
            return None
        visitor.tabs.add(tab)
        return visitor

    def leave(self, chat: str, tab: Tab, now: float, keep: float) -> None:
        """A page is gone; with it everybody is forgotten who has been away for ``keep`` s."""
        visitor = self._known[chat]
        visitor.tabs.discard(tab)
        if visitor.tabs:
            return
        visitor.left(now)
        self._known[chat] = self._known.pop(chat)
        excess = len(self._known) - REMEMBERED
        gone = [
            name
            for number, (name, old) in enumerate(self._known.items())
            if not old.tabs and (number < excess or now - old.left_at > keep)
        ]
        for name in gone:
            del self._known[name]

    def away(self, chat: str, now: float) -> float:
        """Seconds since a visitor's last page was gone, as far as this process can know."""
        visitor = self._known.get(chat)
        if visitor is not None:
            return 0.0 if visitor.tabs else now - visitor.left_at
        return 0.0 if self._since is None else now - self._since


def _unknown(kind: Kind, code: str, text: str) -> SendFailed:
    return SendFailed(Outcome.UNKNOWN, Cause(kind, code, text))
