"""A process that handles what it is told and what its journal holds, until a message kills it.

    python -m tests.gateway.mortal JOURNAL [expect|begin]

``begin`` stores messages without beginning any. Ends with 0 when nothing is left to handle.
"""

from __future__ import annotations

import asyncio
import os
import sys

from holdfast.agents import Turn
from holdfast.gateway.lanes import Lanes, Limits
from holdfast.messages import Inbound, Reply
from holdfast.store.sqlite import SqliteStore
from tests.gateway.desk import Mouth

DEATH = 9
"""The exit code of a process that the message killed."""


def heard() -> list[Inbound]:
    """One message that kills, with others beside it and behind it."""
    said = [("a", "a1"), ("p", "poison"), ("p", "behind1"), ("p", "behind2")]
    said += [(chat, f"{chat}1") for chat in "bcdefgh"]
    return [Inbound(id=id, chat=chat, sender="u", text=id) for chat, id in said]


async def agent(message: Inbound, turn: Turn) -> list[Reply]:
    if message.id == "poison":
        os._exit(DEATH)
    await asyncio.sleep(0.02)
    return [Reply(text=message.id)]


async def main(path: str, how: str) -> None:
    store = await SqliteStore.open(path)
    lanes = Lanes(
        "bot",
        Mouth(),
        agent,
        store,
        Limits(attempts=3),
        asyncio.Semaphore(64),
        on_owed=lambda owed: None,
        can_type=lambda: False,
    )
    lanes.put(await store.unhandled("bot"))
    begun = await lanes.expect(heard()) if how == "expect" else set()
    rows = await store.receive("bot", heard(), None, begun=begun)
    lanes.put(rows)
    if how == "expect":
        await lanes.settle(heard(), begun, rows)
    while lanes.depth:  # noqa: ASYNC110  what it waits for tells nobody
        await asyncio.sleep(0.01)
    await lanes.stop(1.0)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
