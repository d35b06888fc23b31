"""The history of a gateway: its incidents, uptimes and operators' actions, kept over restarts.

In a SQLite file of its own, so that looking back never makes a message wait: the journal's writer
does not see any of it. What can not be written is told once and kept in memory, bounded; no trouble
with this file ever hinders an account. A kill loses at most `TICK` seconds of incidents and
actions, and `COUNT_EVERY` seconds of uptime, which are then told as not known.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from holdfast.errors import StoreError
from holdfast.observe.history_file import LIMIT, HistoryFile, begun, open_file
from holdfast.observe.incidents import SIZES, UNSEEN, Action, Batch, Chronicle, Incident, Spent
from holdfast.supervision import Report
from holdfast.threads import DAEMONS

__all__ = ["FILE_NAME", "SIZES", "Action", "History", "Incident", "Uptime"]

log = logging.getLogger("holdfast.history")

T = TypeVar("T")

FILE_NAME = "history.db"

TICK = UNSEEN / 3
"""Seconds between two writes of what is new."""

COUNT_EVERY = 60.0
"""Seconds between two writes of the counted uptimes, two rows an account."""

PRUNE_EVERY = 3_600.0
"""Seconds between two removals of what is too old."""


class Uptime(msgspec.Struct, frozen=True, kw_only=True):
    """How an account was in a piece of time; what is missing to ``size`` is not known."""

    start: int
    """Unix seconds, a multiple of ``size``."""
    size: int
    """Seconds: 60 or 3600."""
    up: float
    """Seconds connected."""
    down: float
    """Seconds wanted and not connected."""
    off: float
    """Seconds paused, or stopped on purpose."""


@dataclass(frozen=True, slots=True)
class _Write:
    """A batch on its way to the file."""

    batch: Batch
    done: asyncio.Future[None]


class History:
    """The one writer and reader of a history file. Being asked writes no uptimes.

    `report` and `act` only note and never fail; the rest raises StoreError when the file does not
    answer. Cancelling any call is safe.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        self.path = path
        self.trouble = ""
        """Why the file can not be written; empty when all is well."""
        self._lasting = ""
        """What stays so until the next start."""
        self._clock = clock
        self._chronicle = Chronicle()
        self._file: HistoryFile | None = None
        self._task: asyncio.Task[None] | None = None
        self._writing = asyncio.Lock()
        self._under_way: _Write | None = None

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> None:
        """Open the file and begin to write. Never raises for a file that can not be used.

        A damaged one is renamed; where none can be made, the history is in memory only.
        """
        self._file, number = await self._open()
        self._chronicle = Chronicle(number)
        self._task = asyncio.create_task(self._run(), name="history")

    async def stop(self) -> None:
        """Write what is new and close the file. Idempotent."""
        if self._task is not None:
            task, self._task = self._task, None
            task.cancel()
            await asyncio.wait([task])
            await self._write(everything=True)
        if self._file is not None:
            file, self._file = self._file, None
            with contextlib.suppress(StoreError):
                await _in_time(file.close)

    async def _open(self) -> tuple[HistoryFile, int]:
        now = self._clock()
        try:
            return await _in_time(lambda: open_file(self.path, now))
        except StoreError as error:
            self.trouble = self._lasting = f"kept in memory only: {error}"
            log.error("history is %s", self.trouble)
            return await _in_time(lambda: begun(":memory:"))

    # -- noting -------------------------------------------------------------------------------

    def report(self, account: str, report: Report) -> None:
        """An account reports; fits `Gateway.listeners`."""
        self._chronicle.report(account, report, self._clock())

    def act(self, action: Action) -> None:
        """Somebody asked for something."""
        self._chronicle.act(action)

    # -- looking ------------------------------------------------------------------------------

    async def incidents(
        self, account: str | None = None, *, since: float = 0.0, limit: int = 100
    ) -> list[Incident]:
        """The newest incidents that lasted at ``since`` (Unix seconds) or began after, newest last.

        Raises StoreError.
        """
        await self._news()
        return await self._call(lambda file: file.incidents(account, since, limit))

    async def uptime(self, account: str, size: int, count: int) -> list[Uptime]:
        """The last ``count`` pieces of ``size`` seconds (one of `SIZES`), the running one last.

        A piece of which nothing is known is there with zeros. Raises StoreError.
        """
        async with self._writing:  # or what is written meanwhile would be told twice
            await self._written()
            now = self._clock()
            newest = int(now // size) * size
            starts = range(newest - (count - 1) * size, newest + 1, size)
            counted = self._chronicle.counted(account, size, starts, now)
            found = await self._call(lambda file: file.uptime(account, size, starts.start))
        for start, spent in counted.items():
            found.setdefault(start, Spent()).add(spent)
        return [_uptime(start, size, found.get(start, Spent())) for start in starts]

    async def actions(self, limit: int = 100) -> list[Action]:
        """The newest actions, the newest last. Raises StoreError."""
        await self._news()
        return await self._call(lambda file: file.actions(limit))

    # -- writing ------------------------------------------------------------------------------

    async def _run(self) -> None:
        counted = pruned = self._clock()
        while True:
            await asyncio.sleep(TICK)
            now = self._clock()
            everything = abs(now - counted) >= COUNT_EVERY
            counted = now if everything else counted
            await self._write(everything=everything)
            if abs(now - pruned) >= PRUNE_EVERY:
                pruned = now
                with contextlib.suppress(StoreError):
                    await self._call(partial(HistoryFile.prune, now=now))

    async def _write(self, everything: bool = False) -> None:
        """Write what is new; ``everything`` is also the uptimes, which are many rows.

        One write at a time, and what became of each is known before the next: nothing is written
        twice, whatever is cancelled or takes too long.
        """
        async with self._writing:
            if self._under_way is None:
                self._under_way = self._begin(self._opened(), everything)
            await self._written()

    async def _news(self) -> None:
        """Write the incidents and actions that somebody asks for, if there are new ones."""
        if self._chronicle.has_news or self._under_way is not None:
            await self._write()

    async def _written(self) -> None:
        """Wait for the write that is under way, if any, and look what became of it."""
        if self._under_way is not None:
            await asyncio.wait([self._under_way.done], timeout=LIMIT)
            self._settle(self._under_way)

    def _begin(self, file: HistoryFile, everything: bool) -> _Write:
        now = self._clock()
        self._chronicle.look(now)
        batch = self._chronicle.take(everything)
        loop = asyncio.get_running_loop()
        return _Write(batch, loop.run_in_executor(DAEMONS, file.write, batch, now))

    def _settle(self, write: _Write) -> None:
        if not write.done.done():
            self._tell(f"nothing was written within {LIMIT:g} s")
            return
        self._under_way = None
        error = write.done.exception()
        if error is None:
            self.trouble = self._lasting
        else:
            self._chronicle.put_back(write.batch)
            self._tell(str(error))

    def _tell(self, trouble: str) -> None:
        if not self.trouble:
            log.error("history not written: %s", trouble)
        self.trouble = trouble

    async def _call(self, work: Callable[[HistoryFile], T]) -> T:
        file = self._opened()
        return await _in_time(lambda: work(file))

    def _opened(self) -> HistoryFile:
        if self._file is None:
            raise StoreError("history_closed", "the history is not open")
        return self._file


async def _in_time(work: Callable[[], T]) -> T:
    """Run a call on the file in a thread. Raises StoreError."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(LIMIT):
            return await loop.run_in_executor(DAEMONS, work)
    except TimeoutError:
        raise StoreError("history_slow", f"the history did not answer within {LIMIT:g} s") from None
    except (sqlite3.Error, msgspec.DecodeError, OSError) as error:
        raise StoreError(
            "history_broken",
            f"the history can not be used: {error}",
            "free some space, or mend the permissions of the state directory",
        ) from error


def _uptime(start: int, size: int, spent: Spent) -> Uptime:
    return Uptime(start=start, size=size, up=spent.up, down=spent.down, off=spent.off)
