"""kill -9: what was acknowledged is there, and the lock is free."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.errors import StoreError
from holdfast.store.sqlite import SqliteStore

ROOT = Path(__file__).parents[2]


def acknowledged(lines: list[bytes]) -> dict[str, set[str]]:
    said: dict[str, set[str]] = {"received": set(), "owed": set(), "sent": set()}
    for line in lines:
        # The last line may be torn by the kill: then nobody has read it.
        if line.endswith(b"\n"):
            what, key = line.decode().split()
            said[what].add(key)
    return said


def start(path: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.store.child", str(path)], stdout=subprocess.PIPE, cwd=ROOT
    )


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 40, 400])
def test_nothing_acknowledged_is_missing_after_kill_9(tmp_path: Path, after: int) -> None:
    path = tmp_path / "j.db"
    with start(path) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(after)]
        child.kill()
        lines += child.stdout.readlines()
    said = acknowledged(lines)
    assert len(said["received"]) >= after / 3

    async def reopen() -> None:
        store = await SqliteStore.open(path)
        await store.close()

    asyncio.run(reopen())
    db = sqlite3.connect(path)
    inbox = dict(db.execute("SELECT message, state FROM inbox").fetchall())
    attempts = dict(db.execute("SELECT message, attempts FROM inbox").fetchall())
    outbox = dict(db.execute("SELECT key, state FROM outbox").fetchall())
    db.close()
    assert said["received"] <= inbox.keys()
    assert said["owed"] <= outbox.keys()
    assert said["sent"] <= {key for key, state in outbox.items() if state == "sent"}
    # Whatever there is of a message, its first attempt is counted if that was asked for.
    assert attempts == {key: int(key.partition("-")[2]) % 2 for key in inbox}
    # Done and owed were one transaction, whoever heard of it.
    assert {key for key, state in inbox.items() if state == "done"} == outbox.keys()


@pytest.mark.slow
async def test_a_second_process_is_told_who_holds_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "j.db"
    with start(path) as child:
        assert child.stdout is not None
        child.stdout.readline()
        with pytest.raises(StoreError, match=f"in use by process {child.pid}") as caught:
            await SqliteStore.open(path)
        assert caught.value.code == "store_in_use"
        child.kill()
    store = await SqliteStore.open(path)
    await store.counts("a")  # it can be read
    await store.close()
