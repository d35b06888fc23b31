"""Holdfast as a process of its own, as its users run it: `holdfast run`, and its status file."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from holdfast import __version__
from holdfast.lab import census
from holdfast.lab.cable import HOST
from holdfast.lab.checker import Row
from holdfast.lab.configured import document, free_port, write
from holdfast.lab.crash_process import Process
from holdfast.lab.crash_witness import Journal
from holdfast.lab.mode import Ability
from holdfast.lab.stage import Stage
from holdfast.lab.subjects import Left, Reading
from holdfast.lab.subjects.published import AGENT, reading
from holdfast.observe.status import doubt

ORDER_LIMIT: Final = 10.0
"""Seconds for one command of the operator."""


TOLD: Final = 2_000
"""Characters of a traceback that are told."""


class AsProcess:
    """Holdfast on the real clock. See `Subject`."""

    name = "holdfast"
    version = __version__
    abilities = frozenset(
        {
            Ability.KILL,
            Ability.FREEZE,
            Ability.AGENT,
            Ability.STATUS,
            Ability.JOURNAL,
            Ability.LIMITS,
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
        settings = {"agent": AGENT, "hook_listen": f"{HOST}:{port}", **gateway}
        write(home / "holdfast.toml", document(stages, settings, policy))
        self.process = Process(home / "holdfast.toml")
        self._stages = dict(stages)
        self._entries: dict[str, Reading] = {}

    async def start(self) -> None:
        """See `Running`; nothing happens when it runs."""
        if not self.process.alive:
            await self.process.start()

    async def stop(self) -> float:
        """See `Running`: SIGTERM."""
        began = time.monotonic()
        await self.process.stop()
        return time.monotonic() - began

    async def kill(self) -> None:
        """See `Running`."""
        await self.process.kill()

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
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "holdfast.cli", "--config", str(self.process.config)),
            *(verb, account),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(ORDER_LIMIT):
            said, _ = await command.communicate()
        if command.returncode:
            raise RuntimeError(f"holdfast {verb}: {said.decode(errors='replace').strip()}")

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
        said = self.process.log.read_text(errors="replace") if self.process.log.exists() else ""
        traced = said[said.find("Traceback") :][-TOLD:] if "Traceback" in said else ""
        return [*codes, *([traced] if traced else [])]

    async def rows(self, account: str) -> Sequence[Row]:
        """See `Running`."""
        return (await Journal.read(self.process.journal, self._stages)).rows.get(account, ())

    async def gaps(self, account: str) -> Sequence[tuple[float, float]]:
        """See `Running`."""
        return (await Journal.read(self.process.journal, self._stages)).gaps.get(account, ())
