"""One account: its supervisor, timer, connection and adapter. Carries out, decides nothing.

The supervisor's effects are carried out in order, its deadline is armed as the only timer, and its
reports are handed on unchanged; status, history, metrics and alerts are all made of them.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from holdfast.adapter import Adapter, Continuity, Http
from holdfast.errors import StoreError
from holdfast.gateway.connection import Connection
from holdfast.gateway.hooks import HookServer
from holdfast.gateway.net import HttpClient, Net
from holdfast.messages import Gap, Inbound
from holdfast.store.protocol import Received, Store
from holdfast.supervision import (
    Abandon,
    Abort,
    Beat,
    Close,
    Effect,
    Event,
    Kick,
    Memory,
    Open,
    Policy,
    Probe,
    Report,
    Start,
    State,
    Stop,
    Supervisor,
    Tick,
    View,
    Woke,
)

log = logging.getLogger("holdfast.account")

SAMPLE = 200
"""Bytes kept of a message that could not be understood."""


@dataclass(slots=True)
class AccountTools:
    """Implements `holdfast.adapter.Tools`."""

    http: Http
    hook_url: str | None = None


class _Remembered(msgspec.Struct, frozen=True):
    """A supervisor's memory on disk, dated so that waits go on elapsing while we are down."""

    saved_at: float
    wait: float
    fresh_ages: tuple[float, ...]
    resumable: bool
    proof_at: float | None


class Account:
    """A supervised account. All methods must be called on the loop's thread."""

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
        rand: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name, self.adapter, self.hooks = name, adapter, hooks
        self.supervisor = Supervisor(policy, rand)
        self.received = 0
        """Messages taken in by this process; duplicates are not counted."""
        self.skipped_frames = 0
        self.last_inbound: float | None = None
        """Unix seconds."""
        self.last_gap: Gap | None = None
        self._store, self._net, self._send_client = store, net, send_client
        self._on_report, self._on_received = on_report, on_received
        self._clock = clock
        self._connection: Connection | None = None
        self._proof_before: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()
        self._background: set[asyncio.Task[None]] = set()
        self._intakes: set[asyncio.Task[None]] = set()

    # -- what people want ---------------------------------------------------------------------

    async def start(self) -> None:
        """Begin; returns at once with the account on its way, whatever the network's state."""
        self.post(Start(await self._recall()))

    async def stop(self) -> None:
        """Stop from any state; returns within 5 s with nothing left behind. Idempotent."""
        self.post(Stop())
        await self.until(lambda view: view.state is State.STOPPED)
        await self._remember()
        if self._background or self._intakes:
            await asyncio.wait({*self._background, *self._intakes}, timeout=1.0)
        for task in self._background:
            task.cancel()
        await self._send_client.close()

    async def pause(self) -> None:
        """Stop the connection, keep the account: its replies wait in the journal."""
        self.post(Stop())
        await self.until(lambda view: view.state is State.STOPPED)

    def resume(self) -> None:
        """Undo `pause`."""
        self.post(Start())

    def kick(self, *, operator: bool = False) -> None:
        """Try now; see `supervision.Kick`."""
        self.post(Kick(operator))

    def woke(self, slept: float) -> None:
        """The machine was suspended for so many seconds."""
        self.post(Woke(slept))

    def view(self) -> View:
        """A reading of the supervision, now."""
        return self.supervisor.view(asyncio.get_running_loop().time())

    async def until(self, condition: Callable[[View], bool]) -> View:
        """Wait until a reading satisfies the condition. Cancelling is safe."""
        while not condition(view := self.view()):
            self._changed.clear()
            await self._changed.wait()
        return view

    def wall(self, moment: float) -> float:
        """Unix seconds of a moment on the loop's clock."""
        return self._clock() - (asyncio.get_running_loop().time() - moment)

    # -- the loop around the core -------------------------------------------------------------

    def post(self, event: Event) -> None:
        """Hand an event to the supervisor and carry out what it wants."""
        for effect in self.supervisor.handle(event, asyncio.get_running_loop().time()):
            self._do(effect)
        self._arm()

    def _do(self, effect: Effect) -> None:
        connection = self._connection
        match effect:
            case Open():
                self._open(effect)
            case Report():
                self._changed.set()
                self._on_report(self, effect)
            case _ if connection is None:
                pass
            case Probe():
                connection.probe()
            case Beat():
                connection.beat()
            case Close():
                connection.close()
            case Abort():
                connection.abort()
            case Abandon():
                connection.abandon()

    def _open(self, effect: Open) -> None:
        last_proof = self.view().last_proof
        if last_proof is not None:
            self._proof_before = self.wall(last_proof)
        self._connection = Connection(self, effect.generation, resume=effect.resume)
        if effect.verify:
            self._connection.verify()
        else:
            self._connection.open()
            self._spawn(self._remember(), "remember")

    def _arm(self) -> None:
        deadline = self.supervisor.next_deadline()
        if self._timer is not None:
            # A later deadline needs no new timer: an early tick is harmless and arms the next.
            if deadline is not None and self._timer.when() <= deadline:
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(deadline, loop.time()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.post(Tick())

    # -- what connections need: gateway.connection.Host ----------------------------------------

    def new_http(self) -> HttpClient:
        """A client on a fresh pool."""
        return self._net.client()

    async def load_cursor(self) -> dict[str, Any]:
        """The stored position in the platform's stream. Raises StoreError."""
        return await self._store.cursor(self.name)

    async def accept(self, messages: tuple[Inbound, ...], cursor: Mapping[str, Any]) -> None:
        """Store messages and cursor durably, then let the lanes have what is new.

        A cancelled caller learns nothing, but what its call has stored is handled all the same:
        the platform's redelivery would be dropped as a duplicate.
        """
        intake = asyncio.create_task(self._take_in(messages, cursor), name=f"{self.name} intake")
        self._intakes.add(intake)
        intake.add_done_callback(self._intakes.discard)
        intake.add_done_callback(_look)
        await asyncio.shield(intake)

    async def _take_in(self, messages: tuple[Inbound, ...], cursor: Mapping[str, Any]) -> None:
        new = await self._store.receive(self.name, messages, cursor)
        if new:
            self.received += len(new)
            self.last_inbound = self._clock()
            self._on_received(self, new)

    def continued(self, continuity: Continuity) -> None:
        """A connection is ready; unless the platform replays, what it missed is a gap."""
        if continuity is Continuity.FRESH and not self.adapter.traits.replays:
            self.missed("a fresh login: the platform does not replay what was missed", None)

    def missed(self, reason: str, since: float | None) -> None:
        """Report a gap; without a former proof of life there is nothing to have missed."""
        since = self._proof_before if since is None else since
        if since is None:
            return
        self.last_gap = gap = Gap(since=since, until=self._clock(), reason=reason)
        log.warning(
            "gap account=%s since=%.3f until=%.3f reason=%r", self.name, since, gap.until, reason
        )
        self._spawn(self._store.add_gap(self.name, gap), "gap")

    def skipped(self, what: str, raw: bytes | str) -> None:
        """One message could not be understood: count it and keep a sample in the log."""
        self.skipped_frames += 1
        log.warning("skipped account=%s what=%r sample=%r", self.name, what, raw[:SAMPLE])

    # -- memory over restarts -----------------------------------------------------------------

    async def _recall(self) -> Memory | None:
        try:
            stored = await self._store.recall(self.name, "supervision")
        except StoreError as error:
            log.warning("no memory account=%s error=%s", self.name, error)
            return None
        if stored is None:
            return None
        old = msgspec.msgpack.decode(stored, type=_Remembered)
        away = max(0.0, self._clock() - old.saved_at)
        self._proof_before = old.proof_at
        return Memory(
            wait=max(0.0, old.wait - away),
            fresh_ages=tuple(age + away for age in old.fresh_ages),
            resumable=old.resumable,
        )

    async def _remember(self) -> None:
        now = asyncio.get_running_loop().time()
        memory = self.supervisor.memory(now)
        proof = self.supervisor.view(now).last_proof
        value = _Remembered(
            self._clock(),
            memory.wait,
            memory.fresh_ages,
            memory.resumable,
            self._proof_before if proof is None else self.wall(proof),
        )
        try:
            await self._store.remember(self.name, "supervision", msgspec.msgpack.encode(value))
        except StoreError as error:
            log.warning("memory not stored account=%s error=%s", self.name, error)

    def _spawn(self, work: Coroutine[Any, Any, None], what: str) -> None:
        task = asyncio.create_task(self._logged(work, what), name=f"{self.name} {what}")
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _logged(self, work: Coroutine[Any, Any, None], what: str) -> None:
        try:
            await work
        except StoreError as error:
            log.warning("%s not stored account=%s error=%s", what, self.name, error)


def _look(task: asyncio.Task[None]) -> None:
    """Its caller may have been cancelled; nobody else would look at the failure."""
    if not task.cancelled():
        task.exception()
