"""The file of the history: kept over restarts, bounded, and never a hindrance."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from holdfast.errors import StoreError
from holdfast.observe import history as module
from holdfast.observe.history import COUNT_EVERY, FILE_NAME, PRUNE_EVERY, TICK, Action, History
from holdfast.observe.history_file import ACTIONS_KEPT, INCIDENTS_KEPT, KEPT, SCHEMA
from holdfast.observe.incidents import HOUR, MINUTE, Incident
from tests.observe.test_incidents import DOWN, OFF, T0, UP


def clock() -> float:
    """Unix seconds that pass as the loop's do; the loop begins at 1000."""
    return T0 + asyncio.get_running_loop().time() - 1_000.0


@contextlib.asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[History]:
    """A history that is being written."""
    history = History(directory / FILE_NAME, clock)
    await history.start()
    try:
        yield history
    finally:
        await history.stop()


def action(number: int = 0) -> Action:
    return Action(at=T0 + number, who="uid 7", what="kick", path=f"/{number}", status=200)


async def killed(history: History) -> None:
    """End without a last word, as kill -9 does: what was not yet written is gone."""
    assert history._task is not None
    history._task.cancel()
    await asyncio.wait([history._task])
    history._task = None
    await history.stop()


async def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    async with opened(tmp_path) as history:
        history.report("polly", UP)
        await asyncio.sleep(20)
        history.report("polly", DOWN)
        await asyncio.sleep(5)
        history.report("polly", UP)
        history.act(action())
        before = await history.incidents()
    async with opened(tmp_path) as history:
        assert await history.incidents("polly") == before
        assert [(one.since - T0, one.until and one.until - T0) for one in before] == [(20, 25)]
        assert await history.incidents("jack") == []
        assert await history.actions() == [action()]
        (hour,) = await history.uptime("polly", HOUR, 1)
        assert (hour.start, hour.up, hour.down, hour.off) == (T0, 20, 5, 0)
        history.report("polly", DOWN)
        assert [one.number for one in await history.incidents()] == [1, 2]


async def test_uptime_is_piece_by_piece_up_to_now(tmp_path: Path) -> None:
    async with opened(tmp_path) as history:
        history.report("polly", UP)
        await asyncio.sleep(90)
        history.report("polly", OFF)
        await asyncio.sleep(40)
        found = await history.uptime("polly", MINUTE, 4)
        assert [(one.start - T0, one.up, one.down, one.off) for one in found] == [
            (-60, 0, 0, 0),
            (0, 60, 0, 0),
            (60, 30, 0, 30),
            (120, 0, 0, 10),
        ]
        again = await history.uptime("polly", MINUTE, 4)
        assert again == found


async def test_who_asks_writes_nothing_but_news(tmp_path: Path) -> None:
    async with opened(tmp_path) as history:
        for name in ("polly", "jack"):
            history.report(name, UP)
        await asyncio.sleep(5)
        with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:

            def commits() -> int:
                """Changes with each transaction of another connection."""
                (number,) = db.execute("PRAGMA data_version").fetchone()
                return int(number)

            before = commits()
            (hour,) = await history.uptime("polly", HOUR, 1)
            assert (hour.up, await history.incidents(), await history.actions()) == (5, [], [])
            assert commits() == before
            history.act(action())
            assert await history.actions() == [action()]
            assert commits() != before
        (hour,) = await history.uptime("jack", HOUR, 1)
        assert hour.up == 5


async def test_a_kill_costs_seconds_and_ends_incidents_as_unseen(tmp_path: Path) -> None:
    history = History(tmp_path / FILE_NAME, clock)
    await history.start()
    history.report("polly", UP)
    await asyncio.sleep(3 * COUNT_EVERY)
    history.report("polly", DOWN)
    await asyncio.sleep(2 * TICK + 1)
    await killed(history)
    await asyncio.sleep(600)
    async with opened(tmp_path) as after:
        (incident,) = await after.incidents()
        assert incident.end == "unseen"
        lost = T0 + 3 * COUNT_EVERY + 2 * TICK + 1 - (incident.until or 0)
        assert 0 <= lost <= TICK
        (hour,) = await after.uptime("polly", HOUR, 1)
        assert 3 * COUNT_EVERY - COUNT_EVERY - TICK <= hour.up <= 3 * COUNT_EVERY
        assert hour.up + hour.down + hour.off < 600


async def test_only_what_lasted_since_is_told(tmp_path: Path) -> None:
    async with opened(tmp_path) as history:
        for _ in range(3):
            history.report("polly", UP)
            await asyncio.sleep(9)
            history.report("polly", DOWN)
            await asyncio.sleep(1)
        assert [one.number for one in await history.incidents(since=T0 + 15)] == [2, 3]
        assert [one.number for one in await history.incidents(limit=1)] == [3]


async def test_it_is_bounded(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE_NAME) as db:
        db.executescript(SCHEMA)
        document = msgspec.json.encode(Incident(number=1, account="polly", since=T0, until=T0))
        db.executemany(
            "INSERT INTO incidents VALUES (?, 'polly', 1, 0, ?)",
            [(number, document) for number in range(1, INCIDENTS_KEPT + 6)],
        )
        db.execute("INSERT INTO incidents VALUES (9999, 'jack', 1, 0, ?)", (document,))
        db.executemany(
            "INSERT INTO actions (document) VALUES (?)",
            [(msgspec.json.encode(action(number)),) for number in range(ACTIONS_KEPT + 5)],
        )
        for size, seconds in KEPT.items():
            for age in (seconds / 2, seconds + 2 * size):
                start = int(T0 - age) // size * size
                db.execute("INSERT INTO uptime VALUES ('polly', ?, ?, 1, 0, 0)", (size, start))
    db.close()
    async with opened(tmp_path):
        await asyncio.sleep(PRUNE_EVERY + TICK)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        of = "SELECT count(*), min(number) FROM incidents WHERE account = ?"
        assert db.execute(of, ("polly",)).fetchone() == (INCIDENTS_KEPT, 6)
        assert db.execute(of, ("jack",)).fetchone() == (1, 9999)
        assert db.execute("SELECT count(*), min(id) FROM actions").fetchone() == (ACTIONS_KEPT, 6)
        left = db.execute("SELECT size FROM uptime ORDER BY size").fetchall()
        assert left == [(MINUTE,), (HOUR,)]


# -- trouble --------------------------------------------------------------------------------------


async def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    async with opened(tmp_path):
        assert stat.S_IMODE((tmp_path / FILE_NAME).stat().st_mode) == 0o600


@pytest.mark.parametrize("what", ["noise", "newer", "unreadable"])
async def test_a_file_that_is_none_of_ours_is_set_aside(tmp_path: Path, what: str) -> None:
    path = tmp_path / FILE_NAME
    if what == "noise":
        path.write_bytes(b"not a database" * 500)
    else:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.executescript(SCHEMA)
            db.execute("INSERT INTO incidents VALUES (1, 'polly', 1, 1, '{')")
            db.execute(f"PRAGMA user_version = {99 if what == 'newer' else 1}")
    former = path.read_bytes()
    async with opened(tmp_path) as history:
        history.act(action())
        assert await history.actions() == [action()]
        assert history.trouble == ""
    aside = tmp_path / f"{FILE_NAME}.damaged-{int(T0)}"
    assert what == "unreadable" or aside.read_bytes() == former


async def test_without_a_place_it_is_kept_in_memory_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path / "nowhere") as history:
        history.act(action())
        assert await history.actions() == [action()]
        assert "kept in memory only" in history.trouble
        await asyncio.sleep(5 * TICK)
        assert "kept in memory only" in history.trouble
    assert caplog.text.count("kept in memory only") == 1


async def test_what_could_not_be_written_is_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(tmp_path) as history:
        with contextlib.closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
            db.execute("ALTER TABLE actions RENAME TO hidden")
            history.act(action())
            await asyncio.sleep(5 * TICK)
            assert "no such table: actions" in history.trouble
            with pytest.raises(StoreError, match="can not be used"):
                await history.actions()
            db.execute("ALTER TABLE hidden RENAME TO actions")
        await asyncio.sleep(TICK + 1)
        assert history.trouble == ""
        assert await history.actions() == [action()]
    assert caplog.text.count("history not written") == 1


@pytest.mark.real_time
@pytest.mark.slow
async def test_a_disk_that_hangs_holds_nobody_up_and_nothing_is_written_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path) as history:
        file = history._file
        assert file is not None
        file._one.acquire()
        history.act(action())
        try:
            with monkeypatch.context() as hurried:
                hurried.setattr(module, "LIMIT", 0.05)
                for _ in range(3):
                    with pytest.raises(StoreError, match="did not answer"):
                        await history.actions()
                assert "nothing was written" in history.trouble
        finally:
            file._one.release()
        assert await history.actions() == [action()]
        assert history.trouble == ""


async def test_a_closed_history_says_so(tmp_path: Path) -> None:
    async with opened(tmp_path) as history:
        history.act(action())
    await history.stop()
    with pytest.raises(StoreError, match="not open"):
        await history.actions()
