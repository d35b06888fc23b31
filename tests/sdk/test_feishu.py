"""Mission rows M3 with the real lark-oapi under `supervise`: its silent deaths, in its own process.

Importing the SDK alone takes seconds, so the numbers here are larger than elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import os
import signal
import warnings
from collections.abc import AsyncIterator
from typing import Any

import pytest

from holdfast.lab.simulators.feishu import FeishuSimulator
from holdfast.sdk import Life, Supervised, supervise
from holdfast.supervision import Published, State
from tests.sdk.tools import example, quick, up

pytestmark = [pytest.mark.sdk, pytest.mark.real_time, pytest.mark.timeout(60)]


def program(life: Life) -> Any:
    """The documented program, without its log."""
    warnings.simplefilter("ignore")
    logging.disable()
    return example("feishu").start(life)


@contextlib.asynccontextmanager
async def bot_on(
    sim: FeishuSimulator, patch: pytest.MonkeyPatch, **policy: Any
) -> AsyncIterator[Supervised]:
    """The program under supervision, pointed at a started simulator that pings often."""
    patch.setenv("NO_PROXY", "127.0.0.1")
    patch.setenv("FEISHU_URL", sim.url)
    patch.setenv("FEISHU_APP_ID", sim.app_id)
    patch.setenv("FEISHU_APP_SECRET", sim.app_secret)
    async with supervise(
        "feishu",
        program,
        isolation="process",
        silence=4.0,
        policy=quick("feishu").with_(policy),
        classify=example("feishu").classify,
    ) as bot:
        yield bot
    assert bot.view().state is State.STOPPED
    # The SDK has no stop: the end of its process is, and it leaves no link behind.
    await sim.until(lambda: not sim.listening(), 5)


def simulator() -> FeishuSimulator:
    """It asks for a ping a second, and for one quick reconnect only."""
    sim = FeishuSimulator()
    sim.ping_interval, sim.reconnect_interval, sim.reconnect_nonce = 1, 1, 0
    sim.reconnect_count = 1
    return sim


async def test_m3_1_a_spent_retry_budget_is_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async with simulator() as sim, bot_on(sim, monkeypatch) as bot:
        await up(bot, 1)
        sim.say("before")
        await sim.until(lambda: len(sim.heard) == 1, 10)
        sim.faults.arm("endpoint_busy")
        sim.drop_all()
        view = await up(bot, 2)
        assert view.cause is not None
        sim.say("after")
        await sim.until(lambda: len(sim.heard) == 2, 10)
        assert [heard.text for heard in sim.heard] == ["echo before", "echo after"]


async def test_m3_2_a_start_that_neither_returns_nor_raises_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A partial configuration kills the SDK's next reconnect; `start` goes on as if connected."""
    async with simulator() as sim, bot_on(sim, monkeypatch) as bot:
        await up(bot, 1)
        sim.faults.arm("pong_partial")
        await sim.until(lambda: sim.faults.played["pong_partial"] == 1, 5)
        beats = sim.count("beat")
        await sim.until(lambda: sim.count("beat") > beats, 5)
        sim.drop_all()
        view = await up(bot, 2)
        assert view.cause is not None
        assert view.cause.code == "feishu_silent"
        assert sim.count("login") == 2


async def test_m3_2_a_ping_killed_by_a_partial_configuration_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the interval the SDK's ping task dies; `start` goes on as if connected."""
    async with simulator() as sim, bot_on(sim, monkeypatch) as bot:
        await up(bot, 1)
        sim.faults.arm("pong_partial", kept="ReconnectNonce")
        view = await up(bot, 2)
        assert sim.faults.played["pong_partial"] == 1
        assert view.cause is not None
        assert view.cause.code == "feishu_silent"


async def test_m3_2_a_start_that_ends_is_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with simulator() as sim, bot_on(sim, monkeypatch) as bot:
        await up(bot, 1)
        attempt: Any = bot._attempts[1]
        os.kill(attempt._process.pid, signal.SIGKILL)
        view = await up(bot, 2)
        assert view.cause is not None
        assert "exit code -9" in view.cause.message


async def test_m3_2_a_start_that_raises_for_its_credentials_waits_for_a_person(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with simulator() as sim:
        sim.revoke()
        async with bot_on(sim, monkeypatch) as bot:
            view = await bot.until(lambda v: v.published is Published.FATAL)
            assert view.cause is not None
            assert view.cause.code == "feishu_bad_credentials"


async def test_m3_3_a_client_that_hangs_while_it_is_made_is_made_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The SDK asks for its address by a blocking call without a limit."""
    async with simulator() as sim:
        sim.faults.arm("endpoint_hang")
        async with bot_on(sim, monkeypatch, attempt_timeout=12.0, step_timeout=12.0) as bot:
            view = await up(bot, 2)
            assert view.cause is not None
            assert view.cause.code == "feishu_connect_timeout"


@pytest.mark.parametrize("moment", ["import", "connect", "back-off"])
async def test_m3_4_a_stop_is_clean_at_any_moment(
    monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    async with simulator() as sim:
        if moment == "connect":
            sim.faults.arm("endpoint_hang")
        elif moment == "back-off":
            sim.faults.arm("endpoint_forbidden", times=None)
        async with bot_on(sim, monkeypatch, backoff_first=60.0, backoff_cap=60.0) as bot:
            if moment == "connect":
                await sim.until(lambda: sim.faults.played["endpoint_hang"] == 1, 20)
            elif moment == "back-off":
                await bot.until(lambda v: v.state is State.BACKOFF and v.attempt == 1)
            began = asyncio.get_running_loop().time()
            await bot.stop()
            assert asyncio.get_running_loop().time() - began < 5.0
            assert bot.view().state is State.STOPPED
        assert not multiprocessing.active_children()
