"""A process that stores messages and says what was acknowledged, until it is killed."""

from __future__ import annotations

import asyncio
import os
import sys

from holdfast.messages import Receipt
from holdfast.store.sqlite import SqliteStore
from tests.store.journal import inbound, outbound


async def produce(store: SqliteStore, name: str) -> None:
    number = 0
    while True:
        number += 1
        key = f"{name}-{number}"
        begun = [key] if number % 2 else []
        [row] = await store.receive("a", [inbound(key)], {name: number}, begun=begun)
        os.write(1, f"received {key}\n".encode())
        [owed] = await store.finish(row.row, [outbound(key)])
        os.write(1, f"owed {key}\n".encode())
        await store.sending(owed.row)
        await store.sent(owed.row, Receipt(key))
        os.write(1, f"sent {key}\n".encode())


async def main(path: str) -> None:
    store = await SqliteStore.open(path)
    await asyncio.gather(*(produce(store, f"p{n}") for n in range(8)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
