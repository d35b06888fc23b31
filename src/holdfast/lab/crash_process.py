"""`holdfast run` as a process that dies again and again, on one directory."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Final

from holdfast.killpoints import VARIABLE
from holdfast.lab.crash_plan import Life
from holdfast.observe.status import FILE_NAME, Status, read

JOURNAL: Final = "journal.db"
"""The journal's name in the state directory."""

RANDOM: Final = "random"
"""Where a life ends that was not killed at a kill point."""

STOP: Final = 10.0
"""Seconds for the gateway's own end, twice of what it promises."""


class Process:
    """`holdfast run`, again and again on the same directory."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.log = config.with_name("gateway.log")
        """What all lives wrote to standard error."""
        self.kills: Counter[str] = Counter()
        """Where lives ended by SIGKILL: a kill point, or `RANDOM`."""
        self.accidents: list[int] = []
        """Exit statuses of lives that ended by themselves, which none may."""
        self.environ: dict[str, str] = {}
        """Variables besides those of this process, from the next life on."""
        self._process: asyncio.subprocess.Process | None = None

    async def live(self, life: Life) -> None:
        """One life, from its start to its SIGKILL. Cancelling may leave it running."""
        await self.start(life.charge)
        assert self._process is not None
        try:
            async with asyncio.timeout(life.seconds):
                code = await self._process.wait()
        except TimeoutError:
            await self.kill()
            return
        if code == -signal.SIGKILL and life.point is not None:
            self.kills[life.point] += 1
        else:
            self.accidents.append(code)

    async def start(self, charge: str | None = None) -> None:
        """Begin a life, to die at a kill point if one is given."""
        env = {name: value for name, value in os.environ.items() if name != VARIABLE}
        env |= self.environ
        if charge is not None:
            env[VARIABLE] = charge
        with self.log.open("ab") as log:
            log.write(f"--- {time.time():.3f} {charge or 'no kill point'}\n".encode())
            log.flush()
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "holdfast.cli", "--config", str(self.config)),
                *("run", "--log-level", "warning"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log,
                env=env,
                start_new_session=True,
            )

    async def kill(self) -> None:
        """End a life at random."""
        await self.kill9()
        self.kills[RANDOM] += 1

    async def kill9(self) -> None:
        """SIGKILL to the process and whatever it started. Idempotent."""
        if self._process is None or self._process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()

    async def stop(self) -> None:
        """SIGTERM, and SIGKILL if that does not help."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP):
                await process.wait()
        await self.kill9()
        code = await process.wait()
        if code != 0:
            self.accidents.append(code)

    @property
    def alive(self) -> bool:
        """Whether a life is under way."""
        return self._process is not None and self._process.returncode is None

    @property
    def ended(self) -> int | None:
        """The exit status of the newest life, negative for a signal; None while it goes on."""
        return None if self._process is None else self._process.returncode

    @property
    def pid(self) -> int:
        """The present life's process id. Raises RuntimeError when there is none."""
        if self._process is None:
            raise RuntimeError("the process was never started")
        return self._process.pid

    def freeze(self) -> None:
        """SIGSTOP to the present life."""
        os.killpg(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        os.killpg(self.pid, signal.SIGCONT)

    @property
    def journal(self) -> Path:
        """The journal's database."""
        return self.config.with_name("state") / JOURNAL

    def status(self) -> Status | None:
        """What the present life has published; None before it has."""
        process, path = self._process, self.config.with_name("state") / FILE_NAME
        if process is None or process.returncode is not None or not path.exists():
            return None
        status = read(path)
        return status if status.pid == process.pid else None
