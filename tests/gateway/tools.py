"""What the tests of this folder share: counting what is left behind, and a frozen wall clock."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Census:
    """Everything of this process that can leak; the loop's own bounded pool does not count."""

    tasks: frozenset[str]
    threads: int
    descriptors: int


async def census() -> Census:
    """Count after a few turns of the loop, so that what is ending has ended."""
    for _ in range(5):
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    gc.collect()
    tasks = frozenset(task.get_name() for task in asyncio.all_tasks())
    return Census(tasks, sum(not t.name.startswith("asyncio_") for t in threading.enumerate()), len(os.listdir("/proc/self/fd")))  # noqa: PTH208


async def until(condition: Callable[[], object], timeout: float = 60.0) -> None:
    """Wait for something without an event of its own."""
    async with asyncio.timeout(timeout):
        while not condition():
            await asyncio.sleep(0.01)


def now() -> float:
    """Seconds on the loop's clock."""
    return asyncio.get_running_loop().time()
