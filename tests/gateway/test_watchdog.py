"""A blocked loop is named by the function that blocks it; a suspend is told from scheduling."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from holdfast.gateway.watchdog import SLEPT_AFTER, LoopWatchdog, SuspendDetector
from holdfast.lab.faults.blocker import How, block


def the_culprit(how: How) -> None:
    """What blocks the loop."""
    block(0.3, how)


@pytest.mark.real_time
@pytest.mark.slow
@pytest.mark.parametrize("how", list(How))
async def test_a_blocked_loop_is_logged_with_the_function_that_blocks_it(
    how: How, caplog: pytest.LogCaptureFixture
) -> None:
    watchdog = LoopWatchdog(every=0.02, stalled_after=0.1)
    watchdog.start()
    await asyncio.sleep(0.05)
    assert watchdog.stalls == 0
    the_culprit(how)
    await asyncio.sleep(0.2)
    watchdog.stop()
    assert watchdog.stalls == 1
    assert "the_culprit" in watchdog.last_stack
    messages = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
    assert "the_culprit" in messages[0]
    assert "answers again" in messages[1]


@pytest.mark.real_time
async def test_a_stop_while_the_loop_is_being_asked_is_no_stall() -> None:
    """The loop that calls `stop` can not answer meanwhile."""
    watchdog = LoopWatchdog(every=0.001, stalled_after=5.0)
    watchdog.start()
    await asyncio.sleep(0.01)
    busy_until = time.monotonic() + 0.05
    while time.monotonic() < busy_until:  # the question is out, and the loop is here
        pass
    watchdog.stop()
    assert watchdog.stalls == 0


@pytest.mark.real_time
async def test_a_loop_that_answers_is_left_alone() -> None:
    watchdog = LoopWatchdog(every=0.01, stalled_after=0.2)
    watchdog.start()
    await asyncio.sleep(0.1)
    watchdog.stop()
    watchdog.stop()
    assert (watchdog.stalls, watchdog.last_stack) == (0, "")
    assert 0 <= watchdog.lag < 0.2
    assert watchdog._thread is not None
    assert not watchdog._thread.is_alive()


def test_a_suspend_is_what_only_one_clock_counts() -> None:
    boot, monotonic = 100.0, 50.0
    detector = SuspendDetector(lambda: boot, lambda: monotonic)
    assert detector.slept() == 0
    boot, monotonic = boot + 3_600, monotonic + 3_600  # a busy hour is no sleep
    assert detector.slept() == 0
    boot += 600
    assert detector.slept() == 600
    assert detector.slept() == 0  # told once
    boot += SLEPT_AFTER - 1
    assert detector.slept() == 0
    boot -= 10_000
    assert detector.slept() == 0


def test_the_machines_own_clocks_agree() -> None:
    assert SuspendDetector().slept() == 0
