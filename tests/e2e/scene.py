"""A gateway's process and its platform, with a cable between them that can be broken."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.lab.faults.relay import Mode
from holdfast.lab.stage import Stage
from tests.e2e.process import BOT, LIMIT, PLATFORMS, PROMISE, Home, Running, answers

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

    def unplugged(self) -> None:
        """Put a broken cable back; what it still held is lost."""
        if self.stage.relay.mode is not Mode.PASS:
            self.stage.relay.rst()
            self.stage.relay.heal()

    async def stops(self, gateway: Running) -> None:
        """SIGTERM: all that P4 promises is so."""
        stopped = await gateway.terminate()
        assert stopped.code == 0, gateway.stderr
        assert stopped.seconds < PROMISE
        assert gateway.left_behind() == []
        assert self.home.entry().state == "stopped"
        for bad in ("Traceback", "ResourceWarning", "left at once", "never retrieved"):
            assert bad not in gateway.stderr
        self.unplugged()
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


async def warm_up(play: Scene, word: str = "echo") -> None:
    """A first life: chats are known, a session exists, and a place in the stream is stored."""
    async with play.home.running() as gateway:
        await gateway.connected()
        play.say("warm-up")
        await play.answered("warm-up", word)
        await gateway.settled()
        await play.stops(gateway)
