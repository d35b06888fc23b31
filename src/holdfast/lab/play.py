"""The play of the demo: users who chat, cables that are pulled, and a watcher who takes notes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from holdfast.gateway.gateway import Gateway
from holdfast.lab.faults.relay import Relay
from holdfast.lab.stage import SAMPLE, Stage, Verdict
from holdfast.observe.status import believed

SETTLE = 8.0
"""Seconds at the end in which nothing is broken and the last answers arrive."""

TALK = 1.6
"""Seconds between two messages of a platform's users."""

QUIET = 4.0
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


class Demo:
    """Stages, a gateway between them and its agent, and the play."""

    def __init__(self, gateway: Gateway, stages: dict[str, Stage]) -> None:
        self.gateway, self.stages = gateway, stages
        self.events: deque[str] = deque(maxlen=8)
        """The newest things that happened, in words."""
        self.told = 0
        """How many things happened in all."""
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
                await asyncio.wait(actors, timeout=SETTLE)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(SETTLE):
                        await self._settled()
                for actor in (*actors, watcher):
                    actor.cancel()

    def verdicts(self) -> list[Verdict]:
        """What the play showed."""
        return [stage.verdict(platform) for platform, stage in self.stages.items()]

    async def _ready(self) -> None:
        async with asyncio.timeout(20):
            for name in self.stages:
                await self.gateway.desk(name).account.until(lambda v: v.published == "connected")

    async def _settled(self) -> None:
        for stage in self.stages.values():
            await stage.all_answered()
            await stage.all_recovered()

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
            fits = [t for t in REPERTOIRE if end is None or loop.time() + t.seconds <= end]
            if not fits:
                return
            await self._one(stage, fits[number % len(fits)])
            number += 1
            await asyncio.sleep(QUIET)

    async def _one(self, stage: Stage, trick: Trick) -> None:
        relay = stage.relay
        fault = stage.strike(trick.name, lambda: trick.inflict(relay), limit=trick.limit)
        self._tell(f"{stage.name}: {trick.name}")
        await asyncio.sleep(trick.seconds)
        stage.heal(fault)
        self._tell(f"{stage.name}: cable back")
        await stage.all_recovered()
        self._tell(f"{stage.name}: connected again after {fault.recovery or 0.0:.1f} s")

    def _tell(self, text: str) -> None:
        self.events.append(text)
        self.told += 1

    async def _watch(self) -> None:
        while True:
            status = self.gateway.status()
            for name, stage in self.stages.items():
                entry = status.accounts[name]
                stage.unknown = entry.unknown
                stage.sample(believed(entry), int(entry.gap is not None))
            await asyncio.sleep(SAMPLE)
