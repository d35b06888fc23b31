"""Every adapter that reads a stream stores what has come together in one transaction, in order."""

from __future__ import annotations

import asyncio

import pytest

from holdfast.lab.simulator import Simulator
from holdfast.lab.simulators.dingtalk import DingTalkSimulator
from holdfast.lab.simulators.discord import DiscordSimulator
from holdfast.lab.simulators.feishu import FeishuSimulator
from holdfast.lab.simulators.mattermost import MattermostSimulator
from holdfast.lab.simulators.qqbot import QQBotSimulator
from holdfast.lab.simulators.slack import SlackSimulator
from holdfast.platforms import find
from tests.gateway.tools import Ledger, until
from tests.harness import running

STREAMS: list[type[Simulator]] = [
    DingTalkSimulator,
    DiscordSimulator,
    FeishuSimulator,
    MattermostSimulator,
    QQBotSimulator,
    SlackSimulator,
]


@pytest.mark.parametrize("kind", STREAMS, ids=lambda kind: kind.platform)
async def test_a_burst_is_stored_at_once_and_a_bad_frame_in_it_costs_nothing(
    kind: type[Simulator],
) -> None:
    store = Ledger()
    async with (
        kind() as simulator,
        running(find(kind.platform, ""), simulator.account(), store=store) as bot,
    ):
        await bot.connected()
        await until(simulator.listening)
        simulator.say("word 0", chat="ann", sender="ann")  # and whoever ann is has been asked for
        await until(lambda: bot.messages)
        await asyncio.sleep(1)
        store.open.clear()
        simulator.say("word 1", chat="ann", sender="ann")
        await until(lambda: store.held)
        for n in range(2, 22):
            if n == 11:
                simulator.faults.arm("bad_frame", times=1)
            simulator.say(f"word {n}", chat="ann", sender="ann")
        await asyncio.sleep(0.5)
        store.open.set()
        await until(lambda: len(bot.messages) >= 22)
        assert [m.text for m in bot.messages] == [f"word {n}" for n in range(22)]
        assert [len(ids) for ids, _ in store.batches if ids] == [1, 1, 20]
        assert bot.account.skipped_frames == 1
        assert bot.account.view().generation == 1
