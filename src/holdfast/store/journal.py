"""The journal of a gateway: opened whatever became of its file, and never in silence."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path

from holdfast.errors import StoreError
from holdfast.messages import Gap
from holdfast.store.aside import asides, set_aside, waiting_since
from holdfast.store.protocol import DEDUPE_SECONDS, Transition
from holdfast.store.sqlite import SqliteStore
from holdfast.store.troubles import trouble
from holdfast.threads import DAEMONS

log = logging.getLogger("holdfast.journal")

LOST = "journal-lost"
"""`Transition.trigger` of the line that tells an account's history of it."""


async def open_journal(
    path: Path,
    accounts: Collection[str],
    *,
    retention: float = DEDUPE_SECONDS,
    clock: Callable[[], float] = time.time,
) -> SqliteStore:
    """Open the journal for ``accounts``; when its file is damaged, set it aside and begin anew.

    What may be lost by that, or because the file or its log is missing, is an error in the log, a
    gap and a line in the history of each account, and `Store.notice`. Raises StoreError as
    `SqliteStore.open` does, except for `store_damaged`.
    """
    try:
        store = await SqliteStore.open(path, clock=clock, retention=retention)
    except StoreError as error:
        if error.code != "store_damaged":
            raise
        await _set_aside(path, error, clock())
        store = await SqliteStore.open(path, clock=clock, retention=retention)
    try:
        await _tell(store, accounts)
    except BaseException:
        await store.close()
        raise
    store.custody.on_renewed = partial(_tell, store, accounts)
    return store


async def _set_aside(path: Path, error: StoreError, now: float) -> None:
    loop = asyncio.get_running_loop()
    try:
        aside = await loop.run_in_executor(DAEMONS, set_aside, path, now)
    except OSError as failed:
        raise trouble(failed, path) from failed
    log.error("journal damaged, set aside, a new one begins file=%s error=%s", aside, error.problem)


async def _tell(store: SqliteStore, accounts: Collection[str]) -> None:
    """Tell each account once of everything that may be lost."""
    loop, now = asyncio.get_running_loop(), store.clock()
    for aside in asides(store.path):
        if await store.recall("", aside.name) is None:
            since = await loop.run_in_executor(DAEMONS, waiting_since, aside)
            reason = f"the journal was damaged and set aside as {aside.name}"
            await _lost(store, accounts, Gap(since=min(since, now), until=now, reason=reason))
            await store.remember("", aside.name, b"told")
    if store.custody.loss and store.custody.on_renewed is None:  # known since the start
        log.error("journal incomplete error=%s", store.custody.loss)
        reason = f"{store.custody.loss}: the newest messages in it may be lost"
        await _lost(store, accounts, Gap(since=store.custody.last_used, until=now, reason=reason))


async def _lost(store: SqliteStore, accounts: Collection[str], gap: Gap) -> None:
    for account in sorted(accounts):
        await store.add_gap(account, gap)
        await store.record(
            Transition(
                account=account,
                at=gap.until,
                state="stopped",
                trigger=LOST,
                generation=0,
                code="store_damaged",
                message=gap.reason,
            )
        )
