"""A journal of an older version becomes one of this version, wholly or not at all."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from holdfast.messages import Gap
from holdfast.store import known
from holdfast.store.journal import open_journal
from holdfast.store.protocol import Box, Counts, InboxState, OutboxState
from holdfast.store.schema import APPLICATION_ID, MIGRATIONS, SCHEMA_VERSION
from holdfast.store.sqlite import SqliteStore
from tests.store.journal import DAY, Clock, inbound, outbound

DIES_IN_THE_MIDDLE = """
import os, signal, sys
from pathlib import Path
from holdfast.store import schema
from holdfast.store.opening import Place, prepare

def die(db):
    os.kill(os.getpid(), signal.SIGKILL)

schema.MIGRATIONS = tuple(
    (script, die if number == int(sys.argv[2]) else step)
    for number, (script, step) in enumerate(schema.MIGRATIONS, 1)
)
prepare(Place(path=Path(sys.argv[1])))
"""


def first_version(path: Path, messages: int) -> None:
    """A file as the first version left it: half of the messages answered, one buried."""
    db = sqlite3.connect(path)
    db.execute("PRAGMA journal_mode = WAL")
    db.executescript(
        f"{MIGRATIONS[0][0]}; PRAGMA application_id = {APPLICATION_ID}; PRAGMA user_version = 1;"
    )
    for number in range(messages):
        state = "dead" if number == 0 else "done" if number % 2 else "received"
        db.execute(
            "INSERT INTO inbox (account, message, chat, payload, state, received_at, settled_at)"
            " VALUES ('a', ?, 'chat', ?, ?, 1000000.0, ?)",
            (
                str(number),
                msgspec.msgpack.encode(inbound(str(number), text="x" * 2_000)),
                state,
                None if state == "received" else 1_000_000.0,
            ),
        )
    for key, state in (("k1", "owed"), ("k2", "ambiguous"), ("k3", "sent")):
        db.execute(
            "INSERT INTO outbox (account, key, chat, payload, state, created_at, settled_at)"
            " VALUES ('a', ?, 'chat', ?, ?, 1000000.0, 1000000.0)",
            (key, msgspec.msgpack.encode(outbound(key)), state),
        )
    db.execute("INSERT INTO cursors VALUES ('a', '{\"offset\":7}')")
    db.execute("INSERT INTO memory VALUES ('a', 'token', x'00ff')")
    gap = msgspec.json.encode(Gap(since=1.0, until=2.0, reason="r"))
    db.execute("INSERT INTO gaps (account, number, payload) VALUES ('a', 1, ?)", (gap,))
    db.commit()
    db.close()
    path.with_name(path.name + ".lock").write_text("4711\n")


def second_version(path: Path, messages: int) -> None:
    """The same file as the second version left it, with a table of known ids."""
    first_version(path, messages)
    db = sqlite3.connect(path)
    db.executescript(f"BEGIN; {MIGRATIONS[1][0]}; PRAGMA user_version = 2; COMMIT;")
    db.execute("INSERT INTO known SELECT id * 7919, id FROM inbox")
    db.execute("UPDATE settings SET value = ? WHERE name = 'known_upto'", (messages,))
    db.commit()
    db.close()


VERSIONS = {1: first_version, 2: second_version}


def die_in_the_middle(path: Path, step: int) -> int:
    """The return code of a process that is killed in the middle of a step of the migration."""
    command = [sys.executable, "-c", DIES_IN_THE_MIDDLE, str(path), str(step)]
    return subprocess.run(command, env=os.environ, check=False).returncode


async def check_all_is_there(path: Path, messages: int) -> None:
    clock = Clock()
    store = await open_journal(path, ["a"], clock=clock)
    assert store.notice == ""
    waiting = await store.unhandled("a")
    assert [r.message.id for r in waiting] == [str(n) for n in range(2, messages, 2)]
    assert {r.state for r in waiting} == {InboxState.RECEIVED}
    assert [(o.message.key, o.state) for o in await store.owed("a")] == [("k1", OutboxState.OWED)]
    assert await store.counts("a") == {
        "a": Counts(received=len(waiting), owed=1, held=1, dead=1, gaps=1)
    }
    assert await store.cursor("a") == {"offset": 7}
    assert await store.recall("a", "token") == b"\x00\xff"
    [gap] = await store.gap_entries("a")
    assert gap.gap == Gap(since=1.0, until=2.0, reason="r")
    assert await store.receive("a", [inbound(str(n)) for n in range(messages)], None) == []
    keys = [outbound(key) for key in ("k1", "k2", "k3")]
    assert [o.row for o in await store.post("a", keys)] == [1, 2, 3]
    [new] = await store.receive("a", [inbound("new")], None)
    assert new.row == messages + 1
    [dead] = await store.entries(Box.INBOX, states=[InboxState.DEAD])
    await store.retry(Box.INBOX, dead.row)
    await store.dismiss_gap(gap.id)
    clock.now += DAY + 1
    assert await store.prune() == messages // 2 + 1
    await store.close()


@pytest.mark.parametrize("recent", [10, known.RECENT])
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_file_of_an_older_version_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, recent: int
) -> None:
    monkeypatch.setattr(known, "RECENT", recent)
    path = tmp_path / "j.db"
    VERSIONS[version](path, 300)
    size = path.stat().st_size
    await check_all_is_there(path, 300)
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (SCHEMA_VERSION,)
    assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,), "free pages can be given back"
    assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.close()
    assert path.stat().st_size < 1.3 * size


@pytest.mark.parametrize(("version", "step"), [(1, 2), (1, 3), (2, 3)])
async def test_a_migration_killed_half_way_leaves_the_file_usable(
    tmp_path: Path, version: int, step: int
) -> None:
    path = tmp_path / "j.db"
    VERSIONS[version](path, 300)
    assert die_in_the_middle(path, step) == -signal.SIGKILL
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA user_version").fetchone() == (step - 1,)
    assert db.execute("SELECT count(*) FROM inbox").fetchone() == (300,)
    assert db.execute("SELECT count(*) FROM outbox").fetchone() == (3,)
    db.close()
    await check_all_is_there(path, 300)


async def test_a_new_file_is_like_a_migrated_one(tmp_path: Path) -> None:
    await (await SqliteStore.open(tmp_path / "new.db")).close()
    first_version(tmp_path / "old.db", 4)
    await (await SqliteStore.open(tmp_path / "old.db")).close()
    schemas = []
    for name in ("new.db", "old.db"):
        db = sqlite3.connect(tmp_path / name)
        schemas.append(
            db.execute("SELECT type, name, sql FROM sqlite_master ORDER BY 2").fetchall()
        )
        db.close()
    assert schemas[0] == schemas[1]
