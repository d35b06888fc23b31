"""The unmodified official SDK (dingtalk-stream) on the simulator: proof that it is honest.

The SDK blocks its event loop with ``requests``, so it gets a thread and a loop of its own, and
real time. Its retries after an error take 3 or 10 seconds; only the immediate ones are tested.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections.abc import AsyncIterator
from typing import Any

import dingtalk_stream
import pytest
from dingtalk_stream import (
    AckMessage,
    CallbackMessage,
    ChatbotMessage,
    EventMessage,
    card_replier,
    chatbot,
    stream,
)

from holdfast.lab.simulators.dingtalk import DingTalkSimulator
from holdfast.lab.simulators.dingtalk_rules import CARD_TOPIC

pytestmark = [pytest.mark.sdk, pytest.mark.real_time]


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both HTTP libraries of the SDK obey the environment's proxies."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


class Echo(dingtalk_stream.ChatbotHandler):  # type: ignore[misc]
    """Answers every message with its text, and keeps what it got."""

    def __init__(self) -> None:
        super().__init__()
        self.got: list[Any] = []

    async def process(self, callback: CallbackMessage) -> tuple[int, str]:
        message = ChatbotMessage.from_dict(callback.data)
        self.got.append(message)
        self.answer(message)
        return AckMessage.STATUS_OK, "OK"

    def answer(self, message: Any) -> None:
        self.reply_text(f"echo {message.text.content.strip()}", message)


class Artist(Echo):
    """Answers with a streamed card, and a picture with the address it can be fetched from."""

    def answer(self, message: Any) -> None:
        if message.message_type == "picture":
            self.reply_text(self.get_image_download_url(message.get_image_list()[0]), message)
            return
        replier = dingtalk_stream.AICardReplier(self.dingtalk_client, message)
        card = replier.start("t.schema", {"content": ""})
        replier.streaming(card, "content", "half", append=False, finished=False, failed=False)
        replier.finish(card, {"content": "whole"})


class Buttons(dingtalk_stream.CallbackHandler):  # type: ignore[misc]
    """Changes the card whose button was pressed."""

    async def process(self, callback: CallbackMessage) -> tuple[int, Any]:
        return AckMessage.STATUS_OK, {"cardData": {"cardParamMap": {"content": "approved"}}}


class Events(dingtalk_stream.EventHandler):  # type: ignore[misc]
    """Acknowledges every event."""

    async def process(self, event: EventMessage) -> tuple[int, str]:
        return AckMessage.STATUS_OK, "OK"


def point_sdk_at(sim: DingTalkSimulator, patch: pytest.MonkeyPatch) -> None:
    """What DINGTALK_OPENAPI_ENDPOINT does when it is set before the import."""
    for module in (stream, chatbot, card_replier):
        patch.setattr(module, "DINGTALK_OPENAPI_ENDPOINT", sim.url)
    address = sim.url + "/v1.0/gateway/connections/open"
    patch.setattr(stream.DingTalkStreamClient, "OPEN_CONNECTION_API", address)


class Runner:
    """The SDK's client in its thread."""

    def __init__(self, sim: DingTalkSimulator, handler: Echo, secret: str) -> None:
        self.handler = handler
        logger = logging.getLogger("tests.dingtalk-sdk")
        logger.propagate = False
        logger.addHandler(logging.NullHandler())
        credential = dingtalk_stream.Credential(sim.client_id, secret)
        self.client = dingtalk_stream.DingTalkStreamClient(credential, logger)
        self.client.register_callback_handler(ChatbotMessage.TOPIC, handler)
        self.client.register_callback_handler(CARD_TOPIC, Buttons())
        self.client.register_all_event_handler(Events())
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=asyncio.run, args=(self._main(),), daemon=True)
        self._thread.start()

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        task = asyncio.create_task(self.client.start())
        await self._stop.wait()
        # The SDK swallows a cancellation and then sleeps; the next one ends it.
        while not task.done():
            task.cancel()
            await asyncio.sleep(0.01)

    async def stop(self) -> None:
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stop.set)
        await asyncio.to_thread(self._thread.join, 5.0)
        assert not self._thread.is_alive()


@contextlib.asynccontextmanager
async def running(
    sim: DingTalkSimulator,
    patch: pytest.MonkeyPatch,
    handler: Echo | None = None,
    secret: str | None = None,
) -> AsyncIterator[Runner]:
    point_sdk_at(sim, patch)
    runner = Runner(sim, handler or Echo(), secret or sim.client_secret)
    try:
        await sim.until(lambda: sim.count("open") > 0, timeout=5)
        yield runner
    finally:
        await runner.stop()


async def test_sdk_answers_in_both_scenes_and_acknowledges(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with DingTalkSimulator() as sim, running(sim, monkeypatch) as runner:
        await sim.until(sim.listening)
        keys = [sim.say("hello"), sim.say("summarize", chat="team", sender="bob", group=True)]
        await sim.until(lambda: sim.count("ack") == 2)
        assert {(h.chat, h.text) for h in sim.heard} == {
            ("alice", "echo hello"),
            ("team", "echo summarize"),
        }
        assert {m.message_id for m in runner.handler.got} == set(keys)
        assert sim.accepted[0]["at"] == {"atUserIds": ["staff-alice"]}


async def test_sdk_echoes_a_ping(monkeypatch: pytest.MonkeyPatch) -> None:
    async with DingTalkSimulator() as sim, running(sim, monkeypatch):
        await sim.until(sim.listening)
        sim.ping_all()
        await sim.until(lambda: sim.count("beat") == 1)
        assert sim.log[-1].detail == {"n": 1, "kind": "system"}


async def test_sdk_reconnects_after_disconnect_and_misses_what_lies_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with DingTalkSimulator() as sim, running(sim, monkeypatch) as runner:
        await sim.until(sim.listening)
        await sim.goodbye()
        lost = sim.say("between")
        await sim.until(sim.listening)
        sim.say("after")
        await sim.until(lambda: len(sim.heard) == 1)
        assert [m.text.content for m in runner.handler.got] == ["after"]
        assert [r.detail["id"] for r in sim.log if r.what == "lost"] == [lost]
        assert (sim.count("login"), sim.count("link-open")) == (2, 2)


async def test_sdk_hammers_a_server_that_closes_normally(monkeypatch: pytest.MonkeyPatch) -> None:
    async with DingTalkSimulator() as sim:
        sim.faults.arm("close_after_accept", times=5)
        async with running(sim, monkeypatch):
            await sim.until(sim.listening, timeout=10)
            assert (sim.count("ws-open"), sim.count("link-open")) == (6, 1)
            opened = [record.at for record in sim.log if record.what == "open"]
            assert opened[-1] - opened[0] < 3


async def test_sdk_survives_odd_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    async with DingTalkSimulator() as sim, running(sim, monkeypatch) as runner:
        await sim.until(sim.listening)
        for fault in ("no_headers", "unknown_topic", "big_frame", "dup_event"):
            sim.faults.arm(fault)
        sim.faults.arm("split_frame", delay=0.05)
        key = sim.say("still here")
        await sim.until(lambda: sim.count("ack") == 2)
        assert [m.message_id for m in runner.handler.got] == [key, key]
        assert sim.count("link-lost") == 0


async def test_sdk_acknowledges_events(monkeypatch: pytest.MonkeyPatch) -> None:
    async with DingTalkSimulator() as sim, running(sim, monkeypatch):
        await sim.until(sim.listening)
        key = sim.happen("user_add_org", {"userId": ["staff-zoe"]})
        await sim.until(lambda: sim.count("ack") == 1)
        assert sim.log[-1].detail == {"id": key}


async def test_sdk_streams_a_card_and_answers_its_button(monkeypatch: pytest.MonkeyPatch) -> None:
    async with DingTalkSimulator() as sim, running(sim, monkeypatch, Artist()):
        await sim.until(sim.listening)
        sim.say("draw")
        await sim.until(lambda: sim.count("ack") == 1)
        card = sim.heard[0].id
        sim.press(card, "approve")
        await sim.until(lambda: sim.count("card-answer") == 1 and len(sim.heard) == 4)
        assert [h.text for h in sim.heard] == ["", "half", "whole", "approved"]
        assert {h.edit_of for h in sim.heard[1:]} == {card}


async def test_sdk_resolves_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    async with DingTalkSimulator() as sim, running(sim, monkeypatch, Artist()):
        await sim.until(sim.listening)
        sim.say("", image=b"png")
        await sim.until(lambda: len(sim.heard) == 1)
        assert sim.heard[0].text.startswith(sim.url + "/_files/")


async def test_sdk_does_not_connect_with_a_wrong_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    async with DingTalkSimulator() as sim, running(sim, monkeypatch, secret="wrong") as runner:
        await sim.until(lambda: sim.count("refused") == 1)
        assert await asyncio.to_thread(runner.client.open_connection) is None
        assert (sim.count("login"), sim.count("ws-open")) == (0, 0)
