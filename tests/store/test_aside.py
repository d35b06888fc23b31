"""A journal that can not be used is set aside, said, and a new one begins; never in silence."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from pathlib import Path

import pytest

from holdfast.errors import StoreError
from holdfast.store.aside import asides, diagnose
from holdfast.store.journal import LOST, open_journal
from holdfast.store.opening import PAGE_SIZE, Lock, Note
from holdfast.store.sqlite import SqliteStore
from tests.store.journal import Clock, inbound

MESSAGES = 200


async def written(path: Path) -> None:
    """A journal with unanswered messages, closed as it should be."""
    store = await SqliteStore.open(path, clock=Clock())
    await store.receive("a", [inbound(str(n), text="x" * 500) for n in range(MESSAGES)], None)
    await store.close()


async def crashed(path: Path) -> None:
    """The same, found after a crash: the commits are in the log only."""
    live = path.with_name("live.db")
    store = await SqliteStore.open(live)
    await store.receive("a", [inbound(str(n), text="x" * 500) for n in range(MESSAGES)], None)
    for suffix in ("", "-wal", ".lock"):
        shutil.copy(live.with_name(live.name + suffix), path.with_name(path.name + suffix))
    await store.close()


def spoil(path: Path, offset: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


async def check_begun_anew(path: Path, before: bytes) -> None:
    """What everybody must hear of it, now and later."""
    store = await open_journal(path, ["a", "b"])
    [aside] = asides(path)
    assert aside.read_bytes() == before
    assert await store.unhandled("a") == []
    for account in ("a", "b"):
        [gap] = await store.gaps(account)
        assert aside.name in gap.reason
        assert gap.since <= gap.until
        [line] = await store.history(account)
        assert (line.trigger, line.code, line.message) == (LOST, "store_damaged", gap.reason)
    assert aside.name in store.notice
    assert len(await store.receive("a", [inbound("new")], None)) == 1
    await store.close()
    # Told once, pointed at as long as it lies there.
    store = await open_journal(path, ["a", "b"])
    assert len(await store.gaps("a")) == 1
    assert len(await store.unhandled("a")) == 1
    assert aside.name in store.notice
    [problem] = diagnose(path)
    assert aside.name in problem
    aside.unlink()
    await store.remember("a", "any", b"write looks again")
    assert store.notice == ""
    await store.close()
    assert diagnose(path) == []


@pytest.mark.parametrize("keep", [10, 100, 3 * PAGE_SIZE, 20 * PAGE_SIZE + 100])
async def test_a_truncated_journal_is_set_aside(
    tmp_path: Path, keep: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "j.db"
    await written(path)
    os.truncate(path, keep)
    before = path.read_bytes()
    with caplog.at_level(logging.ERROR):
        await check_begun_anew(path, before)
    assert "journal damaged, set aside" in caplog.text


async def test_a_damaged_page_in_the_middle_is_found_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    await written(path)
    spoil(path, 10 * PAGE_SIZE, b"\xff" * 64)
    await check_begun_anew(path, path.read_bytes())


async def test_the_gap_begins_with_the_oldest_message_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    await written(path)
    spoil(path, path.stat().st_size - PAGE_SIZE, b"\xff" * 64)
    store = await open_journal(path, ["a"])
    [gap] = await store.gaps("a")
    assert gap.since == 1_000_000.0
    await store.close()


async def at_least_said(store: SqliteStore) -> bool:
    """Whether the journal was set aside, and so said; else nothing may be missing in it."""
    found = bool(asides(store.path))
    if found:
        assert await store.gaps("a")
        assert store.notice
    else:
        assert len(await store.unhandled("a")) == MESSAGES
    await store.close()
    return found


@pytest.mark.slow
async def test_no_flipped_byte_of_the_header_loses_messages_in_silence(tmp_path: Path) -> None:
    good = tmp_path / "good.db"
    await written(good)
    outcomes: dict[str, list[int]] = {}
    for offset in range(100):
        path = tmp_path / f"{offset}" / "j.db"
        path.parent.mkdir()
        shutil.copy(good, path)
        shutil.copy(tmp_path / "good.db.lock", path.parent / "j.db.lock")
        spoil(path, offset, bytes([good.read_bytes()[offset] ^ 0xFF]))
        try:
            store = await open_journal(path, ["a"])
        except StoreError as error:
            outcomes.setdefault(error.code, []).append(offset)
        else:
            found = await at_least_said(store)
            outcomes.setdefault("aside" if found else "whole", []).append(offset)
    assert outcomes.keys() == {"whole", "aside", "store_newer"}
    assert set(range(16)) <= set(outcomes["aside"])
    assert set(range(68, 72)) <= set(outcomes["aside"]), "the application id"
    assert set(outcomes["store_newer"]) <= set(range(60, 64)), "the schema version"


async def test_commits_in_the_log_are_taken_up_after_a_crash(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    await crashed(path)
    store = await open_journal(path, ["a"])
    assert len(await store.unhandled("a")) == MESSAGES
    assert await store.gaps("a") == []
    assert store.notice == ""
    await store.close()


async def test_a_log_that_was_lost_is_a_gap(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "j.db"
    await crashed(path)
    (tmp_path / "j.db-wal").unlink()
    used = (tmp_path / "j.db.lock").stat().st_mtime
    store = await open_journal(path, ["a"])
    assert await store.unhandled("a") == []
    [gap] = await store.gaps("a")
    assert "write-ahead log" in gap.reason
    assert gap.since == pytest.approx(used)
    assert "write-ahead log" in store.notice
    assert "journal incomplete" in caplog.text
    await store.close()
    store = await open_journal(path, ["a"])
    assert len(await store.gaps("a")) == 1
    assert store.notice == ""
    await store.close()


@pytest.mark.parametrize("empty", [False, True], ids=["gone", "empty"])
async def test_a_journal_that_vanished_is_not_replaced_in_silence(
    tmp_path: Path, empty: bool
) -> None:
    path = tmp_path / "j.db"
    await written(path)
    path.unlink()
    if empty:
        path.touch()
    assert diagnose(path)
    store = await open_journal(path, ["a"])
    [gap] = await store.gaps("a")
    assert ("is empty" if empty else "is gone") in gap.reason
    await store.close()


async def test_a_new_journal_is_no_loss(tmp_path: Path) -> None:
    path = tmp_path / "state" / "j.db"
    assert diagnose(path) == []
    store = await open_journal(path, ["a"])
    assert await store.gaps("a") == []
    assert store.notice == ""
    await store.close()
    assert diagnose(path) == []


async def test_damage_that_was_noted_is_looked_for_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No time for the usual look at the start: only the note makes it a thorough one.
    monkeypatch.setattr("holdfast.store.opening.CHECK_SECONDS", -1.0)
    monkeypatch.setattr("holdfast.store.opening.CHECK_STEPS", 1)
    path = tmp_path / "j.db"
    await written(path)
    for page in range(10, 30):
        spoil(path, page * PAGE_SIZE, b"\xff" * 64)
    await (await SqliteStore.open(path)).close()
    lock = Lock(path)
    lock.note(Note.DAMAGED)
    lock.release()
    assert "the file is damaged" in " ".join(diagnose(path))
    await check_begun_anew(path, path.read_bytes())


async def test_other_troubles_set_nothing_aside(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    store = await open_journal(path, ["a"])
    with pytest.raises(StoreError) as caught:
        await open_journal(path, ["a"])
    assert caught.value.code == "store_in_use"
    assert diagnose(path) == [], "a journal in use is not touched"
    await store.close()
    assert asides(path) == []


async def test_opening_alone_sets_nothing_aside(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    await written(path)
    os.truncate(path, 3 * PAGE_SIZE)
    before = path.read_bytes()
    with pytest.raises(StoreError, match="damaged"):
        await SqliteStore.open(path)
    problems = await asyncio.to_thread(diagnose, path)
    assert "the file is damaged" in problems[0]
    assert path.read_bytes() == before
    assert asides(path) == []
