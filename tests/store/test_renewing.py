"""Damage met in the middle of a run: a new journal, the same rows, and everybody is told."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from pathlib import Path

import pytest

from holdfast.errors import StoreError
from holdfast.messages import Gap, Receipt
from holdfast.store import opening, renewing
from holdfast.store.aside import asides
from holdfast.store.journal import LOST, open_journal
from holdfast.store.opening import PAGE_SIZE, Place
from holdfast.store.protocol import Box, InboxState, OutboxState
from holdfast.store.sqlite import SqliteStore
from tests.store.journal import DAY, Clock, inbound, names, outbound

LARGE = "x" * 2_000


async def renewed(store: SqliteStore) -> None:
    """Wait until the journal has dealt with its damage."""
    await asyncio.sleep(0)
    if store.custody._renewing is not None:
        await asyncio.wait([store.custody._renewing])
    await store.remember("a", "again", b"and again")


def spoil(path: Path, *, keep: int) -> None:
    """Overwrite all but the first pages of a journal whose log is empty."""
    content = path.read_bytes()
    path.write_bytes(content[: keep * PAGE_SIZE] + b"\xa5" * (len(content) - keep * PAGE_SIZE))


async def folded(path: Path, clock: Clock) -> SqliteStore:
    """A journal with all that it can hold in its file, opened for another run."""
    store = await open_journal(path, ["a", "b"], clock=clock)
    rows = await store.receive("a", [inbound(str(n), text=LARGE) for n in range(40)], {"offset": 7})
    await store.finish(rows[0].row, [outbound("k0", text=LARGE)])
    await store.bury(rows[1].row, "no answer")
    await store.remember("a", "paused", b"yes")
    await store.add_gap("b", Gap(since=1.0, until=2.0, reason="an older one"))
    await store.close()
    return await open_journal(path, ["a", "b"], clock=clock)


async def test_intake_goes_on_in_a_new_journal(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "j.db", Clock()
    store = await folded(path, clock)
    waiting = await store.unhandled("a")
    [owed] = await store.owed("a")
    assert len(waiting) == 38
    clock.now += 60
    spoil(path, keep=1)
    with pytest.raises(StoreError, match="the file is damaged"):
        await store.receive("a", [inbound("new")], None)
    with caplog.at_level(logging.ERROR):
        await renewed(store)
    assert "journal damaged, a new one begins" in caplog.text

    # What the gateway works on is there under its old number, however little can be read.
    assert await store.unhandled("a") == waiting
    assert await store.owed("a") == [owed]
    assert await store.begin(waiting[0].row) == 1
    [answer] = await store.finish(waiting[0].row, [outbound("k1")])
    await store.sending(owed.row)
    await store.sent(owed.row, Receipt("p"))
    [new] = await store.receive("a", [inbound("new")], None)
    assert new.row > max(row.row for row in waiting)
    assert answer.row > owed.row

    [aside] = asides(path)
    assert aside.name in store.notice
    for account in ("a", "b"):
        gap = (await store.gaps(account))[-1]
        assert aside.name in gap.reason
        assert gap.until == clock.now
        assert [line.trigger for line in await store.history(account)] == [LOST]
    await store.close()
    assert names(tmp_path, ".new") == []

    store = await open_journal(path, ["a", "b"], clock=clock)
    assert len(await store.history("a")) == 1, "told once"
    assert [row.message.id for row in await store.unhandled("a")][-1] == "new"
    assert [row.message.key for row in await store.owed("a")] == ["k1"]
    await store.close()


async def test_what_can_still_be_read_is_taken_along(tmp_path: Path) -> None:
    path, clock = tmp_path / "j.db", Clock()
    store = await folded(path, clock)
    waiting = await store.unhandled("a")
    # The list of what is open is damaged, and nothing else.
    db = sqlite3.connect(path)
    (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'inbox_open'")
    db.close()
    content = bytearray(path.read_bytes())
    content[(page[0] - 1) * PAGE_SIZE : page[0] * PAGE_SIZE] = b"\xa5" * PAGE_SIZE
    path.write_bytes(content)
    with pytest.raises(StoreError, match="the file is damaged"):
        await store.finish(waiting[0].row, [])
    await renewed(store)
    assert asides(path)
    assert await store.cursor("a") == {"offset": 7}
    assert await store.recall("a", "paused") == b"yes"
    assert "an older one" in {gap.reason for gap in await store.gaps("b")}
    [dead] = await store.entries(Box.INBOX, states=[InboxState.DEAD])
    assert (dead.row, dead.reason) == (2, "no answer")
    assert await store.unhandled("a") == waiting
    # Repetitions of what was answered are recognised.
    assert await store.receive("a", [inbound(str(n)) for n in range(40)], None) == []
    [known] = await store.post("a", [outbound("k0")])
    assert (known.message.text, known.state) == (LARGE, OutboxState.OWED)
    clock.now += DAY + 1
    assert await store.prune() == 1
    await store.close()


def detach(path: Path, row: int) -> None:
    """Change a row behind the back of an index: sound pages, but not of one another."""
    where = "name = 'inbox_open'"
    db = sqlite3.connect(path)
    db.execute("PRAGMA writable_schema = ON")
    [index] = db.execute(f"SELECT * FROM sqlite_master WHERE {where}").fetchall()
    db.execute(f"DELETE FROM sqlite_master WHERE {where}")
    db.commit()
    db.close()
    db = sqlite3.connect(path)
    db.execute("UPDATE inbox SET account = 'c' WHERE id = ?", (row,))
    db.execute("PRAGMA writable_schema = ON")
    db.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", index)
    db.commit()
    db.close()


async def test_an_index_that_does_not_fit_its_table_is_damage(tmp_path: Path) -> None:
    path, clock = tmp_path / "j.db", Clock()
    store = await folded(path, clock)
    [first, *_] = await store.unhandled("a")
    await store.close()
    detach(path, first.row)
    store = await open_journal(path, ["a", "b"], clock=clock)
    assert asides(path) == [], "the look of a start goes by pages"
    with pytest.raises(StoreError, match="the file is damaged"):
        await store.begin(first.row)
    await renewed(store)
    assert len(asides(path)) == 1
    assert await store.begin(first.row) == 1
    await store.close()


async def test_damage_that_is_not_in_the_file_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "j.db", Clock()
    store = await folded(path, clock)
    waiting = await store.unhandled("a")

    def misread(db: sqlite3.Connection) -> None:
        error = sqlite3.DatabaseError("database disk image is malformed")
        error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise error

    for ask in (store._write, store._read):
        with pytest.raises(StoreError, match="the file is damaged"):
            await ask(misread)
        await renewed(store)
        assert "damage that is not in its file" in caplog.text
        caplog.clear()
    assert asides(path) == []
    assert await store.unhandled("a") == waiting
    assert len(await store.receive("a", [inbound("new")], None)) == 1
    assert store.notice == ""
    await store.close()
    lock = opening.Lock(path)
    assert not lock.has(opening.Note.DAMAGED)
    lock.release()


async def test_without_room_for_a_new_journal_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "j.db", Clock()
    store = await folded(path, clock)
    waiting = await store.unhandled("a")
    full = True
    create = opening.create

    def no_room(place: Place, lock: opening.Lock) -> None:
        create(place, lock)
        if full:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(renewing, "create", no_room)
    spoil(path, keep=1)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="the file is damaged"):
        await store.receive("a", [inbound("new")], None)
    assert store.custody._renewing is not None
    await asyncio.wait([store.custody._renewing])
    assert "journal not replaced" in caplog.text
    assert asides(path) == []
    assert path.read_bytes() == before
    assert "store_damaged" in store.notice
    full = False
    with pytest.raises(StoreError, match="the file is damaged"):
        await store.receive("a", [inbound("new")], None)
    await renewed(store)
    assert len(asides(path)) == 1
    assert await store.unhandled("a") == waiting
    await store.close()


async def test_a_journal_that_is_being_closed_is_not_replaced(tmp_path: Path) -> None:
    path, clock = tmp_path / "j.db", Clock()
    store = await folded(path, clock)
    spoil(path, keep=1)
    failing = asyncio.ensure_future(store.receive("a", [inbound("new")], None))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(StoreError, match="the file is damaged"):
        await failing
    assert asides(path) == []
    store = await open_journal(path, ["a"], clock=clock)
    assert len(asides(path)) == 1, "the next start does it"
    await store.close()
