"""Time limits around foreign code: many of one length, on one timer of the loop.

`asyncio.timeout` arms a timer for each use; with two limits on the road of every message that is a
twentieth of the loop's work for it. Limits of one length end in the order in which they began,
so the timer only ever has to know the oldest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


class CancelledInside(RuntimeError):
    """Foreign code ended in a cancellation that nobody asked it for."""


class Patience:
    """Awaits foreign code for so many seconds; belongs to the running event loop."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._ends: dict[asyncio.Task[Any], float] = {}
        """Tasks that wait, the oldest first, until when."""
        self._timer: asyncio.TimerHandle | None = None

    async def __call__(self, work: Awaitable[T]) -> T:
        """The result of ``work``, for which a task waits one at a time. Cancelling is passed on.

        Raises TimeoutError when it takes longer, at the next moment it can be interrupted. A
        cancellation that is not ours is a failure like any other, CancelledInside: passed on, it
        would end the caller's task as if that had been told to stop.
        """
        task = asyncio.current_task(self._loop)
        assert task is not None
        before = task.cancelling()
        self._begin(task)
        try:
            return await work
        except asyncio.CancelledError as error:
            if task not in self._ends and task.cancelling() == before + 1:
                raise TimeoutError from error
            if task.cancelling() > before:
                raise
            raise CancelledInside("cancelled by something inside it") from error
        finally:
            if self._ends.pop(task, None) is None:
                task.uncancel()

    def _begin(self, task: asyncio.Task[Any]) -> None:
        self._ends[task] = end = self._loop.time() + self._seconds
        if self._timer is None:
            self._timer = self._loop.call_at(end, self._look)

    def _look(self) -> None:
        """Interrupt whoever is overdue, and look again when the next one can be."""
        self._timer = None
        for task, end in list(self._ends.items()):
            if end > self._loop.time():
                self._timer = self._loop.call_at(end, self._look)
                return
            del self._ends[task]
            task.cancel()
