"""What the journal costs beside the least that SQLite can do, in one run.

    python -m bench.store [--rows 1000000] [--messages 20000] [--rounds 7] [--dir PATH] > store.json

`floor` is a bare sqlite3 loop in one thread with one commit a row; `group floor` is a bare thread
that commits whatever asyncio producers queued, with no class of the product. Ratios compare runs
made side by side; absolute figures drift with the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from holdfast.messages import Inbound
from holdfast.store import known
from holdfast.store.opening import Place, prepare
from holdfast.store.sqlite import SqliteStore

PRODUCERS = (1, 16, 64, 256)
AT_SIZE_PRODUCERS = (1, 64, 256)
TEXT = "x" * 900
"""With the envelope, about the 1,000 bytes a row of performance.md."""

INSERT = "INSERT INTO inbox VALUES (NULL, ?, ?, ?, ?)"
Receive = Callable[[Inbound], Awaitable[Any]]


def message(name: str) -> Inbound:
    return Inbound(id=name, chat="chat", sender="sender", text=TEXT)


def bare(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(
        "CREATE TABLE IF NOT EXISTS inbox (id INTEGER PRIMARY KEY, account TEXT, message TEXT,"
        " payload BLOB, received_at REAL, UNIQUE (account, message))"
    )
    return db


def floor(path: Path, count: int) -> float:
    """Rows a second of one commit a row."""
    db = bare(path)
    start = time.perf_counter()
    for number in range(count):
        payload = msgspec.msgpack.encode(message(f"f{number}"))
        db.execute(INSERT, ("a", f"f{number}", payload, time.time()))
    rate = count / (time.perf_counter() - start)
    db.close()
    return rate


class GroupFloor:
    """The bare way to share commits: a list, a thread, a transaction."""

    def __init__(self, path: Path) -> None:
        self.db = bare(path)
        self.executor = ThreadPoolExecutor(1)
        self.pending: list[tuple[tuple[Any, ...], asyncio.Future[None]]] = []
        self.busy = False
        self.commits = 0

    def receive(self, inbound: Inbound) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        row = ("a", inbound.id, msgspec.msgpack.encode(inbound), time.time())
        self.pending.append((row, future))
        if not self.busy:
            self.start()
        return future

    def start(self) -> None:
        batch, self.pending = self.pending, []
        self.busy = bool(batch)
        if batch:
            done = asyncio.get_running_loop().run_in_executor(self.executor, self.commit, batch)
            done.add_done_callback(lambda _: self.settle(batch))

    def commit(self, batch: list[tuple[tuple[Any, ...], asyncio.Future[None]]]) -> None:
        self.db.execute("BEGIN IMMEDIATE")
        for row, _ in batch:
            self.db.execute(INSERT, row)
        self.db.execute("COMMIT")
        self.commits += 1

    def settle(self, batch: list[tuple[tuple[Any, ...], asyncio.Future[None]]]) -> None:
        self.start()
        for _, future in batch:
            future.set_result(None)

    def close(self) -> None:
        self.executor.shutdown()
        self.db.close()


async def produce(receive: Receive, names: list[list[str]]) -> dict[str, float]:
    """Each list of names is one producer; it awaits every message before the next."""
    waits: list[float] = []

    async def producer(own: list[str]) -> None:
        for name in own:
            start = time.perf_counter()
            await receive(message(name))
            waits.append(time.perf_counter() - start)

    start = time.perf_counter()
    await asyncio.gather(*(producer(own) for own in names))
    seconds = time.perf_counter() - start
    cuts = statistics.quantiles(waits, n=100)
    return {
        "rows_per_second": round(len(waits) / seconds),
        "p50_ms": round(cuts[49] * 1e3, 3),
        "p99_ms": round(cuts[98] * 1e3, 3),
    }


def ids(prefix: str, producers: int, count: int, *, scattered: bool = False) -> list[list[str]]:
    """Ids as platforms make them: rising (Telegram, Discord) or scattered (QQ, Matrix, Slack)."""
    rng = random.Random(prefix)
    each = max(1, count // producers)
    if scattered:
        return [[f"{rng.getrandbits(96):024x}" for _ in range(each)] for _ in range(producers)]
    return [[f"{prefix}-{n * producers + p:012d}" for n in range(each)] for p in range(producers)]


async def throughput(directory: Path, count: int) -> dict[str, Any]:
    single = floor(directory / "floor.db", count // 4)
    report: dict[str, Any] = {"floor_rows_per_second": round(single), "producers": {}}
    store = await SqliteStore.open(directory / "journal.db")
    group = GroupFloor(directory / "group.db")

    async def receive(inbound: Inbound) -> None:
        await store.receive("a", [inbound], None)

    for producers in PRODUCERS:
        names = ids(f"t{producers}", producers, count if producers > 1 else count // 4)
        rows = sum(map(len, names))
        before = group.commits
        bare_group = await produce(group.receive, names)
        bare_group["commits_per_message"] = round((group.commits - before) / rows, 4)
        before = store.counters.commits
        ours = await produce(receive, names)
        ours["fsyncs_per_message"] = round((store.counters.commits - before) / rows, 4)
        report["producers"][producers] = {
            "store": ours,
            "group_floor": bare_group,
            "of_group_floor": round(ours["rows_per_second"] / bare_group["rows_per_second"], 3),
            "of_floor": round(ours["rows_per_second"] / single, 3),
        }
    group.close()
    await store.close()
    return report


def fill(path: Path, rows: int, *, scattered: bool) -> None:
    """A journal of the last day: everything done but a hundred messages."""
    prepare(Place(path=path)).release()
    db = sqlite3.connect(path)
    db.execute("PRAGMA synchronous = OFF")
    payload = msgspec.msgpack.encode(message("filled"))
    [names] = ids("filled", 1, rows, scattered=scattered)
    began = time.time() - 86_400
    db.executemany(
        "INSERT INTO inbox (account, message, chat, payload, state, received_at, settled_at)"
        " VALUES ('a', ?, 'chat', ?, ?, ?, ?)",
        (
            (
                name,
                payload,
                "done" if n < rows - 100 else "received",
                began + 86_400 * n / rows,
                began + 86_400 * n / rows if n < rows - 100 else None,
            )
            for n, name in enumerate(names)
        ),
    )
    known.learn(db)
    db.commit()
    db.close()
    # What the system still has to write of this would be charged to the first rounds.
    os.sync()


async def start_seconds(path: Path) -> tuple[float, int]:
    """Until a gateway has all it starts with, and how many messages it found waiting."""
    start = time.perf_counter()
    store = await SqliteStore.open(path)
    await store.cursor("a")
    waiting = await store.unhandled("a")
    await store.owed("a")
    await store.counts("a")
    # The first message waits for what is read at the first write.
    await store.receive("a", [message("first")], None)
    seconds = time.perf_counter() - start
    await store.close()
    return round(seconds, 4), len(waiting)


async def intake(path: Path, prefix: str, producers: int, count: int, *, scattered: bool) -> float:
    """Rows a second of a journal that is opened for it."""
    store = await SqliteStore.open(path)
    await store.receive("a", [message(f"{prefix}-warm")], None)
    names = ids(prefix, producers, count if producers > 1 else count // 8, scattered=scattered)

    async def receive(inbound: Inbound) -> None:
        await store.receive("a", [inbound], None)

    found = await produce(receive, names)
    await store.close()
    return found["rows_per_second"]


async def at_size(
    directory: Path, rows: int, count: int, rounds: int, *, scattered: bool
) -> dict[str, Any]:
    """Start-up and intake of a full journal and of one that is new in each round, in turns."""
    full = directory / f"full-{'scattered' if scattered else 'rising'}.db"
    await asyncio.to_thread(fill, full, rows, scattered=scattered)
    seconds, waiting = await start_seconds(full)
    report: dict[str, Any] = {"start_seconds": seconds, "unhandled": waiting}
    for producers in AT_SIZE_PRODUCERS:
        rates: dict[str, list[float]] = {"empty": [], "full": []}
        for turn in range(rounds):
            empty = directory / f"empty-{producers}-{turn}-{scattered}.db"
            for name, path in (("empty", empty), ("full", full)):
                prefix = f"x{name}{turn}{producers}"
                rate = await intake(path, prefix, producers, count, scattered=scattered)
                rates[name].append(rate)
            empty.unlink()
        ratios = [b / a for a, b in zip(rates["empty"], rates["full"], strict=True)]
        report[str(producers)] = {
            "rows_per_second": {n: round(statistics.median(r)) for n, r in rates.items()},
            "full_of_empty": round(statistics.median(ratios), 3),
            "spread": [round(min(ratios), 3), round(max(ratios), 3)],
        }
    return report


async def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=7, help="of full and empty, in turns")
    parser.add_argument("--dir", default=None, help="where the files go: the disk to measure")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        directory = Path(name)
        report = {
            "python": sys.version.split()[0],
            "sqlite": sqlite3.sqlite_version,
            "messages": options.messages,
            "rows": options.rows,
            "throughput": await throughput(directory, options.messages),
            "at_size": {
                kind: await at_size(
                    directory,
                    options.rows,
                    options.messages,
                    options.rounds,
                    scattered=kind == "scattered",
                )
                for kind in ("rising", "scattered")
            },
        }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    asyncio.run(main())
