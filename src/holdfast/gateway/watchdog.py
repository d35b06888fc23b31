"""Watches the event loop from outside it, and the clocks for a suspend."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable

log = logging.getLogger("holdfast.watchdog")

ASK_EVERY = 1.0
"""Seconds between two questions to the loop."""

STALLED_AFTER = 5.0
"""Seconds without an answer after which the loop counts as stalled and its stack is logged."""

SLEPT_AFTER = 5.0
"""A gap between boot time and monotonic time above this is a suspend, not scheduling."""


class LoopWatchdog:
    """A thread that asks the loop to answer each second and logs who blocks it.

    It never ends the process: for that the service manager's own watchdog is fed by the loop.
    """

    def __init__(
        self,
        *,
        every: float = ASK_EVERY,
        stalled_after: float = STALLED_AFTER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stalls = 0
        self.lag = 0.0
        """Seconds the last answer took."""
        self.last_stack = ""
        self._every, self._stalled_after, self._clock = every, stalled_after, clock
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._loop_thread = 0

    def start(self) -> None:
        """Begin to watch the running loop."""
        self._loop_thread = threading.get_ident()
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(
            target=self._watch, args=(loop,), name="loop watchdog", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; returns when the thread has ended."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stop.wait(self._every):
            answered = threading.Event()
            asked = self._clock()
            try:
                loop.call_soon_threadsafe(answered.set)
            except RuntimeError:
                return  # the loop is closed
            if not self._wait(answered, self._stalled_after):
                if self._stop.is_set():
                    return  # whoever stops us from the loop keeps it from answering
                self._stalled(asked)
                if not self._wait(answered, None):
                    return
                log.warning("the event loop answers again after=%.1fs", self._clock() - asked)
            self.lag = self._clock() - asked

    def _wait(self, answered: threading.Event, limit: float | None) -> bool:
        """Whether the loop answered within ``limit`` seconds, or before we are told to stop."""
        end = None if limit is None else self._clock() + limit
        while not answered.wait(0.1):
            if self._stop.is_set() or (end is not None and self._clock() >= end):
                return False
        return True

    def _stalled(self, asked: float) -> None:
        self.stalls += 1
        frame = sys._current_frames().get(self._loop_thread)
        self.last_stack = "".join(traceback.format_stack(frame)) if frame else "unknown"
        log.error(
            "the event loop has not answered for %.1f s; it is here:\n%s",
            self._clock() - asked,
            self.last_stack,
        )


class SuspendDetector:
    """Tells how long the machine slept, from two clocks of which only one counts sleep."""

    def __init__(
        self,
        boot: Callable[[], float] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._boot = boot or boot_clock
        self._monotonic = monotonic
        self._offset = self._boot() - self._monotonic()

    def slept(self) -> float:
        """Seconds of suspend since the last call; 0 for none."""
        offset = self._boot() - self._monotonic()
        slept, self._offset = offset - self._offset, offset
        return slept if slept >= SLEPT_AFTER else 0.0


def boot_clock() -> float:
    """Seconds of a clock that nobody can set and that counts sleep, too, where there is one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)
