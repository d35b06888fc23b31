"""One connection: an adapter's `run` as a task, what it says as events, its sockets as ours.

The end of the task is the end of the connection, whatever the outcome, and is learned from the
task's done callback and nowhere else. Cleaning up happens exactly once: politely inside the task
while there is time, and synchronously in the callback in any case.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Protocol

from holdfast import killpoints
from holdfast.adapter import (
    Adapter,
    AdapterError,
    Continuity,
    Disconnect,
    HookRequest,
    Http,
    WebSocketClosed,
)
from holdfast.gateway.classify import classified
from holdfast.gateway.deafness import DeafnessWatch
from holdfast.gateway.hooks import HookServer
from holdfast.gateway.net import HttpClient
from holdfast.gateway.websocket import LiveWebSocket
from holdfast.legible import legible
from holdfast.messages import Inbound
from holdfast.supervision import (
    Alive,
    BeatAcked,
    BeatFailed,
    Budget,
    Cause,
    Ended,
    Event,
    GoingAway,
    Kind,
    Ready,
    Step,
    Verified,
)

log = logging.getLogger("holdfast.connection")

BEAT_LIMIT = 10.0
"""Seconds in which a heartbeat must have been sent (for a web hook: its API probe answered)."""


BATCH = 256
"""Messages of one transaction; a burst of more is stored in several."""

ALIVE_EVERY = 10
"""Acknowledged heartbeats between two log lines: silence must not be mistaken for death."""


class Host(Protocol):
    """What a connection needs of its account."""

    name: str
    adapter: Adapter
    hooks: HookServer
    clock: Callable[[], float]

    def post(self, event: Event) -> None:
        """Hand an event to the supervisor."""

    def new_http(self) -> HttpClient:
        """A client on a fresh pool."""

    async def load_cursor(self) -> dict[str, Any]:
        """The stored position in the platform's stream. Raises StoreError."""

    async def accept(self, messages: tuple[Inbound, ...], cursor: Mapping[str, Any]) -> None:
        """Store messages and cursor durably. Raises StoreError."""

    def continued(self, generation: int, continuity: Continuity) -> None:
        """This connection is ready and continues its predecessor this way."""

    async def undelivered(self, key: str, receipt: str, cause: Cause) -> None:
        """A message that was accepted did not arrive. Raises StoreError."""

    def recipient_back(self) -> None:
        """Somebody who could not be reached can be again."""

    def missed(self, reason: str, since: float | None) -> None:
        """Messages may be missing."""

    def deaf(self, since: float) -> None:
        """No event came over a live connection since then (on the loop's clock)."""

    def skipped(self, what: str, raw: bytes | str) -> None:
        """One message could not be understood."""

    def unclassified(self, error: BaseException | None) -> None:
        """An error nobody has classified."""


class Connection:
    """One generation of an account's connection; implements `holdfast.adapter.Link`."""

    def __init__(self, host: Host, generation: int, *, resume: bool) -> None:
        self.generation, self.resume = generation, resume
        self.cursor: dict[str, Any] = {}
        self._host = host
        self._client = host.new_http()
        self.http: Http = self._client
        self.clock = host.clock
        self._sockets: list[LiveWebSocket] = []
        self._beat: Callable[[], Awaitable[None]] | None = None
        self._probe: Callable[[], Awaitable[None]] | None = None
        self._helpers: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._taken: list[Inbound] = []
        self._then: list[Callable[[], Awaitable[None]]] = []
        self._over = False
        self._acks = 0
        self._watch = DeafnessWatch(
            host.adapter, self, host.name, spawn=self._help, deaf=self._end_deaf
        )
        self._verdict: Cause | None = None
        """Why we ended it ourselves."""

    # -- driven by the account ----------------------------------------------------------------

    def open(self) -> None:
        """Start the adapter."""
        self._launch(self._run, "run")

    def verify(self) -> None:
        """Only check the credentials."""
        self._launch(self._check, "check")

    def beat(self) -> None:
        """Send a heartbeat, bounded; a failure is an event."""
        if self._beat is not None:
            self._help(partial(self._send_beat, self._beat), "beat")

    def probe(self) -> None:
        """Ask the peer for proof, bounded; only its answer counts, by the usual road."""
        ask = self._probe
        if ask is None and self._sockets:
            ask = self._sockets[-1].ping
        if ask is not None:
            self._help(partial(self._ask, ask), "probe")

    def close(self) -> None:
        """End politely: the adapter is cancelled and its sockets say goodbye."""
        if self._task is not None:
            self._task.cancel()

    def abort(self) -> None:
        """End now: sockets are shut down under the adapter, and it is cancelled again."""
        self._client.abort()
        self.close()

    def abandon(self) -> None:
        """It ignores even that: forget it. What it still says is a former generation's word."""
        self._watch.stop()
        self._client.abort()
        self._over = True

    def _end_deaf(self, cause: Cause, since: float) -> None:
        self._verdict = cause
        self._host.deaf(since)
        self.close()

    def _launch(self, work: Callable[[], Awaitable[None]], what: str) -> None:
        name = f"{self._host.name} #{self.generation} {what}"
        self._task = asyncio.create_task(self._guarded(work), name=name)
        self._task.add_done_callback(self._done)

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        finally:
            for helper in self._helpers:
                helper.cancel()
            try:
                for ws in self._sockets:
                    await ws.close()
            finally:  # also when a second cancellation ends the goodbyes
                await self._client.close()

    def _done(self, task: asyncio.Task[None]) -> None:
        self._watch.stop()
        self._client.abort()
        for helper in self._helpers:
            helper.cancel()
        abandoned, self._over = self._over, True
        if abandoned:
            if not task.cancelled():
                task.exception()
            return
        if task.cancelled():
            error: BaseException | None = (
                Disconnect(self._verdict) if self._verdict else asyncio.CancelledError()
            )
        else:
            error = task.exception()
        self._host.post(Ended(self.generation, self._cause(error)))

    def _cause(self, error: BaseException | None) -> Cause:
        if error is None:
            return Cause(Kind.LOST, "returned", "the connection's task came to its end")
        cause = classified(self._host.adapter, error)
        if cause.kind is Kind.UNKNOWN:
            self._host.unclassified(error)
        return cause

    async def _run(self) -> None:
        self.cursor = await self._host.load_cursor()
        try:
            await self._host.adapter.run(self)
        except AdapterError:
            with contextlib.suppress(WebSocketClosed):  # of acknowledgements on a closed socket
                await self._store_taken()
            raise
        await self._store_taken()

    async def _check(self) -> None:
        health = await self._host.adapter.check()
        if health.cause is not None:
            raise AdapterError(health.cause)
        self._host.post(Verified(self.generation))

    async def _send_beat(self, beat: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(BEAT_LIMIT):
                await beat()
        except Exception as error:
            self._host.post(BeatFailed(self.generation, self._cause(error)))

    async def _ask(self, ask: Callable[[], Awaitable[None]]) -> None:
        try:
            async with asyncio.timeout(BEAT_LIMIT):
                await ask()
        except Exception as error:
            # A failed question is no evidence; the missing answer is.
            log.debug("probe failed account=%s error=%s", self._host.name, error)

    def _help(self, work: Callable[[], Coroutine[Any, Any, None]], what: str) -> None:
        task = asyncio.create_task(work(), name=f"{self._host.name} #{self.generation} {what}")
        self._helpers.add(task)
        task.add_done_callback(self._helpers.discard)

    # -- driven by the adapter: holdfast.adapter.Link ------------------------------------------

    def step(self, name: str, limit: float | None = None) -> None:
        """See `holdfast.adapter.Link.step`."""
        self._host.post(Step(self.generation, legible(name), limit))

    def ready(
        self,
        continuity: Continuity,
        *,
        beat: float | None = None,
        silence: float | None = None,
        grace: float | None = None,
        resumable: bool = False,
    ) -> None:
        """See `holdfast.adapter.Link.ready`."""
        if not self._over:
            self._host.continued(self.generation, continuity)
            self._watch.begin()
        self._host.post(Ready(self.generation, beat, silence, grace, resumable))

    def alive(self) -> None:
        """See `holdfast.adapter.Link.alive`."""
        self._host.post(Alive(self.generation))

    def acked(self) -> None:
        """See `holdfast.adapter.Link.acked`."""
        self._acks += 1
        if self._acks % ALIVE_EVERY == 0:
            log.info(
                "alive account=%s generation=%d beats=%d",
                self._host.name,
                self.generation,
                self._acks,
            )
        self._host.post(BeatAcked(self.generation))

    def logged_in(
        self,
        remaining: int | None = None,
        total: int | None = None,
        reset_after: float | None = None,
    ) -> None:
        """See `holdfast.adapter.Link.logged_in`."""
        self._host.post(Budget(self.generation, remaining, total, reset_after))

    def on_beat(self, beat: Callable[[], Awaitable[None]]) -> None:
        """See `holdfast.adapter.Link.on_beat`."""
        self._beat = beat

    def on_probe(self, probe: Callable[[], Awaitable[None]]) -> None:
        """See `holdfast.adapter.Link.on_probe`."""
        self._probe = probe

    async def websocket(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        max_size: int = 16 * 2**20,
        close_code: int = 1000,
    ) -> LiveWebSocket:
        """See `holdfast.adapter.Link.websocket`."""
        self._still_ours()
        ws = await self._client.websocket(
            url,
            headers=headers,
            max_size=max_size,
            close_code=close_code,
            alive=self.alive,
            idle=self._store_taken,
        )
        self._sockets.append(ws)
        return ws

    @property
    def hooks_url(self) -> str:
        """See `holdfast.adapter.Link.hooks_url`."""
        return self._host.hooks.url

    def hooks(self, path: str) -> AbstractAsyncContextManager[AsyncIterator[HookRequest]]:
        """See `holdfast.adapter.Link.hooks`."""
        self._still_ours()
        return self._host.hooks.listen(path, self._host.name)

    async def take(
        self, message: Inbound | None, then: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """See `holdfast.adapter.Link.take`."""
        self._still_ours()
        if message is not None:
            self._watch.heard()
            self._taken.append(message)
        if not self._taken:
            if then is not None:
                await then()
            return
        if then is not None:
            self._then.append(then)
        if not self._sockets or len(self._taken) >= BATCH:
            await self.deliver()

    async def deliver(self, *messages: Inbound) -> None:
        """See `holdfast.adapter.Link.deliver`."""
        self._still_ours()
        if messages:
            self._watch.heard()
        taken, self._taken = self._taken, []
        then, self._then = self._then, []
        messages = (*taken, *messages)
        if messages:
            killpoints.reach("after-receive")
        try:
            await self._host.accept(messages, dict(self.cursor))
        except BaseException:
            # The cursor has passed them: it must not be stored without them.
            self._taken[:0], self._then[:0] = taken, then
            raise
        if messages:
            killpoints.reach("after-persist")
        for call in then:
            await call()
        if then:
            killpoints.reach("after-ack")

    async def commit(self) -> None:
        """See `holdfast.adapter.Link.commit`."""
        await self.deliver()

    async def _store_taken(self) -> None:
        if self._taken:
            await self.deliver()

    def gap(self, reason: str, since: float | None = None) -> None:
        """See `holdfast.adapter.Link.gap`."""
        if not self._over:
            self._host.missed(reason, since)

    def skip(self, what: str, raw: bytes | str = b"") -> None:
        """See `holdfast.adapter.Link.skip`."""
        self._host.skipped(what, raw)

    async def undelivered(self, key: str, receipt: str, cause: Cause) -> None:
        """See `holdfast.adapter.Link.undelivered`."""
        await self._host.undelivered(key, receipt, cause)

    def recipient_back(self) -> None:
        """See `holdfast.adapter.Link.recipient_back`."""
        self._host.recipient_back()

    def going_away(self, reason: str) -> None:
        """See `holdfast.adapter.Link.going_away`."""
        log.info(
            "going away account=%s generation=%d reason=%r",
            self._host.name,
            self.generation,
            reason,
        )
        self._host.post(GoingAway(self.generation))

    def _still_ours(self) -> None:
        """Raises Disconnect once this connection is over: a successor owns cursor and network."""
        if self._over:
            raise Disconnect(Cause(Kind.LOST, "over", "this connection has been given up"))
