"""Holdfast in the lab's own process, so that time can be simulated; through its public face only.

The gateway is the real one, with its real journal on a disk. What it publishes is read from the
status document, as any reader would.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast import __version__
from holdfast.config import Config, build
from holdfast.gateway.gateway import Gateway
from holdfast.lab import census
from holdfast.lab.cabled_hooks import CabledHooks
from holdfast.lab.checker import Row
from holdfast.lab.configured import document
from holdfast.lab.crash_witness import Journal
from holdfast.lab.faults.blocker import block
from holdfast.lab.faults.dns import LabResolver
from holdfast.lab.mode import Ability
from holdfast.lab.stage import Stage
from holdfast.lab.subjects import Left, Reading
from holdfast.lab.subjects.published import AGENT, reading
from holdfast.observe.status import Status
from holdfast.store.sqlite import SqliteStore

JOURNAL = "journal.db"


class InProcess:
    """Holdfast on the running loop's clock. See `Subject`."""

    name = "holdfast"
    version = __version__
    abilities = frozenset(
        {
            Ability.STALL,
            Ability.SUSPEND,
            Ability.AGENT,
            Ability.STATUS,
            Ability.JOURNAL,
            Ability.RESOLVER,
            Ability.CONTROL,
        }
    )
    platforms: frozenset[str] | None = None

    def missing(self) -> str | None:
        """See `Subject`."""
        return None

    @contextlib.asynccontextmanager
    async def run(
        self,
        home: Path,
        stages: Mapping[str, Stage],
        *,
        policy: Mapping[str, Any],
        gateway: Mapping[str, Any],
    ) -> AsyncIterator[House]:
        """See `Subject`."""
        house = House(home, stages, policy, gateway)
        try:
            yield house
        finally:
            await house.stop()


class House:
    """The gateway of one play. See `Running`."""

    publishes = True

    def __init__(
        self,
        home: Path,
        stages: Mapping[str, Stage],
        policy: Mapping[str, Any],
        gateway: Mapping[str, Any],
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self.resolver = LabResolver({"platform.test": ("127.0.0.1",)})
        self.gateway: Gateway | None = None
        self._home, self._stages = home, dict(stages)
        self._policy, self._settings = dict(policy), {"agent": AGENT, **gateway}
        self._offset = time.time() - asyncio.get_running_loop().time()
        self._last: Status | None = None

    def clock(self) -> float:
        """Unix seconds that pass as the loop's do."""
        return self._offset + asyncio.get_running_loop().time()

    async def start(self) -> None:
        """See `Running`; nothing happens when it runs."""
        if self.gateway is not None:
            return
        config = self._config()
        config.state_dir.mkdir(exist_ok=True)
        store = await SqliteStore.open(config.state_dir / JOURNAL)
        self.gateway = Gateway(config, store, resolver=self.resolver, clock=self.clock)
        self.gateway.hooks = await self._hooks()
        self.gateway.listeners.append(lambda *_: self.on_change())
        await self.gateway.start()

    async def stop(self) -> float:
        """See `Running`."""
        if self.gateway is None:
            return 0.0
        began = asyncio.get_running_loop().time()
        await self.gateway.stop()
        self._last, self.gateway = self.gateway.status(), None
        self.on_change()
        return asyncio.get_running_loop().time() - began

    async def kill(self) -> None:
        """Not of this subject; see `holdfast.lab.subjects.process`."""
        raise TypeError("a part of the lab's own process can not be killed")

    freeze = thaw = kill

    async def stall(self, seconds: float) -> None:
        """See `Running`: on a simulated clock the step does it."""
        block(seconds)

    async def order(self, verb: str, account: str) -> None:
        """See `Running`."""
        assert self.gateway is not None, "orders are given to a subject that runs"
        match verb:
            case "kick":
                self.gateway.kick(account)
            case "pause":
                await self.gateway.pause(account)
            case "resume":
                await self.gateway.resume(account)

    def read(self, account: str) -> Reading | None:
        """See `Running`."""
        status = self._last if self.gateway is None else self.gateway.status()
        if status is None or account not in status.accounts:
            return Reading(state="stopped")
        return reading(status.accounts[account], self.clock())

    def census(self) -> Left:
        """See `Running`."""
        return census.here()

    def accidents(self) -> Sequence[str]:
        """See `Running`: an accident here would be one of the lab itself."""
        return ()

    async def rows(self, account: str) -> Sequence[Row]:
        """See `Running`."""
        return (await self._journal()).rows.get(account, ())

    async def gaps(self, account: str) -> Sequence[tuple[float, float]]:
        """See `Running`."""
        return (await self._journal()).gaps.get(account, ())

    async def _journal(self) -> Journal:
        return await Journal.read(self._home / "state" / JOURNAL, self._stages)

    def _config(self) -> Config:
        made = document(self._stages, self._settings, self._policy)
        return build(made, self._home / "holdfast.toml")

    async def _hooks(self) -> CabledHooks:
        """The gateway's web hook server, listening, with every cable led to it."""
        hooks = CabledHooks("127.0.0.1", 0)
        await hooks.start()
        for stage in self._stages.values():
            stage.cable.lead_hooks(hooks.port)
            if stage.simulator.platform == "webchat":  # visits its own page, as others do
                hooks.cable = stage.cable
        return hooks
