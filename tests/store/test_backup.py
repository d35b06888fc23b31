"""A copy while everything goes on: consistent, private, durable, never over another file."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from holdfast.errors import StoreError
from holdfast.store.copying import Copy
from holdfast.store.memory import MemoryStore
from holdfast.store.opening import PAGE_SIZE, Place
from holdfast.store.sqlite import SqliteStore
from tests.store.journal import inbound, names, outbound


async def test_a_copy_is_a_whole_journal_and_private(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    rows = await store.receive("a", [inbound(str(n)) for n in range(100)], {"offset": 100})
    await store.finish(rows[0].row, [outbound("k")])
    target = tmp_path / "copy.db"
    assert await store.backup(target) == target.stat().st_size
    assert target.stat().st_mode & 0o777 == 0o600
    await store.receive("a", [inbound("later")], None)
    assert names(tmp_path, "copy") == ["copy.db"]
    await store.close()

    copy = await SqliteStore.open(target)
    assert [r.row for r in await copy.unhandled("a")] == [r.row for r in rows[1:]]
    assert [o.message for o in await copy.owed("a")] == [outbound("k")]
    assert await copy.cursor("a") == {"offset": 100}
    assert await copy.receive("a", [inbound(str(n)) for n in range(100)], None) == []
    assert copy.notice == ""
    await copy.close()


async def test_intake_goes_on_while_a_copy_is_made(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    await store.receive("a", [inbound(str(n), text="x" * 2_000) for n in range(4_000)], None)
    copying = asyncio.ensure_future(store.backup(tmp_path / "copy.db"))
    taken = 0
    while not copying.done():
        taken += len(await store.receive("a", [inbound(f"n{taken}")], None))
    await copying
    assert taken > 1
    await store.close()
    db = sqlite3.connect(tmp_path / "copy.db")
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    (rows,) = db.execute("SELECT count(*) FROM inbox").fetchone()
    db.close()
    assert 4_000 <= rows <= 4_000 + taken


@pytest.mark.parametrize("there", ["copy.db", "copy.db.partial"])
async def test_an_existing_file_is_never_written_over(tmp_path: Path, there: str) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    (tmp_path / there).write_text("precious")
    with pytest.raises(StoreError, match="exists already") as caught:
        await store.backup(tmp_path / "copy.db")
    assert caught.value.code == "store_exists"
    assert there in caught.value.problem
    assert (tmp_path / there).read_text() == "precious"
    assert names(tmp_path, "copy") == [there]
    await store.close()


async def test_a_place_that_can_not_be_written_is_said(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    for missing in (tmp_path / "missing", tmp_path / "j.db"):
        with pytest.raises(StoreError, match=f"^copy to {missing}/copy.db: ") as caught:
            await store.backup(missing / "copy.db")
        assert "directory" in caught.value.problem
        assert caught.value.hint == "choose a directory that the gateway's user can write to"
    assert len(await store.receive("a", [inbound()], None)) == 1
    await store.close()
    with pytest.raises(StoreError, match="is closed"):
        await store.backup(tmp_path / "copy.db")


async def test_a_damaged_journal_is_not_copied(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    store = await SqliteStore.open(path)
    await store.receive("a", [inbound(str(n), text="x" * 500) for n in range(200)], None)
    await store.close()
    store = await SqliteStore.open(path)
    with path.open("r+b") as file:
        for page in range(10, 30):
            file.seek(page * PAGE_SIZE)
            file.write(b"\xff" * 64)
    with pytest.raises(StoreError, match="the file is damaged") as caught:
        await store.backup(tmp_path / "copy.db")
    assert caught.value.code == "store_damaged"
    assert names(tmp_path, "copy") == []
    await store.close()


async def test_a_copy_that_is_given_up_leaves_nothing(tmp_path: Path) -> None:
    await (await SqliteStore.open(tmp_path / "j.db")).close()
    copy = Copy(Place(path=tmp_path / "j.db"), tmp_path / "copy.db")
    copy.give_up()
    with pytest.raises(StoreError, match="was given up") as caught:
        copy.make()
    assert caught.value.code == "store_closed"
    assert names(tmp_path, "copy") == []


async def test_what_is_kept_in_memory_has_nothing_to_copy(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no journal on a disk"):
        await MemoryStore().backup(tmp_path / "copy.db")
    assert names(tmp_path) == []
