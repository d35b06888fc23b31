"""Telegram 409: an own former self heals by itself, a true rival becomes fatal, loudly."""

from __future__ import annotations

import asyncio
from pathlib import Path

from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.lab.stage import Stage
from tests.theatre import theatre


async def test_conflict_with_an_own_former_self_heals(tmp_path: Path) -> None:
    simulator = TelegramSimulator()
    simulator.faults.arm("lingering_poll", times=1, seconds=30)
    async with Stage("tg", simulator) as stage, theatre(tmp_path, stage) as play:
        stage.say()
        assert await play.until("tg", "connected", timeout=45) <= 40
        assert "fatal" not in play.seen("tg")
        await play.answered()


async def test_conflict_with_a_true_rival_becomes_fatal_and_ends_with_it(tmp_path: Path) -> None:
    simulator = TelegramSimulator()
    async with Stage("tg", simulator) as stage, theatre(tmp_path, stage, every=5.0) as play:
        await play.until("tg", "connected")
        async with simulator.rival():
            await play.until("tg", "fatal", timeout=240)
            entry = play.entry("tg")
            assert entry.cause is not None
            assert entry.cause.kind == "replaced"
            assert entry.cause.code == "telegram_conflict"
            assert entry.attention
            opens = play.view("tg").generation
            await asyncio.sleep(1_200)
            assert play.view("tg").generation - opens <= 8, "no ping-pong with the rival"
        await play.until("tg", "connected", timeout=310)
        await asyncio.sleep(310)
        assert play.entry("tg").state == "connected"
        assert not play.entry("tg").attention
