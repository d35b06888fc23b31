"""Settled rows go after their time, their room comes back, and nobody waits for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdfast.config import build
from holdfast.errors import ConfigError
from holdfast.messages import Inbound, Receipt
from holdfast.store import pruning
from holdfast.store.opening import PAGE_SIZE
from holdfast.store.protocol import Box, InboxState, OutboxState
from holdfast.store.sqlite import SqliteStore
from tests.store.journal import DAY, Clock, inbound, outbound

HOUR = 3_600.0


def retention_of(value: object) -> float:
    document = {
        "gateway": {"retention": value},
        "accounts": {"bot": {"platform": "telegram", "token": "1:x"}},
    }
    return build(document, Path("holdfast.toml")).gateway.retention


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("24h", DAY),
        ("36h", 1.5 * DAY),
        ("7d", 7 * DAY),
        ("1440m", DAY),
        ("90000s", 90_000.0),
        ("1.5 d", 1.5 * DAY),
        (86_400, DAY),
        (100_000.5, 100_000.5),
    ],
)
def test_retention_is_seconds_or_a_duration(value: object, seconds: float) -> None:
    assert retention_of(value) == seconds


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("23h", "must be at least 86400"),
        (60, "must be at least 86400"),
        (-1.0, "must be at least 86400"),
        (float("inf"), "must be a finite number"),
        (float("nan"), "must be a finite number"),
        ("soon", "'soon' is not a duration"),
        ("24", "'24' is not a duration"),
        (True, "must be a number"),
        ([], "must be a number"),
    ],
)
def test_a_retention_that_can_not_be_is_refused(value: object, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        retention_of(value)
    assert problem in caught.value.problem
    assert caught.value.where == "holdfast.toml: [gateway] retention"


async def test_rows_are_kept_for_the_retention_of_the_journal(tmp_path: Path) -> None:
    clock = Clock()
    store = await SqliteStore.open(tmp_path / "j.db", clock=clock, retention=3 * DAY)
    done, dead = await store.receive("a", [inbound("1"), inbound("2")], None)
    [owed] = await store.finish(done.row, [outbound("k")])
    await store.refuse(owed.row, "blocked")
    await store.bury(dead.row, "why")
    clock.now += DAY
    await store.drop(Box.INBOX, dead.row)
    clock.now += 2 * DAY - 1
    assert await store.prune() == 0
    clock.now += 2
    assert await store.prune() == 1
    assert await store.prune(0) == 1, "a dropped row goes a day after it was dropped"
    assert await store.entries(Box.INBOX) == []
    [kept] = await store.entries(Box.OUTBOX)
    assert kept.state == OutboxState.DEAD
    clock.now += 100 * DAY
    assert await store.prune() == 0, "what waits for a person waits"
    await store.close()


async def test_what_a_platform_repeats_for_longer_is_known_for_longer(tmp_path: Path) -> None:
    clock = Clock()
    store = await SqliteStore.open(tmp_path / "j.db", clock=clock)
    for account in ("a", "patient"):
        [row] = await store.receive(account, [inbound("1")], None)
        [owed] = await store.finish(row.row, [outbound("k")])
        await store.sent(owed.row, Receipt("p"))
    clock.now += 2 * DAY
    assert await store.prune(longer={"patient": 8 * DAY}) == 2
    assert await store.receive("patient", [inbound("1")], None) == []
    clock.now += 6 * DAY - 1
    assert await store.prune(longer={"patient": 8 * DAY}) == 0
    clock.now += 2
    assert await store.prune(longer={"patient": 8 * DAY}) == 2
    [row] = await store.receive("patient", [inbound("2")], None)
    await store.finish(row.row, [])
    clock.now += 2 * DAY
    assert await store.prune(3 * DAY, longer={"patient": 2 * DAY}) == 0, "it never shortens"
    assert await store.prune(longer={"another": 8 * DAY}) == 1
    await store.close()


async def test_rows_of_a_wrong_clock_do_not_keep_those_behind_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "PRUNE_ROWS", 10)
    clock = Clock()
    store = await SqliteStore.open(tmp_path / "j.db", clock=clock)

    async def settle(name: str) -> None:
        for row in await store.receive("a", [inbound(f"{name}{n}") for n in range(25)], None):
            await store.finish(row.row, [])

    clock.now += 10 * DAY
    await settle("ahead")
    clock.now -= 10 * DAY
    await settle("right")
    clock.now += DAY + 1
    await settle("young")
    assert await store.prune() == 25
    left = [entry.message for entry in await store.entries(Box.INBOX)]
    assert {m.id.rstrip("0123456789") for m in left if isinstance(m, Inbound)} == {"ahead", "young"}
    clock.now += 10 * DAY
    assert await store.prune() == 50
    await store.close()


async def day(store: SqliteStore, clock: Clock, number: int, messages: int) -> int:
    """A day's traffic, pruned each hour as the gateway does; the largest size of the file."""
    largest = 0
    for hour in range(24):
        names = [f"{number}-{hour}-{n}" for n in range(messages // 24)]
        rows = await store.receive("a", [inbound(n, text="x" * 400) for n in names], None)
        for row in rows:
            [owed] = await store.finish(row.row, [outbound(row.message.id, text="y" * 400)])
            await store.sending(owed.row)
            await store.sent(owed.row, Receipt("p"))
        clock.now += HOUR
        await store.prune()
        largest = max(largest, store.path.stat().st_size)
    return largest


@pytest.mark.slow
async def test_the_file_stays_as_large_over_weeks_of_traffic(tmp_path: Path) -> None:
    clock = Clock()
    store = await SqliteStore.open(tmp_path / "j.db", clock=clock)
    sizes = [await day(store, clock, number, 480) for number in range(15)]
    await store.close()
    assert sizes[2] > 0
    assert max(sizes[3:]) <= 1.1 * sizes[2]
    assert (tmp_path / "j.db").stat().st_size <= 1.1 * sizes[2]


@pytest.mark.slow
async def test_room_taken_by_a_burst_is_given_back(tmp_path: Path) -> None:
    clock = Clock()
    store = await SqliteStore.open(tmp_path / "j.db", clock=clock)
    rows = await store.receive("a", [inbound(str(n), text="x" * 9_000) for n in range(3_000)], None)
    for row in rows:
        await store.finish(row.row, [])
    [open_row] = await store.receive("a", [inbound("open")], None)
    clock.now += DAY + 1

    async def intake() -> int:
        count = 0
        while not pruned.done():
            count += len(await store.receive("a", [inbound(f"new-{count}")], None))
        return count

    pruned = asyncio.ensure_future(store.prune())
    taken = await intake()
    assert await pruned == 3_000
    # One message a commit: the steps of the pruning were that many, and each let intake in.
    assert taken >= 3_000 // 500
    [first, *new] = await store.unhandled("a")
    assert (first.row, first.state, len(new)) == (open_row.row, InboxState.RECEIVED, taken)
    await store.close()
    assert (tmp_path / "j.db").stat().st_size < 2_000 * PAGE_SIZE
