"""T16: a second owner of an account: a gateway started twice, or a stranger with the token."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Self

STOP_TIMEOUT = 5.0
"""Seconds a rival has to obey its cancellation; the limit for a stop in the lab's rules."""


class Rival:
    """Runs a coroutine function as the rival, from `start` to `stop`, as often as wanted.

    A rival that ends by itself (the platform threw it out) stays ended; ``error`` says of what.
    Use as ``async with Rival(poll_with_the_same_token)``.
    """

    def __init__(self, run: Callable[[], Awaitable[object]], *, name: str = "rival") -> None:
        self.name = name
        self.starts = 0
        self.error: Exception | None = None
        """What ended the last run, None while it runs and after a return or a stop."""
        self._run = run
        self._task: asyncio.Task[None] | None = None

    @property
    def running(self) -> bool:
        """Whether the rival is at work."""
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Start the rival; nothing happens when it is already running."""
        if not self.running:
            self.starts += 1
            self.error = None
            self._task = asyncio.create_task(self._live(), name=f"{self.name}-{self.starts}")

    async def stop(self) -> None:
        """Cancel the rival and wait for it. Raises TimeoutError when it ignores the cancel."""
        if self._task is None:
            return
        self._task.cancel()
        _, pending = await asyncio.wait([self._task], timeout=STOP_TIMEOUT)
        if pending:
            raise TimeoutError(f"{self._task.get_name()} ignored its cancellation")

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def _live(self) -> None:
        try:
            await self._run()
        except Exception as error:
            self.error = error
