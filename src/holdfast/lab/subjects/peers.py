"""The programs Holdfast is measured against, each as its users run it: plain, in its own process.

A peer's program and the version it asks for are kept in ``peers/NAME``; ``make peers`` installs
each into an environment of its own, ``.venv-peers/NAME``. The program learns its credentials and
addresses from its environment: ``SLACK_BOT_TOKEN``, ``SLACK_API_URL`` and so on, one variable for
each entry of the account's table.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from holdfast.lab import census
from holdfast.lab.checker import Row
from holdfast.lab.stage import Stage
from holdfast.lab.subjects import Left, Reading
from holdfast.lab.terms import Ability, Clock

PROGRAMS: Final = Path("peers")
"""Where the programs are kept, seen from the checkout."""

ENVIRONMENTS: Final = Path(".venv-peers")
"""Where ``make peers`` installs them."""

HOME: Final = "PEER_HOME"
"""The variable that names a directory of the peer's own, empty at the beginning of a play."""

STOP: Final = 90.0
"""Seconds for a peer's own end: systemd's default (DefaultTimeoutStopSec)."""

KEPT: Final = ("LANG", "LC_ALL", "PATH", "TZ")
"""Variables of ours that a peer is given; everything else is its own."""

TOLD: Final = 500
"""Characters of a peer's last line that are told."""

State = Callable[[Path, str], Reading | None]
"""Reads what a peer publishes of a platform's account, from its home; None: nothing yet."""


def environment(home: Path, account: Mapping[str, Any]) -> dict[str, str]:
    """What a program learns: the account's table, and where it may keep what it keeps."""
    platform = account["platform"]
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    told = {f"{platform}_{key}".upper(): str(value) for key, value in account.items()}
    return kept | told | {HOME: str(home), "HOME": str(home), "PLATFORM": platform}


def hermes_state(home: Path, platform: str) -> Reading | None:
    """What hermes-agent's users read of a platform: its ``gateway_state.json``; None: nothing."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        told = json.loads((home / ".hermes" / "gateway_state.json").read_text())
        entry = told["platforms"][platform]
        return Reading(state=entry["state"], code=entry.get("error_code") or "")
    return None


class Peer:
    """A program that speaks some platforms. See `Subject`."""

    clock = Clock.REAL
    stop_limit = STOP
    hurried = False

    def __init__(
        self,
        name: str,
        platforms: frozenset[str],
        *,
        state: State | None = None,
        root: Path | None = None,
    ) -> None:
        """``root`` is the checkout; None: the present directory."""
        root, folder = root or Path.cwd(), name.rpartition(":")[2]
        self.name, self.state = name, state
        self.platforms: frozenset[str] | None = platforms
        self.folder, self.environment = root / PROGRAMS / folder, root / ENVIRONMENTS / folder
        self.version = self._pinned()
        self.abilities = frozenset({Ability.KILL, Ability.FREEZE})
        if state is not None:
            self.abilities |= {Ability.STATUS}

    @property
    def program(self) -> Path:
        """What is run."""
        return self.folder / "program.py"

    @property
    def python(self) -> Path:
        """What it is run by."""
        return self.environment / "bin" / "python"

    def _pinned(self) -> str:
        """The version that is installed; empty outside a checkout."""
        pins = self.folder / "requirements.txt"
        return pins.read_text().split("==")[1].split()[0] if pins.is_file() else ""

    def missing(self) -> str | None:
        """See `Subject`."""
        if not self.program.is_file():
            return f"{self.program} is not there: play peers from a checkout of Holdfast"
        if not (self.environment / ".done").is_file():
            return f"{self.folder.name} is not installed: make peers"
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
        """See `Subject`. A peer has one account, and its own defaults for everything else."""
        (stage,) = stages.values()
        lives = Lives(self, stage, home)
        try:
            yield lives
        finally:
            await lives.kill()


class Lives:
    """All lives of a peer in one play. See `Running`."""

    def __init__(self, peer: Peer, stage: Stage, home: Path) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._log = home / "peer.log"
        self._peer, self._home = peer, home / "peer"
        self._home.mkdir()
        self._platform = stage.simulator.platform
        # By address: its names are the system's, whatever the mode calls the platform.
        self._environment = environment(self._home, stage.cable.led(stage.simulator.account()))
        self._process: asyncio.subprocess.Process | None = None
        self._accidents: list[str] = []

    @property
    def publishes(self) -> bool:
        """See `Running`."""
        return self._peer.state is not None

    @property
    def pid(self) -> int:
        """The newest life's process id. Raises RuntimeError when there was none."""
        if self._process is None:
            raise RuntimeError(f"{self._peer.name} was never started")
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether a life is under way."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """See `Running`; nothing happens when it runs."""
        if self.alive:
            return
        await self.kill()
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                str(self._peer.python),
                str(self._peer.program.resolve()),
                cwd=self._home,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def stop(self) -> float:
        """See `Running`: SIGTERM, as from a service manager, and SIGKILL if that does not help."""
        began = time.monotonic()
        self._look_for_accident()
        if self._process is not None and self.alive:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP):
                    await self._process.wait()
        took = time.monotonic() - began
        await self._bury()
        return took

    async def kill(self) -> None:
        """See `Running`: SIGKILL to it and to whatever it has started. Idempotent."""
        self._look_for_accident()
        await self._bury()

    async def _bury(self) -> None:
        """End what is left of the present life."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    def _look_for_accident(self) -> None:
        """Take note of an end that nobody had asked for."""
        if self._process is not None and not self.alive:
            last = next(filter(str.strip, reversed(self.log().splitlines())), "")[:TOLD]
            code = self._process.returncode
            self._accidents.append(f"it ended by itself with status {code}: {last}")

    async def freeze(self) -> None:
        """See `Running`."""
        os.killpg(self.pid, signal.SIGSTOP)

    async def thaw(self) -> None:
        """See `Running`."""
        os.killpg(self.pid, signal.SIGCONT)

    def read(self, account: str) -> Reading | None:
        """See `Running`."""
        if self._peer.state is None:
            return None
        if not self.alive:
            return Reading(state="stopped")
        return self._peer.state(self._home, self._platform) or Reading(state="connecting")

    def census(self) -> Left:
        """See `Running`: a process that has ended has left nothing in itself."""
        return census.of(self.pid) if self.alive else Left()

    def accidents(self) -> Sequence[str]:
        """See `Running`: an end that nobody had asked for. What it logs is its own affair."""
        return tuple(self._accidents)

    async def rows(self, account: str) -> Sequence[Row]:
        """See `Running`: what a peer keeps is its own affair; users tell what it has done."""
        return ()

    async def gaps(self, account: str) -> Sequence[tuple[float, float]]:
        """See `Running`: no peer reports what it has missed."""
        return ()

    def log(self) -> str:
        """See `Running`: what all its lives said."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _never(self, *args: Any, **more: Any) -> Any:
        """What no mode asks of a peer, see `Peer.abilities`."""
        raise TypeError("this can not be asked of a peer")

    ask = charge = environ = exhaust = fill_disk = misdate = move = names = _never
    order = reload = rename = second = stall = suspend = tear = _never
