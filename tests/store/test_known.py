"""Known ids: found by a hash, told apart by the whole id, whatever is rolled back or killed."""

from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from holdfast.errors import StoreError
from holdfast.store import known
from holdfast.store.sqlite import SqliteStore
from tests.store.journal import DAY, Clock, inbound


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table takes over ten ids at a time, so that a test sees it often."""
    monkeypatch.setattr(known, "RECENT", 10)


async def receive(store: SqliteStore, *names: str) -> list[str]:
    new = await store.receive("a", [inbound(name) for name in names], None)
    return [row.message.id for row in new]


async def counted(store: SqliteStore) -> tuple[int, int]:
    """Rows of the table, and the row number up to which it is complete."""

    def question(db: sqlite3.Connection) -> tuple[int, int]:
        (rows,) = db.execute("SELECT count(*) FROM known").fetchone()
        (upto,) = db.execute("SELECT value FROM settings WHERE name = 'known_upto'").fetchone()
        return rows, upto

    return await store._read(question)


async def test_every_id_is_known_before_while_and_after_the_table_takes_it(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    names = [f"{random.Random(n).getrandbits(96):x}" for n in range(100)]
    for number, name in enumerate(names):
        assert await receive(store, name) == [name]
        assert await receive(store, *names[: number + 1]) == []
    rows, upto = await counted(store)
    assert 80 <= rows <= 100
    assert 80 <= upto <= 100
    await store.close()
    store = await SqliteStore.open(tmp_path / "j.db")
    assert await receive(store, *names) == []
    assert await store.receive("b", [inbound(names[0])], None) != []
    await store.close()


async def test_a_collision_loses_no_message_and_doubles_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(known, "hashed", lambda key, account, message: len(message) % 2)
    clock = Clock()
    store = await SqliteStore.open(tmp_path / "j.db", clock=clock)
    names = ["x" * n for n in range(1, 60)]
    for name in names:
        assert await receive(store, name) == [name]
    assert await receive(store, *names) == []
    await store.close()
    store = await SqliteStore.open(tmp_path / "j.db", clock=clock)
    assert await receive(store, *names, "new") == ["new"]
    for row in (await store.unhandled("a"))[:30]:
        await store.finish(row.row, [])
    clock.now += 2 * DAY
    assert await store.prune() == 30
    assert await receive(store, *names) == names[:30]
    assert await receive(store, *names, "new") == []
    await store.close()


async def test_a_write_that_was_undone_makes_nothing_known(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    refuse = "CREATE TRIGGER refuse BEFORE INSERT ON cursors BEGIN SELECT RAISE(ABORT, 'no'); END"
    await store._write(lambda db: db.execute(refuse).rowcount)
    names = [str(n) for n in range(60)]
    for name in names:
        with pytest.raises(StoreError, match="no"):
            await store.receive("a", [inbound(name)], {"offset": 1})
        assert await receive(store, name) == [name]
        assert await receive(store, name) == []
    assert await receive(store, *names) == []
    await store.close()


async def test_row_numbers_that_come_again_after_a_rollback_hide_nothing(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    refuse = "CREATE TRIGGER refuse BEFORE INSERT ON cursors BEGIN SELECT RAISE(ABORT, 'no'); END"
    await store._write(lambda db: db.execute(refuse).rowcount)
    with pytest.raises(StoreError, match="no"):
        await store.receive("a", [inbound(f"undone-{n}") for n in range(200)], {"offset": 1})
    names = [f"undone-{n}" for n in range(0, 200, 7)] + [str(n) for n in range(100)]
    for name in names:
        assert await receive(store, name) == [name]
    await store.close()
    store = await SqliteStore.open(tmp_path / "j.db")
    assert await receive(store, *names) == []
    await store.close()


async def test_a_failed_commit_makes_nothing_known_and_forgets_nothing(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db", max_bytes=300 * 1024)
    stored: list[str] = []
    refused: list[str] = []
    for number in range(200):
        name = str(number)
        try:
            new = await store.receive("a", [inbound(name, text="x" * 3_000)], None)
        except StoreError:
            refused.append(name)
        else:
            assert len(new) == 1
            stored.append(name)
    assert stored
    assert refused
    assert await receive(store, *stored) == []
    await store.close()
    store = await SqliteStore.open(tmp_path / "j.db")
    assert await receive(store, *stored) == []
    assert await receive(store, *refused) == refused
    await store.close()


async def test_pruned_ids_leave_memory_and_table(tmp_path: Path) -> None:
    clock = Clock()
    store = await SqliteStore.open(tmp_path / "j.db", clock=clock)
    for day in range(5):
        names = [f"{day}-{n}" for n in range(37)]
        for name in names:
            await receive(store, name)
        for row in await store.unhandled("a"):
            await store.finish(row.row, [])
        clock.now += DAY + 1
        assert await store.prune() == 37
        rows, _ = await counted(store)
        assert rows <= 10, "at most what was being taken over stays"
        assert len(store._known._recent) <= 50
        assert await receive(store, *names[:3]) == names[:3], "pruned ids are new again"
        for row in await store.unhandled("a"):
            await store.finish(row.row, [])
        clock.now += DAY + 1
        assert await store.prune() == 3
    await store.close()


async def test_row_numbers_are_never_used_twice(tmp_path: Path) -> None:
    clock = Clock()
    store = await SqliteStore.open(tmp_path / "j.db", clock=clock)
    [first] = await store.receive("a", [inbound("1")], None)
    await store.finish(first.row, [])
    clock.now += DAY + 1
    assert await store.prune() == 1
    await store.close()
    store = await SqliteStore.open(tmp_path / "j.db", clock=clock)
    [second] = await store.receive("a", [inbound("1")], None)
    assert second.row > first.row
    await store.close()


def test_the_hash_depends_on_key_account_and_id() -> None:
    cases = {(b"k", "a", "m"), (b"l", "a", "m"), (b"k", "b", "m"), (b"k", "a", "n")}
    assert len({known.hashed(*case) for case in cases}) == 4
    assert all(-(2**63) <= known.hashed(*case) < 2**63 for case in cases)
