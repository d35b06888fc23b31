"""The real slack-sdk under `supervise`, on virtual time: its returns, raises and frozen links."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

import pytest

from holdfast.lab.simulators.slack import SlackSimulator, Token
from holdfast.sdk import Life, Supervised, supervise
from holdfast.supervision import Published, State
from tests.sdk.tools import example, up

pytestmark = pytest.mark.sdk

SDK_TASKS = ("SocketModeClient.", "AsyncBaseSocketModeClient.")


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """The SDK logs every expected disconnect."""
    logging.getLogger("slack_sdk").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("slack_sdk").setLevel(logging.NOTSET)


def supervised(sim: SlackSimulator, patch: pytest.MonkeyPatch, start: Any = None) -> Supervised:
    """The documented program, pointed at a started simulator."""
    account = sim.account()
    patch.setenv("SLACK_APP_TOKEN", account["app_token"])
    patch.setenv("SLACK_BOT_TOKEN", account["bot_token"])
    patch.setenv("SLACK_API_URL", account["api_url"])
    program = example("slack")
    return supervise(
        "slack", start or program.start, classify=program.classify, silence=30, probe_every=10
    )


async def test_a_link_the_sdk_can_never_open_again_is_no_longer_called_alive(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With its token refused the SDK asks every few seconds for ever, and tells nobody."""
    async with SlackSimulator() as sim, supervised(sim, monkeypatch) as bot:
        await up(bot, 1)
        sim.say("before")
        await sim.until(lambda: [h.text for h in sim.heard] == ["echo before"])
        sim.revoke(Token.APP)
        sim.drop_all()
        began = sim.now()
        view = await bot.until(lambda v: v.published is Published.FATAL)
        assert sim.now() - began < 60
        assert view.cause is not None
        assert view.cause.code == "slack_token_revoked"
        sim.restore(Token.APP)
        bot.kick(operator=True)
        await bot.until(lambda v: v.published is Published.CONNECTED)
        sim.say("after")
        await sim.until(lambda: "echo after" in [h.text for h in sim.heard])
    await sim.until(lambda: not sim.listening(), 5)


async def test_what_the_sdk_heals_by_itself_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with SlackSimulator() as sim, supervised(sim, monkeypatch) as bot:
        await up(bot, 1)
        sim.half_open()
        await sim.until(lambda: sim.count("link-open") == 2)
        sim.say("after")
        await sim.until(lambda: [h.text for h in sim.heard] == ["echo after"])
        view = bot.view()
        assert (view.published, view.generation) == (Published.CONNECTED, 1)


async def test_a_quiet_workspace_is_proved_alive_by_pongs_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with SlackSimulator() as sim, supervised(sim, monkeypatch) as bot:
        await up(bot, 1)
        await asyncio.sleep(600)
        view = bot.view()
        assert (view.published, view.generation) == (Published.CONNECTED, 1)


async def test_a_program_that_returns_once_it_is_connected_is_started_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`connect` returns at once, and so does a program that knows no better."""

    async def returns(life: Life) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(10):
                await example("slack").start(life)

    async with SlackSimulator() as sim, supervised(sim, monkeypatch, returns) as bot:
        view = await bot.until(lambda v: v.generation == 5)
        assert view.cause is not None
        assert view.cause.code == "returned"
    await sim.until(lambda: not sim.listening(), 5)


async def test_a_refused_token_waits_for_a_person(monkeypatch: pytest.MonkeyPatch) -> None:
    async with SlackSimulator() as sim:
        sim.revoke(Token.APP, "invalid_auth")
        async with supervised(sim, monkeypatch) as bot:
            view = await bot.until(lambda v: v.published is Published.FATAL)
            assert view.cause is not None
            assert view.cause.code == "slack_invalid_auth"
            sim.restore(Token.APP)
            bot.kick(operator=True)
            await up(bot, 2)
        assert bot.view().state is State.STOPPED
