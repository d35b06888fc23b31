"""A full disk, a damaged file, a second owner: said in words, survived, never papered over."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import StoreError
from holdfast.messages import Gap, Inbound, Outbound
from holdfast.store import opening, schema
from holdfast.store.aside import set_aside
from holdfast.store.opening import Place, prepare
from holdfast.store.protocol import Box, NotMendable
from holdfast.store.schema import SCHEMA_VERSION
from holdfast.store.sqlite import SqliteStore
from holdfast.store.troubles import trouble
from tests.store.journal import DAY, Clock, inbound, outbound


async def failure_of_open(path: Path, **options: Any) -> StoreError:
    with pytest.raises(StoreError) as caught:
        await SqliteStore.open(path, **options)
    assert str(path) in str(caught.value)
    assert caught.value.hint
    return caught.value


async def fill(store: SqliteStore) -> tuple[int, StoreError]:
    """Store big messages until one fails; return how many went in, and the error."""
    number = 0
    while True:
        try:
            [row] = await store.receive("a", [inbound(f"big-{number}", text="x" * 9_000)], None)
            await store.finish(row.row, [])
        except StoreError as error:
            return number, error
        number += 1
        assert number < 2_000


# -- full -----------------------------------------------------------------------------------------


async def test_a_full_journal_fails_the_whole_group_and_recovers_by_itself(tmp_path: Path) -> None:
    clock = Clock()
    store = await SqliteStore.open(tmp_path / "j.db", clock=clock, max_bytes=400 * 1024)
    stored, error = await fill(store)
    assert stored > 10
    assert error.code == "store_full"
    assert "j.db" in error.problem
    assert "recovers by itself" in error.hint
    assert store.counters.failing
    assert store.counters.failures == 1
    last_error = store.counters.last_error
    assert last_error is not None
    assert last_error.code == "store_full"
    assert store.notice.startswith("store_full: journal ")

    results = await asyncio.gather(
        *(store.receive("a", [inbound(f"more-{n}", text="x" * 9_000)], None) for n in range(5)),
        return_exceptions=True,
    )
    assert {getattr(result, "code", "") for result in results} == {"store_full"}
    assert len({id(result) for result in results}) == 5
    assert len(await store.unhandled("a")) <= 1

    clock.now += DAY + 1
    assert await store.prune() >= stored
    assert len(await store.receive("a", [inbound("after", text="x" * 9_000)], None)) == 1
    assert not store.counters.failing
    assert store.notice == ""
    await store.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(disk)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"mounting a tmpfs needs root: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
async def test_a_full_disk_stops_intake_until_there_is_room(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 1_000_000)
    store = await SqliteStore.open(small_disk / "j.db")
    stored, error = await fill(store)
    assert error.code == "store_full"
    assert "there is no room left" in store.notice
    ballast.unlink()
    assert len(await store.receive("a", [inbound("after")], None)) == 1
    await store.close()
    store = await SqliteStore.open(small_disk / "j.db")
    known = [inbound(f"big-{n}") for n in range(stored)]
    assert await store.receive("a", known, None) == []
    await store.close()


@pytest.mark.slow
def test_a_read_only_disk_is_said(small_disk: Path) -> None:
    path = small_disk / "j.db"
    prepare(Place(path=path)).release()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(StoreError, match="Read-only file system") as caught:
        prepare(Place(path=path))
    assert caught.value.code == "store_readonly"
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    prepare(Place(path=path)).release()


# -- names for troubles ---------------------------------------------------------------------------


def readonly(path: Path) -> None:
    db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        db.execute("CREATE TABLE t (x)")
    finally:
        db.close()


def unopenable(path: Path) -> None:
    sqlite3.connect(f"{path.parent.as_uri()}/missing/j.db?mode=rw", uri=True)


@pytest.mark.parametrize(
    ("action", "code"), [(readonly, "store_readonly"), (unopenable, "store_io")]
)
def test_sqlite_errors_get_a_name(tmp_path: Path, action: Any, code: str) -> None:
    path = tmp_path / "j.db"
    sqlite3.connect(path).close()
    with pytest.raises(sqlite3.Error) as caught:
        action(path)
    assert trouble(caught.value, path).code == code


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, "store_full"),
        (errno.EROFS, "store_readonly"),
        (errno.EACCES, "store_readonly"),
        (errno.EIO, "store_io"),
        (errno.ENOENT, "store_io"),
    ],
)
def test_system_errors_get_a_name(number: int, code: str) -> None:
    error = trouble(OSError(number, os.strerror(number)), Path("/data/j.db"))
    assert error.code == code
    assert "/data/j.db" in error.problem
    assert error.hint


# -- another program ------------------------------------------------------------------------------


async def test_a_write_waits_for_another_program_and_then_says_so(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db", busy_timeout=0.05)
    other = sqlite3.connect(tmp_path / "j.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match="another program keeps it locked") as caught:
        await store.receive("a", [inbound()], None)
    assert caught.value.code == "store_locked"
    assert await store.unhandled("a") == []
    other.execute("ROLLBACK")
    other.close()
    assert len(await store.receive("a", [inbound()], None)) == 1
    await store.close()


async def test_a_second_owner_is_refused(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    error = await failure_of_open(tmp_path / "j.db")
    assert error.code == "store_in_use"
    assert f"process {os.getpid()}" in error.problem
    with pytest.raises(StoreError, match="in use"):
        set_aside(tmp_path / "j.db", 0.0)
    assert len(await store.receive("a", [inbound()], None)) == 1
    await store.close()
    store = await SqliteStore.open(tmp_path / "j.db")
    assert len(await store.unhandled("a")) == 1
    await store.close()


async def test_a_journal_removed_while_open_is_not_recreated(tmp_path: Path) -> None:
    path, away = tmp_path / "j.db", tmp_path / "away"
    store = await SqliteStore.open(path)
    await store.receive("a", [inbound("1")], None)
    path.rename(away)
    with pytest.raises(StoreError, match="the file is gone") as caught:
        await store.receive("a", [inbound("2")], None)
    assert caught.value.code == "store_io"
    with pytest.raises(StoreError, match="the file is gone"):
        await store.unhandled("a")
    assert not path.exists()

    path.write_bytes(b"")
    with pytest.raises(StoreError, match="was replaced") as caught:
        await store.receive("a", [inbound("2")], None)
    assert caught.value.code == "store_io"
    assert path.read_bytes() == b""

    away.replace(path)
    await store.receive("a", [inbound("3")], None)
    assert [r.message.id for r in await store.unhandled("a")] == ["1", "3"]
    await store.close()


async def test_a_journal_damaged_before_it_is_opened_again_is_said(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    store = await SqliteStore.open(path)
    path.write_bytes(b"not a database at all" * 500)
    with pytest.raises(StoreError, match="malformed") as caught:
        await store.receive("a", [inbound()], None)
    assert caught.value.code == "store_damaged"
    assert "goes on with a new one" in caught.value.hint
    await store.close()


async def test_a_cancelled_opening_leaves_no_lock(tmp_path: Path) -> None:
    opening = asyncio.ensure_future(SqliteStore.open(tmp_path / "j.db"))
    await asyncio.sleep(0)
    opening.cancel()
    await asyncio.wait([opening])
    assert opening.cancelled()
    store = await SqliteStore.open(tmp_path / "j.db")
    assert (tmp_path / "j.db.lock").read_text() == f"{os.getpid()}\nmade\nopen\n"
    await store.close()
    assert (tmp_path / "j.db.lock").read_text() == f"{os.getpid()}\nmade\n"


# -- the file -------------------------------------------------------------------------------------


async def test_files_are_private_and_directories_are_made(tmp_path: Path) -> None:
    path = tmp_path / "state" / "holdfast" / "j.db"
    store = await SqliteStore.open(str(path))
    await store.receive("a", [inbound()], None)
    modes = {p.name: p.stat().st_mode & 0o777 for p in path.parent.iterdir()}
    assert modes == dict.fromkeys(("j.db", "j.db-wal", "j.db-shm", "j.db.lock"), 0o600)
    await store.close()
    path.chmod(0o644)
    await (await SqliteStore.open(path)).close()
    assert path.stat().st_mode & 0o777 == 0o600


async def test_a_file_that_is_no_database_is_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    path.write_bytes(b"not a database at all" * 500)
    error = await failure_of_open(path)
    assert error.code == "store_damaged"
    assert "sets it aside" in error.hint
    assert path.read_bytes() == b"not a database at all" * 500

    aside = tmp_path / "j.db.damaged-20010909T014640Z"
    aside.write_text("an older one")
    (tmp_path / "j.db-wal").write_text("log")
    assert set_aside(path, 1_000_000_000.0) == tmp_path / f"{aside.name}-2"
    assert (tmp_path / f"{aside.name}-2").read_bytes() == b"not a database at all" * 500
    assert (tmp_path / f"{aside.name}-2-wal").read_text() == "log"
    assert aside.read_text() == "an older one"
    store = await SqliteStore.open(path)
    assert await store.unhandled("a") == []
    await store.close()


async def test_damage_inside_the_file_is_said_by_the_call_that_meets_it(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    store = await SqliteStore.open(path)
    await store.receive("a", [inbound(str(n), text="x" * 500) for n in range(100)], None)
    await store.close()
    store = await SqliteStore.open(path)
    content = bytearray(path.read_bytes())
    content[2 * opening.PAGE_SIZE :] = b"\xa5" * (len(content) - 2 * opening.PAGE_SIZE)
    path.write_bytes(content)
    with pytest.raises(StoreError, match="the file is damaged") as caught:
        await store.unhandled("a")
    assert caught.value.code == "store_damaged"
    with pytest.raises(StoreError, match="the file is damaged"):
        await store.receive("a", [inbound("new")], None)
    await store.close()


async def test_a_line_that_can_not_be_decoded_is_named(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    await store.add_gap("a", Gap(since=1, until=2, reason="r"))
    await store._write(lambda db: db.execute("UPDATE gaps SET payload = x'c1ff'").rowcount)
    with pytest.raises(StoreError, match="a gaps entry of the journal can not be decoded"):
        await store.gaps("a")
    await store.close()


async def test_a_cursor_that_can_not_be_decoded_is_a_gap(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db", clock=Clock())
    await store.receive("a", [inbound()], {"x": 1})
    await store._write(lambda db: db.execute("UPDATE cursors SET payload = x'c1ff'").rowcount)
    assert await store.cursor("a") == {}
    [gap] = await store.gaps("a")
    assert "cursor entry of the journal can not be decoded" in gap.reason
    assert gap.until == Clock().now
    await store.close()


SPOILED = {
    "content": "payload = x'c1ff'",
    "type": "payload = 'text'",
    "text": "payload = x'c1ff', chat = CAST(x'ff' AS TEXT)",
    "state": "state = 'rec\u00e9ived'",
}


@pytest.mark.parametrize("spoiled", SPOILED.values(), ids=SPOILED)
@pytest.mark.parametrize("box", Box)
async def test_a_row_that_can_not_be_decoded_becomes_a_dead_letter(
    tmp_path: Path, box: Box, spoiled: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    await store.receive("a", [inbound("1"), inbound("2"), inbound("3")], None)
    await store.post("a", [outbound("1"), outbound("2"), outbound("3")])
    await store._write(lambda db: db.execute(f"UPDATE {box} SET {spoiled} WHERE id = 2").rowcount)
    assert len(await store.entries(box)) == 3
    assert "a" in await store.counts()
    await store.close()

    store = await SqliteStore.open(tmp_path / "j.db")
    waiting = await (store.unhandled("a") if box is Box.INBOX else store.owed("a"))
    assert [row.row for row in waiting] == [1, 3], "its chat goes on without it"
    assert f"dead letter account=a reason={box} row 2" in caplog.text
    [dead] = await store.entries(box, states=["dead"])
    assert (dead.row, dead.account, dead.state) == (2, "a", "dead")
    assert dead.reason.startswith(f"{box} row 2 of the journal can not be decoded: ")
    assert isinstance(dead.message, Inbound if box is Box.INBOX else Outbound)
    found = (await store.counts("a"))["a"]
    assert (found.dead, found.refused) == ((1, 0) if box is Box.INBOX else (0, 1))
    assert await store.entry(box, 2) == dead
    if "payload" in spoiled:
        with pytest.raises(NotMendable, match="can not be decoded"):
            await store.retry(box, 2)
    assert (await store.drop(box, 2)).state == "dropped"
    found = (await store.counts("a"))["a"]
    assert (found.dead, found.refused) == (0, 0)
    await store.close()


async def test_a_damaged_row_does_not_stop_a_start_on_a_full_disk(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    await store.receive("a", [inbound("1"), inbound("2")], None)
    spoiled = "UPDATE inbox SET payload = x'c1ff' WHERE id = 1"
    await store._write(lambda db: db.execute(spoiled).rowcount)
    refuse = "CREATE TRIGGER full BEFORE UPDATE ON inbox BEGIN SELECT RAISE(ABORT, 'full'); END"
    await store._write(lambda db: db.execute(refuse).rowcount)
    assert [row.row for row in await store.unhandled("a")] == [2]
    await store._write(lambda db: db.execute("DROP TRIGGER full").rowcount)
    assert (await store.counts("a"))["a"].received == 2
    assert [row.row for row in await store.unhandled("a")] == [2]
    assert (await store.counts("a"))["a"].received == 1
    await store.close()


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    await (await SqliteStore.open(path)).close()
    db = sqlite3.connect(path)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    db.close()
    error = await failure_of_open(path)
    assert error.code == "store_newer"
    assert f"schema {SCHEMA_VERSION + 1}" in error.problem


async def test_the_database_of_another_program_is_refused_untouched(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE theirs (x)")
    db.close()
    before = path.read_bytes()
    assert (await failure_of_open(path)).code == "store_foreign"
    assert path.read_bytes() == before


async def test_a_path_that_can_not_be_a_file_is_said(tmp_path: Path) -> None:
    assert (await failure_of_open(tmp_path)).code == "store_io"
    (tmp_path / "file").write_text("")
    assert (await failure_of_open(tmp_path / "file" / "j.db")).code == "store_io"


def test_an_older_schema_is_migrated_wholly_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "j.db"
    prepare(Place(path=path)).release()
    good = "CREATE TABLE extra (x)"
    bad = "CREATE TABLE more (x); INSERT INTO nowhere VALUES (1)"
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, (good, None), (bad, None)))
    monkeypatch.setattr(schema, "SCHEMA_VERSION", SCHEMA_VERSION + 2)
    with pytest.raises(StoreError, match="nowhere"):
        prepare(Place(path=path))
    db = sqlite3.connect(path)
    tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
    assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION + 1,)
    db.close()
    assert "extra" in tables
    assert "more" not in tables


def test_a_lock_may_be_released_twice(tmp_path: Path) -> None:
    lock = prepare(Place(path=tmp_path / "j.db"))
    lock.release()
    lock.release()
    again = prepare(Place(path=tmp_path / "j.db"))
    again.release()
    assert (tmp_path / "j.db.lock").exists()


# -- what is told ---------------------------------------------------------------------------------


async def test_a_question_that_fails_is_told_until_one_is_answered_or_for_a_minute(
    tmp_path: Path,
) -> None:
    clock = Clock()
    store = await SqliteStore.open(tmp_path / "j.db")
    store.custody._reader.clock = clock

    def misread(db: sqlite3.Connection) -> None:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode = sqlite3.SQLITE_IOERR
        raise error

    for quiet in (False, True):
        with pytest.raises(StoreError, match="reading or writing it failed"):
            await store._read(misread)
        assert store.notice.startswith("store_io: journal ")
        await store.receive("a", [inbound(str(quiet))], None)
        assert "store_io" in store.notice, "that it can be written says nothing of reading"
        if quiet:
            clock.now += 60
        else:
            await store.unhandled("a")
        assert store.notice == ""
    await store.close()
