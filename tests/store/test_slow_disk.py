"""A disk whose writes take long: told while it lasts, forgotten when it is over."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from pathlib import Path

import pytest

from holdfast.errors import StoreError
from holdfast.store.sqlite import SqliteStore
from holdfast.store.writer import SLOW, SLOW_TOLD, Pace
from tests.store.journal import Clock, inbound


def test_a_write_on_its_way_is_told_once_it_is_slow() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.slow() == 0
    pace.begin()
    clock.now += SLOW - 0.01
    assert pace.slow() == 0
    clock.now += 119.01
    assert pace.slow() == pytest.approx(120 + SLOW - 1)
    pace.end()
    assert pace.slow() == pytest.approx(120 + SLOW - 1)


def test_a_quick_write_ends_it_and_so_does_a_minute_of_rest() -> None:
    clock = Clock()
    pace = Pace(clock)
    for quick in (True, False):
        pace.begin()
        clock.now += 7
        pace.end()
        clock.now += SLOW_TOLD - 1
        assert pace.slow() == 7
        if quick:
            pace.begin()
            assert pace.slow() == 7, "the newest that is known"
            pace.end()
        else:
            clock.now += 1
        assert pace.slow() == 0


def test_what_failed_before_it_began_is_no_write() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.end()
    clock.now += 100
    assert pace.slow() == 0


async def test_the_journal_says_so_while_it_lasts(tmp_path: Path) -> None:
    clock = Clock()
    store = await SqliteStore.open(tmp_path / "j.db")
    store.custody.writer.pace = Pace(clock)
    begun, go = threading.Event(), threading.Event()

    def hang(db: sqlite3.Connection) -> None:
        begun.set()
        go.wait(20)

    hanging = asyncio.ensure_future(store._write(hang))
    await asyncio.sleep(0)
    assert begun.wait(20)
    waiting = asyncio.ensure_future(store.receive("a", [inbound()], None))
    assert store.notice == ""
    clock.now += 90
    assert store.notice.startswith("store_slow: journal ")
    assert "its disk takes 90 s per write" in store.notice
    assert "recovers by itself" in store.notice
    assert await store.unhandled("a") == [], "questions are answered"
    assert not waiting.done(), "nothing is acknowledged"
    clock.now += 30
    assert "takes 120 s" in store.notice
    go.set()
    await hanging
    assert len(await waiting) == 1
    assert store.notice == ""
    await store.close()


async def test_another_programs_lock_is_not_the_disk(tmp_path: Path) -> None:
    clock = Clock()
    store = await SqliteStore.open(tmp_path / "j.db", busy_timeout=0.05)
    store.custody.writer.pace = Pace(clock)
    other = sqlite3.connect(tmp_path / "j.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="keeps it locked"):
        await store.receive("a", [inbound()], None)
    clock.now += 10
    assert "store_locked" in store.notice
    other.execute("ROLLBACK")
    other.close()
    await store.receive("a", [inbound()], None)
    assert store.notice == ""
    await store.close()
