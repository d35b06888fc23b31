"""Public helpers for tests: a loop on virtual time, a journal without a disk.

`VirtualTimeLoop` polls real sockets, and only when nothing at all is left to do does it jump its
clock to the next timer. Hours of supervision then take seconds, with real servers on loopback.
"""

from __future__ import annotations

import asyncio
import itertools
import selectors
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from holdfast.errors import StoreError
from holdfast.messages import Gap, Inbound, Outbound, Receipt
from holdfast.store.protocol import (
    Depth,
    InboxState,
    OutboxState,
    Owed,
    Received,
    Transition,
)

T = TypeVar("T")

GRACE = 0.0005
"""Real seconds in which loopback data in flight may still arrive before the clock jumps."""

DEADLOCK = 20.0
"""Real seconds without a timer, a thread or a byte after which a test is declared stuck."""


class _JumpingSelector(selectors.DefaultSelector):
    loop: VirtualTimeLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        events = super().select(0)
        if events or (timeout is not None and timeout <= 0):
            return events
        if timeout is None or self.loop.threads_busy:
            # Only a byte or a worker thread can move us now: time stands still meanwhile.
            events = super().select(DEADLOCK)
            if not events and timeout is None:
                raise RuntimeError("virtual time is stuck: no timer, no thread, no byte is due")
            return events
        events = super().select(GRACE)
        if not events:
            self.loop.jump(timeout)
        return events


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while there is work and jumps when there is none.

    Work in ``run_in_executor`` threads holds the clock, so a commit never times out because a test
    machine was slow. ``max_jumps`` bounds a simulated loop that spins on a zero delay.
    """

    def __init__(self, *, start: float = 1_000.0, max_jumps: int = 500_000) -> None:
        self._virtual = start
        self._jumps_left = max_jumps
        self.threads_busy = 0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        """Virtual seconds."""
        return self._virtual

    def jump(self, seconds: float) -> None:
        """Move the clock; the selector does it when nothing is left to do."""
        self._jumps_left -= 1
        if self._jumps_left < 0:
            raise RuntimeError("too many jumps of virtual time: does something spin?")
        self._virtual += seconds

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        """As in asyncio; while the call runs, the clock stands still."""
        self.threads_busy += 1
        try:
            future: asyncio.Future[T] = super().run_in_executor(executor, func, *args)
        except BaseException:
            self.threads_busy -= 1
            raise
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, _: object) -> None:
        self.threads_busy -= 1


def run_virtual(main: Coroutine[Any, Any, T], *, start: float = 1_000.0) -> T:
    """Run a coroutine to its end on a fresh VirtualTimeLoop and close the loop cleanly."""
    with asyncio.Runner(loop_factory=lambda: VirtualTimeLoop(start=start)) as runner:
        return runner.run(main)


class MemoryStore:
    """A `holdfast.store.protocol.Store` without a disk, for tests of everything above it.

    ``fail`` makes every write raise StoreError until it is set back to None.
    """

    def __init__(self) -> None:
        self.fail: StoreError | None = None
        self.inbox: dict[int, Received] = {}
        self.outbox: dict[int, Owed] = {}
        self.duplicates = 0
        self._cursors: dict[str, dict[str, Any]] = {}
        self._memory: dict[tuple[str, str], bytes] = {}
        self._history: list[Transition] = []
        self._gaps: dict[str, list[Gap]] = {}
        self._rows = itertools.count(1)

    def _write(self) -> None:
        if self.fail is not None:
            raise self.fail

    async def receive(
        self, account: str, messages: Sequence[Inbound], cursor: Mapping[str, Any] | None
    ) -> list[Received]:
        """See `Store.receive`."""
        self._write()
        known = {(r.account, r.message.id) for r in self.inbox.values()}
        new: list[Received] = []
        for message in messages:
            if (account, message.id) in known:
                self.duplicates += 1
                continue
            known.add((account, message.id))
            row = Received(
                row=next(self._rows),
                account=account,
                message=message,
                state=InboxState.RECEIVED,
                attempts=0,
                received_at=time.time(),
            )
            self.inbox[row.row] = row
            new.append(row)
        if cursor is not None:
            self._cursors[account] = dict(cursor)
        return new

    async def cursor(self, account: str) -> dict[str, Any]:
        """See `Store.cursor`."""
        return dict(self._cursors.get(account, {}))

    async def unhandled(self, account: str) -> list[Received]:
        """See `Store.unhandled`."""
        waiting = (InboxState.RECEIVED, InboxState.HANDLING)
        return [r for r in self.inbox.values() if r.account == account and r.state in waiting]

    async def begin(self, row: int) -> int:
        """See `Store.begin`."""
        self._write()
        old = self.inbox[row]
        self.inbox[row] = replace(old, state=InboxState.HANDLING, attempts=old.attempts + 1)
        return old.attempts + 1

    async def release(self, row: int) -> None:
        """See `Store.release`."""
        self._write()
        old = self.inbox[row]
        if old.state is InboxState.HANDLING:
            attempts = max(0, old.attempts - 1)
            self.inbox[row] = replace(old, state=InboxState.RECEIVED, attempts=attempts)

    async def finish(self, row: int, owed: Sequence[Outbound]) -> list[Owed]:
        """See `Store.finish`."""
        self._write()
        self.inbox[row] = replace(self.inbox[row], state=InboxState.DONE)
        return await self.post(self.inbox[row].account, owed)

    async def bury(self, row: int, reason: str) -> None:
        """See `Store.bury`."""
        self._write()
        self.inbox[row] = replace(self.inbox[row], state=InboxState.DEAD, reason=reason)

    async def post(self, account: str, owed: Sequence[Outbound]) -> list[Owed]:
        """See `Store.post`."""
        self._write()
        rows: list[Owed] = []
        for message in owed:
            known = [
                o
                for o in self.outbox.values()
                if o.account == account and o.message.key == message.key
            ]
            row = (
                known[0]
                if known
                else Owed(
                    row=next(self._rows),
                    account=account,
                    message=message,
                    state=OutboxState.OWED,
                    attempts=0,
                    not_before=0.0,
                    created_at=time.time(),
                )
            )
            self.outbox[row.row] = row
            rows.append(row)
        return rows

    async def owed(self, account: str) -> list[Owed]:
        """See `Store.owed`."""
        waiting = (OutboxState.OWED, OutboxState.SENDING)
        return [o for o in self.outbox.values() if o.account == account and o.state in waiting]

    async def sending(self, row: int) -> None:
        """See `Store.sending`."""
        old = self.outbox[row]
        self._change(row, state=OutboxState.SENDING, attempts=old.attempts + 1)

    async def sent(self, row: int, receipt: Receipt) -> None:
        """See `Store.sent`."""
        self._change(row, state=OutboxState.SENT, receipt=receipt.id)

    async def postpone(
        self, row: int, not_before: float, reason: str, *, maybe_doubled: bool = False
    ) -> None:
        """See `Store.postpone`."""
        doubled = maybe_doubled or self.outbox[row].maybe_doubled
        self._change(
            row,
            state=OutboxState.OWED,
            not_before=not_before,
            reason=reason,
            maybe_doubled=doubled,
        )

    async def hold(self, row: int, reason: str) -> None:
        """See `Store.hold`."""
        self._change(row, state=OutboxState.AMBIGUOUS, reason=reason)

    async def refuse(self, row: int, reason: str) -> None:
        """See `Store.refuse`."""
        self._change(row, state=OutboxState.DEAD, reason=reason)

    def _change(self, row: int, **changes: Any) -> None:
        self._write()
        self.outbox[row] = replace(self.outbox[row], **changes)

    async def record(self, transition: Transition) -> None:
        """See `Store.record`."""
        self._write()
        self._history.append(transition)

    async def history(self, account: str | None = None, limit: int = 100) -> list[Transition]:
        """See `Store.history`."""
        return [t for t in self._history if account in (None, t.account)][-limit:]

    async def add_gap(self, account: str, gap: Gap) -> None:
        """See `Store.add_gap`."""
        self._write()
        self._gaps.setdefault(account, []).append(gap)

    async def gaps(self, account: str, limit: int = 20) -> list[Gap]:
        """See `Store.gaps`."""
        return self._gaps.get(account, [])[-limit:]

    async def remember(self, account: str, key: str, value: bytes) -> None:
        """See `Store.remember`."""
        self._write()
        self._memory[account, key] = value

    async def recall(self, account: str, key: str) -> bytes | None:
        """See `Store.recall`."""
        return self._memory.get((account, key))

    async def prune(self, older_than: float = 86_400.0) -> int:
        """See `Store.prune`; a test's journal forgets nothing."""
        return 0

    async def depth(self, account: str) -> Depth:
        """See `Store.depth`."""
        inbox = [r.state for r in self.inbox.values() if r.account == account]
        outbox = [o.state for o in self.outbox.values() if o.account == account]
        return Depth(
            inbox=sum(s in (InboxState.RECEIVED, InboxState.HANDLING) for s in inbox),
            outbox=sum(s in (OutboxState.OWED, OutboxState.SENDING) for s in outbox),
            ambiguous=sum(s is OutboxState.AMBIGUOUS for s in outbox),
            dead=sum(s is InboxState.DEAD for s in inbox)
            + sum(s is OutboxState.DEAD for s in outbox),
        )

    async def close(self) -> None:
        """See `Store.close`."""
