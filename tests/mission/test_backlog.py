"""The backlog policy after an outage, on a platform that replays and one that is asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from holdfast.lab.simulator import Simulator
from holdfast.lab.simulators.mattermost import MattermostSimulator
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.lab.stage import Stage
from holdfast.store.protocol import Box
from holdfast.testing import MemoryStore
from tests.theatre import theatre


@pytest.fixture(autouse=True)
def one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The platforms date messages by the wall clock, which must pass as the loop's does."""
    real, began = time.time, time.time()

    def virtual() -> float:
        try:
            return began + asyncio.get_running_loop().time()
        except RuntimeError:
            return real()

    monkeypatch.setattr(time, "time", virtual)


SIMULATORS: list[Callable[[], Simulator]] = [TelegramSimulator, MattermostSimulator]


@pytest.mark.parametrize("make", SIMULATORS)
@pytest.mark.parametrize(
    ("backlog", "answered"),
    [
        ("all", ["old", "recent", "new"]),
        ("newer-than 10m", ["recent", "new"]),
        ("skip", ["new"]),
    ],
)
async def test_what_piled_up_is_handled_as_the_policy_says(
    tmp_path: Path, make: Callable[[], Simulator], backlog: str, answered: list[str]
) -> None:
    store, simulator = MemoryStore(), make()
    accounts = {"bot": {"backlog": backlog}}
    async with Stage("bot", simulator) as stage:
        async with theatre(tmp_path, stage, store=store, accounts=accounts, every=5.0) as play:
            await play.until("bot", "connected")
            stage.relay.refuse()
            await play.until("bot", "retrying")
            await asyncio.sleep(60)
            simulator.say("old", chat="ann")
            await asyncio.sleep(1_800)
            simulator.say("recent", chat="ann")
            await asyncio.sleep(120)
            stage.relay.heal()
            await play.until("bot", "connected")
            await asyncio.sleep(30)
            simulator.say("new", chat="ann")
            await simulator.until(lambda: len(simulator.heard) == len(answered), 60)
            await asyncio.sleep(60)
            assert [h.text.rpartition(" ")[2] for h in simulator.heard] == answered
            assert play.entry("bot").passed_over == 3 - len(answered)
    dropped = await store.entries(Box.INBOX, states=("dropped",))
    assert len(dropped) == 3 - len(answered)
    assert all(entry.reason.startswith("backlog: ") for entry in dropped)


async def test_what_was_passed_over_is_not_handled_after_a_restart(tmp_path: Path) -> None:
    store, simulator = MemoryStore(), TelegramSimulator()
    accounts = {"bot": {"backlog": "skip"}}
    async with Stage("bot", simulator) as stage:
        simulator.say("before the first start", chat="ann")
        await asyncio.sleep(60)
        for _ in range(2):
            async with theatre(tmp_path, stage, store=store, accounts=accounts) as play:
                await play.until("bot", "connected")
                await asyncio.sleep(30)
        assert simulator.heard == []
