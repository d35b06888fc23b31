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
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from aiohttp import web

from holdfast.config import build
from holdfast.gateway.gateway import Gateway
from holdfast.lab.faults.relay import Relay
from holdfast.lab.show import show
from holdfast.lab.simulators.matrix import MatrixSimulator
from holdfast.lab.simulators.qqbot import QQBotSimulator
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.lab.stage import SAMPLE, Stage, Verdict
from holdfast.observe.status import believed
from holdfast.store.sqlite import SqliteStore
from holdfast.web.api import PREFIX, Api

SETTLE = 8.0
"""Seconds at the end in which nothing is broken and the last answers arrive."""

TALK = 1.6
"""Seconds between two messages of a platform's users."""

QUIET = 4.0
"""Seconds between two faults of one platform."""

POLICY = {"stable_after": 3.0, "quick_life": 1.0}
"""The demo's faults come seconds apart instead of days: so must the proof of stability."""


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
            {
                "accounts": {
                    name: {**stage.account(), "policy": POLICY} for name, stage in stages.items()
                }
            },
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
    """Run the demo; 0 only if nothing was lost, doubled or lied about.

    ``seconds=None`` plays until Ctrl-C. ``port`` is where the control API listens on loopback,
    0 for any free port.
    """
    logging.getLogger("holdfast").setLevel(logging.CRITICAL)
    try:
        verdicts = asyncio.run(_run(seconds, json, port))
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        print(f"holdfast: the demo can not listen on port {port}: {error}", file=sys.stderr)
        return 1
    if json:
        accounts = [asdict(verdict) for verdict in verdicts]
        print(jsonlib.dumps({"accounts": accounts}))
    return 0 if all(verdict.good for verdict in verdicts) else 1


async def _run(seconds: float | None, json: bool, port: int) -> list[Verdict]:
    async with demo() as play, _served(play.gateway, port) as url:
        showing = asyncio.create_task(show(play, url)) if not json else None
        try:
            await play.play(seconds)
        finally:
            if showing is not None:
                showing.cancel()
                await asyncio.wait([showing])
        return play.verdicts()


@contextlib.asynccontextmanager
async def _served(gateway: Gateway, port: int) -> AsyncIterator[str]:
    """The control API on loopback while the demo runs; gives its URL. Raises OSError."""
    app = web.Application()
    Api(gateway).add_to(app)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}{PREFIX}/status"
    finally:
        await runner.cleanup()
