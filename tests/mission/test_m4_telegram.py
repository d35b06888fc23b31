"""Mission rows M4: Telegram long polling."""

from __future__ import annotations

import asyncio
from pathlib import Path

from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.lab.stage import Stage
from tests.theatre import theatre


async def test_m4_1_retrying_from_the_first_failed_poll(tmp_path: Path) -> None:
    async with Stage("tg", TelegramSimulator()) as stage, theatre(tmp_path, stage) as play:
        await play.until("tg", "connected")
        stage.relay.refuse()
        await play.until("tg", "retrying", timeout=1)
        entry = play.entry("tg")
        assert entry.attempt == 1
        assert entry.cause is not None
        assert entry.cause.code == "telegram_network_error"
        assert entry.cause.retryable
        assert entry.next_retry_at is not None
        began = play.now()
        await asyncio.sleep(30)
        # Opening a new poll is no success: nothing but retrying until one has been answered.
        assert play.seen("tg", began) == ["retrying"]
        polls = stage.simulator.count("poll")
        stage.relay.heal()
        await play.until("tg", "connected", timeout=6)
        assert stage.simulator.count("poll") > polls


async def test_m4_1_not_connected_before_a_poll_was_answered(tmp_path: Path) -> None:
    simulator = TelegramSimulator()
    simulator.faults.arm("poll_hangs", times=1)
    async with Stage("tg", simulator) as stage, theatre(tmp_path, stage) as play:
        await asyncio.sleep(5)
        assert play.seen("tg") == ["connecting"]
        await play.until("tg", "connected", timeout=60)
        assert simulator.count("poll") >= 1


async def test_m4_2_ladder_capped_at_60_s_escalated_and_never_ending(tmp_path: Path) -> None:
    async with Stage("tg", TelegramSimulator()) as stage:
        # No prober, so that the ladder alone decides.
        async with theatre(tmp_path, stage, rand=lambda: 1.0, every=2.0) as play:
            await play.until("tg", "connected")
            stage.relay.refuse()
            waits: list[float] = []
            for attempt in range(1, 16):
                await play.until("tg", "retrying", attempt=attempt, timeout=120)
                view = play.view("tg")
                assert view.retry_at is not None
                waits.append(view.retry_at - view.at)
                if attempt == 10:
                    entry = play.entry("tg")
                    assert entry.escalation is not None
                    assert entry.escalation.code == "telegram_reconnect_exhausted"
                    assert entry.attention
                    assert entry.breaker == "open"
            assert max(waits) <= 60.0
            assert [round(wait) for wait in waits[:7]] == [1, 2, 4, 8, 16, 32, 60]
            assert play.entry("tg").state == "retrying"


async def test_m4_2_back_within_5_s_after_an_outage_of_2_h(tmp_path: Path) -> None:
    simulator = TelegramSimulator()
    async with Stage("tg", simulator) as stage, theatre(tmp_path, stage, every=5.0) as play:
        await play.until("tg", "connected")
        fault = stage.strike("cut", stage.relay.cut, limit=60)
        stage.say()
        await play.until("tg", "retrying", timeout=60)
        began = play.now()
        await asyncio.sleep(7_200)
        assert play.seen("tg", began) == ["retrying"]
        stage.heal(fault)
        assert await play.until("tg", "connected", timeout=5) <= 5
        await play.answered(timeout=10)
        assert stage.lie == 0
        assert stage.verdict("telegram").doubled == 0


async def test_m4_3_a_status_write_that_fails_disturbs_nothing(tmp_path: Path) -> None:
    async with Stage("tg", TelegramSimulator()) as stage, theatre(tmp_path, stage) as play:
        await play.until("tg", "connected")
        writer = play.gateway._status
        # The directory is gone and its place is taken by a file: no write can succeed.
        for file in writer.path.parent.iterdir():
            file.unlink()
        writer.path.parent.rmdir()
        writer.path.parent.write_text("in the way")
        stage.relay.rst()
        await play.until("tg", "connected", timeout=10)
        await asyncio.sleep(10)
        assert writer.failures > 0
        stage.say()
        await play.answered()
        writer.path.parent.unlink()
        writer.path.parent.mkdir()
        writes = writer.writes
        await asyncio.sleep(5)
        assert writer.writes > writes


async def test_m4_4_bad_gateway_and_friends_are_transient(tmp_path: Path) -> None:
    async with Stage("tg", TelegramSimulator()) as stage, theatre(tmp_path, stage) as play:
        simulator = stage.simulator
        await play.until("tg", "connected")
        for fault in ("http_502", "http_504", "html_200", "malformed_json", "close_before_answer"):
            began = play.now()
            simulator.faults.arm(fault, times=2)
            stage.say()
            await asyncio.sleep(40)
            await play.answered()
            assert simulator.faults.played[fault] >= 1
            assert "fatal" not in play.seen("tg", began), fault
            assert play.entry("tg").state == "connected", fault
        assert stage.verdict("telegram").lost == 0
