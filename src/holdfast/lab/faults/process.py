"""T2 and T6: a child process that can be frozen, thawed and killed.

A frozen server is alive in the kernel and dead above it: TCP connects succeed, nothing answers. A
frozen gateway is a paused machine: every clock goes on, the program does not.

Processes live on real time, so a `Child` needs a loop with a real clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

KEEP = 64 * 1024
"""Bytes of the newest output kept from each of stdout and stderr."""

LINE_LIMIT = 1024 * 1024
"""Bytes after which a line of stdout without an end is not a ready line."""

SIGNAL_TIMEOUT = 5.0
"""Seconds in which the kernel must stop, continue or kill a process."""

_POLL = 0.001


class ChildFailed(RuntimeError):
    """The child did not become ready; the message ends with the tail of its stderr."""


class _Tail:
    """The newest bytes of a stream."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, data: bytes) -> None:
        self._bytes += data
        del self._bytes[:-KEEP]

    def __str__(self) -> str:
        return self._bytes.decode(errors="replace")


class Child:
    """A process in a session of its own. Use as ``async with Child.module("pkg.server") as child``.

    Entering waits for the ready line: the first line of stdout that is a JSON object, kept in
    ``ready``. Leaving kills the whole process group, so that no grandchild outlives the test.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        ready_timeout: float = 10.0,
    ) -> None:
        """``env`` is added to the environment of this process; times are in seconds."""
        self.argv = tuple(argv)
        self.ready: dict[str, Any] = {}
        self.frozen = False
        self._env, self._cwd = {**os.environ, **(env or {})}, cwd
        self._ready_timeout = ready_timeout
        self._process: asyncio.subprocess.Process | None = None
        self._drains: set[asyncio.Task[None]] = set()
        self._stdout, self._stderr = _Tail(), _Tail()
        self._killed = False

    @classmethod
    def module(cls, name: str, *args: str, **options: Any) -> Self:
        """A Python module, run by this interpreter as ``python -m name args``."""
        return cls([sys.executable, "-m", name, *args], **options)

    # -- what is known ------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The process id. Raises RuntimeError before the start."""
        return self._started.pid

    @property
    def returncode(self) -> int | None:
        """None while it runs, the exit status after, negative for a signal."""
        return None if self._process is None else self._process.returncode

    @property
    def stdout(self) -> str:
        """The newest `KEEP` bytes of stdout."""
        return str(self._stdout)

    @property
    def stderr(self) -> str:
        """The newest `KEEP` bytes of stderr."""
        return str(self._stderr)

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> Self:
        """Start and wait for the ready line. Raises ChildFailed; then nothing is left running."""
        self._process = await asyncio.create_subprocess_exec(
            *self.argv,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._env,
            cwd=self._cwd,
            limit=LINE_LIMIT,
            start_new_session=True,
        )
        self._drain(self._process.stderr, self._stderr)
        try:
            async with asyncio.timeout(self._ready_timeout):
                self.ready = await self._ready_line()
        except BaseException as error:
            await self.kill9()
            if isinstance(error, TimeoutError | EOFError):
                raise ChildFailed(self._obituary(error)) from error
            raise
        self._drain(self._process.stdout, self._stdout)
        return self

    async def wait(self) -> int:
        """Wait for the end and return the exit status. Cancelling is safe."""
        return await self._started.wait()

    async def freeze(self) -> None:
        """SIGSTOP to the process and its children; returns when the process stands still.

        Raises ProcessLookupError when it has ended.
        """
        if not self.frozen:
            self._signal(signal.SIGSTOP)
            await self._until_changed(os.WSTOPPED)
            self.frozen = True

    async def thaw(self) -> None:
        """SIGCONT; returns when the process runs again. Raises as `freeze` does."""
        if self.frozen:
            self._signal(signal.SIGCONT)
            await self._until_changed(os.WCONTINUED)
            self.frozen = False

    async def terminate(self, timeout: float = 5.0) -> int:
        """SIGTERM to the process, SIGKILL to what is left after ``timeout`` seconds.

        A frozen process is thawed to hear it. Returns the exit status.
        """
        if self.returncode is None:
            self._started.send_signal(signal.SIGTERM)
            self._signal(signal.SIGCONT)
            self.frozen = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self.wait()
        return await self.kill9()

    async def kill9(self) -> int:
        """SIGKILL to the process and its children; returns the exit status. Idempotent."""
        self._signal(signal.SIGKILL)
        async with asyncio.timeout(SIGNAL_TIMEOUT):
            status = await self.wait()
        self._killed, self.frozen = True, False
        await self._finish_drains()
        return status

    async def __aenter__(self) -> Self:
        return await self.start()

    async def __aexit__(self, *exc: object) -> None:
        await self.kill9()

    # -- within -------------------------------------------------------------------------------

    @property
    def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise RuntimeError("the child was not started")
        return self._process

    def _signal(self, number: signal.Signals) -> None:
        # The group may outlive its leader; once it was killed its id may belong to somebody else.
        if not self._killed:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    async def _until_changed(self, state: int) -> None:
        async with asyncio.timeout(SIGNAL_TIMEOUT):
            while self.returncode is None:
                if self._changed(state):
                    return
                await asyncio.sleep(_POLL)
        raise ProcessLookupError(f"{self.argv[0]} ended with status {self.returncode}")

    def _changed(self, state: int) -> bool:
        """Whether the process stopped or continued; its end is left to asyncio to reap."""
        try:
            return os.waitid(os.P_PID, self.pid, state | os.WNOHANG) is not None
        except ChildProcessError:
            return False

    async def _ready_line(self) -> dict[str, Any]:
        stream = self._started.stdout
        assert stream is not None
        while line := await stream.readline():
            self._stdout.add(line)
            with contextlib.suppress(ValueError):
                value = json.loads(line)
                if isinstance(value, dict):
                    return value
        raise EOFError("stdout ended")

    def _obituary(self, error: Exception) -> str:
        what = "no ready line in time" if isinstance(error, TimeoutError) else str(error)
        return f"{' '.join(self.argv)}: {what}, status {self.returncode}\n{self.stderr}"

    def _drain(self, stream: asyncio.StreamReader | None, tail: _Tail) -> None:
        assert stream is not None

        async def drain() -> None:
            while data := await stream.read(KEEP):
                tail.add(data)

        self._drains.add(asyncio.create_task(drain(), name=f"drain-{self.pid}"))

    async def _finish_drains(self) -> None:
        if not self._drains:
            return
        # A grandchild that left the group may hold the pipe open: do not wait for it for ever.
        _, pending = await asyncio.wait(self._drains, timeout=SIGNAL_TIMEOUT)
        for task in pending:
            task.cancel()
        await asyncio.gather(*self._drains, return_exceptions=True)
        self._drains.clear()
