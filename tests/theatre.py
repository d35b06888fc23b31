"""A whole gateway between simulated platforms, in one process and on virtual time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.config import Config, build
from holdfast.gateway.gateway import Gateway
from holdfast.gateway.notify import ServiceManager
from holdfast.gateway.watchdog import LoopWatchdog
from holdfast.lab.stage import SAMPLE, Stage
from holdfast.observe.status import AccountStatus
from holdfast.store.protocol import Store
from holdfast.supervision import Report, View
from holdfast.testing import MemoryStore


class NoWatchdog(LoopWatchdog):
    """On virtual time the loop's own clock jumps; a thread on the real one has nothing to say."""

    def start(self) -> None:
        """Watch nothing."""

    def stop(self) -> None:
        """Nothing runs."""


@dataclass
class Theatre:
    """A running gateway, its stages, and what was published while it ran."""

    gateway: Gateway
    stages: dict[str, Stage]
    wall: Callable[[], float]
    """Unix seconds that pass as the loop's do."""
    states: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    """Per account: every published state with the moment it was reported, without repeats."""
    every: float = SAMPLE

    def now(self) -> float:
        """Seconds on the loop's clock."""
        return asyncio.get_running_loop().time()

    def entry(self, name: str) -> AccountStatus:
        """An account's published status, now."""
        return self.gateway.status().accounts[name]

    def view(self, name: str) -> View:
        """An account's supervision, now."""
        return self.gateway.desk(name).account.view()

    async def until(
        self, name: str, state: str, *, timeout: float = 60.0, attempt: int | None = None
    ) -> float:
        """Wait for a published state; returns the seconds it took."""
        began = self.now()
        async with asyncio.timeout(timeout):
            await self.gateway.desk(name).account.until(
                lambda view: (
                    view.published == state and (attempt is None or view.attempt >= attempt)
                )
            )
        return self.now() - began

    def seen(self, name: str, since: float = 0.0) -> list[str]:
        """Published states from a moment on, without repeats."""
        states = self.states.get(name, [])
        before = [state for at, state in states if at <= since][-1:]
        return before + [state for at, state in states if at > since]

    async def answered(self, timeout: float = 60.0) -> None:
        """Wait until every message on every stage is answered."""
        async with asyncio.timeout(timeout):
            for stage in self.stages.values():
                await stage.all_answered()

    def reported(self, name: str, report: Report) -> None:
        """Note what an account reports."""
        seen = self.states.setdefault(name, [])
        state = report.view.published.value
        if not seen or seen[-1][1] != state:
            seen.append((self.now(), state))

    async def watch(self) -> None:
        """Sample the published states, ten times a second (less often in tests of hours)."""
        while True:
            for name, entry in self.gateway.status().accounts.items():
                if name in self.stages:
                    self.stages[name].sample(entry, self.wall(), self.every)
            await asyncio.sleep(self.every)


@contextlib.asynccontextmanager
async def theatre(
    home: Path,
    *stages: Stage,
    store: Store | None = None,
    accounts: Mapping[str, Mapping[str, Any]] | None = None,
    gateway: Mapping[str, Any] | None = None,
    rand: Callable[[], float] = lambda: 0.5,
    service: ServiceManager | None = None,
    every: float = SAMPLE,
    **options: Any,
) -> AsyncIterator[Theatre]:
    """A gateway with one account per stage (named like it); ``accounts`` overrides or adds."""
    tables: dict[str, dict[str, Any]] = {stage.name: stage.account() for stage in stages}
    for name, more in (accounts or {}).items():
        tables[name] = {**tables.get(name, {}), **more}
    config = configure(home, tables, gateway)
    config.state_dir.mkdir(exist_ok=True)
    wall = _virtual_wall()
    running = Gateway(
        config,
        store or MemoryStore(),
        rand=rand,
        clock=wall,
        service=service or ServiceManager({}),
        watchdog=NoWatchdog(),
        pulse=max(1.0, every),
        **options,
    )
    play = Theatre(running, {stage.name: stage for stage in stages}, wall=wall, every=every)
    running.listeners.append(play.reported)
    await running.start()
    watcher = asyncio.create_task(play.watch())
    try:
        yield play
    finally:
        watcher.cancel()
        await asyncio.wait([watcher])
        await running.stop()


def _virtual_wall() -> Callable[[], float]:
    loop = asyncio.get_running_loop()
    offset = time.time() - loop.time()
    return lambda: offset + loop.time()


def configure(
    home: Path, tables: Mapping[str, Any], gateway: Mapping[str, Any] | None = None
) -> Config:
    """A configuration in a directory of the test."""
    document = {"accounts": tables, "gateway": {"hook_listen": "127.0.0.1:0", **(gateway or {})}}
    return build(document, home / "holdfast.toml")


def toml(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Account tables as a configuration file."""

    def value(given: Any) -> str:
        if isinstance(given, dict):
            return "{ " + ", ".join(f"{k} = {value(v)}" for k, v in given.items()) + " }"
        return json.dumps(given)

    return "".join(
        f"[accounts.{name}]\n" + "".join(f"{k} = {value(v)}\n" for k, v in table.items())
        for name, table in tables.items()
    )
