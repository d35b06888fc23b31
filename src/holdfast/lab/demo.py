"""`holdfast demo`: simulated platforms, a real gateway, users who chat, and cables being pulled.

Nothing is needed but this machine: no account, no network. What is shown is measured by the
stages, which see only what users see and what the gateway publishes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json as jsonlib
import logging
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from holdfast.config import build
from holdfast.gateway.gateway import Gateway
from holdfast.lab.faults.relay import Relay
from holdfast.lab.simulators.matrix import MatrixSimulator
from holdfast.lab.simulators.qqbot import QQBotSimulator
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.lab.stage import SAMPLE, Stage, Verdict
from holdfast.observe.status import Status, believed
from holdfast.store.sqlite import SqliteStore

SETTLE = 8.0
"""Seconds at the end in which nothing is broken and the last answers arrive."""

TALK = 1.6
"""Seconds between two messages of a platform's users."""

QUIET = 3.0
"""Seconds between two faults of one platform."""


@dataclass(frozen=True, slots=True)
class Trick:
    """A fault of the demo's repertoire."""

    name: str
    inflict: Callable[[Relay], object]
    seconds: float
    """How long until the cable is put back."""
    limit: float
    """Seconds after which `connected` is a lie."""


REPERTOIRE = (
    Trick("cable pulled", Relay.refuse, 4.0, 3.0),
    Trick("connection reset", Relay.rst, 0.5, 3.0),
    Trick("silent hole", Relay.cut, 25.0, 60.0),
)
"""Short ones first: a short demo still shows every platform heal."""

STAGES = {
    "telegram": TelegramSimulator,
    "qqbot": QQBotSimulator,
    "matrix": MatrixSimulator,
}


class Demo:
    """Stages, a gateway between them and its agent, and the play."""

    def __init__(self, gateway: Gateway, stages: dict[str, Stage]) -> None:
        self.gateway, self.stages = gateway, stages
        self.events: list[str] = []
        self._ended = False

    async def play(self, seconds: float | None) -> None:
        """Chat and break things for so long (None: until cancelled), then let it settle."""
        await self._ready()
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(self._watch())
            actors = [group.create_task(self._users(stage)) for stage in self.stages.values()]
            for number, stage in enumerate(self.stages.values()):
                actors.append(group.create_task(self._break(stage, 2.0 + 1.5 * number, seconds)))
            if seconds is not None:
                await asyncio.sleep(max(1.0, seconds - SETTLE))
                self._ended = True
                await asyncio.wait(actors)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SETTLE):
                        await self._settled()
                watcher.cancel()

    def verdicts(self) -> list[Verdict]:
        """What the play showed."""
        return [stage.verdict(platform) for platform, stage in self.stages.items()]

    async def _ready(self) -> None:
        async with asyncio.timeout(20):
            for name in self.stages:
                await self.gateway.desk(name).account.until(lambda v: v.published == "connected")

    async def _settled(self) -> None:
        while any(
            stage.unanswered() or any(fault.recovered is None for fault in stage.faults)
            for stage in self.stages.values()
        ):
            await asyncio.sleep(SAMPLE)

    async def _users(self, stage: Stage) -> None:
        group = False
        while not self._ended:
            stage.say(group=group)
            group = not group
            await asyncio.sleep(TALK)

    async def _break(self, stage: Stage, after: float, seconds: float | None) -> None:
        loop = asyncio.get_running_loop()
        end = None if seconds is None else loop.time() + seconds - SETTLE
        await asyncio.sleep(after)
        number = 0
        while not self._ended:
            trick = REPERTOIRE[number % len(REPERTOIRE)]
            number += 1
            if end is not None and loop.time() + trick.seconds > end:
                trick = REPERTOIRE[0]
                if loop.time() + trick.seconds > end:
                    return
            await self._one(stage, trick)
            await asyncio.sleep(QUIET)

    async def _one(self, stage: Stage, trick: Trick) -> None:
        relay = stage.relay
        fault = stage.strike(trick.name, lambda: trick.inflict(relay), limit=trick.limit)
        self._tell(f"{stage.name}: {trick.name}")
        await asyncio.sleep(trick.seconds)
        stage.heal(fault)
        self._tell(f"{stage.name}: cable back")
        while fault.recovered is None and not self._ended:
            await asyncio.sleep(SAMPLE)
        if fault.recovery is not None:
            self._tell(f"{stage.name}: connected again after {fault.recovery:.1f} s")

    def _tell(self, text: str) -> None:
        self.events.append(text)

    async def _watch(self) -> None:
        while True:
            status = self.gateway.status()
            for name, stage in self.stages.items():
                entry = status.accounts[name]
                stage.sample(believed(entry), int(entry.gap is not None))
            await asyncio.sleep(SAMPLE)


@contextlib.asynccontextmanager
async def demo() -> AsyncIterator[Demo]:
    """Everything the demo needs, on embedded defaults, gone when the context ends."""
    async with contextlib.AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="holdfast-demo-")))
        stages = {
            name: await stack.enter_async_context(Stage(name, simulator()))
            for name, simulator in STAGES.items()
        }
        config = build(
            {"accounts": {name: stage.account() for name, stage in stages.items()}},
            home / "holdfast.toml",
        )
        config.state_dir.mkdir()
        store = await SqliteStore.open(config.state_dir / "journal.db")
        gateway = Gateway(config, store)
        await gateway.start()
        try:
            yield Demo(gateway, stages)
        finally:
            await gateway.stop()


def main(seconds: float | None, json: bool, port: int) -> int:
    """Run the demo; 0 only if nothing was lost, doubled or lied about."""
    logging.getLogger("holdfast").setLevel(logging.CRITICAL)
    try:
        verdicts = asyncio.run(_run(seconds, json, port))
    except KeyboardInterrupt:
        return 0
    if json:
        accounts = [asdict(verdict) for verdict in verdicts]
        print(jsonlib.dumps({"accounts": accounts}))
    return 0 if all(verdict.good for verdict in verdicts) else 1


async def _run(seconds: float | None, json: bool, port: int) -> list[Verdict]:
    async with demo() as play, _served(play.gateway, port):
        show = asyncio.create_task(_show(play)) if not json else None
        try:
            await play.play(seconds)
        finally:
            if show is not None:
                show.cancel()
                await asyncio.wait([show])
        return play.verdicts()
