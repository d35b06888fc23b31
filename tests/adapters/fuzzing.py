"""A link without a network for fuzzing adapters: real traffic is taped once, then played back.

The tape holds what a simulator really sent: answers to calls, frames, web hooks. A `Script` plays
the greeting as it was and then whatever a test makes of the rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import msgspec

from holdfast.adapter import (
    Adapter,
    Continuity,
    HookRequest,
    Http,
    HttpReply,
    WebSocket,
    WebSocketClosed,
)
from holdfast.errors import StoreError
from holdfast.gateway.account import AccountTools
from holdfast.gateway.classify import classified
from holdfast.messages import Inbound
from holdfast.supervision import Cause, Kind
from tests.harness import make_adapter

PATIENCE = 300.0
"""Virtual seconds in which an adapter has dealt with anything, or it hangs."""

PROOF = "ping"
"""Marks a gateway's visit to a page of its own: made up anew each time, so never played back."""

Raw = str | bytes


@dataclass(slots=True)
class Call:
    """A web hook request; implements `holdfast.adapter.HookRequest`."""

    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    method: str = "POST"
    status: int | None = None
    """What it was answered; 101 for a WebSocket."""
    socket: Callable[[], WebSocket] | None = None

    def respond(
        self,
        status: int = 200,
        body: bytes = b"",
        mime: str = "text/plain",
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """See `holdfast.adapter.HookRequest.respond`."""
        if self.status is None:
            self.status = status

    async def upgrade(self) -> WebSocket:
        """See `holdfast.adapter.HookRequest.upgrade`."""
        if self.socket is None:
            raise WebSocketClosed(1006, "the caller has left")
        self.status = 101
        return self.socket()


Item = Raw | HttpReply | Call
"""What a peer says: a frame, the answer to a long poll, or a web hook."""


@dataclass(slots=True)
class Tape:
    """What a simulator said in one connection that took in some messages."""

    replies: dict[tuple[str, str], list[HttpReply]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """Answers by method and path, in order."""
    items: list[Item] = field(default_factory=list)
    greeting: int = 0
    """How many of the items came before the connection was ready."""
    carriers: list[int] = field(default_factory=list)
    """Which of the items brought a message."""
    hook_url: str = ""
    hook_path: str = ""


class Port:
    """The outside world of a link: calls, sockets and web hooks."""

    http: Http
    hooks_url = ""

    async def dial(self, url: str, headers: Mapping[str, str] | None) -> WebSocket:
        """A WebSocket to the peer."""
        raise WebSocketClosed(1006, f"nobody listens at {url}")

    def listen(self, path: str) -> contextlib.AbstractAsyncContextManager[AsyncIterator[Any]]:
        """The web hooks that come to a path."""
        raise WebSocketClosed(1006, f"nobody calls {path}")


class FakeLink:
    """Implements `holdfast.adapter.Link`; keeps what it is told, and stores as strictly as SQLite.

    What the journal could not write is refused by a StoreError, as there.
    """

    generation = 1

    def __init__(self, port: Port, tape: Tape | None = None) -> None:
        self.resume = False
        self.cursor: dict[str, Any] = {}
        self.http: Http = port.http
        self.clock = time.time
        self.hooks_url = port.hooks_url
        self.online = False
        self.skips: list[str] = []
        self.delivered: list[Inbound] = []
        self.lives = 0
        self.beat: Callable[[], Awaitable[None]] | None = None
        self._port, self._tape = port, tape
        self.changed = asyncio.Event()

    def step(self, name: str, limit: float | None = None) -> None:
        """See `holdfast.adapter.Link.step`."""

    def ready(self, continuity: Continuity, **numbers: Any) -> None:
        """See `holdfast.adapter.Link.ready`."""
        self.online = True
        if self._tape is not None:
            self._tape.greeting = len(self._tape.items)
        self.changed.set()

    def alive(self) -> None:
        """See `holdfast.adapter.Link.alive`."""
        self.lives += 1

    def acked(self) -> None:
        """See `holdfast.adapter.Link.acked`."""

    def logged_in(self, *numbers: int | float | None) -> None:
        """See `holdfast.adapter.Link.logged_in`."""

    def on_beat(self, beat: Callable[[], Awaitable[None]]) -> None:
        """See `holdfast.adapter.Link.on_beat`."""
        self.beat = beat

    def on_probe(self, probe: Callable[[], Awaitable[None]]) -> None:
        """See `holdfast.adapter.Link.on_probe`."""

    async def websocket(
        self, url: str, *, headers: Mapping[str, str] | None = None, **more: int
    ) -> WebSocket:
        """See `holdfast.adapter.Link.websocket`."""
        return await self._port.dial(url, headers)

    def hooks(
        self, path: str
    ) -> contextlib.AbstractAsyncContextManager[AsyncIterator[HookRequest]]:
        """See `holdfast.adapter.Link.hooks`."""
        return self._port.listen(path)

    async def take(
        self, message: Inbound | None, then: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """See `holdfast.adapter.Link.take`; each message is stored at once."""
        if message is not None:
            await self.deliver(message)
        if then is not None:
            await then()

    async def deliver(self, *messages: Inbound) -> None:
        """See `holdfast.adapter.Link.deliver`."""
        for message in messages:
            _storable(msgspec.msgpack.encode, message)
        _storable(msgspec.json.encode, self.cursor)
        self.delivered += messages
        if self._tape is not None and messages:
            self._tape.carriers.append(len(self._tape.items) - 1)
        self.changed.set()

    async def commit(self) -> None:
        """See `holdfast.adapter.Link.commit`."""
        _storable(msgspec.json.encode, self.cursor)

    def gap(self, reason: str, since: float | None = None) -> None:
        """See `holdfast.adapter.Link.gap`."""

    def skip(self, what: str, raw: Raw = b"") -> None:
        """See `holdfast.adapter.Link.skip`; it must fit a log line."""
        what.encode()
        self.skips.append(what)

    async def undelivered(self, key: str, receipt: str, cause: Cause) -> None:
        """See `holdfast.adapter.Link.undelivered`."""

    def recipient_back(self) -> None:
        """See `holdfast.adapter.Link.recipient_back`."""

    def going_away(self, reason: str) -> None:
        """See `holdfast.adapter.Link.going_away`."""


def _storable(encode: Callable[[Any], bytes], value: Any) -> None:
    try:
        encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise StoreError("store_refused", f"{value!r:.200}: {error}", "") from error


# -- playing --------------------------------------------------------------------------------------

Line = Item | Callable[[FakeLink], Item]
"""One line of a script; a function makes it when it is due."""


class Script(Port):
    """Plays a tape's calls as they were, and given lines one after the other."""

    hooks_url = "http://127.0.0.1:1"

    def __init__(self, tape: Tape, lines: list[Line], polls: str, visits: bool) -> None:
        self.http: Http = self
        self._replies = {key: list(replies) for key, replies in tape.replies.items()}
        self._lines, self._polls, self._expects_visit = list(lines), polls, visits
        self.link: FakeLink = FakeLink(self)
        self.drained = asyncio.Event()
        self._visits: asyncio.Queue[Call] = asyncio.Queue()
        self.sent: list[Raw] = []

    async def next(self) -> Any:
        """The next line; nothing more comes after the last one."""
        if not self._lines:
            self.drained.set()
            await asyncio.Event().wait()
        line = self._lines.pop(0)
        return line(self.link) if callable(line) else line

    async def request(self, method: str, url: str, **more: Any) -> HttpReply:
        """See `holdfast.adapter.Http.request`."""
        if self._polls and self._polls in url:
            item = await self.next()
            assert isinstance(item, HttpReply)
            return item
        if PROOF in (query := more.get("query") or {}):
            self._visits.put_nowait(Call(b"", query=query, method=method))
            return HttpReply(204, {}, b"")
        replies = self._replies.get((method, urlsplit(url).path), [])
        if not replies:
            return HttpReply(404, {"content-type": "application/json"}, b"{}")
        return replies.pop(0) if len(replies) > 1 else replies[0]

    async def dial(self, url: str, headers: Mapping[str, str] | None) -> WebSocket:
        """See `Port.dial`."""
        return Socket(self)

    @contextlib.asynccontextmanager
    async def listen(self, path: str) -> AsyncIterator[AsyncIterator[Any]]:
        """See `Port.listen`."""
        yield self._calls()

    async def _calls(self) -> AsyncIterator[Any]:
        if self._expects_visit:
            yield await self._visits.get()
        while True:
            item = await self.next()
            assert isinstance(item, Call)
            if "upgrade" in item.headers:
                item.socket = lambda: Socket(self)
                yield item
                await asyncio.Event().wait()  # what follows comes on the socket
            yield item


class Socket:
    """A WebSocket on which a script is played; implements `holdfast.adapter.WebSocket`."""

    def __init__(self, script: Script) -> None:
        self._script = script

    async def __aiter__(self) -> AsyncIterator[Raw]:
        while True:
            yield await self.receive()

    async def receive(self) -> Raw:
        """See `holdfast.adapter.WebSocket.receive`."""
        item = await self._script.next()
        assert isinstance(item, str | bytes)
        return item

    async def send(self, data: Raw) -> None:
        """See `holdfast.adapter.WebSocket.send`."""
        self._script.sent.append(data)

    async def ping(self) -> None:
        """See `holdfast.adapter.WebSocket.ping`."""

    async def close(self) -> None:
        """See `holdfast.adapter.WebSocket.close`; nobody hears the rest."""
        self._script.drained.set()


@dataclass(frozen=True, slots=True)
class Played:
    """How a script went."""

    link: FakeLink
    ended: Cause | None
    """Why the adapter's `run` ended; None if it was still listening after the last line."""
    error: BaseException | None


async def play(
    kind: type[Adapter],
    config: Mapping[str, Any],
    tape: Tape,
    lines: list[Line],
    *,
    polls: str = "",
    visits: bool = False,
    hook_url: str | None = None,
) -> Played:
    """Run an adapter against a script. Raises TimeoutError when it hangs."""
    script = Script(tape, lines, polls, visits)
    link = script.link
    adapter = make_adapter(kind, config, AccountTools(script.http, hook_url))
    running = asyncio.create_task(adapter.run(link), name="fuzzed run")
    drained = asyncio.create_task(script.drained.wait())
    try:
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait([running, drained], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0.1)
    finally:
        drained.cancel()
    error: BaseException | None = None
    if not running.done():
        running.cancel()
        await asyncio.wait([running])
        return Played(link, None, None)
    error = asyncio.CancelledError() if running.cancelled() else running.exception()
    if error is None:
        return Played(link, Cause(Kind.LOST, "returned"), None)
    return Played(link, classified(adapter, error), error)


def with_body(reply: HttpReply, body: bytes) -> HttpReply:
    """The same answer with another body."""
    return replace(reply, body=body)
