"""The real dingtalk-stream package under `supervise`: it swallows cancellation and hears no death.

The SDK runs in a process of its own, pointed at the simulator by the environment variable it reads
when it is imported.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import pytest

from holdfast.lab.simulators.dingtalk import DingTalkSimulator
from holdfast.sdk import Life, Supervised, supervise
from holdfast.supervision import Policy, State

pytestmark = [pytest.mark.sdk, pytest.mark.real_time]

POLICY = Policy(label="dingtalk", backoff_first=0.1, backoff_cap=1.0, quick_life=0.01)


def dingtalk_bot(life: Life) -> Any:
    """The plain program of the SDK's documentation, telling of every frame that comes in."""
    import dingtalk_stream
    from dingtalk_stream import AckMessage, CallbackMessage, ChatbotMessage

    logging.disable()

    class Echo(dingtalk_stream.ChatbotHandler):  # type: ignore[misc]
        async def process(self, callback: CallbackMessage) -> tuple[int, str]:
            message = ChatbotMessage.from_dict(callback.data)
            self.reply_text(f"echo {message.text.content.strip()}", message)
            return AckMessage.STATUS_OK, "OK"

    class Client(dingtalk_stream.DingTalkStreamClient):  # type: ignore[misc]
        async def route_message(self, json_message: Any) -> Any:
            life.alive()
            return await super().route_message(json_message)

    credential = dingtalk_stream.Credential(os.environ["BOT_ID"], os.environ["BOT_SECRET"])
    client = Client(credential)
    client.register_callback_handler(ChatbotMessage.TOPIC, Echo())
    return client.start()


async def up(bot: Supervised, generation: int) -> None:
    """Wait until a generation has proved its life."""
    async with asyncio.timeout(20):
        await bot.until(lambda v: v.state is State.LIVE and v.generation >= generation)


async def test_a_link_that_dies_in_silence_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    sim = DingTalkSimulator()
    sim.ping_interval = 0.5
    async with sim:
        account = sim.account()
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("DINGTALK_OPENAPI_ENDPOINT", sim.url)
        monkeypatch.setenv("BOT_ID", account["client_id"])
        monkeypatch.setenv("BOT_SECRET", account["client_secret"])
        supervised = supervise(
            "dingtalk", dingtalk_bot, isolation="process", silence=2.0, policy=POLICY
        )
        async with supervised as bot:
            await up(bot, 1)
            sim.say("before")
            await sim.until(lambda: len(sim.heard) == 1, 10)
            # The socket stays open and nothing comes: the SDK itself waits for ever.
            sim.half_open()
            await up(bot, 2)
            view = bot.view()
            assert view.cause is not None
            assert view.cause.code == "dingtalk_silent"
            assert view.abandoned == 0
            sim.say("after")
            await sim.until(lambda: len(sim.heard) == 2, 10)
        assert [heard.text for heard in sim.heard] == ["echo before", "echo after"]
        await sim.until(lambda: not sim.listening(), 5)
