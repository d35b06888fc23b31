"""Keeps the status file true: at once on every transition, and often enough to prove life."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

from holdfast.observe import status
from holdfast.threads import DAEMONS

log = logging.getLogger("holdfast.status")

PERIOD = 2.0
"""Seconds between writes when nothing happens; a fifth of the document's time to live."""

WRITE_LIMIT = 5.0
"""Seconds after which a write on a hanging disk counts as failed; the next one waits for it."""

LAST_LIMIT = 1.0
"""Seconds a stop has for the write on its way and the last one together: a gateway stops within
5 s, of which its accounts may need most."""


class StatusWriter:
    """The one writer of the status file. A failing write disturbs nothing but its own counter."""

    def __init__(
        self, path: Path, compose: Callable[[], status.Status], *, period: float = PERIOD
    ) -> None:
        self.path, self.period = path, period
        self.writes = self.failures = 0
        self._compose = compose
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._under_way: asyncio.Future[None] | None = None
        """A write that has not returned."""
        self._failing = self._stopping = False

    def start(self) -> None:
        """Begin to write."""
        self._task = asyncio.create_task(self._run(), name="status writer")

    def changed(self) -> None:
        """A transition happened: write soon. Several in one turn of the loop are one write."""
        self._changed.set()

    async def stop(self) -> None:
        """Write the last state and end, within `LAST_LIMIT`; a hanging disk keeps the old one."""
        self._stopping = True
        self._changed.set()
        try:
            async with asyncio.timeout(LAST_LIMIT):
                if self._task is not None:
                    await asyncio.wait([self._task])
                await self._write()
        except TimeoutError:
            log.warning("last status not written path=%s limit=%.1f", self.path, LAST_LIMIT)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self._under_way is not None:
            self._under_way.cancel()  # nobody asks any more what became of it

    async def _run(self) -> None:
        while not self._stopping:
            await self._write()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.period):
                    await self._changed.wait()

    async def _write(self) -> None:
        self._changed.clear()
        try:
            if self._under_way is not None:
                await self._settled(self._under_way)  # whatever became of it, it is outdated
            document = self._compose()
            loop = asyncio.get_running_loop()
            write = loop.run_in_executor(DAEMONS, status.write, self.path, document)
            await self._settled(write)
            write.result()
        except Exception as error:  # a defect must not end the writing, nor hinder a stop
            self.failures += 1
            if not self._failing:
                log.warning("status file not written path=%s error=%r", self.path, error)
            self._failing = True
        else:
            self.writes += 1
            self._failing = False

    async def _settled(self, write: asyncio.Future[None]) -> None:
        """Wait until a write is done, well or not. Until then no other one is begun: each that
        hangs costs a thread. Raises TimeoutError."""
        self._under_way = write
        done, _ = await asyncio.wait([write], timeout=WRITE_LIMIT)
        if not done:
            raise TimeoutError(f"no answer within {WRITE_LIMIT:g} s")
        self._under_way = None
        write.exception()  # asked for, or asyncio would complain
