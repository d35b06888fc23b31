"""A journal that another program keeps locked does not hold up the stop of a gateway."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest

from holdfast.errors import StoreError
from holdfast.messages import Inbound
from holdfast.store.sqlite import SqliteStore
from holdfast.store.writer import CLOSE_PATIENCE, LOCK_SLICE

HELLO = Inbound(id="1", chat="ann", sender="ann", text="hello")


@pytest.mark.real_time
@pytest.mark.slow
async def test_close_does_not_wait_for_anothers_lock(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    store = await SqliteStore.open(path, busy_timeout=30.0)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        write = asyncio.create_task(store.receive("bot", [HELLO], {"offset": 1}))
        await asyncio.sleep(0)
        began = asyncio.get_running_loop().time()
        await store.close()
        took = asyncio.get_running_loop().time() - began
        with pytest.raises(StoreError, match="keeps it locked") as refused:
            await write
    assert refused.value.code == "store_locked"
    assert took < CLOSE_PATIENCE + LOCK_SLICE + 1.0
    again = await SqliteStore.open(path)
    assert await again.unhandled("bot") == []
    assert await again.cursor("bot") == {}
    await again.close()


@pytest.mark.real_time
@pytest.mark.slow
async def test_close_commits_when_the_lock_comes_free(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    store = await SqliteStore.open(path)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        write = asyncio.create_task(store.receive("bot", [HELLO], {"offset": 1}))
        asyncio.get_running_loop().call_later(LOCK_SLICE * 2, other.execute, "ROLLBACK")
        await asyncio.sleep(0)
        await store.close()
        (new,) = await write
    assert new.message == HELLO
    again = await SqliteStore.open(path)
    assert await again.cursor("bot") == {"offset": 1}
    await again.close()
