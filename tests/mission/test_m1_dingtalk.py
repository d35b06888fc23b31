"""Mission rows M1: DingTalk stream. The rows that speak of the SDK: tests/sdk/test_dingtalk.py."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import pytest

from holdfast.adapter import Link
from holdfast.adapters.dingtalk import DingTalk
from holdfast.lab.simulators.dingtalk import DingTalkSimulator
from holdfast.lab.stage import Stage
from holdfast.supervision import Published, View
from tests.harness import running
from tests.theatre import theatre


class Fickle(DingTalk):
    """The real adapter, whose task ends after a while as nobody expects."""

    end: Callable[[], Awaitable[None]]

    async def run(self, link: Link) -> None:
        """See `Adapter.run`."""
        try:
            async with asyncio.timeout(30):
                await super().run(link)
        except TimeoutError:
            await type(self).end()


async def _raises() -> None:
    raise RuntimeError("out of nowhere")


async def _returns() -> None:
    return


async def _cancelled_by_someone_else() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


@pytest.mark.parametrize("end", [_raises, _returns, _cancelled_by_someone_else])
async def test_m1_1_reconnected_for_ever_whatever_ends_the_stream(
    end: Callable[[], Awaitable[None]],
) -> None:
    class Ends(Fickle):
        pass

    Ends.end = staticmethod(end)
    async with DingTalkSimulator() as simulator, running(Ends, simulator.account()) as bot:
        for number in range(1, 16):
            await bot.account.until(partial(_connected, number))
            simulator.say(f"message {number}")
            await simulator.until(partial(_acknowledged, simulator, number))
        # The tenth failure in a row and those after it were no end.
        assert bot.account.view().generation >= 15
        assert [m.text for m in bot.messages] == [f"message {n}" for n in range(1, 16)]


def _connected(generation: int, view: View) -> bool:
    return view.published is Published.CONNECTED and view.generation >= generation


def _acknowledged(simulator: DingTalkSimulator, messages: int) -> bool:
    return simulator.count("ack") == messages


async def _waits(tmp_path: Path, rand: float, tries: int, **policy: float) -> list[float]:
    """How long the account waits after each of so many failures in a row."""
    async with Stage("dt", DingTalkSimulator()) as stage:
        accounts = {"dt": {"policy": policy}} if policy else {}
        async with theatre(tmp_path, stage, accounts=accounts, rand=lambda: rand, every=60) as play:
            await play.until("dt", "connected")
            stage.relay.refuse()
            waits = []
            for attempt in range(1, tries + 1):
                await play.until("dt", "retrying", attempt=attempt, timeout=1_000)
                view = play.view("dt")
                assert view.retry_at is not None
                waits.append(view.retry_at - view.at)
            return waits


async def test_m1_2_the_ladder_starts_at_10_s_doubles_and_ends_at_300_s(tmp_path: Path) -> None:
    shortest = await _waits(tmp_path, 0.0, 8)
    longest = await _waits(tmp_path, 1.0, 8)
    assert shortest[0] >= 10
    assert [round(wait) for wait in longest] == [20, 40, 80, 160, 300, 300, 300, 300]
    assert max(longest) <= 300


async def test_m1_2_both_bounds_are_configurable(tmp_path: Path) -> None:
    bounds = {"backoff_first": 30.0, "backoff_cap": 100.0, "backoff_slow_cap": 100.0}
    waits = await _waits(tmp_path, 1.0, 5, **bounds)
    assert [round(wait) for wait in waits] == [30, 60, 100, 100, 100]


@pytest.mark.parametrize(("lived", "attempts"), [(20.0, 5), (290.0, 5), (310.0, 1)])
async def test_m1_3_only_a_stable_run_resets_the_back_off(
    tmp_path: Path, lived: float, attempts: int
) -> None:
    """Four failures, a connection that lives so long, and its end: which failure was that?"""
    async with Stage("dt", DingTalkSimulator()) as stage:
        async with theatre(tmp_path, stage, every=10.0) as play:
            await play.until("dt", "connected")
            stage.relay.refuse()
            await play.until("dt", "retrying", attempt=4, timeout=1_000)
            stage.relay.heal()
            await play.until("dt", "connected", timeout=400)
            await asyncio.sleep(lived)
            stage.relay.rst()
            await play.until("dt", "retrying")
            assert play.entry("dt").attempt == attempts


async def test_m1_4_a_stop_ends_a_wait_of_300_s_at_once(tmp_path: Path) -> None:
    async with Stage("dt", DingTalkSimulator()) as stage:
        async with theatre(tmp_path, stage, rand=lambda: 1.0, every=10.0) as play:
            await play.until("dt", "connected")
            stage.relay.refuse()
            await play.until("dt", "retrying", attempt=6, timeout=2_000)
            view = play.view("dt")
            assert view.retry_at is not None
            assert view.retry_at - play.now() > 250
            began = play.now()
            await play.gateway.pause("dt")
            assert play.now() - began < 0.1
            assert play.entry("dt").state == "stopped"


@pytest.mark.parametrize("offset", [-0.01, -0.001, 0.0, 0.001, 0.01, 0.1, 1.0])
async def test_m1_4_a_stop_that_races_with_a_reconnect_is_never_lost(
    tmp_path: Path, offset: float
) -> None:
    simulator = DingTalkSimulator()
    async with Stage("dt", simulator) as stage, theatre(tmp_path, stage, every=10.0) as play:
        await play.until("dt", "connected")
        simulator.faults.arm("open_slow", delay=0.5)  # so that the reconnect takes a while
        stage.relay.rst()
        await play.until("dt", "retrying")
        view = play.view("dt")
        assert view.retry_at is not None
        await asyncio.sleep(view.retry_at + offset - play.now())
        await play.gateway.pause("dt")
        assert play.entry("dt").state == "stopped"
        logins = simulator.count("login")
        await asyncio.sleep(3_600)
        assert play.entry("dt").state == "stopped"
        assert simulator.count("login") == logins
        assert not simulator.listening()


async def test_m1_5_a_graceful_stop_is_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    simulator = DingTalkSimulator()
    async with Stage("dt", simulator) as stage, theatre(tmp_path, stage, every=10.0) as play:
        await play.until("dt", "connected")
        await asyncio.sleep(60)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            await play.gateway.pause("dt")
            opened = simulator.count("link-open")
            await asyncio.sleep(3_600)
        assert simulator.count("link-open") == opened
        entry = play.entry("dt")
        assert (entry.state, entry.attempt, entry.next_retry_at) == ("stopped", 0, None)
        assert play.seen("dt")[-2:] == ["stopping", "stopped"]
        assert [r.message for r in caplog.records if r.levelno > logging.INFO] == []
