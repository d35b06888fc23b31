"""Public helpers for tests: a loop on virtual time, a journal without a disk.

`VirtualTimeLoop` polls real sockets, and only when nothing at all is left to do does it jump its
clock to the next timer. Hours of supervision then take seconds, with real servers on loopback.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from holdfast.store.memory import MemoryStore

__all__ = ["DEADLOCK", "GRACE", "MemoryStore", "VirtualTimeLoop", "run_virtual"]

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
