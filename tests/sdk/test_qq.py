"""The real qq-botpy under `supervise`: deaf on a half-open link, deaf after a refused session.

The SDK runs in a process of its own, pointed at the simulator there.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import types
import warnings
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from holdfast.lab.simulators.qqbot import QQBotSimulator
from holdfast.sdk import Life, Supervised, supervise
from holdfast.supervision import Published, State
from tests.sdk.tools import example, quick, up

pytestmark = [pytest.mark.sdk, pytest.mark.real_time]


def program(life: Life) -> Any:
    """The documented program; host and scheme are settings of the SDK, the token address is not."""
    warnings.simplefilter("ignore")
    import botpy.http
    import botpy.robot

    class Session(aiohttp.ClientSession):
        def post(self, url: Any, **options: Any) -> Any:
            return super().post(url.replace("https://bots.qq.com", os.environ["SIM"]), **options)

    botpy.http.Route.DOMAIN = os.environ["SIM"].removeprefix("http://")
    botpy.http.Route.SCHEME = "http"
    botpy.robot.aiohttp = types.SimpleNamespace(
        ClientSession=Session, ClientTimeout=aiohttp.ClientTimeout
    )
    return example("qq").start(life)


def supervised(sim: QQBotSimulator, patch: pytest.MonkeyPatch) -> Supervised:
    """The program, pointed at a started simulator."""
    patch.setenv("SIM", sim.url)
    patch.setenv("QQ_APP_ID", sim.app_id)
    patch.setenv("QQ_SECRET", sim.secret)
    return supervise(
        "qq",
        program,
        isolation="process",
        silence=3.0,
        policy=quick("qq"),
        classify=example("qq").classify,
    )


@contextlib.asynccontextmanager
async def chatter(sim: QQBotSimulator) -> AsyncIterator[None]:
    """Somebody says something twice a second: else only heartbeats, every 30 s, prove life."""

    async def talk() -> None:
        for number in itertools.count():
            sim.say(f"{number}")
            await asyncio.sleep(0.5)

    task = asyncio.create_task(talk())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_half_open_link_on_which_the_sdk_waits_for_ever_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with QQBotSimulator() as sim, supervised(sim, monkeypatch) as bot:
        sim.faults.arm("half_open")
        await up(bot, 1)
        assert sim.heard == []
        async with chatter(sim):
            view = await up(bot, 2)
            assert view.cause is not None
            assert view.cause.code == "qq_silent"
            await sim.until(lambda: bool(sim.heard), 10)


async def test_a_refused_session_on_which_the_sdk_hangs_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with QQBotSimulator() as sim, supervised(sim, monkeypatch) as bot:
        sim.faults.arm("invalid_session", close=False)
        await up(bot, 1)  # by its Hello
        async with chatter(sim):
            await up(bot, 2)
            await sim.until(lambda: bool(sim.heard), 10)
        assert sim.faults.played["invalid_session"] == 1


async def test_a_start_that_raises_for_its_credentials_waits_for_a_person(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with QQBotSimulator() as sim:
        sim.revoke()
        async with supervised(sim, monkeypatch) as bot:
            view = await bot.until(lambda v: v.published is Published.FATAL)
            assert view.cause is not None
            assert view.cause.code == "qq_bad_credentials"
            sim.set_secret(sim.secret)
            bot.kick(operator=True)
            await up(bot, 2)
        assert bot.view().state is State.STOPPED
        # The SDK has no way to close its link: the end of its process is.
        await sim.until(lambda: not sim.listening(), 5)
