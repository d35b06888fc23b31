"""`holdfast run` as its users have it: a process, known by its files, its signals and its answers.

Nothing here looks inside the gateway. What it is doing is read from the status file, what it owes
from the journal, and what it did is told by the simulated platform.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.cli.run import JOURNAL
from holdfast.killpoints import VARIABLE, Point
from holdfast.lab.simulator import Simulator
from holdfast.lab.simulators.matrix import MatrixSimulator
from holdfast.lab.simulators.qqbot import QQBotSimulator
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.observe.status import FILE_NAME, AccountStatus, Status, read
from tests.theatre import toml

PLATFORMS: Mapping[str, type[Simulator]] = {
    "telegram": TelegramSimulator,
    "qqbot": QQBotSimulator,
    "matrix": MatrixSimulator,
}

BOT = "bot"
"""The name of the one account these tests run."""

LIMIT = 30.0
"""Seconds for what takes one or two on an idle machine."""

LOOK = 0.02
"""Seconds between two looks at another process's files."""

PROMISE = 5.0
"""Seconds in which every stop ends (design, P4)."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """How a process ended."""

    code: int
    seconds: float
    """From the signal to the end."""


@dataclass
class Home:
    """A gateway's directory: its configuration, its agents, its state, and its logs."""

    directory: Path
    runs: int = 0

    @property
    def config(self) -> Path:
        """The configuration file."""
        return self.directory / "holdfast.toml"

    @property
    def journal(self) -> Path:
        """The journal's database."""
        return self.directory / "state" / JOURNAL

    def write(self, table: Mapping[str, Any], **more: Any) -> None:
        """Write a configuration with one account, a simulator's ``account()`` and ``more``."""
        self.config.write_text(toml({BOT: {**table, **more}}))
        self.config.chmod(0o600)

    def status(self) -> Status | None:
        """The newest published status; None before the first."""
        path = self.directory / "state" / FILE_NAME
        return read(path) if path.exists() else None

    def entry(self) -> AccountStatus:
        """The account's entry in the newest status."""
        status = self.status()
        assert status is not None, "no status was ever published"
        return status.accounts[BOT]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Ask the journal, which may be in use meanwhile."""
        place = f"file:{self.journal}?mode=ro"
        with contextlib.closing(sqlite3.connect(place, uri=True)) as journal:
            return journal.execute(query).fetchall()

    def unsettled(self) -> int:
        """Messages that the journal holds and that are neither answered nor given up."""
        (inbox,) = self.rows("SELECT count(*) FROM inbox WHERE state <> 'done'")
        (outbox,) = self.rows("SELECT count(*) FROM outbox WHERE state <> 'sent'")
        return int(inbox[0]) + int(outbox[0])

    def marked(self) -> int:
        """Answers marked as perhaps sent twice."""
        (found,) = self.rows("SELECT count(*) FROM outbox WHERE maybe_doubled")
        return int(found[0])

    @contextlib.asynccontextmanager
    async def running(self, kill_at: Point | None = None) -> AsyncIterator[Running]:
        """``holdfast run``, which dies at a kill point if one is named. Killed on leaving."""
        self.runs += 1
        log = self.directory / f"stderr-{self.runs}.log"
        # A socket that nobody closed is told, when the interpreter finds it.
        env = {**os.environ, "PYTHONWARNINGS": "default::ResourceWarning"}
        env.pop(VARIABLE, None)
        if kill_at is not None:
            env[VARIABLE] = kill_at
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "holdfast.cli", "--config", str(self.config), "run"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=stderr,
                env=env,
                start_new_session=True,
            )
        gateway = Running(self, process, log)
        try:
            yield gateway
        finally:
            await gateway.kill9()


@dataclass
class Running:
    """A gateway's process."""

    home: Home
    process: asyncio.subprocess.Process
    log: Path
    _killed: bool = field(default=False, repr=False)

    @property
    def stderr(self) -> str:
        """Everything it has logged."""
        return self.log.read_text(errors="replace")

    async def until(self, condition: Callable[[AccountStatus], bool]) -> AccountStatus:
        """Wait until the account's status, published by this very process, is as wanted."""

        found: list[AccountStatus] = []

        def wanted() -> bool:
            status = self.home.status()
            if status is None or status.pid != self.process.pid or BOT not in status.accounts:
                return False
            found[:] = [status.accounts[BOT]]
            return condition(found[0])

        await self._wait(wanted)
        return found[0]

    async def connected(self) -> AccountStatus:
        """Wait until the account is connected."""
        return await self.until(lambda entry: entry.state == "connected")

    async def settled(self) -> None:
        """Wait until the account is connected and the journal owes nobody anything."""
        await self.connected()
        await self._wait(lambda: self.home.unsettled() == 0)

    async def appeared(self, path: Path) -> None:
        """Wait for a file that an agent makes."""
        await self._wait(path.exists)

    async def owes(self, state: str) -> None:
        """Wait until an answer is in this state in the journal."""
        await self._wait(
            lambda: bool(self.home.rows(f"SELECT 1 FROM outbox WHERE state = '{state}'"))
        )

    async def ended(self, limit: float = LIMIT) -> int:
        """Wait for the end; the exit status, negative for a signal."""
        async with asyncio.timeout(limit):
            return await self.process.wait()

    async def terminate(self) -> Stopped:
        """SIGTERM, and how long it took to end."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.process.send_signal(signal.SIGTERM)
        code = await self.ended()
        return Stopped(code, loop.time() - began)

    async def kill9(self) -> int:
        """SIGKILL to the process and whatever it started; the exit status. Idempotent."""
        if not self._killed:
            self._killed = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        return await self.ended()

    def left_behind(self) -> list[int]:
        """Processes of its session: children that outlived it."""
        return [pid for pid in _pids() if _session(pid) == self.process.pid]

    async def _wait(self, condition: Callable[[], bool]) -> None:
        """Look until it is so. Raises AssertionError with the log when that takes too long."""
        try:
            async with asyncio.timeout(LIMIT):
                while not condition():  # noqa: ASYNC110  another process sets no event
                    await asyncio.sleep(LOOK)
        except TimeoutError:
            raise AssertionError(f"not so within {LIMIT:g} s:\n{self.stderr[-4000:]}") from None


def answers(simulator: Simulator) -> Counter[str]:
    """How often users heard each text."""
    return Counter(heard.text for heard in simulator.heard)


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _session(pid: int) -> int | None:
    """The session of a process; None when it is gone or a mere entry in the process table."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # pid (name) state ppid pgrp session: the name may hold anything, parentheses too.
    state, _, _, session = stat.rpartition(")")[2].split()[:4]
    return None if state == "Z" else int(session)
