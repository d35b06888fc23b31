"""`holdfast run` as its users have it: a process, and commands beside it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from holdfast.cli import main
from holdfast.web.control import SOCKET_NAME

LIMIT = 20.0
"""Seconds for anything that takes a fraction of one on an idle machine."""


@dataclass
class Place:
    """A directory with a configuration, and what commands do with it."""

    directory: Path
    tables: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    """Of the table [gateway]."""
    pages: str = ""
    """Where the HTTP server listens: nowhere, for two tests at once would meet on its port."""

    @property
    def config(self) -> Path:
        return self.directory / "holdfast.toml"

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def write(self, **tables: Mapping[str, Any]) -> None:
        """Write a configuration with these accounts."""
        self.tables = dict(tables)
        lines = ["[gateway]", *(f"{key} = {_toml(value)}" for key, value in self.settings.items())]
        lines += ["[web]", f'listen = "{self.pages}"']
        for name, table in tables.items():
            lines.append(f"[accounts.{name}]")
            lines += [f"{key} = {_toml(value)}" for key, value in table.items()]
        self.config.write_text("\n".join(lines) + "\n")
        self.config.chmod(0o600)

    async def command(self, *arguments: str) -> int:
        """Run a command in this process, beside the loop."""
        return await asyncio.to_thread(main, ["--config", str(self.config), *arguments])

    @contextlib.asynccontextmanager
    async def gateway(self, *options: str) -> AsyncIterator[Process]:
        """``holdfast run`` once it answers; killed at the end if a test left it running."""
        process = await self.start(*options)
        try:
            await process.answers()
            yield process
        finally:
            await process.kill()

    async def start(self, *options: str) -> Process:
        """``holdfast run``, not yet ready."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "holdfast.cli",
            "--config",
            str(self.config),
            "run",
            *options,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        return Process(self, process)


@dataclass
class Process:
    """A running gateway."""

    place: Place
    process: asyncio.subprocess.Process
    log: str = ""

    async def answers(self) -> None:
        """Wait for the control socket."""
        await self.logged("started accounts=")
        assert (self.place.state / SOCKET_NAME).exists()

    async def logged(self, text: str) -> None:
        """Wait until the log holds a text. Raises AssertionError when the log ends before."""
        assert self.process.stderr is not None
        async with asyncio.timeout(LIMIT):
            while text not in self.log:
                line = await self.process.stderr.readline()
                assert line, f"the log ended without {text!r}:\n{self.log}"
                self.log += line.decode()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.process.pid, number)

    async def ended(self) -> int:
        """The exit code; ``log`` holds the whole log afterwards. Nothing may be on stdout."""
        async with asyncio.timeout(LIMIT):
            out, err = await self.process.communicate()
        self.log += err.decode()
        assert out == b""
        assert self.process.returncode is not None
        return self.process.returncode

    async def kill(self) -> None:
        """End it, in whatever state it is."""
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.kill()
            await self.process.communicate()


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, int | float) else f'"{value}"'
