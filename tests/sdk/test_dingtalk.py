"""The real dingtalk-stream under `supervise`: it swallows cancellation and hears no death.

It is pointed at the simulator by the environment variable it reads when it is imported, so it runs
in a process of its own, or is imported anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from holdfast.lab.simulators.dingtalk import DingTalkSimulator
from holdfast.sdk import Life, Supervised, supervise
from holdfast.supervision import State
from tests.sdk.tools import example, quick, up

pytestmark = [pytest.mark.sdk, pytest.mark.real_time]


def program(life: Life) -> Any:
    """The documented program, without its log."""
    logging.disable()
    return example("dingtalk").start(life)


@contextlib.asynccontextmanager
async def simulator(patch: pytest.MonkeyPatch) -> AsyncIterator[DingTalkSimulator]:
    """A simulator that pings twice a second, known to the SDK of a child process."""
    sim = DingTalkSimulator()
    sim.ping_interval = 0.5
    async with sim:
        account = sim.account()
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.setenv("DINGTALK_OPENAPI_ENDPOINT", sim.url)
        patch.setenv("DINGTALK_ID", account["client_id"])
        patch.setenv("DINGTALK_SECRET", account["client_secret"])
        yield sim


def supervised(isolation: str = "process", **policy: Any) -> Supervised:
    """The program under supervision."""
    numbers = quick("dingtalk").with_(policy)
    return supervise("dingtalk", program, isolation=isolation, silence=2.0, policy=numbers)


async def test_m1_1_a_link_that_dies_in_silence_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with simulator(monkeypatch) as sim:
        async with supervised() as bot:
            await up(bot, 1)
            sim.say("before")
            await sim.until(lambda: len(sim.heard) == 1, 10)
            # The socket stays open and nothing comes: the SDK itself waits for ever.
            sim.half_open()
            view = await up(bot, 2)
            assert view.cause is not None
            assert view.cause.code == "dingtalk_silent"
            assert view.abandoned == 0
            sim.say("after")
            await sim.until(lambda: len(sim.heard) == 2, 10)
        assert [heard.text for heard in sim.heard] == ["echo before", "echo after"]
        # The SDK has no stop call: the end of its process is.
        await sim.until(lambda: not sim.listening(), 5)


async def test_an_open_call_that_never_returns_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK asks for a connection by a blocking call without a limit, in its event loop."""
    async with simulator(monkeypatch) as sim:
        sim.faults.arm("open_hang")
        async with supervised(attempt_timeout=4.0, step_timeout=4.0) as bot:
            view = await bot.until(lambda v: v.generation == 2)
            assert view.cause is not None
            assert view.cause.code == "dingtalk_connect_timeout"
            await up(bot, 2)
        assert sim.faults.played["open_hang"] == 1


async def test_m1_1_a_cancellation_that_the_sdk_swallows_holds_up_no_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On our own loop, which the SDK blocks while it opens: the simulator needs another thread."""
    for name in [n for n in sys.modules if n.startswith("dingtalk_stream")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    with _elsewhere(monkeypatch):
        async with supervised("task") as bot:
            await up(bot, 1)
            began = asyncio.get_running_loop().time()
            await bot.stop()
            assert asyncio.get_running_loop().time() - began < 5.0
            assert bot.view().state is State.STOPPED
            # The SDK obeys the second cancellation, which is that of the abort.
            assert bot.view().abandoned == 0


@contextlib.contextmanager
def _elsewhere(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """A simulator on a thread and a loop of its own."""
    up, over = threading.Event(), threading.Event()

    async def serve() -> None:
        async with simulator(patch):
            up.set()
            await asyncio.get_running_loop().run_in_executor(None, over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert up.wait(10)
    try:
        yield
    finally:
        over.set()
        thread.join(10)
