"""T16: the rival runs from start to stop, and its end is known."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.lab.faults.rival import Rival


async def test_it_runs_between_start_and_stop_and_can_come_back() -> None:
    beats = 0

    async def poll() -> None:
        nonlocal beats
        while True:
            beats += 1
            await asyncio.sleep(1)

    rival = Rival(poll)
    await rival.stop()
    async with rival:
        rival.start()
        assert rival.running
        await asyncio.sleep(9.5)
        assert beats == 10
    assert not rival.running
    await asyncio.sleep(10)
    assert beats == 10
    rival.start()
    await asyncio.sleep(0)
    assert (beats, rival.starts) == (11, 2)
    await rival.stop()
    assert rival.error is None


async def test_a_rival_thrown_out_says_of_what_it_died() -> None:
    async def poll() -> None:
        raise ConnectionError("409 Conflict")

    async with Rival(poll) as rival:
        await asyncio.sleep(0)
        assert not rival.running
        assert str(rival.error) == "409 Conflict"


async def test_a_rival_that_ignores_its_cancellation_is_reported() -> None:
    release = asyncio.Event()

    async def stubborn() -> None:
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    rival = Rival(stubborn, name="stubborn")
    rival.start()
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError, match="stubborn-1 ignored"):
        await rival.stop()
    release.set()
    await asyncio.sleep(0)
    assert not rival.running
