"""Foreign code has so long; who is late, who cancels and who was cancelled are told apart."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.gateway.patience import CancelledInside, Patience
from tests.gateway.tools import now


async def sleeps(seconds: float) -> str:
    """Foreign code that takes its time."""
    await asyncio.sleep(seconds)
    return f"slept {seconds:g} s"


async def test_what_is_in_time_is_handed_through() -> None:
    patience = Patience(10.0)
    assert await patience(sleeps(9)) == "slept 9 s"
    with pytest.raises(LookupError):
        await patience(_raises(LookupError()))


async def _raises(error: BaseException) -> None:
    await asyncio.sleep(1)
    raise error


@pytest.mark.parametrize("begun", [0.0, 1.0, 9.0, 30.0])
async def test_each_has_its_own_full_time_on_the_one_timer(begun: float) -> None:
    patience = Patience(10.0)
    other = asyncio.create_task(patience(sleeps(5)))
    await asyncio.sleep(begun)
    began = now()
    with pytest.raises(TimeoutError):
        await patience(sleeps(60))
    assert now() - began == pytest.approx(10.0)
    assert await other == "slept 5 s"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_only_the_late_are_interrupted() -> None:
    patience = Patience(10.0)
    tasks = [asyncio.create_task(patience(sleeps(8 + 1.5 * (n % 3)))) for n in range(30)]
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(end, TimeoutError) for end in ends] == [n % 3 == 2 for n in range(30)]


async def test_a_cancellation_of_the_caller_is_passed_on() -> None:
    task = asyncio.create_task(Patience(10.0)(sleeps(60)))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_of_the_caller_wins_over_the_end_of_the_time() -> None:
    task = asyncio.create_task(Patience(10.0)(sleeps(60)))
    asyncio.get_running_loop().call_at(now() + 10.0, task.cancel)
    await asyncio.wait([task])
    assert task.cancelled()


async def test_a_cancellation_from_inside_is_a_failure() -> None:
    with pytest.raises(CancelledInside):
        await Patience(10.0)(_raises(asyncio.CancelledError()))


async def test_who_ends_otherwise_when_interrupted_leaves_no_cancellation_behind() -> None:
    async def stubborn() -> str:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            return "no"
        return "never"

    assert await Patience(10.0)(stubborn()) == "no"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert await Patience(10.0)(sleeps(1)) == "slept 1 s"


async def test_a_limit_around_it_ends_it_and_is_told_apart() -> None:
    began = now()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await Patience(10.0)(sleeps(60))
    assert now() - began == pytest.approx(5.0)
