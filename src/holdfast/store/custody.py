"""A journal's file in use: who holds it, the threads that touch it, and what trouble makes of it.

Nothing here waits for the disk on the event loop.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from holdfast.errors import StoreError
from holdfast.store.aside import Watch
from holdfast.store.known import Known
from holdfast.store.opening import Lock, Note, Place, prepare
from holdfast.store.protocol import Box
from holdfast.store.renewing import Working, renew
from holdfast.store.troubles import slow, trouble
from holdfast.store.writer import Counters, GroupWriter, Hooks, Operation, Reader

log = logging.getLogger("holdfast.journal")

T = TypeVar("T")


class Custody:
    """The file of a journal between `open` and `close`. For one event loop."""

    def __init__(self, place: Place, clock: Callable[[], float]) -> None:
        self.place = place
        self.counters = Counters()
        self.known = {box: Known(box) for box in Box}
        self.working = Working()
        self.on_renewed: Callable[[], Awaitable[None]] | None = None
        """Called after a damaged journal was set aside in the middle of a run."""
        self._clock = clock
        hooks = Hooks(damaged=self._damaged, undone=self._undone, committed=self._committed)
        self.writer = GroupWriter(place, self.counters, hooks)
        self._reader = Reader(place, hooks)
        self._watch = Watch(place.path)
        self._lock: Lock | None = None
        self._loop = asyncio.get_running_loop()
        self._readable = asyncio.Event()
        self._readable.set()
        self._renewing: asyncio.Task[None] | None = None
        self._closing = False

    # -- opening and closing ----------------------------------------------------------------------

    async def open(self) -> None:
        """Take the lock and make the file ready. Raises StoreError. Cancelling is safe."""
        preparing = self._loop.run_in_executor(self.writer.executor, self._prepare)
        try:
            self._lock = await asyncio.shield(preparing)
        except BaseException:
            # The thread can not be interrupted: wait for what it takes, then give it back.
            with suppress(StoreError):
                lock = await preparing
                await self.writer.stop()
                lock.forget(Note.OPEN)
                lock.release()
            self.writer.executor.shutdown()
            self._reader.executor.shutdown()
            raise

    def _prepare(self) -> Lock:
        lock = prepare(self.place)
        try:
            self._take_up(lock)
        except (OSError, sqlite3.Error) as error:
            self.writer.drop()
            lock.release()
            raise trouble(error, self.place.path) from error
        return lock

    def _take_up(self, lock: Lock) -> None:
        # From now on the log exists, for as long as the note does: see `opening.loss_of`.
        self.writer.connection()
        lock.note(Note.OPEN)
        self._watch.look()

    async def close(self) -> None:
        """Commit what was accepted, end the threads, and let others in. Not to be cancelled."""
        self._closing = True
        self.writer.hurry()
        if self._renewing is not None:
            await asyncio.wait([self._renewing])
        await self.writer.drain()
        # The last connection to close folds the log into the main file: that is a writer's work.
        await self._reader.stop()
        await self.writer.stop(self._release)

    def _release(self) -> None:
        assert self._lock is not None
        with suppress(OSError):
            if not self.place.log.exists():
                self._lock.forget(Note.OPEN)
        self._lock.release()

    # -- use --------------------------------------------------------------------------------------

    def write(self, operation: Operation[T]) -> asyncio.Future[T]:
        """See `GroupWriter.submit`."""
        return self.writer.submit(operation)

    async def read(self, question: Operation[T]) -> T:
        """See `Reader.ask`."""
        await self._readable.wait()
        return await self._reader.ask(question)

    @property
    def loss(self) -> str:
        """What of an older journal was missing when this one was opened; empty when nothing."""
        return "" if self._lock is None else self._lock.loss

    @property
    def last_used(self) -> float:
        """Unix seconds at which the run before this one began to use it; 0 for never."""
        return 0.0 if self._lock is None else self._lock.last_used

    @property
    def notice(self) -> str:
        """See `Store.notice`."""
        failed = self.counters.last_error if self.counters.failing else None
        if failed := failed or self._reader.trouble:
            return f"{failed.code}: {failed}"
        if seconds := self.writer.pace.slow():
            late = slow(self.place.path, seconds)
            return f"{late.code}: {late}"
        return self._watch.notice or self.loss

    # -- what the threads say ---------------------------------------------------------------------

    def _undone(self) -> None:
        for known in self.known.values():
            known.reset()

    def _committed(self) -> None:
        with suppress(OSError):
            self._watch.look()

    def _damaged(self) -> None:
        """A call met damage: if nothing comes of it now, the next start looks at the whole file."""
        with suppress(OSError):
            if self._lock is not None:
                self._lock.note(Note.DAMAGED)
        with suppress(RuntimeError):  # the loop is closed, and so is the gateway
            self._loop.call_soon_threadsafe(self._begin_renewing)

    # -- damage in the middle of a run ------------------------------------------------------------

    def _begin_renewing(self) -> None:
        if self._renewing is None and not self._closing:
            self._renewing = asyncio.create_task(self._renew(), name="journal-renew")

    async def _renew(self) -> None:
        """Go on with a new journal if this one is damaged. Commits and questions wait meanwhile."""
        self._readable.clear()
        try:
            await self._loop.run_in_executor(self._reader.executor, self._reader.leave)
            aside = await self._loop.run_in_executor(self.writer.executor, self._replace)
            self._readable.set()
            if aside is not None and self.on_renewed is not None:
                await self.on_renewed()
        except StoreError as error:
            log.error("journal not replaced error=%s", error)
        finally:
            self._readable.set()
            self._renewing = None

    def _replace(self) -> Path | None:
        assert self._lock is not None
        self.writer.leave()
        try:
            aside = renew(self.place, self._lock, self.working, self._clock())
            self._take_up(self._lock)
        except (sqlite3.Error, OSError) as error:
            raise trouble(error, self.place.path) from error
        finally:
            self._undone()
        return aside
