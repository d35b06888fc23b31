"""Known ids: found by a hash, told apart by the whole id, whatever is rolled back or killed."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from holdfast.errors import StoreError
from holdfast.store import known
from holdfast.store.protocol import Box
from holdfast.store.sqlite import SqliteStore
from tests.store.journal import DAY, Clock, inbound, outbound


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten ids make a run, so that a test sees it often."""
    monkeypatch.setattr(known, "RECENT", 10)


async def receive(store: SqliteStore, *names: str) -> list[str]:
    new = await store.receive("a", [inbound(name) for name in names], None)
    return [row.message.id for row in new]


async def counted(store: SqliteStore, box: Box = Box.INBOX) -> tuple[int, int, int]:
    """Runs in the file, the ids in them, and the row number up to which they are complete."""
    query = "SELECT count(*), sum(length(hashes)) / 8, max(upto) FROM known WHERE box = ?"
    runs, ids, upto = await store._read(lambda db: db.execute(query, (box,)).fetchone())
    return runs, ids or 0, upto or 0


async def test_every_id_is_known_before_and_after_it_is_in_a_run(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    names = [f"{random.Random(n).getrandbits(96):x}" for n in range(100)]
    for number, name in enumerate(names):
        assert await receive(store, name) == [name]
        assert await receive(store, *names[: number + 1]) == []
    assert await counted(store) == (10, 100, 100)
    await store.close()
    store = await SqliteStore.open(tmp_path / "j.db")
    assert await receive(store, *names) == []
    assert await store.receive("b", [inbound(names[0])], None) != []
    await store.close()


@pytest.mark.parametrize("recent", [2, 10], ids=["in runs", "in memory"])
async def test_a_collision_loses_no_message_and_doubles_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recent: int
) -> None:
    monkeypatch.setattr(known, "RECENT", recent)
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
        assert await counted(store) == (0, 0, 0)
        assert await receive(store, *names[:3]) == names[:3], "pruned ids are new again"
        for row in await store.unhandled("a"):
            await store.finish(row.row, [])
        clock.now += DAY + 1
        assert await store.prune() == 3
    await store.close()


async def test_what_waits_in_an_old_run_stays_known(tmp_path: Path) -> None:
    clock = Clock()
    store = await SqliteStore.open(tmp_path / "j.db", clock=clock)
    names = [str(n) for n in range(40)]
    await receive(store, *names)
    waiting = {"3", "5", "15", "25", "38"}
    for row in await store.unhandled("a"):
        if row.message.id not in waiting:
            await store.finish(row.row, [])
    assert await counted(store) == (1, 40, 40)
    clock.now += DAY + 1
    assert await store.prune() == 35
    assert await counted(store) == (1, 5, 40)
    assert await receive(store, *waiting) == []
    await receive(store, *[f"next-{n}" for n in range(12)])
    assert await counted(store) == (2, 17, 52)
    clock.now += 1
    assert await store.prune() == 0
    assert await counted(store) == (2, 17, 52), "the newer run is not old, the older is all in use"
    await store.close()
    store = await SqliteStore.open(tmp_path / "j.db", clock=clock)
    for row in await store.unhandled("a"):
        if row.message.id != "15":
            await store.finish(row.row, [])
    clock.now += DAY + 1
    assert await store.prune() == 16
    assert await counted(store) == (1, 1, 52)
    assert await receive(store, "15", "3") == ["3"]
    await store.close()
    store = await SqliteStore.open(tmp_path / "j.db", clock=clock)
    assert await receive(store, "15", "3") == []
    await store.close()


async def test_a_run_full_of_what_waits_does_not_keep_the_next_ones(tmp_path: Path) -> None:
    clock = Clock()
    store = await SqliteStore.open(tmp_path / "j.db", clock=clock)
    for first in (0, 10, 20, 30):
        await receive(store, *[str(first + n) for n in range(10)])
    for row in (await store.unhandled("a"))[10:]:
        await store.finish(row.row, [])
    assert await counted(store) == (4, 40, 40)
    clock.now += DAY + 1
    assert await store.prune() == 30
    assert await counted(store) == (1, 10, 10)
    assert await receive(store, *[str(n) for n in range(11)]) == ["10"]
    await store.close()


async def test_keys_of_the_outbox_are_known_in_the_same_way(tmp_path: Path) -> None:
    clock = Clock()
    store = await SqliteStore.open(tmp_path / "j.db", clock=clock)
    keys = [f"{random.Random(n).getrandbits(96):x}" for n in range(35)]
    rows = [(await store.post("a", [outbound(key)]))[0] for key in keys]
    assert await counted(store, Box.OUTBOX) == (3, 30, 30)
    for again in (False, True):
        assert [(await store.post("a", [outbound(key)]))[0] for key in keys] == rows
        assert (await store.counts("a"))["a"].owed == 35
        await store.close()
        if again:
            break
        store = await SqliteStore.open(tmp_path / "j.db", clock=clock)


async def test_a_run_that_can_not_be_read_is_made_anew(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    names = [str(n) for n in range(25)]
    for name in names:
        await receive(store, name)
    await store._write(lambda db: db.execute("UPDATE known SET hashes = x'0102'").rowcount)
    await store.close()
    store = await SqliteStore.open(tmp_path / "j.db")
    assert await receive(store, *names) == []
    assert await counted(store) == (2, 20, 20)
    await store.close()


async def test_a_damaged_id_stops_nobody(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    await receive(store, "1", "2")
    spoiled = "UPDATE inbox SET message = CAST(x'ff' AS TEXT) WHERE id = 1"
    await store._write(lambda db: db.execute(spoiled).rowcount)
    await store.close()
    store = await SqliteStore.open(tmp_path / "j.db")
    assert await receive(store, "2", "3") == ["3"]
    assert [row.row for row in await store.unhandled("a")] == [1, 2, 3]
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
    cases = {(b"k", b"a", b"m"), (b"l", b"a", b"m"), (b"k", b"b", b"m"), (b"k", b"a", b"n")}
    assert len({known.hashed(*case) for case in cases}) == 4
    assert all(0 <= known.hashed(*case) < 2**64 for case in cases)
