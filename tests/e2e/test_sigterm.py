"""Row P4: SIGTERM in every state a gateway can be in. It is gone within 5 s, and nothing is lost.

Every connection leads through a relay, so that the test can break it and count what is left open.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from holdfast.lab.faults.relay import Mode
from holdfast.lab.stage import Stage
from tests.e2e.process import BOT, LIMIT, PLATFORMS, PROMISE, Home, Running, answers

pytestmark = [pytest.mark.real_time, pytest.mark.slow, pytest.mark.timeout(180)]

on_every_platform = pytest.mark.parametrize("platform", PLATFORMS)

SLOW = """
import asyncio
import pathlib
import time

HERE = pathlib.Path(__file__).parent


def begin():
    begun = HERE / "begun"
    first = not begun.exists()
    begun.touch()
    return first


async def patient(message):
    if begin():
        await asyncio.sleep(60)
    return f"answer: {message.text}"


def blocking(message):
    if begin():
        time.sleep(60)
    return f"answer: {message.text}"


async def waiting(message):
    begin()
    while not (HERE / "go").exists():
        await asyncio.sleep(0.01)
    return f"answer: {message.text}"
"""
"""Agents that take their time over the first message: in the loop, in a thread, or until told."""


@dataclass
class Scene:
    """A gateway's directory, and the platform behind its cable."""

    home: Home
    stage: Stage

    def write(self, **more: Any) -> None:
        """The configuration, with every address led through the cable."""
        self.home.write(self.stage.account(), **more)

    def say(self, text: str) -> None:
        """A user writes."""
        self.stage.simulator.say(text, chat="ann", sender="ann")

    async def answered(self, text: str, word: str = "echo") -> None:
        """Wait until a message is answered."""
        answer = f"{word}: {text}"
        await self.stage.simulator.until(lambda: answers(self.stage.simulator)[answer] > 0, LIMIT)

    async def stops(self, gateway: Running) -> None:
        """SIGTERM: all that P4 promises is so."""
        stopped = await gateway.terminate()
        assert stopped.code == 0, gateway.stderr
        assert stopped.seconds < PROMISE
        assert gateway.left_behind() == []
        assert self.home.entry().state == "stopped"
        for bad in ("Traceback", "ResourceWarning", "left at once", "never retrieved"):
            assert bad not in gateway.stderr
        if self.stage.relay.mode is not Mode.PASS:
            self.stage.relay.rst()
            self.stage.relay.heal()
        async with asyncio.timeout(LIMIT):
            while self.stage.relay.connections:  # noqa: ASYNC110  sockets set no event
                await asyncio.sleep(0.01)
        await self.stage.simulator.until(lambda: not self.stage.simulator.listening(), LIMIT)

    async def answers_after_a_restart(self, text: str, word: str = "echo") -> None:
        """The next life does what the last one could not."""
        async with self.home.running() as gateway:
            await self.answered(text, word)
            await gateway.settled()
            await self.stops(gateway)
        assert answers(self.stage.simulator)[f"{word}: {text}"] == 1


@contextlib.asynccontextmanager
async def scene(directory: Path, platform: str, **more: Any) -> AsyncIterator[Scene]:
    """A platform behind a cable, and a gateway configured for it."""
    (directory / "slow.py").write_text(SLOW)
    async with Stage(BOT, PLATFORMS[platform]()) as stage:
        play = Scene(Home(directory), stage)
        play.write(**more)
        yield play


async def warm_up(play: Scene) -> None:
    """A first life: chats are known, a session exists, and a place in the stream is stored."""
    async with play.home.running() as gateway:
        await gateway.connected()
        play.say("warm-up")
        await play.answered("warm-up")
        await gateway.settled()
        await play.stops(gateway)


@on_every_platform
async def test_sigterm_while_connecting(platform: str, tmp_path: Path) -> None:
    """The platform accepts the connection and never says a word."""
    async with scene(tmp_path, platform) as play:
        await warm_up(play)
        play.stage.relay.cut()
        play.say("hello")
        accepted = play.stage.relay.accepted
        async with play.home.running() as gateway:
            entry = await gateway.until(lambda _: play.stage.relay.accepted > accepted)
            assert entry.state == "connecting"
            await play.stops(gateway)
        await play.answers_after_a_restart("hello")


@on_every_platform
async def test_sigterm_while_live(platform: str, tmp_path: Path) -> None:
    async with scene(tmp_path, platform) as play:
        await warm_up(play)
        async with play.home.running() as gateway:
            await gateway.connected()
            await play.stops(gateway)
        play.say("hello")
        await play.answers_after_a_restart("hello")


@on_every_platform
async def test_sigterm_in_a_long_back_off(platform: str, tmp_path: Path) -> None:
    """What is left of the wait does not hold up the next life, once the platform answers."""
    async with scene(tmp_path, platform) as play:
        await warm_up(play)
        patience = {"backoff_first": 300.0, "backoff_cap": 300.0, "backoff_slow_cap": 300.0}
        play.write(policy=patience)
        play.stage.relay.refuse()
        play.say("hello")
        async with play.home.running() as gateway:
            entry = await gateway.until(lambda entry: entry.state == "retrying")
            assert entry.next_retry_at is not None
            assert entry.next_retry_at - entry.since > 100.0
            await play.stops(gateway)
        await play.answers_after_a_restart("hello")


async def test_sigterm_while_the_peer_ignores_our_goodbye(tmp_path: Path) -> None:
    """A zombie socket: the close frame gets no answer, and nobody waits for one for long."""
    async with scene(tmp_path, "qqbot") as play:
        await warm_up(play)
        async with play.home.running() as gateway:
            await gateway.connected()
            play.stage.relay.hole(new=True)
            play.say("hello")
            await play.stops(gateway)
        await play.answers_after_a_restart("hello")


@pytest.mark.parametrize("agent", ["patient", "blocking"])
@on_every_platform
async def test_sigterm_while_an_agent_is_busy(platform: str, agent: str, tmp_path: Path) -> None:
    """It is cancelled, or left to its daemon thread, and asked again."""
    async with scene(tmp_path, platform) as play:
        await warm_up(play)
        play.write(agent=f"python:slow:{agent}")
        async with play.home.running() as gateway:
            await gateway.connected()
            play.say("hello")
            await gateway.appeared(tmp_path / "begun")
            await play.stops(gateway)
        assert answers(play.stage.simulator)["answer: hello"] == 0
        await play.answers_after_a_restart("hello", "answer")


@on_every_platform
async def test_sigterm_while_sending(platform: str, tmp_path: Path) -> None:
    """The platform's network takes the answer and does not pass it on."""
    async with scene(tmp_path, platform) as play:
        await warm_up(play)
        play.write(agent="python:slow:waiting")
        async with play.home.running() as gateway:
            await gateway.connected()
            play.say("hello")
            await gateway.appeared(tmp_path / "begun")
            play.stage.relay.stall(new=True)
            (tmp_path / "go").touch()
            await gateway.owes("owed" if platform == "matrix" else "sending")
            await play.stops(gateway)
        assert answers(play.stage.simulator)["answer: hello"] == 0
        await play.answers_after_a_restart("hello", "answer")


@on_every_platform
async def test_sigterm_while_the_journal_is_busy(platform: str, tmp_path: Path) -> None:
    """Another program holds SQLite's lock: what can not be stored stays with the platform."""
    async with scene(tmp_path, platform) as play:
        await warm_up(play)
        with contextlib.closing(sqlite3.connect(play.home.journal, isolation_level=None)) as other:
            async with play.home.running() as gateway:
                await gateway.connected()
                other.execute("BEGIN IMMEDIATE")
                before = play.stage.relay.to_client.delivered
                play.say("hello")
                async with asyncio.timeout(LIMIT):
                    while play.stage.relay.to_client.delivered == before:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                await play.stops(gateway)
                other.execute("ROLLBACK")
        await play.answers_after_a_restart("hello")
