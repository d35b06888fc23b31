"""The two threads of a journal: one that writes in groups, one that reads.

SQLite makes a commit durable with one fsync, whatever the number of rows in it. So while one
commit is on its way everything that arrives is collected, and the next commit takes it all. No
clock is waited for: an idle journal commits a lone write at once, a busy one batches by itself.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from holdfast.errors import StoreError
from holdfast.store.opening import Place, connect
from holdfast.store.troubles import is_damage, is_trouble, trouble

T = TypeVar("T")

LOCK_SLICE = 0.1
"""Seconds of SQLite's own wait for a lock, which nothing can interrupt; longer waits repeat it."""

CLOSE_PATIENCE = 0.5
"""Seconds a closing journal still waits for another program's lock: a gateway stops within 5 s."""

TURNS = 6
"""Turns of the event loop between the end of a commit and the next: what those it has woken write
then, as a connection its next frames and a handler its answer, shares that one, and does not wait
for the one after it. More turns than six find nothing more."""

SLOW = 1.0
"""Seconds of a write from which on it is told: a third of what the most impatient platforms (Slack,
Feishu) wait for an acknowledgement."""

SLOW_TOLD = 60.0
"""Seconds for which the newest write, when it was slow, stands for the disk as it is now; and the
newest question, when it failed."""

Operation = Callable[[sqlite3.Connection], T]
"""Statements that belong together. It may raise; then none of them happened. It may be called
again when something of its group was undone."""


@dataclass(slots=True)
class Counters:
    """What the journal did since it was opened, for metrics and status."""

    commits: int = 0
    """Transactions made durable; each costs one fsync."""
    writes: int = 0
    """Calls that succeeded in them."""
    duplicates: int = 0
    """Inbound messages dropped because their id was known."""
    failures: int = 0
    """Commits that failed."""
    failing: bool = False
    """The newest commit failed."""
    last_error: StoreError | None = None
    """Why the newest of the failed commits failed."""


class Pace:
    """How long the disk takes for a write; one thread writes, all may ask.

    A lock that another program holds, and what waits in the queue, are not the disk's.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """``clock`` gives seconds that never jump."""
        self._clock = clock
        self._began: float | None = None
        self._newest = (0.0, 0.0)

    def begin(self) -> None:
        """A write is on its way."""
        self._began = self._clock()

    def end(self) -> None:
        """It has succeeded or failed."""
        if self._began is not None:
            now = self._clock()
            self._newest = (now, now - self._began)
            self._began = None

    def slow(self) -> float:
        """Seconds that the write on its way, or else the newest, takes; 0 when that is quick."""
        now, began, (ended, took) = self._clock(), self._began, self._newest
        if began is not None and now - began >= SLOW:
            return now - began
        return took if took >= SLOW and now - ended < SLOW_TOLD else 0.0


def _nothing() -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What a journal wants to hear of, in the thread in which it happens."""

    damaged: Callable[[], None] = _nothing
    """The file turned out to be damaged."""
    undone: Callable[[], None] = _nothing
    """A group of operations was undone after it had begun."""
    committed: Callable[[], None] = _nothing
    """A group was committed."""


class Worker:
    """One thread with one connection, which is opened again after any trouble."""

    def __init__(self, place: Place, hooks: Hooks, *, read_only: bool = False) -> None:
        self.place = place
        self.hooks = hooks
        self.executor = ThreadPoolExecutor(
            1, thread_name_prefix="journal-reader" if read_only else "journal-writer"
        )
        self._read_only = read_only
        self._name = os.fspath(place.path)
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None

    def connection(self) -> sqlite3.Connection:
        """The open connection. Only for the own thread. Raises OSError, StoreError, sqlite3.Error.

        A file that was removed or replaced under us would take writes that nobody ever reads.
        """
        found = os.stat(self._name)  # noqa: PTH116 - at each commit: half the cost of Path.stat
        identity = (found.st_dev, found.st_ino)
        if self._identity not in (None, identity):
            raise StoreError(
                "store_io",
                f"journal {self.place.path} was replaced by another file while in use",
                "put the old file back, or restart the gateway to use the new one",
            )
        if self._connection is None:
            self._connection = self._connect()
            self._identity = identity
        return self._connection

    def _connect(self) -> sqlite3.Connection:
        return connect(self.place, read_only=self._read_only)

    def failed(self, error: Exception) -> None:
        """Give the connection up, and with it what was not committed, after trouble."""
        self.drop()
        if is_damage(error):
            self.hooks.damaged()

    def leave(self) -> None:
        """Close the connection; the next use takes the file that is there then."""
        self.drop()
        self._identity = None

    def drop(self) -> None:
        """Close the connection, which rolls back; the next use opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def stop(self, last: Callable[[], None] = _nothing) -> None:
        """Close the connection, call ``last`` in the thread, and end it."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self.executor, self.drop)
        await loop.run_in_executor(self.executor, last)
        self.executor.shutdown()


class Reader(Worker):
    """Answers questions from what is committed, without holding up the writer."""

    def __init__(self, place: Place, hooks: Hooks) -> None:
        super().__init__(place, hooks, read_only=True)
        self.clock: Callable[[], float] = time.monotonic
        self._newest: tuple[float, StoreError] | None = None
        """When and why the newest question failed."""

    @property
    def trouble(self) -> StoreError | None:
        """Why the newest question failed. For a minute: it may be long until the next one."""
        newest = self._newest  # the thread may set it meanwhile
        return newest[1] if newest and self.clock() - newest[0] < SLOW_TOLD else None

    async def ask(self, question: Operation[T]) -> T:
        """Run ``question`` in the thread. Raises StoreError. Cancelling is safe."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, self._ask, question)

    def _ask(self, question: Operation[T]) -> T:
        try:
            answer = question(self.connection())
        except (sqlite3.Error, OSError) as error:
            self.failed(error)
            self._newest = self.clock(), trouble(error, self.place.path)
            raise trouble(error, self.place.path) from error
        self._newest = None
        return answer


_Write = tuple[Operation[Any], asyncio.Future[Any]]
"""An operation, and who waits for it."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of a batch: a value or an exception for each of its operations."""

    committed: bool
    results: list[Any]


class GroupWriter(Worker):
    """Commits operations in groups; each caller hears of its own after the commit.

    An operation that fails by itself is undone alone. Trouble with the file fails the whole group,
    with a StoreError for each caller, and the next group begins on a fresh connection.
    """

    def __init__(self, place: Place, counters: Counters, hooks: Hooks) -> None:
        super().__init__(place, hooks)
        self.pace = Pace()
        self._counters = counters
        self._loop = asyncio.get_running_loop()
        self._pending: list[_Write] = []
        self._batch: asyncio.Future[_Outcome] | None = None
        self._last_moment = float("inf")

    def hurry(self) -> None:
        """The journal is being closed: wait no longer than `CLOSE_PATIENCE` for a lock."""
        self._last_moment = time.monotonic() + CLOSE_PATIENCE

    def submit(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Queue an operation for the next commit.

        Cancelling the future before its commit begins takes the operation back; later it only
        stops waiting: the write may still be committed. Neighbours notice neither.
        """
        caller: asyncio.Future[T] = self._loop.create_future()
        self._pending.append((operation, caller))
        if self._batch is None:
            self._begin()
        return caller

    async def drain(self) -> None:
        """Wait until everything submitted so far is committed or has failed."""
        while self._batch is not None:
            await asyncio.wait([self._batch])

    def _begin(self) -> None:
        writes = [(work, caller) for work, caller in self._pending if not caller.cancelled()]
        self._pending.clear()
        if not writes:
            self._batch = None
            return
        self._batch = self._loop.run_in_executor(
            self.executor, self._commit, [operation for operation, _ in writes]
        )
        self._batch.add_done_callback(partial(self._settle, writes))

    def _settle(self, writes: list[_Write], batch: asyncio.Future[_Outcome]) -> None:
        outcome = batch.result()
        self._count(outcome)
        for (_, caller), result in zip(writes, outcome.results, strict=True):
            if caller.cancelled():
                continue
            if isinstance(result, Exception):
                caller.set_exception(result)
            else:
                caller.set_result(result)
        self._begin_after(TURNS)

    def _begin_after(self, turns: int) -> None:
        """Let the event loop do so many turns, then begin the next commit."""
        if turns:
            self._loop.call_soon(self._begin_after, turns - 1)
        else:
            self._begin()

    def _count(self, outcome: _Outcome) -> None:
        self._counters.failing = not outcome.committed
        if outcome.committed:
            self._counters.commits += 1
            self._counters.writes += sum(not isinstance(r, Exception) for r in outcome.results)
        else:
            self._counters.failures += 1
            self._counters.last_error = outcome.results[0]

    # -- in the thread ----------------------------------------------------------------------------

    def _connect(self) -> sqlite3.Connection:
        connection = super()._connect()
        wait = min(self.place.busy_timeout, LOCK_SLICE)
        connection.execute(f"PRAGMA busy_timeout = {int(wait * 1000)}")
        return connection

    def _commit(self, operations: list[Operation[Any]]) -> _Outcome:
        try:
            connection = self.connection()
            self._lock(connection)
            self.pace.begin()
            results = self._together(connection, operations)
            if results is None:
                connection.execute("ROLLBACK")
                self.hooks.undone()
                self._lock(connection)
                results = [self._apart(connection, operation) for operation in operations]
            connection.execute("COMMIT")
        except Exception as error:
            self.failed(error)
            self.hooks.undone()
            # Each caller gets an exception of its own: raising one adds to its traceback.
            return _Outcome(False, [trouble(error, self.place.path) for _ in operations])
        finally:
            self.pace.end()
        self.hooks.committed()
        return _Outcome(True, results)

    def _lock(self, connection: sqlite3.Connection) -> None:
        """Begin to write, when no other program does. Raises sqlite3.Error."""
        deadline = time.monotonic() + self.place.busy_timeout
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() >= min(deadline, self._last_moment):
                    raise
            else:
                return

    def _together(
        self, connection: sqlite3.Connection, operations: list[Operation[Any]]
    ) -> list[Any] | None:
        """The results of a group; None when an operation failed after it had changed something."""
        results = []
        for operation in operations:
            changes = connection.total_changes
            try:
                results.append(operation(connection))
            except Exception as error:
                if is_trouble(error):
                    raise
                if connection.total_changes != changes:
                    return None
                results.append(self._own(error))
        return results

    def _apart(self, connection: sqlite3.Connection, operation: Operation[Any]) -> Any:
        """The result of an operation, which is undone alone when it fails."""
        connection.execute("SAVEPOINT operation")
        try:
            result = operation(connection)
        except Exception as error:
            if is_trouble(error):
                raise
            connection.execute("ROLLBACK TO operation")
            result = self._own(error)
        connection.execute("RELEASE operation")
        return result

    def _own(self, error: Exception) -> Exception:
        """What the caller of a failed operation gets."""
        # A text that is no valid Unicode fails before SQLite sees it.
        refused = isinstance(error, (sqlite3.Error, UnicodeError, OverflowError))
        return trouble(error, self.place.path) if refused else error
