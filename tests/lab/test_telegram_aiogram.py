"""aiogram, unmodified, on the Telegram simulator: a second witness besides python-telegram-bot.

Strict models of every object are its way: what the simulator says must be complete to be read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
from aiogram import Bot, Dispatcher
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from aiogram.exceptions import TelegramConflictError, TelegramRetryAfter, TelegramUnauthorizedError
from aiogram.types import BufferedInputFile, Message

from holdfast.lab.simulators.telegram import TelegramSimulator

pytestmark = pytest.mark.sdk

Handler = Callable[[Message], Awaitable[object]]


@pytest.fixture(autouse=True)
def quiet() -> None:
    """It logs every failed poll."""
    logging.getLogger("aiogram").setLevel(logging.CRITICAL)


@asynccontextmanager
async def client(sim: TelegramSimulator) -> AsyncIterator[Bot]:
    """The library's own way to another server."""
    account = sim.account()
    server = TelegramAPIServer.from_base(account["base_url"])
    async with Bot(account["token"], session=AiohttpSession(api=server)) as bot:
        yield bot


@asynccontextmanager
async def polling(sim: TelegramSimulator, answer: Handler) -> AsyncIterator[Bot]:
    """A dispatcher at work."""
    dispatcher = Dispatcher()
    dispatcher.message.register(answer)
    dispatcher.edited_message.register(answer)
    async with client(sim) as bot:
        work = asyncio.create_task(
            dispatcher.start_polling(bot, handle_signals=False, close_bot_session=False)
        )
        try:
            await sim.until(sim.listening)
            yield bot
        finally:
            await dispatcher.stop_polling()
            await work


async def echo(message: Message) -> None:
    await message.reply(f"echo: {message.text}")


async def test_it_answers_in_private_and_in_groups() -> None:
    async with TelegramSimulator() as sim, polling(sim, echo):
        private = sim.say("hello", chat="ann", sender="ann")
        group = sim.say("😀 @gate_test_bot check", chat="ops", sender="bob", group=True)
        await sim.until(lambda: len(sim.heard) == 2)
        assert [(h.chat, h.reply_to) for h in sim.heard] == [("ann", private), ("ops", group)]
        assert sim.heard[0].text == "echo: hello"


async def test_edits_go_both_ways() -> None:
    async def edit(message: Message) -> None:
        sent = await message.answer("thinking")
        await sent.edit_text(f"done: {message.text}")

    async with TelegramSimulator() as sim, polling(sim, edit):
        said = sim.say("one")
        await sim.until(lambda: len(sim.heard) == 2)  # it handles updates side by side
        sim.say("two", edit_of=said)
        await sim.until(lambda: len(sim.heard) == 4)
        assert [h.text for h in sim.heard] == ["thinking", "done: one", "thinking", "done: two"]
        assert sim.heard[1].edit_of == sim.heard[0].id


async def test_files_go_both_ways() -> None:
    picture, got = b"\x89PNG" + bytes(500), []

    async def send_back(message: Message) -> None:
        assert message.bot is not None
        assert message.photo is not None
        content = await message.bot.download(message.photo[-1])
        assert content is not None
        got.append(content.read())
        await message.answer_document(BufferedInputFile(got[0], "back.png"), caption="back")

    async with TelegramSimulator() as sim, polling(sim, send_back):
        sim.say("look", image=picture)
        await sim.until(lambda: len(sim.heard) == 1)
        assert got == [picture]
        [heard] = sim.heard
        assert (heard.media, heard.data, heard.text) == ("back.png", picture, "back")


def _played(sim: TelegramSimulator, fault: str) -> bool:
    return sim.faults.played[fault] == 1


def _answered(sim: TelegramSimulator, messages: int) -> bool:
    return len(sim.heard) == messages


async def test_it_goes_on_after_a_bad_gateway_and_a_lost_poll() -> None:
    async with TelegramSimulator() as sim, polling(sim, echo):
        for number, fault in enumerate(("http_502", "close_before_answer", "html_200"), 1):
            sim.faults.arm(fault)
            await sim.until(partial(_played, sim, fault))
            sim.say(f"{number}")
            await sim.until(partial(_answered, sim, number))
        assert [h.text for h in sim.heard] == ["echo: 1", "echo: 2", "echo: 3"]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("unauthorized", TelegramUnauthorizedError),
        ("conflict", TelegramConflictError),
        ("rate_limited", TelegramRetryAfter),
    ],
)
async def test_it_knows_every_refusal(fault: str, expected: type[Exception]) -> None:
    async with TelegramSimulator() as sim, client(sim) as bot:
        sim.faults.arm(fault)
        with pytest.raises(expected):
            await bot.get_updates(timeout=0)
