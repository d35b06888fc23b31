"""The real python-telegram-bot under `supervise`, on virtual time."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.sdk import Supervised, supervise
from holdfast.supervision import Published
from tests.sdk.tools import example, up

pytestmark = pytest.mark.sdk


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The SDK logs every failed poll with its traceback."""
    monkeypatch.setenv("PTB_TIMEDELTA", "true")
    logging.getLogger("telegram").setLevel(logging.CRITICAL + 1)
    yield
    logging.getLogger("telegram").setLevel(logging.NOTSET)


def supervised(sim: TelegramSimulator, patch: pytest.MonkeyPatch) -> Supervised:
    """The documented program, pointed at a started simulator."""
    account = sim.account()
    patch.setenv("TELEGRAM_TOKEN", account["token"])
    patch.setenv("TELEGRAM_API_URL", account["base_url"])
    program = example("telegram")
    return supervise("telegram", program.start, classify=program.classify)


async def test_polling_that_ended_behind_the_programs_back_is_begun_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One refused poll ends the SDK's polling for good, and the program goes on, deaf."""
    async with TelegramSimulator() as sim, supervised(sim, monkeypatch) as bot:
        await up(bot, 1)
        sim.say("before")
        await sim.until(lambda: [h.text for h in sim.heard] == ["echo before"])
        sim.faults.arm("unauthorized")
        await sim.until(lambda: sim.faults.played["unauthorized"] == 1)
        await asyncio.sleep(20)
        assert not sim.listening(), "the SDK would have come back by itself"
        sim.say("meanwhile")
        await up(bot, 2)
        await sim.until(lambda: "echo meanwhile" in [h.text for h in sim.heard])
        view = bot.view()
        assert view.cause is not None
        assert view.cause.code == "telegram_silent"


async def test_a_start_that_raises_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    async with TelegramSimulator() as sim:
        sim.faults.arm("http_502", times=6)
        async with supervised(sim, monkeypatch) as bot:
            view = await up(bot, 2)
            assert view.attempt >= 1
            sim.say("hello")
            await sim.until(lambda: [h.text for h in sim.heard] == ["echo hello"])


async def test_a_refused_token_waits_for_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    async with TelegramSimulator() as sim:
        sim.revoke_token()
        async with supervised(sim, monkeypatch) as bot:
            view = await bot.until(lambda v: v.published is Published.FATAL)
            assert view.cause is not None
            assert view.cause.code == "telegram_unauthorized"
            sim.restore()
            bot.kick(operator=True)
            await up(bot, 2)
