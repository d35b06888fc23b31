"""The two threads of a journal: one that writes in groups, one that reads.

SQLite makes a commit durable with one fsync, whatever the number of rows in it. So while one
commit is on its way everything that arrives is collected, and the next commit takes it all. There
is no waiting window: an idle journal commits a lone write at once, a busy one batches by itself.
"""

from __future__ import annotations

import asyncio
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

Operation = Callable[[sqlite3.Connection], T]
"""Statements that belong together. It may raise; then none of them happened."""


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


class Worker:
    """One thread with one connection, which is opened again after any trouble."""

    def __init__(
        self, place: Place, on_damage: Callable[[], None], *, read_only: bool = False
    ) -> None:
        """``on_damage`` is called, in the thread, when the file turns out to be damaged."""
        self.place = place
        self._on_damage = on_damage
        self.executor = ThreadPoolExecutor(
            1, thread_name_prefix="journal-reader" if read_only else "journal-writer"
        )
        self._read_only = read_only
        self._connection: sqlite3.Connection | None = None
        self._identity: tuple[int, int] | None = None

    def connection(self) -> sqlite3.Connection:
        """The open connection. Only for the own thread. Raises OSError, StoreError, sqlite3.Error.

        A file that was removed or replaced under us would take writes that nobody ever reads.
        """
        found = self.place.path.stat()
        identity = (found.st_dev, found.st_ino)
        if self._identity not in (None, identity):
            raise StoreError(
                "store_io",
                f"journal {self.place.path} was replaced by another file while in use",
                "put the old file back, or restart the gateway to use the new one",
            )
        if self._connection is None:
            self._connection = connect(self.place, read_only=self._read_only)
            self._identity = identity
        return self._connection

    def failed(self, error: Exception) -> None:
        """Give the connection up after trouble."""
        self.drop()
        if is_damage(error):
            self._on_damage()

    def drop(self) -> None:
        """Close the connection, which rolls back; the next use opens it again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def stop(self) -> None:
        """Close the connection and end the thread."""
        await asyncio.get_running_loop().run_in_executor(self.executor, self.drop)
        self.executor.shutdown()


class Reader(Worker):
    """Answers questions from what is committed, without holding up the writer."""

    def __init__(self, place: Place, on_damage: Callable[[], None]) -> None:
        super().__init__(place, on_damage, read_only=True)

    async def ask(self, question: Operation[T]) -> T:
        """Run ``question`` in the thread. Raises StoreError. Cancelling is safe."""
        return await asyncio.get_running_loop().run_in_executor(self.executor, self._ask, question)

    def _ask(self, question: Operation[T]) -> T:
        try:
            return question(self.connection())
        except (sqlite3.Error, OSError) as error:
            self.failed(error)
            raise trouble(error, self.place.path) from error


@dataclass(frozen=True, slots=True)
class _Write:
    operation: Operation[Any]
    caller: asyncio.Future[Any]


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

    def __init__(self, place: Place, counters: Counters, on_damage: Callable[[], None]) -> None:
        super().__init__(place, on_damage)
        self._counters = counters
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
        caller: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._pending.append(_Write(operation, caller))
        if self._batch is None:
            self._begin()
        return caller

    async def drain(self) -> None:
        """Wait until everything submitted so far is committed or has failed."""
        while self._batch is not None:
            await asyncio.wait([self._batch])

    def _begin(self) -> None:
        writes = [write for write in self._pending if not write.caller.cancelled()]
        self._pending.clear()
        if not writes:
            self._batch = None
            return
        self._batch = asyncio.get_running_loop().run_in_executor(
            self.executor, self._commit, [write.operation for write in writes]
        )
        self._batch.add_done_callback(partial(self._settle, writes))

    def _settle(self, writes: list[_Write], batch: asyncio.Future[_Outcome]) -> None:
        # The next commit is under way while the callers of this one are being woken.
        self._begin()
        outcome = batch.result()
        self._count(outcome)
        for write, result in zip(writes, outcome.results, strict=True):
            if write.caller.cancelled():
                continue
            if isinstance(result, Exception):
                write.caller.set_exception(result)
            else:
                write.caller.set_result(result)

    def _count(self, outcome: _Outcome) -> None:
        self._counters.failing = not outcome.committed
        if outcome.committed:
            self._counters.commits += 1
            self._counters.writes += sum(not isinstance(r, Exception) for r in outcome.results)
        else:
            self._counters.failures += 1
            self._counters.last_error = outcome.results[0]

    # -- in the thread ----------------------------------------------------------------------------

    def _commit(self, operations: list[Operation[Any]]) -> _Outcome:
        try:
            connection = self.connection()
            self._lock(connection)
            results = [self._attempt(connection, operation) for operation in operations]
            connection.execute("COMMIT")
        except Exception as error:
            self.failed(error)
            # Each caller gets an exception of its own: raising one adds to its traceback.
            return _Outcome(False, [trouble(error, self.place.path) for _ in operations])
        return _Outcome(True, results)

    def _lock(self, connection: sqlite3.Connection) -> None:
        """Begin to write, when no other program does. Raises sqlite3.Error."""
        patience = self.place.busy_timeout
        connection.execute(f"PRAGMA busy_timeout = {int(min(patience, LOCK_SLICE) * 1000)}")
        deadline = time.monotonic() + patience
        while True:
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                is_busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not is_busy or time.monotonic() >= min(deadline, self._last_moment):
                    raise
            else:
                return

    def _attempt(self, connection: sqlite3.Connection, operation: Operation[Any]) -> Any:
        connection.execute("SAVEPOINT operation")
        try:
            result = operation(connection)
        except Exception as error:
            if is_trouble(error):
                raise
            connection.execute("ROLLBACK TO operation")
            result = trouble(error, self.place.path) if isinstance(error, sqlite3.Error) else error
        connection.execute("RELEASE operation")
        return result
