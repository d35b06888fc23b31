"""Group commit: many writes, few commits, each caller its own result."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import StoreError
from holdfast.store.sqlite import SqliteStore
from tests.store.journal import inbound, names, outbound


class Gate:
    """A write that keeps the thread busy until it is let go."""

    def __init__(self, store: SqliteStore) -> None:
        self.go = threading.Event()
        self.done = asyncio.ensure_future(store._write(self._wait))

    def _wait(self, db: sqlite3.Connection) -> None:
        self.go.wait(20)

    async def open(self) -> None:
        self.go.set()
        await self.done


async def arrived(store: SqliteStore, count: int) -> None:
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(store.custody.writer._pending) == count


async def test_what_arrives_during_a_commit_shares_the_next_one(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    gate = Gate(store)
    await asyncio.sleep(0)
    calls = [asyncio.ensure_future(store.receive("a", [inbound(str(n))], None)) for n in range(200)]
    await arrived(store, 200)
    await gate.open()
    results = await asyncio.gather(*calls)
    assert [r[0].message.id for r in results] == [str(n) for n in range(200)]
    assert (store.counters.commits, store.counters.writes) == (2, 201)
    await store.close()


async def test_what_those_it_wakes_write_at_once_shares_the_next_commit_too(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    gate = Gate(store)

    async def woken() -> None:
        await gate.done
        for _ in range(3):  # as from the end of one burst of frames to the next
            await asyncio.sleep(0)
        await store.remember("a", "next", b"x")

    writing = asyncio.ensure_future(woken())
    waiting = asyncio.ensure_future(store.remember("a", "before", b"x"))
    await arrived(store, 1)
    await gate.open()
    await asyncio.gather(writing, waiting)
    assert store.counters.commits == 2
    await store.close()


async def test_a_commit_that_hangs_holds_up_neither_questions_nor_the_loop(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    [row] = await store.receive("a", [inbound("1")], None)
    gate = Gate(store)
    await asyncio.sleep(0)
    waiting = asyncio.ensure_future(store.receive("a", [inbound("2")], {"offset": 2}))
    assert await store.unhandled("a") == [row]
    assert await store.cursor("a") == {}
    assert not waiting.done(), "nothing is acknowledged before it is on the disk"
    await gate.open()
    assert len(await waiting) == 1
    assert await store.cursor("a") == {"offset": 2}
    await store.close()


async def test_a_lone_write_is_committed_at_once(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    before = asyncio.get_running_loop().time()
    for number in range(5):
        await store.receive("a", [inbound(str(number))], None)
    assert asyncio.get_running_loop().time() == before
    assert store.counters.commits == 5
    await store.close()


async def test_an_operation_that_fails_does_not_fail_its_neighbours(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    gate = Gate(store)
    await asyncio.sleep(0)

    def half(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO memory VALUES ('a', 'half', 'x')")
        raise LookupError("on purpose")

    def syntax(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO nowhere VALUES (1)")

    results = asyncio.gather(
        store.receive("a", [inbound("1")], None),
        store._write(half),
        store.begin(77),
        store._write(syntax),
        store.post("a", [outbound()]),
        return_exceptions=True,
    )
    await arrived(store, 5)
    await gate.open()
    first, broken, unknown, refused, last = await results
    assert isinstance(broken, LookupError)
    assert isinstance(unknown, StoreError)
    assert unknown.code == "store_wrong_state"
    assert isinstance(refused, StoreError)
    assert refused.code == "store_refused"
    assert await store.unhandled("a") == first
    assert await store.owed("a") == last
    assert await store.recall("a", "half") is None
    assert (store.counters.commits, store.counters.writes) == (2, 3)
    assert not store.counters.failing
    await store.close()


async def test_only_a_group_that_must_be_undone_is_begun_again(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    called: list[str] = []

    async def write(key: str, error: Exception | None = None, table: str = "memory") -> Any:
        def operation(db: sqlite3.Connection) -> int:
            called.append(key)
            done = db.execute(f"INSERT INTO {table} VALUES ('a', ?, x'78')", (key,)).rowcount
            if error is not None:
                raise error
            return done

        return await store._write(operation)

    async def together(*writes: Any) -> list[Any]:
        await store.custody.writer.drain()
        gate = Gate(store)
        await asyncio.sleep(0)
        results = asyncio.gather(*writes, return_exceptions=True)
        await arrived(store, len(writes))
        await gate.open()
        return await results

    one, refused, two = await together(write("1"), write("none", table="nowhere"), write("2"))
    assert (one, refused.code, two) == (1, "store_refused", 1)
    assert called == ["1", "none", "2"], "what changed nothing leaves nothing to undo"
    called.clear()
    before = store.counters.commits
    three, late, four = await together(write("3"), write("gone", LookupError()), write("4"))
    assert (three, type(late), four) == (1, LookupError, 1)
    assert called == ["3", "gone", "3", "gone", "4"]
    assert store.counters.commits == before + 2
    found = [await store.recall("a", key) for key in ("1", "2", "3", "4", "gone")]
    assert found == [b"x", b"x", b"x", b"x", None]
    await store.close()


async def test_cancelling_before_the_commit_takes_the_write_back(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    gate = Gate(store)
    await asyncio.sleep(0)
    calls = [asyncio.ensure_future(store.receive("a", [inbound(str(n))], None)) for n in range(3)]
    await arrived(store, 3)
    calls[1].cancel()
    await asyncio.sleep(0)
    await gate.open()
    await asyncio.wait(calls)
    assert calls[1].cancelled()
    assert [r.message.id for r in await store.unhandled("a")] == ["0", "2"]
    await store.close()


async def test_when_all_that_waits_is_cancelled_there_is_no_commit(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    gate = Gate(store)
    await asyncio.sleep(0)
    call = asyncio.ensure_future(store.receive("a", [inbound()], None))
    await arrived(store, 1)
    call.cancel()
    await asyncio.wait([call])
    await gate.open()
    assert store.counters.commits == 1
    await store.receive("a", [inbound()], None)
    assert store.counters.commits == 2
    await store.close()


async def test_cancelling_during_the_commit_only_stops_waiting(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    gate = Gate(store)
    await asyncio.sleep(0)
    gate.done.cancel()
    neighbour = asyncio.ensure_future(store.receive("a", [inbound()], None))
    await arrived(store, 1)
    gate.go.set()
    assert [r.message.id for r in await neighbour] == ["m1"]
    assert (store.counters.commits, store.counters.writes) == (2, 2)
    await store.close()


async def test_close_commits_what_was_accepted_and_refuses_the_rest(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    calls = [asyncio.ensure_future(store.receive("a", [inbound(str(n))], None)) for n in range(20)]
    await asyncio.sleep(0)
    closing = asyncio.ensure_future(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(StoreError, match="is closed") as caught:
        await store.receive("a", [inbound("late")], None)
    assert caught.value.code == "store_closed"
    await store.close()
    await store.close()
    assert all(len(call.result()) == 1 for call in calls)
    with pytest.raises(StoreError, match="is closed"):
        await store.counts("a")

    store = await SqliteStore.open(tmp_path / "j.db")
    assert len(await store.unhandled("a")) == 20
    await store.close()


async def test_closing_leaves_one_file_and_no_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    store = await SqliteStore.open(tmp_path / "j.db")
    await store.receive("a", [inbound()], None)
    await store.counts("a")
    assert threading.active_count() == before + 2
    await store.close()
    assert threading.active_count() == before
    assert names(tmp_path) == ["j.db", "j.db.lock"]
