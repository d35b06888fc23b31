"""The unmodified official SDK (slack-sdk, aiohttp) on the simulator: proof that it is honest.

It runs on virtual time: the SDK's own ping interval and back-off are what moves the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from slack_sdk.errors import SlackApiError, SlackRequestError
from slack_sdk.socket_mode.aiohttp import SocketModeClient
from slack_sdk.socket_mode.async_client import AsyncBaseSocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.socket_mode.response import SocketModeResponse
from slack_sdk.web.async_client import AsyncWebClient

from holdfast.lab.simulators.slack import SlackSimulator, Token
from holdfast.lab.simulators.slack_rules import BOT_ID, BOT_USER

pytestmark = pytest.mark.sdk

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)
SDK_TASKS = ("SocketModeClient.", "AsyncBaseSocketModeClient.")


class Bot:
    """Acks every envelope, keeps what users said, and answers once in the thread."""

    def __init__(self, sim: SlackSimulator) -> None:
        self.web = web_client(sim)
        self.client = SocketModeClient(
            app_token=sim.account()["app_token"], web_client=self.web, logger=quiet_logger()
        )
        self.client.socket_mode_request_listeners.append(self._on_request)
        self.events: list[dict[str, Any]] = []
        self.attempts: list[int | None] = []
        self._answered: set[str] = set()

    async def _on_request(
        self, client: AsyncBaseSocketModeClient, request: SocketModeRequest
    ) -> None:
        response = SocketModeResponse(envelope_id=request.envelope_id)
        await client.send_socket_mode_response(response)
        event = request.payload["event"]
        if event.get("bot_id") == BOT_ID:
            return
        self.events.append(event)
        self.attempts.append(request.retry_attempt)
        if event["ts"] not in self._answered:
            self._answered.add(event["ts"])
            await self.web.chat_postMessage(
                channel=event["channel"], text=f"echo: {event['text']}", thread_ts=event["ts"]
            )


def web_client(sim: SlackSimulator) -> AsyncWebClient:
    account = sim.account()
    return AsyncWebClient(token=account["bot_token"], base_url=account["api_url"])


def quiet_logger() -> logging.Logger:
    """The SDK logs every expected disconnect; a test reads the truth log instead."""
    logger = logging.getLogger("tests.slack_sdk")
    logger.setLevel(logging.CRITICAL)
    return logger


@contextlib.asynccontextmanager
async def running(sim: SlackSimulator) -> AsyncIterator[Bot]:
    """A connected bot; the SDK's tasks, which it does not await itself, are ended."""
    bot = Bot(sim)
    try:
        await bot.client.connect()  # type: ignore[no-untyped-call]
        await sim.until(sim.listening)
        yield bot
    finally:
        await bot.client.close()  # type: ignore[no-untyped-call]
        leftovers = {
            task
            for task in asyncio.all_tasks()
            if task.get_coro().__qualname__.startswith(SDK_TASKS)  # type: ignore[union-attr]
        }
        for task in leftovers:
            task.cancel()
        if leftovers:
            await asyncio.wait(leftovers)


async def test_sdk_hears_acks_and_answers_in_the_thread() -> None:
    async with SlackSimulator() as sim, running(sim) as bot:
        private = sim.say("1 < 2 & so on")
        grouped = sim.say("status?", chat="ops", sender="bob", group=True)
        await sim.until(lambda: len(sim.heard) == 2 and sim.count("ack-echo") == 2)
        assert [(h.chat, h.text, h.reply_to) for h in sim.heard] == [
            ("alice", "echo: 1 < 2 & so on", private),
            ("ops", f"echo: <@{BOT_USER}> status?", grouped),
        ]
        assert [e["type"] for e in bot.events] == ["message", "app_mention", "message"]
        assert [r.detail["id"] for r in sim.log if r.what == "ack"] == [private, grouped, grouped]


async def test_sdk_stays_up_on_pings_both_ways() -> None:
    async with SlackSimulator() as sim, running(sim) as bot:
        await asyncio.sleep(120)
        assert await bot.client.is_connected()
        assert sim.count("ws-open") == 1
        assert sim.count("beat") >= 20
        assert sim.count("pong") >= 20


@pytest.mark.parametrize("reason", ["warning", "refresh_requested", "too_many_websockets"])
async def test_sdk_reconnects_after_a_disconnect_frame(reason: str) -> None:
    async with SlackSimulator() as sim, running(sim):
        await sim.goodbye(reason)
        await sim.until(lambda: sim.count("ready") == 2)
        assert sim.count("login") == 2
        sim.say("after")
        await sim.until(lambda: len(sim.heard) == 1)


async def test_sdk_misses_what_happened_without_a_socket_but_history_has_it() -> None:
    async with SlackSimulator() as sim, running(sim) as bot:
        sim.drop_all()
        missed = sim.say("missed")
        await sim.until(lambda: sim.count("ready") == 2)
        assert [r.detail["id"] for r in sim.log if r.what == "lost"] == [missed]
        page = await bot.web.conversations_history(channel=sim.channel_id("alice"), oldest="0")
        assert [m["text"] for m in page["messages"]] == ["missed"]
        assert bot.events == []


async def test_sdk_gets_an_unacked_event_again() -> None:
    async with SlackSimulator() as sim, running(sim) as bot:
        sim.faults.arm("ack_lost")
        key = sim.say("twice")
        await sim.until(lambda: sim.count("ack") == 1)
        assert [e["ts"] for e in bot.events] == [key, key]
        assert bot.attempts == [0, 1]


async def test_sdk_replaces_a_half_open_link() -> None:
    async with SlackSimulator() as sim, running(sim):
        sim.half_open()
        assert not sim.listening()
        await sim.until(sim.listening, timeout=60)
        sim.say("there again")
        await sim.until(lambda: len(sim.heard) == 1, timeout=120)


async def test_sdk_never_notices_a_mute_link() -> None:
    async with SlackSimulator() as sim, running(sim) as bot:
        sim.faults.arm("mute", times=None)
        sim.say("hello?")
        await asyncio.sleep(600)
        assert await bot.client.is_connected()
        assert bot.events == []
        assert (sim.count("ws-open"), sim.count("lost")) == (1, 1)


async def test_sdk_honours_retry_after_when_opening() -> None:
    async with SlackSimulator() as sim:
        sim.faults.arm("open_429", retry_after=17)
        began = sim.now()
        async with running(sim):
            assert sim.now() - began == pytest.approx(17, abs=0.5)


async def test_sdk_keeps_the_old_socket_when_the_app_token_is_refused() -> None:
    async with SlackSimulator() as sim, running(sim) as bot:
        sim.revoke(Token.APP, "invalid_auth")
        await sim.goodbye("warning")
        await sim.until(lambda: sim.count("refused") == 1)
        assert await bot.client.is_connected()
        await sim.until(lambda: sim.count("link-lost") == 1)
        sim.restore(Token.APP)
        await sim.until(sim.listening, timeout=60)


async def test_sdk_raises_what_the_web_api_refuses() -> None:
    async with SlackSimulator() as sim, running(sim) as bot:
        channel = sim.channel_id("alice")
        sim.faults.arm("send_429", retry_after=4)
        with pytest.raises(SlackApiError) as caught:
            await bot.web.chat_postMessage(channel=channel, text="hi")
        assert caught.value.response.status_code == 429
        assert caught.value.response.headers["Retry-After"] == "4"
        sim.faults.arm("send_error", error="missing_scope", needed="chat:write", provided="")
        with pytest.raises(SlackApiError) as caught:
            await bot.web.chat_postMessage(channel=channel, text="hi")
        assert caught.value.response["needed"] == "chat:write"
        sim.revoke(Token.BOT)
        with pytest.raises(SlackApiError, match="token_revoked"):
            await bot.web.auth_test()
        sim.restore(Token.BOT)
        assert (await bot.web.auth_test())["ok"]
        assert sim.heard == []


async def test_sdk_edits_reacts_and_looks_up() -> None:
    async with SlackSimulator() as sim, running(sim) as bot:
        key, channel = sim.say("hi"), sim.channel_id("alice")
        await sim.until(lambda: len(sim.heard) == 1)
        await bot.web.chat_update(channel=channel, ts=sim.heard[0].id, text="better")
        assert (sim.heard[1].text, sim.heard[1].edit_of) == ("better", sim.heard[0].id)
        await bot.web.reactions_add(channel=channel, timestamp=key, name="eyes")
        await bot.web.assistant_threads_setStatus(
            channel_id=channel, thread_ts=key, status="is thinking"
        )
        assert (sim.count("reaction"), sim.count("typing")) == (1, 1)
        me = await bot.web.auth_test()
        assert (me["user_id"], me["bot_id"]) == (BOT_USER, BOT_ID)
        user = await bot.web.users_info(user=sim.user_id("alice"))
        assert user["user"]["name"] == "alice"
        info = await bot.web.conversations_info(channel=channel)
        assert info["channel"]["user"] == sim.user_id("alice")
        thread = await bot.web.conversations_replies(channel=channel, ts=key)
        assert [m["text"] for m in thread["messages"]] == ["hi", "better"]


@pytest.mark.parametrize("fault", ["send_fatal", "send_slow"])
async def test_sdk_send_of_unknown_fate_was_delivered(fault: str) -> None:
    async with SlackSimulator() as sim:
        web, began = web_client(sim), sim.now()
        sim.faults.arm(fault)
        post = web.chat_postMessage(channel=sim.channel_id("alice"), text="hi")
        if fault == "send_fatal":
            with pytest.raises(SlackApiError, match="fatal_error"):
                await post
        else:
            assert (await post)["ok"]
        assert (sim.now() - began > 7) == (fault == "send_slow")
        assert [h.text for h in sim.heard] == ["hi"]


async def test_sdk_doubles_a_post_whose_answer_is_lost_unless_told_not_to_retry() -> None:
    async with SlackSimulator() as sim:
        web, channel = web_client(sim), sim.channel_id("alice")
        sim.faults.arm("send_answer_lost")
        assert (await web.chat_postMessage(channel=channel, text="hi"))["ok"] is True
        assert [h.text for h in sim.heard] == ["hi", "hi"]
        web.retry_handlers.clear()
        sim.faults.arm("send_answer_lost")
        with pytest.raises(aiohttp.ClientConnectionError):
            await web.chat_postMessage(channel=channel, text="once")
        assert [h.text for h in sim.heard[2:]] == ["once"]


async def test_sdk_slow_call() -> None:
    async with SlackSimulator() as sim:
        began = sim.now()
        sim.faults.arm("api_slow", delay=20)
        await web_client(sim).auth_test()
        assert sim.now() - began == pytest.approx(20, abs=0.5)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"channel": "C0NONE"}, "channel_not_found"),
        ({"text": ""}, "no_text"),
        ({"thread_ts": "1.000000"}, "thread_not_found"),
    ],
)
async def test_sdk_wrong_posts(changed: dict[str, str], error: str) -> None:
    async with SlackSimulator() as sim:
        params = {"channel": sim.channel_id("alice"), "text": "hi"} | changed
        with pytest.raises(SlackApiError, match=error):
            await web_client(sim).api_call("chat.postMessage", json=params)
        assert sim.heard == []


@pytest.mark.parametrize(
    ("method", "params", "error"),
    [
        ("conversations.history", {"limit": "many"}, "invalid_limit"),
        ("conversations.history", {"cursor": "?"}, "invalid_cursor"),
        ("conversations.history", {"oldest": "yesterday"}, "invalid_ts"),
        ("chat.postMessage", {"text": "hi", "metadata": "{"}, "invalid_arguments"),
        ("chat.postMessage", {"blocks": "{}"}, "invalid_blocks"),
        ("reactions.add", {"timestamp": "1.0", "name": "eyes"}, "message_not_found"),
        ("files.getUploadURLExternal", {"filename": "a"}, "invalid_arguments"),
        ("files.completeUploadExternal", {"files": "[]"}, "invalid_arguments"),
        ("files.info", {"file": "F0NONE"}, "file_not_found"),
        ("conversations.open", {"users": "U0NONE"}, "user_not_found"),
    ],
)
async def test_sdk_wrong_parameters_in_forms(
    method: str, params: dict[str, str], error: str
) -> None:
    async with SlackSimulator() as sim:
        sim.say("hi")
        with pytest.raises(SlackApiError, match=error):
            await web_client(sim).api_call(
                method, data={"channel": sim.channel_id("alice")} | params
            )
        assert sim.heard == []


async def test_sdk_hears_no_echo_of_its_posts_on_a_mute_link() -> None:
    async with SlackSimulator() as sim, running(sim) as bot:
        sim.faults.arm("mute", times=None)
        await bot.web.chat_postMessage(channel=sim.channel_id("ops", group=True), text="hi all")
        await asyncio.sleep(1)
        assert (len(sim.heard), sim.count("ack-echo")) == (1, 0)


async def test_sdk_posts_blocks_and_long_texts_to_channels_and_users() -> None:
    async with SlackSimulator() as sim:
        web, channel = web_client(sim), sim.channel_id("alice")
        block = {"type": "section", "text": {"type": "mrkdwn", "text": "in a block"}}
        await web.api_call("chat.postMessage", json={"channel": channel, "blocks": [block]})
        await web.chat_postMessage(channel=sim.user_id("alice"), text="x" * 40_001)
        assert [(h.chat, h.text) for h in sim.heard] == [
            ("alice", "in a block"),
            ("alice", "x" * 40_000),
        ]


async def test_sdk_changes_only_what_the_bot_wrote() -> None:
    async with SlackSimulator() as sim:
        web, channel = web_client(sim), sim.channel_id("alice")
        key = sim.say("mine")
        with pytest.raises(SlackApiError, match="cant_update_message"):
            await web.chat_update(channel=channel, ts=key, text="yours")
        own = (await web.chat_postMessage(channel=channel, text="hi"))["ts"]
        await web.chat_delete(channel=channel, ts=own)
        assert [r.detail["id"] for r in sim.log if r.what == "deleted"] == [own]
        with pytest.raises(SlackApiError, match="message_not_found"):
            await web.chat_delete(channel=channel, ts=own)


async def test_sdk_pages_through_the_history_from_newest_to_oldest() -> None:
    async with SlackSimulator() as sim:
        web, channel = web_client(sim), sim.channel_id("alice")
        keys = [sim.say(str(n)) for n in range(5)]
        reply = sim.say("in the thread", reply_to=keys[0])
        found: list[str] = []
        async for page in await web.conversations_history(channel=channel, limit=2):
            assert len(page["messages"]) <= 2
            found += [m["ts"] for m in page["messages"]]
        assert found == keys[::-1]
        for inclusive, expected in ((False, keys[:2:-1]), (True, keys[:1:-1])):
            page = await web.conversations_history(
                channel=channel, oldest=keys[2], inclusive=inclusive
            )
            assert [m["ts"] for m in page["messages"]] == expected
        thread = await web.conversations_replies(channel=channel, ts=keys[0])
        assert [m["ts"] for m in thread["messages"]] == [keys[0], reply]


async def test_sdk_finds_its_own_message_by_metadata() -> None:
    async with SlackSimulator() as sim:
        web, channel = web_client(sim), sim.channel_id("alice")
        metadata = {"event_type": "holdfast", "event_payload": {"key": "k1"}}
        await web.chat_postMessage(channel=channel, text="hi", metadata=metadata)
        page = await web.conversations_history(channel=channel)
        assert "metadata" not in page["messages"][0]
        page = await web.conversations_history(channel=channel, include_all_metadata=True)
        assert page["messages"][0]["metadata"] == metadata


async def test_sdk_opens_and_lists_chats() -> None:
    async with SlackSimulator() as sim:
        web, channel, key = web_client(sim), sim.channel_id("alice"), sim.say("hi")
        opened = await web.conversations_open(users=[sim.user_id("alice")])
        assert opened["channel"]["id"] == channel
        listed = await web.users_conversations(types=["im"])
        assert [c["id"] for c in listed["channels"]] == [channel]
        await web.reactions_add(channel=channel, timestamp=key, name="eyes")
        with pytest.raises(SlackApiError, match="already_reacted"):
            await web.reactions_add(channel=channel, timestamp=key, name="eyes")
        with pytest.raises(SlackApiError, match="user_not_found"):
            await web.users_info(user="U0NONE")


async def test_sdk_upload_that_fails() -> None:
    async with SlackSimulator() as sim:
        sim.faults.arm("upload_failed")
        with pytest.raises(SlackRequestError, match="status: 500"):
            await web_client(sim).files_upload_v2(
                channel=sim.channel_id("alice"), filename="cat.png", content=PNG
            )
        assert sim.heard == []


async def test_sdk_uploads_a_file() -> None:
    async with SlackSimulator() as sim, running(sim) as bot:
        key, channel = sim.say("send me a picture"), sim.channel_id("alice")
        answer = await bot.web.files_upload_v2(
            channel=channel, filename="cat.png", content=PNG, initial_comment="a cat", thread_ts=key
        )
        assert answer["file"]["mimetype"] == "image/png"
        heard = next(h for h in sim.heard if h.media)
        assert (heard.media, heard.data, heard.text, heard.reply_to) == (
            "cat.png",
            PNG,
            "a cat",
            key,
        )
