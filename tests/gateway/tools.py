"""What the tests of this folder share: counting what is left behind, a journal to look into."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holdfast.messages import Inbound
from holdfast.store.protocol import Received
from holdfast.supervision import State
from holdfast.testing import MemoryStore
from tests.harness import Running


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
    return Census(
        tasks,
        sum(not t.name.startswith("asyncio_") for t in threading.enumerate()),
        _descriptors(),
    )


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(condition: Callable[[], object], timeout: float = 60.0) -> None:
    """Wait for something without an event of its own."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110  what it waits for tells nobody
            await asyncio.sleep(0.01)


class Ledger(MemoryStore):
    """A journal that writes down its transactions, and can be held up."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.open.set()
        self.held = 0
        self.batches: list[tuple[list[str], dict[str, Any]]] = []
        """Ids and cursor of each intake."""

    async def receive(
        self,
        account: str,
        messages: Sequence[Inbound],
        cursor: Mapping[str, Any] | None,
        dropped: Mapping[str, str] | None = None,
        begun: Collection[str] = (),
    ) -> list[Received]:
        """See `Store.receive`."""
        self.held += 1
        await self.open.wait()
        self.held -= 1
        rows = await super().receive(account, messages, cursor, dropped, begun)
        self.batches.append(([m.id for m in messages], dict(cursor or {})))
        return rows


def now() -> float:
    """Seconds on the loop's clock."""
    return asyncio.get_running_loop().time()


async def alive(bot: Running, generation: int) -> None:
    """Wait until an account lives on its n-th connection."""
    await bot.account.until(lambda v: v.generation == generation and v.state is State.LIVE)
