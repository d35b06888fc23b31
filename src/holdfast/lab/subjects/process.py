"""Holdfast as a process of its own, as its users run it: `holdfast run`, and its status file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from holdfast import __version__
from holdfast.lab import census
from holdfast.lab.agent import EXIT
from holdfast.lab.cable import HOST
from holdfast.lab.checker import Row
from holdfast.lab.configured import document, free_port, write
from holdfast.lab.crash_process import Process
from holdfast.lab.crash_witness import Journal
from holdfast.lab.judge import STOP
from holdfast.lab.stage import Stage
from holdfast.lab.subjects import Left, Reading, Told
from holdfast.lab.subjects.published import AGENT, reading
from holdfast.lab.terms import Ability, Clock
from holdfast.observe.status import FILE_NAME, doubt
from holdfast.observe.status import read as read_status
from holdfast.observe.status import write as write_status

ORDER_LIMIT: Final = 10.0
"""Seconds for one command of the operator."""


HALF_A_PAGE: Final = 2_048
"""Bytes; SQLite's pages have 4,096."""

TOLD: Final = 2_000
"""Characters of a traceback that are told."""


class AsProcess:
    """Holdfast on the real clock. See `Subject`."""

    version = __version__
    clock = Clock.REAL
    abilities = frozenset(
        {
            Ability.KILL,
            Ability.KILL_POINT,
            Ability.FREEZE,
            Ability.AGENT,
            Ability.STATUS,
            Ability.JOURNAL,
            Ability.LIMITS,
            Ability.DISK,
            Ability.CONTROL,
            Ability.SEVERAL,
            Ability.SETTINGS,
            Ability.HOURS,
            Ability.LOG,
            Ability.ASK,
            Ability.TWICE,
        }
    )
    platforms: frozenset[str] | None = None
    stop_limit = STOP
    hurried = True

    def __init__(self, name: str = "holdfast") -> None:
        self.name = name

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
    ) -> AsyncIterator[Lives]:
        """See `Subject`."""
        lives = Lives(home, stages, policy, gateway)
        try:
            yield lives
        finally:
            await lives.process.kill9()


class Lives:
    """All lives of the gateway in one play. See `Running`."""

    publishes = True

    def __init__(
        self,
        home: Path,
        stages: Mapping[str, Stage],
        policy: Mapping[str, Any],
        gateway: Mapping[str, Any],
    ) -> None:
        self.on_change: Callable[[], None] = lambda: None
        port = free_port()
        for stage in stages.values():
            stage.cable.lead_hooks(port)
        self._settings = {"agent": AGENT, "hook_listen": f"{HOST}:{port}", **gateway}
        self._stages, self._policy, self._home = dict(stages), policy, home
        self.process = Process(self._write("holdfast.toml"))
        self._entries: dict[str, Reading] = {}
        self._charge: str | None = None

    async def start(self) -> None:
        """See `Running`; nothing happens when it runs."""
        if self.census() == Left():
            await self.process.kill9()  # it has ended, and only its parent does not know yet
        if not self.process.alive:
            self._look_back()
            charge, self._charge = self._charge, None
            await self.process.start(charge)

    async def stop(self) -> float:
        """See `Running`: SIGTERM."""
        self._look_back()
        began = time.monotonic()
        await self.process.stop()
        return time.monotonic() - began

    def _look_back(self) -> None:
        """A life that has ended by itself, and not as the lab lets it end, is an accident."""
        if self.process.ended not in (None, 0, -signal.SIGKILL, EXIT):
            self.process.accidents.append(int(self.process.ended or 0))

    async def kill(self) -> None:
        """See `Running`."""
        await self.process.kill()

    def charge(self, point: str) -> None:
        """See `Running`."""
        self._charge = point

    def tear(self) -> None:
        """See `Running`: a crash may leave such an end of the write-ahead log."""
        log = self.process.journal.with_name(self.process.journal.name + "-wal")
        with log.open("ab") as end:
            end.write(os.urandom(HALF_A_PAGE))

    def rename(self, pid: int) -> None:
        """See `Running`."""
        path = self.process.config.with_name("state") / FILE_NAME
        write_status(path, msgspec.structs.replace(read_status(path), pid=pid))

    def fill_disk(self, full: bool) -> None:
        """See `Running`: a limit of 0 bytes per file is what a process can see of a full disk."""
        if not self.process.alive:
            return
        _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (0 if full else hard, hard))

    def exhaust(self, none_left: bool) -> None:
        """See `Running`: its soft limit is the first number that is free. What it closes it may
        have again; what is open beyond stays open. No limit outlives a life."""
        if not self.process.alive:
            return
        _, hard = resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE)
        limit = census.first_free(self.process.pid) if none_left else hard
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (limit, hard))

    async def freeze(self) -> None:
        """See `Running`."""
        self.process.freeze()

    async def thaw(self) -> None:
        """See `Running`."""
        self.process.thaw()

    async def stall(self, seconds: float) -> None:
        """Not of this subject: ask its agent with ``#block``."""
        raise TypeError("only the agent can block the loop of another process")

    async def order(self, verb: str, account: str) -> None:
        """See `Running`: the command that users type. Raises RuntimeError when it fails."""
        await self._do(verb, account)

    async def reload(self) -> None:
        """See `Running`. Raises RuntimeError when it fails."""
        self._write(self.process.config.name)
        await self._do("reload")

    async def ask(self) -> Told:
        """See `Running`: ``holdfast status``."""
        return await _command(self.process.config, "status")

    async def second(self, *, shared: bool) -> Told | None:
        """See `Running`: ``holdfast run`` once more."""
        settings = {**self._settings, "hook_listen": f"{HOST}:{free_port()}"}
        if not shared:
            settings["state_dir"] = "state of another"
        config = self._write("second.toml", settings)
        try:
            return await _command(config, "run", "--log-level", "warning")
        except TimeoutError:
            return None

    async def _do(self, *words: str) -> None:
        told = await _command(self.process.config, *words)
        if told.status:
            raise RuntimeError(f"holdfast {' '.join(words)}: {told.text}")

    def _write(self, name: str, settings: Mapping[str, Any] | None = None) -> Path:
        path = self._home / name
        write(path, document(self._stages, settings or self._settings, self._policy))
        return path

    def environ(self, variables: Mapping[str, str]) -> None:
        """See `Running`."""
        self.process.environ.update(variables)

    def log(self) -> str:
        """See `Running`: what all lives wrote to standard error."""
        return self.process.log.read_text(errors="replace") if self.process.log.exists() else ""

    def suspend(self, seconds: float) -> None:
        """Not of this subject: its clocks are the system's."""
        raise TypeError("the clocks of another process can not be set here")

    misdate = suspend

    def move(self) -> None:
        """Not of this subject: its addresses are the system's."""
        raise TypeError("the kernel's news for another process can not be made up")

    def names(self, answer: str) -> None:
        """Not of this subject: its names are the system's."""
        raise TypeError("the names of another process can not be resolved here")

    def read(self, account: str) -> Reading | None:
        """See `Running`: what a careful reader of the status file believes."""
        status = self.process.status()
        if status is None:
            return Reading(state="stopped")
        entry = reading(status.accounts[account], time.time())
        if doubt(status) is None:
            return entry
        return Reading(state="unknown", generation=entry.generation)

    def census(self) -> Left:
        """See `Running`: a process that has ended has left nothing in itself."""
        return census.of(self.process.pid) if self.process.alive else Left()

    def accidents(self) -> Sequence[str]:
        """See `Running`: an end that nobody had asked for, and what was said last."""
        codes = [f"it ended by itself with status {code}" for code in self.process.accidents]
        said = self.log()
        traced = said[said.find("Traceback") :][-TOLD:] if "Traceback" in said else ""
        return [*codes, *([traced] if traced else [])]

    async def rows(self, account: str) -> Sequence[Row]:
        """See `Running`."""
        return (await Journal.read(self.process.journal, self._stages)).rows.get(account, ())

    async def gaps(self, account: str) -> Sequence[tuple[float, float]]:
        """See `Running`."""
        return (await Journal.read(self.process.journal, self._stages)).gaps.get(account, ())


async def _command(config: Path, *words: str) -> Told:
    """What users type. Raises TimeoutError for a command that does not end; it is killed then."""
    command = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "holdfast.cli", "--config", str(config), *words),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(ORDER_LIMIT):
            said, _ = await command.communicate()
    finally:
        if command.returncode is None:
            command.kill()
            await command.wait()
    assert command.returncode is not None, "it was waited for"
    return Told(command.returncode, said.decode(errors="replace").strip())
