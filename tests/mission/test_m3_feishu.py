"""Mission rows M3: Feishu and Lark. The rows that speak of the SDK: tests/sdk/test_feishu.py."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from holdfast.lab.simulators.feishu import FeishuSimulator
from holdfast.lab.stage import Stage
from tests.theatre import theatre


async def test_m3_1_our_own_loop_2_s_first_and_60_s_at_most_for_ever(tmp_path: Path) -> None:
    async with Stage("fs", FeishuSimulator()) as stage:
        async with theatre(tmp_path, stage, rand=lambda: 1.0, every=10.0) as play:
            await play.until("fs", "connected")
            stage.relay.refuse()
            waits = []
            for attempt in range(1, 31):
                await play.until("fs", "retrying", attempt=attempt, timeout=200)
                view = play.view("fs")
                assert view.retry_at is not None
                waits.append(view.retry_at - view.at)
            assert [round(wait) for wait in waits[:6]] == [2, 4, 8, 16, 32, 60]
            assert max(waits) <= 60
            stage.relay.heal()
            stage.say()
            await play.until("fs", "connected", timeout=6)
            await play.answered()


@pytest.mark.parametrize("end", ["close_all", "drop_all", "half_open"])
async def test_m3_2_every_end_of_the_connection_is_noticed(tmp_path: Path, end: str) -> None:
    """It is closed, it is torn, or it neither ends nor lives."""
    simulator = FeishuSimulator()
    async with Stage("fs", simulator) as stage, theatre(tmp_path, stage) as play:
        await play.until("fs", "connected")
        ends: dict[str, Any] = {"close_all": lambda: asyncio.create_task(simulator.close_all(1000))}
        ends.get(end, getattr(simulator, end))()
        await play.until("fs", "retrying", timeout=61)
        stage.say()
        await play.until("fs", "connected", timeout=10)
        await play.answered()
        assert stage.lie == 0
        assert stage.verdict("feishu").lost == 0


FAILURES = ["token_hang", "token_500", "endpoint_hang", "endpoint_http"]


@pytest.mark.parametrize("fault", FAILURES)
async def test_m3_3_a_client_that_can_not_be_made_is_retried(tmp_path: Path, fault: str) -> None:
    simulator = FeishuSimulator()
    simulator.faults.arm(fault, times=3)
    async with Stage("fs", simulator) as stage, theatre(tmp_path, stage) as play:
        await play.until("fs", "retrying", timeout=60)
        entry = play.entry("fs")
        assert entry.cause is not None
        assert entry.cause.retryable
        await play.until("fs", "connected", timeout=300)
        assert simulator.faults.played[fault] == 3


MOMENTS = ["identity", "endpoint", "first pong", "connected", "back-off"]


@pytest.mark.parametrize("moment", MOMENTS)
async def test_m3_4_a_stop_is_clean_at_any_moment(tmp_path: Path, moment: str) -> None:
    simulator = FeishuSimulator()
    hold = {
        "identity": "token_hang",
        "endpoint": "endpoint_hang",
        "first pong": "no_pong",
    }
    if moment in hold:
        simulator.faults.arm(hold[moment], times=None)
    async with Stage("fs", simulator) as stage, theatre(tmp_path, stage) as play:
        if moment in hold:
            await asyncio.sleep(2)
            assert play.entry("fs").state == "connecting"
        else:
            await play.until("fs", "connected")
        if moment == "back-off":
            stage.relay.refuse()
            await play.until("fs", "retrying", attempt=3, timeout=100)
        began = play.now()
        await play.gateway.pause("fs")
        assert play.now() - began < 5.0
        assert play.entry("fs").state == "stopped"
        await asyncio.sleep(1)
        assert not simulator.listening()
        assert stage.relay.connections == 0


async def test_m3_5_nothing_of_a_connection_leaks_into_the_next(tmp_path: Path) -> None:
    simulator = FeishuSimulator()
    async with Stage("fs", simulator) as stage, theatre(tmp_path, stage) as play:
        for number in range(1, 6):
            await play.until("fs", "connected")
            stage.say(group=True)
            await play.answered()
            links = Counter(record.what for record in simulator.log)
            assert links["link-open"] == number
            assert links["login"] == number, "each connection has its own address"
            # The bot's identity is asked for anew, over the new connection's own client.
            assert links["whoami"] == number
            simulator.drop_all()
            await play.until("fs", "retrying")
            assert Counter(record.what for record in simulator.log)["link-lost"] == number
        await play.until("fs", "connected")
        await asyncio.sleep(1)
        assert stage.verdict("feishu").doubled == 0
