"""Mission row M5.8: Mattermost, Slack and WhatsApp share the supervision of all the others."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.lab.faults.relay import Relay
from holdfast.lab.simulator import Simulator
from holdfast.lab.simulators.mattermost import MattermostSimulator
from holdfast.lab.simulators.slack import SlackSimulator, Token
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.lab.simulators.whatsapp import WebhookRefused, WhatsAppSimulator
from holdfast.lab.stage import Stage
from tests.theatre import Theatre, theatre

CHANNELS: dict[str, type[Simulator]] = {
    "mattermost": MattermostSimulator,
    "slack": SlackSimulator,
    "whatsapp": WhatsAppSimulator,
}

REVOKE: dict[str, Callable[[Any], object]] = {
    "mattermost": lambda sim: sim.revoke(),
    "slack": lambda sim: sim.revoke(Token.APP, "invalid_auth"),
    "whatsapp": lambda sim: sim.expire_token(),
}

REPAIR: dict[str, Callable[[Any], object]] = {
    "mattermost": lambda sim: sim.set_token(sim.account()["token"]),
    "slack": lambda sim: sim.restore(Token.APP),
    "whatsapp": lambda sim: sim.set_token(sim.account()["access_token"]),
}


@contextlib.asynccontextmanager
async def channel(
    home: Path, name: str, *others: Stage, revoked: bool = False, **options: Any
) -> AsyncIterator[tuple[Stage, Theatre]]:
    """A gateway with an account of this channel."""
    simulator = CHANNELS[name]()
    if revoked:
        REVOKE[name](simulator)
    # WhatsApp calls us: the public address leads to the gateway's web hook server.
    async with Relay("127.0.0.1", 0) as door, Stage(name, simulator) as stage:
        public = {"hook_url": door.url("http")}
        options.setdefault("every", 1.0)
        async with theatre(home, stage, *others, gateway=public, **options) as play:
            await play.gateway.hooks.start()
            door.target = ("127.0.0.1", play.gateway.hooks.port)
            registered = asyncio.create_task(_register(simulator, door))
            try:
                yield stage, play
            finally:
                registered.cancel()
                await asyncio.wait([registered])


async def _register(simulator: Simulator, door: Relay) -> None:
    """Press "Verify and save" in Meta's console until the gateway answers."""
    if not isinstance(simulator, WhatsAppSimulator):
        return
    path = f"/whatsapp/{simulator.account()['phone_number_id']}"
    while True:
        with contextlib.suppress(WebhookRefused):
            return await simulator.set_webhook(door.url("http", path))
        await asyncio.sleep(1)


@pytest.mark.parametrize("name", CHANNELS)
async def test_m5_8_the_same_ladder_and_the_same_words(tmp_path: Path, name: str) -> None:
    async with channel(tmp_path, name, rand=lambda: 1.0) as (stage, play):
        await play.until(name, "connected")
        stage.relay.refuse()
        waits = []
        for attempt in range(1, 9):
            await play.until(name, "retrying", attempt=attempt, timeout=400)
            view = play.view(name)
            assert view.retry_at is not None
            waits.append(round(view.retry_at - view.at))
        assert waits == [1, 2, 4, 8, 16, 32, 60, 60]
        entry = play.entry(name)
        assert entry.cause is not None
        assert entry.cause.retryable
        assert entry.next_retry_at is not None
        stage.relay.heal()
        assert await play.until(name, "connected", timeout=6) <= 6
        stage.say()
        await play.answered()
        assert stage.lie == 0


@pytest.mark.parametrize("name", CHANNELS)
async def test_m5_8_a_silent_death_is_noticed_and_healed(tmp_path: Path, name: str) -> None:
    async with channel(tmp_path, name) as (stage, play):
        await play.until(name, "connected")
        fault = stage.strike("silent hole", stage.relay.cut, limit=60.0)
        await play.until(name, "retrying", timeout=61)
        await asyncio.sleep(600)
        stage.heal(fault)
        assert await play.until(name, "connected", timeout=6) <= 6
        stage.say()
        await play.answered()
        assert stage.lie == 0
        assert stage.verdict(name).doubled == 0


@pytest.mark.parametrize("name", CHANNELS)
async def test_m5_8_refused_credentials_stop_it_alone_until_somebody_acts(
    tmp_path: Path, name: str
) -> None:
    async with Stage("tg", TelegramSimulator()) as other:
        async with channel(tmp_path, name, other, revoked=True) as (stage, play):
            await play.until(name, "fatal")
            entry = play.entry(name)
            assert entry.cause is not None
            assert not entry.cause.retryable
            assert entry.cause.who_acts == "operator"
            assert entry.cause.hint
            await play.until("tg", "connected")
            other.say()
            await play.answered()
            REPAIR[name](stage.simulator)
            play.gateway.kick(name)
            await play.until(name, "connected", timeout=10)
            stage.say()
            await play.answered()


@pytest.mark.parametrize("name", CHANNELS)
async def test_m5_8_a_stop_ends_its_back_off_at_once(tmp_path: Path, name: str) -> None:
    async with channel(tmp_path, name) as (stage, play):
        await play.until(name, "connected")
        stage.relay.refuse()
        await play.until(name, "retrying", attempt=7, timeout=400)
        began = play.now()
        await play.gateway.pause(name)
        assert play.now() - began < 0.1
        assert play.entry(name).state == "stopped"
        await asyncio.sleep(600)
        assert not stage.relay.connections
