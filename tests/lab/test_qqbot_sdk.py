"""The unmodified official SDK (qq-botpy) on the simulator: proof that the simulator is honest."""

from __future__ import annotations

import asyncio
import contextlib
import types
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import botpy
import botpy.http
import botpy.robot
import pytest

from holdfast.lab.simulators.qqbot import QQBotSimulator

pytestmark = [
    pytest.mark.sdk,
    # The SDK builds a bare ssl.SSLContext() for every connection.
    pytest.mark.filterwarnings("ignore:ssl.PROTOCOL_TLS is deprecated:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:ssl.SSLContext.. without protocol:DeprecationWarning"),
]

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8) + (3).to_bytes(4, "big") + (2).to_bytes(4, "big")
SDK_TASKS = ("Client.", "ConnectionSession.", "BotWebSocket.")


class Bot(botpy.Client):  # type: ignore[misc]
    """Answers every message with its text, and keeps what it got."""

    def __init__(self) -> None:
        super().__init__(botpy.Intents(public_messages=True), bot_log=None, ext_handlers=False)
        self.got: list[Any] = []
        self.resumed = 0

    async def on_resumed(self) -> None:
        self.resumed += 1

    async def on_c2c_message_create(self, message: Any) -> None:
        self.got.append(message)
        await message.reply(content=f"private {message.content}")

    async def on_group_at_message_create(self, message: Any) -> None:
        self.got.append(message)
        await message.reply(content=f"group {message.content.strip()}")

    @property
    def texts(self) -> list[str]:
        return [message.content.strip() for message in self.got]


def point_sdk_at(sim: QQBotSimulator, patch: pytest.MonkeyPatch) -> None:
    """Host and scheme are settings of the SDK; only the literal token address needs a shim."""

    class Session(aiohttp.ClientSession):
        def post(self, url: Any, **options: Any) -> Any:
            return super().post(url.replace("https://bots.qq.com", sim.url), **options)

    patch.setattr(botpy.http.Route, "DOMAIN", f"{sim.host}:{sim.port}")
    patch.setattr(botpy.http.Route, "SCHEME", "http")
    shim = types.SimpleNamespace(ClientSession=Session, ClientTimeout=aiohttp.ClientTimeout)
    patch.setattr(botpy.robot, "aiohttp", shim)


@contextlib.asynccontextmanager
async def running(
    sim: QQBotSimulator, patch: pytest.MonkeyPatch, secret: str | None = None
) -> AsyncIterator[tuple[Bot, asyncio.Task[Any]]]:
    """A bot of the SDK; its tasks, which it does not stop itself, are cancelled at the end."""
    with warnings_of_subclassing():
        point_sdk_at(sim, patch)
    bot = Bot()
    task = asyncio.create_task(bot.start(sim.app_id, secret or sim.secret))
    try:
        yield bot, task
    finally:
        await bot.close()
        leftovers = {task} | {
            t
            for t in asyncio.all_tasks()
            if t.get_coro().__qualname__.startswith(SDK_TASKS)  # type: ignore[union-attr]
        }
        for leftover in leftovers:
            leftover.cancel()
        await asyncio.wait(leftovers)


def warnings_of_subclassing() -> contextlib.AbstractContextManager[Any]:
    """aiohttp discourages the subclass that the shim is."""
    return pytest.warns(DeprecationWarning, match="Inheritance class Session")


async def test_sdk_logs_in_beats_and_answers_in_both_scenes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with QQBotSimulator() as sim, running(sim, monkeypatch) as (bot, _):
        await sim.until(sim.listening)
        assert bot.robot.name == "holdfast"
        private = sim.say("hello")
        grouped = sim.say("summarize", chat="team", sender="bob", group=True)
        await sim.until(lambda: len(sim.heard) == 2)
        assert {(h.chat, h.text, h.reply_to) for h in sim.heard} == {
            ("alice", "private hello", private),
            ("team", "group summarize", grouped),
        }
        await sim.until(lambda: sim.count("beat") >= 3, timeout=100)
        assert sim.count("login") == 1


async def test_sdk_resumes_after_goodbye_and_gets_what_it_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with QQBotSimulator() as sim, running(sim, monkeypatch) as (bot, _):
        await sim.until(sim.listening)
        await sim.goodbye()
        assert not sim.listening()
        sim.say("missed")
        await sim.until(lambda: len(sim.heard) == 1)
        await sim.close_all(4009)
        sim.say("missed again")
        await sim.until(lambda: len(sim.heard) == 2)
        assert bot.texts == ["missed", "missed again"]
        assert (sim.count("login"), bot.resumed, sim.count("lost")) == (1, 2, 0)


async def test_sdk_identifies_after_invalid_session_with_4903(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with QQBotSimulator() as sim, running(sim, monkeypatch) as (bot, _):
        sim.faults.arm("invalid_session")
        await sim.until(lambda: sim.count("identify") == 2)
        await sim.until(sim.listening)
        sim.say("after all")
        await sim.until(lambda: len(sim.heard) == 1)
        assert bot.texts == ["after all"]
        assert sim.count("login") == 1


async def test_sdk_fetches_a_new_token_after_4004(monkeypatch: pytest.MonkeyPatch) -> None:
    async with QQBotSimulator() as sim, running(sim, monkeypatch) as (bot, _):
        await sim.until(sim.listening)
        sim.expire_tokens()
        await sim.close_all(4009)
        # Resume with the expired token is closed with 4004, which is what the SDK reacts to.
        await sim.until(lambda: sim.count("resumed") == 1)
        assert (sim.count("token"), sim.count("resume")) == (2, 2)
        sim.say("still here")
        await sim.until(lambda: len(sim.heard) == 1)
        assert bot.resumed == 1


async def test_sdk_sees_the_attachment_and_sends_media(monkeypatch: pytest.MonkeyPatch) -> None:
    async with QQBotSimulator() as sim, running(sim, monkeypatch) as (bot, _):
        await sim.until(sim.listening)
        key = sim.say("look", image=PNG)
        await sim.until(lambda: len(sim.heard) == 1)
        [seen] = bot.got[0].attachments
        assert (seen.content_type, seen.width, seen.height) == ("image/png", 3, 2)
        openid = bot.got[0].author.user_openid
        media = await bot.api.post_c2c_file(openid=openid, file_type=1, url=seen.url)
        await bot.api.post_c2c_message(
            openid=openid, msg_type=7, content=" ", media=media, msg_id=key, msg_seq=2
        )
        assert (sim.heard[1].media, sim.heard[1].data) == ("image.png", PNG)


async def test_sdk_second_reply_to_a_message_is_a_duplicate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with QQBotSimulator() as sim, running(sim, monkeypatch) as (bot, _):
        await sim.until(sim.listening)
        sim.say("once")
        await sim.until(lambda: len(sim.heard) == 1)
        with pytest.raises(botpy.errors.ServerError, match="msgseq"):
            await bot.got[0].reply(content="twice")
        assert len(sim.heard) == 1


async def test_sdk_startup_fails_on_a_wrong_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    async with QQBotSimulator() as sim, running(sim, monkeypatch, "wrong") as (_, task):
        with pytest.raises(RuntimeError, match="100016"):
            await task
        assert sim.count("ws-open") == 0


async def test_sdk_crashes_on_a_numeric_expires_in(monkeypatch: pytest.MonkeyPatch) -> None:
    async with QQBotSimulator() as sim:
        sim.faults.arm("expires_in_number")
        async with running(sim, monkeypatch) as (_, task):
            with pytest.raises(TypeError, match="concatenate"):
                await task
