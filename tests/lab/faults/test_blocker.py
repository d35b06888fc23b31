"""T13: the loop stands still for as long as it was told, on either clock."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from holdfast.lab.faults.blocker import How, block, block_later, stall_virtual


@pytest.mark.real_time
@pytest.mark.parametrize("how", How)
async def test_a_blocked_loop_runs_nothing_meanwhile(how: How) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    ran_at: list[float] = []
    block_later(loop, 0.01, 0.1, how)
    loop.call_later(0.03, lambda: ran_at.append(loop.time() - start))
    await asyncio.sleep(0.05)
    assert ran_at[0] >= 0.11
    assert loop.time() - start >= 0.11


@pytest.mark.real_time
async def test_a_cancelled_block_spares_the_loop() -> None:
    loop = asyncio.get_running_loop()
    block_later(loop, 0.01, 30).cancel()
    start = loop.time()
    await asyncio.sleep(0.03)
    assert loop.time() - start < 15


@pytest.mark.parametrize("how", How)
def test_another_thread_sees_the_stall(how: How) -> None:
    seen = threading.Event()
    watcher = threading.Timer(0.01, seen.set)
    watcher.start()
    before = time.monotonic()
    block(0.1, how)
    assert time.monotonic() - before >= 0.1
    assert seen.is_set()
    watcher.join()


async def test_a_virtual_stall_makes_everything_due_late_and_in_order() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    ran: list[tuple[str, float]] = []

    def run(name: str) -> None:
        ran.append((name, loop.time() - start))

    for name, due in (("second", 20), ("first", 15), ("after", 200)):
        loop.call_later(due, run, name)
    block_later(loop, 10, 90)
    await asyncio.sleep(300)
    assert ran == [("first", 100), ("second", 100), ("after", 200)]


async def test_a_virtual_stall_takes_no_real_time() -> None:
    loop = asyncio.get_running_loop()
    real, virtual = time.monotonic(), loop.time()
    stall_virtual(loop, 3_600)
    assert loop.time() - virtual == 3_600
    assert time.monotonic() - real < 5


@pytest.mark.real_time
async def test_a_real_clock_cannot_be_jumped() -> None:
    with pytest.raises(TypeError, match="VirtualTimeLoop"):
        stall_virtual(asyncio.get_running_loop(), 1)
