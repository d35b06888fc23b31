"""One account of the gateway: a shell around its adapter's connections, with the journal beside it.

Messages go in through `accept` and nowhere else; what must survive a restart is remembered; what a
fresh login missed is reported as a gap.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any, Protocol

import msgspec

from holdfast.adapter import Adapter, Continuity, Http
from holdfast.backlog import ALL, Backlog
from holdfast.errors import StoreError
from holdfast.gateway.connection import Connection
from holdfast.gateway.hooks import HookServer
from holdfast.gateway.net import HttpClient, Net
from holdfast.gateway.shell import Shell
from holdfast.gateway.stored import stored
from holdfast.gateway.whole import Running, whole
from holdfast.legible import legible
from holdfast.messages import Gap, Inbound
from holdfast.store.protocol import InboxState, Received, Store
from holdfast.supervision import Cause, Memory, Open, Policy, Refused, Report, Start, State

log = logging.getLogger("holdfast.account")

MEMORY_LIMIT = 0.5
"""Seconds a stop waits for the journal to take the memory, and for other late writes."""

REMEMBER_EVERY = 60.0
"""Seconds between two notes of the last proof of life: how much too long a gap may be said to be
after a crash."""

TRACEBACKS = 20
"""Distinct unclassified errors whose traceback is told; a loop of them must not fill the disk."""

GAP_LEAD = 5.0
"""Seconds by which a gap begins before the last proof of life: what was said then may have been on
its way, and clocks differ."""

UNKEPT = 100
"""Gaps that wait for the journal; with more, the newest are told as one."""

SAMPLE = 200
"""Bytes kept of a message that could not be understood."""


class AccountTools:
    """Implements `holdfast.adapter.Tools`."""

    def __init__(
        self, http: Http, hook_url: str | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self.http, self.hook_url, self.clock = http, hook_url, clock


class Handlers(Protocol):
    """Who asks agents about what comes in; see `holdfast.gateway.lanes.Lanes`."""

    async def expect(self, messages: Iterable[Inbound]) -> Collection[str]:
        """Ids of messages whose handlers start as soon as they are stored."""

    async def settle(
        self, messages: Iterable[Inbound], expected: Collection[str], rows: Iterable[Received]
    ) -> None:
        """They were stored as these rows, or were not."""


class Unasked:
    """Nobody is asked yet: implements `Handlers`."""

    async def expect(self, messages: Iterable[Inbound]) -> Collection[str]:
        """None."""
        return ()

    async def settle(
        self, messages: Iterable[Inbound], expected: Collection[str], rows: Iterable[Received]
    ) -> None:
        """Nothing was expected."""


class _Remembered(msgspec.Struct, frozen=True):
    """A supervisor's memory on disk, dated so that waits go on elapsing while we are down."""

    saved_at: float
    wait: float
    fresh_ages: tuple[float, ...]
    resumable: bool
    proof_at: float | None


class Account(Shell):
    """A supervised account of the gateway. All methods must be called on the loop's thread."""

    def __init__(
        self,
        name: str,
        adapter: Adapter,
        policy: Policy,
        *,
        store: Store,
        net: Net,
        hooks: HookServer,
        send_client: HttpClient,
        on_report: Callable[[Account, Report], None],
        on_received: Callable[[Account, list[Received]], None],
        on_recipient_back: Callable[[Account], None] = lambda account: None,
        on_undelivered: Callable[[str, str, Cause], Awaitable[None]] | None = None,
        backlog: Backlog = ALL,
        rand: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(name, policy, rand)
        self.adapter, self.hooks, self.net = adapter, hooks, net
        self.received = 0
        """Messages taken in by this process; duplicates are not counted."""
        self.passed_over = 0
        """Messages that the backlog policy left unhandled."""
        self.skipped_frames = 0
        self.unknown_errors = 0
        """Connections ended by an error that no adapter and no default has classified."""
        self.last_inbound: float | None = None
        """Unix seconds."""
        self.last_gap: Gap | None = None
        self._store, self._send_client = store, send_client
        self._backlog = backlog
        self._ready_at: float | None = None
        """Unix seconds since when a connection has been ready, without a break."""
        self._on_report, self._on_received = on_report, on_received
        self.handlers: Handlers = Unasked()
        self._on_recipient_back, self.clock = on_recipient_back, clock
        self._on_undelivered = on_undelivered
        self._proof_before: float | None = None
        """Unix seconds of the last proof of life on the last connection that was ready."""
        self._was_ready = False
        self._deaf_since: float | None = None
        """Unix seconds since which the last connection has lived without delivering."""
        self._unstored_since: float | None = None
        """Unix seconds of the first message of the last connection that could not be stored."""
        self._unkept: deque[Gap] = deque()
        """Gaps that the journal does not have yet, oldest first."""
        self._wanted = False
        self._remembered_at = float("-inf")
        self._background: set[asyncio.Task[None]] = set()
        self._intakes: Running = set()
        self._tracebacks: set[str] = set()

    # -- what people want ---------------------------------------------------------------------

    async def start(self) -> None:
        """Begin; returns at once with the account on its way, whatever the network's state."""
        self._wanted = True
        memory = await self._recall()
        if self._wanted:  # a stop that came meanwhile is not lost
            self.post(Start(memory))

    async def stop(self) -> None:
        """Stop from any state; returns within 5 s with nothing left behind. Idempotent."""
        await self.pause()
        await asyncio.gather(self._settle(), self._send_client.close())

    async def settled(self) -> None:
        """After `stop`: wait until the journal has taken or refused all that it was handed.

        For as long as the disk takes. Whoever reads the journal now finds it as it stays.
        """
        if self._intakes:
            await asyncio.wait(self._intakes)
        # A write whose caller was cancelled may still be on its way; an empty one lands behind it.
        with contextlib.suppress(StoreError):
            await self._store.receive(self.name, (), None)

    async def pause(self) -> None:
        """Stop the connection, keep the account: its replies wait in the journal."""
        self._wanted = False
        await super().pause()

    def resume(self) -> None:
        """Undo `pause`."""
        self._wanted = True
        super().resume()

    def wall(self, moment: float) -> float:
        """Unix seconds of a moment on the loop's clock."""
        return self.clock() - (asyncio.get_running_loop().time() - moment)

    # -- what the shell asks ------------------------------------------------------------------

    def _begin(self, effect: Open) -> Connection:
        connection = Connection(self, effect.generation, resume=effect.resume)
        if effect.verify:
            connection.verify()
        else:
            connection.open()
        return connection

    def _told(self, report: Report) -> None:
        if report.view.state is State.CONNECTING:
            self._leave_behind()
        if report.view.state in (State.LIVE, State.BACKOFF, State.BLOCKED):
            self._spawn(self._remember(), "remember")
        self._on_report(self, report)

    def _ticked(self) -> None:
        if self._was_ready and self.clock() - self._remembered_at >= REMEMBER_EVERY:
            self._spawn(self._remember(), "remember")

    # -- what connections need: gateway.connection.Host ----------------------------------------

    def new_http(self) -> HttpClient:
        """A client on a fresh pool."""
        return self.net.client()

    async def load_cursor(self) -> dict[str, Any]:
        """The stored position in the platform's stream. Raises StoreError."""
        return await self._store.cursor(self.name)

    async def accept(self, messages: tuple[Inbound, ...], cursor: Mapping[str, Any]) -> None:
        """Store messages and cursor durably, then let the lanes have what is new.

        A cancelled caller learns nothing, but what its call has stored is handled all the same:
        the platform's redelivery would be dropped as a duplicate.
        """
        await whole(self._take_in(messages, cursor), f"{self.name} intake", self._intakes)

    async def _take_in(self, messages: tuple[Inbound, ...], cursor: Mapping[str, Any]) -> None:
        began = self.clock()
        dropped = self._passed_over(messages)
        wanted = [message for message in messages if message.id not in dropped]
        begun = await self.handlers.expect(wanted)
        new: list[Received] = []
        try:
            await self._receive(messages, cursor, dropped, begun, new)
        except StoreError:
            if messages and self._unstored_since is None:
                self._unstored_since = began
            raise
        finally:
            await self.handlers.settle(wanted, begun, new)

    async def _receive(
        self,
        messages: tuple[Inbound, ...],
        cursor: Mapping[str, Any],
        dropped: Mapping[str, str],
        begun: Collection[str],
        new: list[Received],
    ) -> None:
        """Store them; what is new goes to the lanes, and into ``new``, as it is stored."""
        try:
            found = await self._store.receive(self.name, messages, cursor, dropped, begun)
            self._stored(found, new)
            return
        except StoreError as error:
            if error.code != "store_refused" or not messages:
                raise
        # One of them can not be stored, ever: it must not come back and end each connection.
        for message in messages:
            try:
                found = await self._store.receive(self.name, (message,), None, dropped, begun)
                self._stored(found, new)
            except StoreError as error:
                if error.code != "store_refused":
                    raise
                self.skipped(f"message {message.id!r}: {error}", repr(message))
        await self._store.receive(self.name, (), cursor)

    def _stored(self, found: list[Received], new: list[Received]) -> None:
        if not found:
            return
        new += found
        self.received += len(found)
        self.last_inbound = self.clock()
        rows = [row for row in found if row.state is not InboxState.DROPPED]
        self.passed_over += len(found) - len(rows)
        self._on_received(self, rows)

    def _passed_over(self, messages: tuple[Inbound, ...]) -> dict[str, str]:
        """What the backlog policy leaves unhandled, and why."""
        now = self.clock()
        verdicts = {m.id: self._backlog.verdict(m, now, self._ready_at) for m in messages}
        return {id: why for id, why in verdicts.items() if why}

    def continued(self, generation: int, continuity: Continuity) -> None:
        """A connection is ready; unless the platform replays, what it missed is a gap.

        It misses nothing where the connection before it is alive and well.
        """
        state = self.supervisor.state
        if state is State.LIVE or not self.supervisor.awaits(generation):
            return
        if state is not State.CONNECTING:
            self._leave_behind()  # its successor came in time, but it is given up or in doubt
        self._was_ready = True
        self._ready_at = self.clock()
        replayed = continuity is not Continuity.FRESH or self.adapter.traits.replays
        if not replayed and self._proof_before is not None:
            self.missed("a fresh login: the platform does not replay what was missed", None)

    async def undelivered(self, key: str, receipt: str, cause: Cause) -> None:
        """A message that was accepted did not arrive. Raises StoreError."""
        if self._on_undelivered is not None:
            await self._on_undelivered(key, receipt, cause)

    def recipient_back(self) -> None:
        """Somebody who could not be reached can be again."""
        self._on_recipient_back(self)

    def refused(self, cause: Cause) -> None:
        """A send was refused for its credentials."""
        self.post(Refused(cause))

    def missed(self, reason: str, since: float | None) -> None:
        """Report a gap; by default from before the last proof of life of the connection before."""
        if since is None and self._proof_before is not None:
            since = self._proof_before - GAP_LEAD
        if since is None:
            since = self.wall(self.view().since)
        until = self.clock() + self.adapter.traits.gap_tail
        self.last_gap = gap = Gap(since=since, until=until, reason=legible(reason))
        log.warning(
            "gap account=%s since=%.3f until=%.3f reason=%r", self.name, since, gap.until, reason
        )
        self._keep(gap)

    def _keep(self, gap: Gap) -> None:
        if len(self._unkept) == UNKEPT:
            since = min(self._unkept.pop().since, gap.since)
            gap = Gap(since=since, until=gap.until, reason=gap.reason)
        self._unkept.append(gap)
        if len(self._unkept) == 1:
            self._spawn(self._keep_all(), "gap")

    async def _keep_all(self) -> None:
        while self._unkept:
            await stored(self.name, self._store.add_gap, self.name, self._unkept[0])
            self._unkept.popleft()

    def deaf(self, since: float) -> None:
        """What a connection received after this moment proves that it lived, and no more."""
        self._deaf_since = self.wall(since)

    def skipped(self, what: str, raw: bytes | str) -> None:
        """One message could not be understood: count it and keep a sample in the log."""
        self.skipped_frames += 1
        if self.skipped_frames <= 3 or self.skipped_frames % 100 == 0:
            log.warning(
                "skipped account=%s what=%r sample=%r so_far=%d",
                self.name,
                what,
                raw[:SAMPLE],
                self.skipped_frames,
            )

    def unclassified(self, error: BaseException | None) -> None:
        """An error nobody has classified: counted, and told with its traceback once."""
        self.unknown_errors += 1
        told = f"{type(error).__name__}: {error}"
        if told not in self._tracebacks and len(self._tracebacks) < TRACEBACKS:
            self._tracebacks.add(told)
            log.error("unclassified error account=%s", self.name, exc_info=error)

    def _leave_behind(self) -> None:
        """The connection before is over, or no longer to be believed in."""
        self._proof_before, self._was_ready = self._last_proof(), False
        self._deaf_since = self._unstored_since = self._ready_at = None

    def _last_proof(self) -> float | None:
        """Unix seconds of the last proof of a working login, on this connection or before it.

        What a peer says before it lets us in proves that it lives, not that messages came in.
        """
        proof = self.view().last_proof
        if not self._was_ready or proof is None:
            return self._proof_before
        bounds = (self.wall(proof), self._deaf_since, self._unstored_since)
        return min(bound for bound in bounds if bound is not None)

    def _proof_kept(self) -> float | None:
        """The proof of life for the next process: what the journal has no gap for is not over."""
        proof = self._last_proof()
        if proof is None or not self._unkept:
            return proof
        return min(proof, *(gap.since + GAP_LEAD for gap in self._unkept))

    # -- memory over restarts -----------------------------------------------------------------

    async def _recall(self) -> Memory | None:
        try:
            stored = await self._store.recall(self.name, "supervision")
        except StoreError as error:
            log.warning("no memory account=%s error=%s", self.name, error)
            return None
        if stored is None:
            return None
        try:
            old = msgspec.msgpack.decode(stored, type=_Remembered)
        except msgspec.DecodeError as error:
            log.warning("memory not readable account=%s error=%s", self.name, error)
            return None
        away = max(0.0, self.clock() - old.saved_at)
        self._proof_before = old.proof_at
        return Memory(
            wait=max(0.0, old.wait - away),
            fresh_ages=tuple(age + away for age in old.fresh_ages),
            resumable=old.resumable,
        )

    async def _remember(self) -> None:
        memory = self.supervisor.memory(asyncio.get_running_loop().time())
        self._remembered_at = self.clock()
        value = _Remembered(
            self._remembered_at,
            memory.wait,
            memory.fresh_ages,
            memory.resumable,
            self._proof_kept(),
        )
        try:
            await self._store.remember(self.name, "supervision", msgspec.msgpack.encode(value))
        except StoreError as error:
            log.warning("memory not stored account=%s error=%s", self.name, error)

    async def _settle(self) -> None:
        """The last writes, as far as the journal takes them in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(MEMORY_LIMIT):
                await self._remember()
        if self._background or self._intakes:
            await asyncio.wait({*self._background, *self._intakes}, timeout=MEMORY_LIMIT)
        for task in self._background:
            task.cancel()

    def _spawn(self, work: Coroutine[Any, Any, None], what: str) -> None:
        task = asyncio.create_task(self._logged(work, what), name=f"{self.name} {what}")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _logged(self, work: Coroutine[Any, Any, None], what: str) -> None:
        try:
            await work
        except StoreError as error:
            log.warning("%s not stored account=%s error=%s", what, self.name, error)
