"""Work that is done wholly, whatever becomes of who asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

Running = set[asyncio.Task[Any]]
"""What is still being done, for whoever must wait for it at a stop."""


async def whole(work: Coroutine[Any, Any, T], name: str, running: Running) -> T:
    """The result of the work, in a task of its own that is in ``running`` until it ends.

    A cancelled caller learns nothing, but what the journal has taken meanwhile has its keeper.
    """
    task = asyncio.create_task(work, name=name)
    running.add(task)
    task.add_done_callback(running.discard)
    task.add_done_callback(_look)
    return await asyncio.shield(task)


def _look(task: asyncio.Task[Any]) -> None:
    """The caller may have been cancelled; nobody else would look at the failure."""
    if not task.cancelled():
        task.exception()
