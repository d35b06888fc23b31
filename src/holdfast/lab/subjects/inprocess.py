"""Holdfast in the lab's own process, so that time can be simulated; through its public face only.

The gateway is the real one, with its real journal on a disk. What it publishes is read from the
status document, as any reader would.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import resource
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast import __version__
from holdfast.config import Config, build
from holdfast.gateway.gateway import Gateway
from holdfast.gateway.watchdog import SuspendDetector
from holdfast.lab import census
from holdfast.lab.cabled_hooks import CabledHooks
from holdfast.lab.checker import Row
from holdfast.lab.configured import document
from holdfast.lab.crash_witness import Journal
from holdfast.lab.faults.blocker import block
from holdfast.lab.faults.dns import LabResolver
from holdfast.lab.judge import STOP
from holdfast.lab.stage import Stage
from holdfast.lab.subjects import Left, Reading, Told
from holdfast.lab.subjects.published import AGENT, reading
from holdfast.lab.terms import NAME, Ability, Clock
from holdfast.observe.status import Status
from holdfast.store.sqlite import SqliteStore

JOURNAL = "journal.db"

PULSE = 5.0
"""Seconds between two writes of a file that nobody reads here: simulated hours are full of them."""


class InProcess:
    """Holdfast on the running loop's clock, its jitter drawn by a seed. See `Subject`."""

    name = "holdfast"
    version = __version__
    clock = Clock.SIMULATED
    abilities = frozenset(
        {
            Ability.STALL,
            Ability.SUSPEND,
            Ability.AGENT,
            Ability.STATUS,
            Ability.JOURNAL,
            Ability.RESOLVER,
            Ability.CONTROL,
            Ability.SEVERAL,
            Ability.SETTINGS,
            Ability.HOURS,
            Ability.TRUST,
            Ability.PROXY,
            Ability.LOG,
            Ability.DISK,
        }
    )
    platforms: frozenset[str] | None = None
    stop_limit = STOP
    hurried = True

    def __init__(self, seed: int = 1) -> None:
        self.seed = seed

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
        house = House(home, stages, policy, gateway, random.Random(self.seed).random)
        with _logged(house), _environment():
            try:
                yield house
            finally:
                house.fill_disk(False)
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
        rand: Callable[[], float],
    ) -> None:
        self._rand = rand
        self.on_change: Callable[[], None] = lambda: None
        self.resolver = LabResolver({NAME: ("127.0.0.1",)})
        self.gateway: Gateway | None = None
        self._home, self._stages = home, dict(stages)
        self._policy, self._settings = dict(policy), {"agent": AGENT, **gateway}
        self.lines: list[str] = []
        """What it has logged."""
        self._offset = time.time() - asyncio.get_running_loop().time()
        self._slept = 0.0
        """Seconds that the machine has slept, as far as it is told."""
        self._last: Status | None = None
        self._read_at = 0.0

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
        self.gateway = Gateway(
            config,
            store,
            resolver=self.resolver,
            rand=self._rand,
            clock=self.clock,
            suspend=SuspendDetector(self._boot, asyncio.get_running_loop().time),
            tls=self._trusted(),
            pulse=PULSE,
        )
        self.gateway.hooks = await self._hooks()
        self.gateway.listeners.append(lambda *_: self._changed())
        await self.gateway.start()

    async def stop(self) -> float:
        """See `Running`."""
        if self.gateway is None:
            return 0.0
        began = asyncio.get_running_loop().time()
        try:
            await self.gateway.stop()
        except asyncio.CancelledError:  # it does not end: what it has written is read all the same
            await self.gateway.store.close()
            raise
        finally:
            self._last, self.gateway = self.gateway.status(), None
        self.on_change()
        return asyncio.get_running_loop().time() - began

    async def kill(self) -> None:
        """Not of this subject; see `holdfast.lab.subjects.process`."""
        raise TypeError("a part of the lab's own process can not be killed")

    freeze = thaw = kill

    def charge(self, point: str) -> None:
        """Not of this subject, as `kill`."""
        raise TypeError("a part of the lab's own process can not be killed")

    def tear(self) -> None:
        """Not of this subject, as `kill`."""
        raise TypeError("a part of the lab's own process can not be killed")

    def rename(self, pid: int) -> None:
        """Not of this subject, as `kill`."""
        raise TypeError("a part of the lab's own process has no number of its own")

    def fill_disk(self, full: bool) -> None:
        """See `Running`: a limit of 0 bytes per file, for the lab too, which writes none."""
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0 if full else hard, hard))

    def exhaust(self, none_left: bool) -> None:
        """Not of this subject, as `kill`."""
        raise TypeError("the lab needs descriptors, too")

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

    async def reload(self) -> None:
        """See `Running`."""
        assert self.gateway is not None, "only what runs can be told of other settings"
        await self.gateway.reload(self._config())

    def names(self, answer: str) -> None:
        """See `Running`."""
        match answer:
            case "ok":
                self.resolver.point(NAME, "127.0.0.1")
                self.resolver.ok()
            case "fail":
                self.resolver.fail()
            case "hang":
                self.resolver.hang()
            case "dead-v6":
                self.resolver.dead_v6_first(NAME)

    def suspend(self, seconds: float) -> None:
        """See `Running`."""
        self._slept += seconds
        self.misdate(seconds)

    def misdate(self, seconds: float) -> None:
        """See `Running`."""
        self._offset += seconds
        self._last = None

    def move(self) -> None:
        """See `Running`."""
        assert self.gateway is not None, "only what runs can be told of a change"
        self.gateway.network_changed()

    def environ(self, variables: Mapping[str, str]) -> None:
        """See `Running`."""
        os.environ.update(variables)

    def log(self) -> str:
        """See `Running`."""
        return "\n".join(self.lines)

    async def ask(self) -> Told:
        """Not of this subject, as `kill`."""
        raise TypeError("a part of the lab's own process can not be asked from outside")

    async def second(self, *, shared: bool) -> Told | None:
        """Not of this subject, as `kill`."""
        raise TypeError("a part of the lab's own process has no second")

    def read(self, account: str) -> Reading | None:
        """See `Running`."""
        status = self._last if self.gateway is None else self._status()
        if status is None or account not in status.accounts:
            return Reading(state="stopped")
        return reading(status.accounts[account], self.clock())

    def _changed(self) -> None:
        self._last = None
        self.on_change()

    def _status(self) -> Status:
        """The status of this moment: one document for all accounts."""
        assert self.gateway is not None, "only what runs has a status"
        now = asyncio.get_running_loop().time()
        if self._last is None or now != self._read_at:
            self._last, self._read_at = self.gateway.status(), now
        return self._last

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

    def _boot(self) -> float:
        """The clock that counts sleep, too."""
        return asyncio.get_running_loop().time() + self._slept

    def _trusted(self) -> ssl.SSLContext | None:
        """Whom it trusts: the platforms' authority, where they have one."""
        authorities = [stage.authority for stage in self._stages.values() if stage.authority]
        return authorities[0].client_context() if authorities else None

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


@contextlib.contextmanager
def _logged(house: House) -> Iterator[None]:
    """The gateway's log goes to the house, at the level at which users run it, and nowhere else."""
    logger = logging.getLogger("holdfast")
    level, propagated = logger.level, logger.propagate
    handler = _Lines(house.lines)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagated


class _Lines(logging.Handler):
    """Appends what is logged to a list."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.INFO)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """Whatever a play does to the environment is undone."""
    before = dict(os.environ)
    try:
        yield
    finally:
        if dict(os.environ) != before:
            os.environ.clear()
            os.environ.update(before)
