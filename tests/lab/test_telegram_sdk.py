"""python-telegram-bot, unmodified, on the simulator: the proof that the simulator is honest.

It runs on virtual time: the library's own back-off and poll timeouts are what moves the clock.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Any

import pytest
from telegram import Bot, Message, Update
from telegram.error import (
    BadRequest,
    Conflict,
    Forbidden,
    InvalidToken,
    NetworkError,
    RetryAfter,
    TelegramError,
)
from telegram.ext import Application, ApplicationBuilder, ContextTypes, MessageHandler, filters

from holdfast.lab.simulators.telegram import TelegramSimulator

pytestmark = pytest.mark.sdk

App = Application[Any, Any, Any, Any, Any, Any]
Reply = Callable[[Message], Any]


@pytest.fixture(autouse=True)
def timedeltas(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library's own switch against its deprecation warning about ``retry_after``."""
    monkeypatch.setenv("PTB_TIMEDELTA", "true")


class Running:
    """A started Application, what its handler saw, and what its poller complained about."""

    def __init__(self, sim: TelegramSimulator, app: App) -> None:
        self.sim, self.app = sim, app
        self.bot: Bot = app.bot
        self.seen: list[Message] = []
        self.errors: list[tuple[float, TelegramError]] = []

    def failed(self, error: TelegramError) -> None:
        """Called by the library for each failed ``getUpdates``."""
        self.errors.append((self.sim.now(), error))
        self.sim.note("sdk-error")


def build(sim: TelegramSimulator) -> App:
    account = sim.account()
    builder = (
        ApplicationBuilder()
        .token(account["token"])
        .base_url(f"{account['base_url']}/bot")
        .base_file_url(f"{account['base_url']}/file/bot")
    )
    return builder.build()


async def echo(message: Message) -> None:
    await message.reply_text(f"echo: {message.text}", do_quote=True)


@asynccontextmanager
async def polling(sim: TelegramSimulator, reply: Reply = echo) -> AsyncIterator[Running]:
    """The library's documented way to run beside other asyncio code."""
    app = build(sim)
    running = Running(sim, app)

    async def on_message(update: Update, _: ContextTypes.DEFAULT_TYPE) -> None:
        assert update.effective_message is not None
        running.seen.append(update.effective_message)
        await reply(update.effective_message)
        sim.note("sdk-handled")

    app.add_handler(MessageHandler(filters.ALL, on_message))
    assert app.updater is not None
    await app.initialize()
    await app.start()
    await app.updater.start_polling(error_callback=running.failed)
    try:
        yield running
    finally:
        await app.updater.stop()
        await app.stop()
        await app.shutdown()


async def test_it_logs_in_and_listens() -> None:
    async with TelegramSimulator() as sim, polling(sim) as running:
        await sim.until(sim.listening)
        assert running.bot.username == sim.username
        assert sim.count("login") == 1
        await sim.until(lambda: sim.count("poll") == 3, timeout=60)
        assert sim.count("link-lost") == 0


async def test_a_private_message_is_answered_as_a_reply() -> None:
    async with TelegramSimulator() as sim, polling(sim) as running:
        await sim.until(sim.listening)
        said = sim.say("hello", chat="ann", sender="ann")
        await sim.until(lambda: bool(sim.heard))
        [heard] = sim.heard
        assert (heard.chat, heard.text, heard.reply_to) == ("ann", "echo: hello", said)
        [message] = running.seen
        assert message.chat.type == "private"
        assert message.from_user is not None
        assert message.from_user.username == "ann"


async def test_a_group_message_mentions_the_bot() -> None:
    async with TelegramSimulator() as sim, polling(sim) as running:
        first = sim.say("check", chat="ops", sender="ann", group=True, thread=42)
        said = sim.say("😀 @gate_test_bot again", chat="ops", group=True, reply_to=first)
        await sim.until(lambda: len(sim.heard) == 2)
        assert [(heard.chat, heard.reply_to) for heard in sim.heard] == [
            ("ops", first),
            ("ops", said),
        ]
        topic, reply = running.seen
        assert (topic.chat.type, topic.chat.title, topic.message_thread_id) == (
            "supergroup",
            "ops",
            42,
        )
        assert reply.reply_to_message is not None
        assert str(reply.reply_to_message.message_id) == first
        assert list(reply.parse_entities(["mention"]).values()) == ["@gate_test_bot"]


async def test_edits_reach_it_and_its_edits_reach_users() -> None:
    async def edit(message: Message) -> None:
        sent = await message.reply_text("thinking")
        await sent.edit_text("done")

    async with TelegramSimulator() as sim, polling(sim, edit) as running:
        said = sim.say("one")
        sim.say("two", edit_of=said)
        await sim.until(lambda: len(sim.heard) == 4)
        assert [message.text for message in running.seen] == ["one", "two"]
        assert running.seen[1].edit_date is not None
        assert [heard.text for heard in sim.heard[:2]] == ["thinking", "done"]
        assert sim.heard[1].edit_of == sim.heard[0].id


async def test_it_fetches_a_photo_through_getfile() -> None:
    picture = b"\x89PNG" + bytes(range(256)) * 40
    fetched: list[bytes] = []

    async def fetch(message: Message) -> None:
        attached = message.photo[-1] if message.photo else message.document
        assert attached is not None
        fetched.append(bytes(await (await attached.get_file()).download_as_bytearray()))

    async with TelegramSimulator() as sim, polling(sim, fetch) as running:
        sim.say("look", image=picture)
        sim.say("", file=("log.txt", b"all is well"))
        await sim.until(lambda: sim.count("sdk-handled") == 2)
        assert fetched == [picture, b"all is well"]
        assert running.seen[0].caption == "look"
        assert running.seen[1].document is not None
        assert running.seen[1].document.file_name == "log.txt"


async def test_its_uploads_and_other_calls_are_understood() -> None:
    async def answer(message: Message) -> None:
        await message.reply_chat_action("typing")
        await message.set_reaction("👍")
        await message.reply_photo(b"\x89PNG picture", caption="<b>here</b>", parse_mode="HTML")
        sent = await message.reply_document(b"text", filename="log.txt")
        await sent.delete()

    async with TelegramSimulator() as sim, polling(sim, answer) as running:
        sim.say("everything")
        await sim.until(lambda: sim.count("sdk-handled") == 1)
        await running.bot.set_my_commands([("start", "begin")])
        photo, document = sim.heard
        assert (photo.text, photo.media, photo.data) == ("here", "photo", b"\x89PNG picture")
        assert (document.media, document.data) == ("log.txt", b"text")
        for fact in ("chat-action", "reaction", "deleted"):
            assert sim.count(fact) == 1
        assert sim.commands == [{"command": "start", "description": "begin"}]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("http_502", NetworkError),
        ("http_504", NetworkError),
        ("html_200", TelegramError),
        ("malformed_json", TelegramError),
    ],
)
async def test_it_survives_a_bad_front_end(fault: str, expected: type[TelegramError]) -> None:
    async with TelegramSimulator() as sim, polling(sim) as running:
        await sim.until(sim.listening)
        sim.faults.arm(fault, times=2)
        await sim.until(lambda: len(running.errors) == 2)
        assert [type(error) for _, error in running.errors] == [expected] * 2
        sim.say("still there?")
        await sim.until(lambda: bool(sim.heard))
        assert sim.heard[0].text == "echo: still there?"


async def test_it_honours_429_while_polling() -> None:
    async with TelegramSimulator() as sim, polling(sim):
        await sim.until(sim.listening)
        sim.faults.arm("rate_limited", retry_after=20)
        await sim.until(lambda: sim.count("fault") == 1)
        refused = sim.now()
        sim.say("patience")
        await sim.until(lambda: bool(sim.heard), timeout=60)
        assert 20 <= sim.heard[0].at - refused < 25


async def test_errors_of_sends_have_the_librarys_types() -> None:
    async with TelegramSimulator() as sim, polling(sim) as running:
        chat = sim.chat_id("alice")
        for fault, expected in (
            ("send_429", RetryAfter),
            ("send_403", Forbidden),
            ("send_answer_lost", NetworkError),
        ):
            sim.faults.arm(fault)
            with pytest.raises(expected):
                await running.bot.send_message(chat, "x")
        with pytest.raises(BadRequest, match="hat not found"):
            await running.bot.send_message(77, "x")
        with pytest.raises(BadRequest, match="too long"):
            await running.bot.send_message(chat, "x" * 4097)
        assert len(sim.heard) == 1


async def test_an_update_lost_with_its_connection_is_delivered_again() -> None:
    async with TelegramSimulator() as sim, polling(sim) as running:
        await sim.until(sim.listening)
        sim.faults.arm("close_before_answer")
        sim.say("hold on")
        await sim.until(lambda: bool(sim.heard))
        assert len(running.errors) == 1
        assert sim.heard[0].text == "echo: hold on"


async def test_a_hanging_poll_costs_it_its_read_timeout_only() -> None:
    async with TelegramSimulator() as sim, polling(sim) as running:
        await sim.until(sim.listening)
        sim.faults.arm("poll_hangs")
        await sim.until(lambda: sim.faults.played["poll_hangs"] == 1)
        sim.say("awake?")
        await sim.until(lambda: bool(sim.heard), timeout=60)
        assert running.seen[0].text == "awake?"


async def test_a_second_poller_is_a_conflict() -> None:
    async with TelegramSimulator() as sim, polling(sim) as running:
        await sim.until(sim.listening)
        async with sim.rival():
            await sim.until(lambda: len(running.errors) >= 3, timeout=120)
        assert all(isinstance(error, Conflict) for _, error in running.errors)
        times = [at for at, _ in running.errors]
        assert min(later - at for at, later in pairwise(times)) >= 3 - 0.1
        sim.say("mine again")
        await sim.until(lambda: bool(sim.heard), timeout=120)


async def test_two_of_them_conflict_with_each_other() -> None:
    async with TelegramSimulator() as sim, polling(sim) as one, polling(sim) as two:
        await sim.until(lambda: bool(one.errors) and bool(two.errors), timeout=120)
        assert {type(error) for _, error in one.errors + two.errors} == {Conflict}


async def test_a_revoked_token_is_an_invalid_token() -> None:
    async with TelegramSimulator() as sim:
        app = build(sim)
        sim.revoke_token()
        with pytest.raises(InvalidToken):
            await app.initialize()
        sim.restore()
        await app.initialize()
        assert app.bot.username == sim.username
        await app.shutdown()


async def test_it_recovers_from_a_restart_of_the_server() -> None:
    async with TelegramSimulator() as sim, polling(sim) as running:
        await sim.until(sim.listening)
        await sim.stop()
        sim.say("meanwhile")
        await asyncio.sleep(20)
        await sim.start()
        await sim.until(lambda: bool(sim.heard), timeout=120)
        assert running.errors
        assert sim.heard[0].text == "echo: meanwhile"


async def test_its_web_hook_calls_are_understood() -> None:
    async with TelegramSimulator() as sim:
        bot = build(sim).bot
        async with bot:
            await bot.set_webhook("http://127.0.0.1:9/hook", secret_token="s3cret")
            info = await bot.get_webhook_info()
            assert (info.url, info.pending_update_count) == ("http://127.0.0.1:9/hook", 0)
            with pytest.raises(Conflict, match="webhook is active"):
                await bot.get_updates(timeout=1)
            sim.say("dropped")
            await bot.delete_webhook(drop_pending_updates=True)
            assert await bot.get_updates(timeout=1) == ()
