"""A journal on disk with something in every state that people care about."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from holdfast.cli.journal import JOURNAL
from holdfast.messages import Gap, Inbound, Outbound, Receipt
from holdfast.store.sqlite import SqliteStore

T = TypeVar("T")

CONFIG = """\
[accounts.bot]
platform = "telegram"
token = { env = "A_SECRET_NOBODY_HAS_HERE" }

[accounts.off]
platform = "telegram"
token = { env = "A_SECRET_NOBODY_HAS_HERE" }
enabled = false
"""


def at(state: Path, work: Callable[[SqliteStore], Awaitable[T]]) -> T:
    """Do something with the journal of a state directory, as a gateway would."""

    async def run() -> T:
        store = await SqliteStore.open(state / JOURNAL)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def heard(id: str, chat: str = "4217", text: str = "") -> Inbound:
    """A message from a person."""
    return Inbound(id=id, chat=chat, sender="u1", sender_name="Ann", text=text or f"text {id}")


async def fill(store: SqliteStore) -> None:
    """in-1 answered by out-1; in-2 and in-3 dead; out-2 refused, out-3 held; a gap."""
    messages = [heard("a"), heard("b"), heard("c", chat="9313")]
    rows = await store.receive("bot", messages, None)
    (sent,) = await store.finish(rows[0].row, [Outbound(key="k1", chat="4217", text="fine")])
    await store.sent(sent.row, Receipt("77"))
    for row in rows[1:]:
        await store.begin(row.row)
        await store.bury(row.row, "RuntimeError: the model is down")
    posted = [Outbound(key=f"k{n}", chat="4217", text=f"news {n}") for n in (2, 3)]
    refused, unsure = await store.post("bot", posted)
    await store.refuse(refused.row, "telegram_forbidden: the bot was blocked by the user")
    await store.sending(unsure.row)
    await store.hold(unsure.row, "timeout: no answer within 10 s")
    await store.add_gap("bot", Gap(since=1e9, until=1e9 + 90, reason="a fresh login"))
