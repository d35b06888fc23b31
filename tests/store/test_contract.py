"""What every Store promises, shown on SqliteStore, and where states matter on every journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from holdfast.errors import StoreError
from holdfast.messages import Attachment, Gap, MediaKind, Outbound, Receipt
from holdfast.store import pruning, sqlite
from holdfast.store.protocol import Box, Counts, InboxState, OutboxState, Store, Transition
from holdfast.store.sqlite import SqliteStore
from tests.store.journal import DAY, Clock, Opens, inbound, outbound


def transition(number: int, account: str = "a") -> Transition:
    return Transition(
        account=account, at=float(number), state="connected", trigger="ready", generation=number
    )


async def test_sqlite_store_is_a_store(tmp_path: Path) -> None:
    store: Store = await SqliteStore.open(tmp_path / "j.db")
    assert await store.counts("a") == {}
    await store.close()


# -- inbox ----------------------------------------------------------------------------------------


async def test_received_messages_wait_in_the_order_of_arrival(tmp_path: Path) -> None:
    clock = Clock()
    store = await SqliteStore.open(tmp_path / "j.db", clock=clock)
    first = await store.receive("a", [inbound("z"), inbound("b")], {"offset": 2})
    clock.now += 1
    second = await store.receive("a", [inbound("c")], None)
    await store.receive("other", [inbound("z")], None)
    waiting = await store.unhandled("a")
    assert waiting == first + second
    assert [r.message.id for r in waiting] == ["z", "b", "c"]
    assert [r.received_at for r in waiting] == [1_000_000.0, 1_000_000.0, 1_000_001.0]
    assert {r.state for r in waiting} == {InboxState.RECEIVED}
    await store.close()


async def test_known_ids_are_dropped_and_counted_also_over_a_reopen(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    new = await store.receive("a", [inbound("1"), inbound("1"), inbound("2")], None)
    assert [r.message.id for r in new] == ["1", "2"]
    assert store.counters.duplicates == 1
    await store.finish(new[0].row, [])
    await store.close()

    store = await SqliteStore.open(tmp_path / "j.db")
    again = await store.receive("a", [inbound("1"), inbound("2"), inbound("3")], None)
    assert [r.message.id for r in again] == ["3"]
    assert store.counters.duplicates == 2
    assert [r.message.id for r in await store.unhandled("a")] == ["2", "3"]
    await store.close()


async def test_the_cursor_is_kept_unless_a_new_one_comes(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    assert await store.cursor("a") == {}
    await store.receive("a", [], {"session": "s", "seq": 7, "rooms": ["x", None]})
    await store.receive("a", [inbound()], None)
    assert await store.cursor("a") == {"session": "s", "seq": 7, "rooms": ["x", None]}
    assert await store.cursor("b") == {}
    await store.close()


async def test_messages_and_cursor_are_one_transaction(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    await store.receive("a", [], {"offset": 1})
    with pytest.raises(StoreError, match="can not be stored"):
        await store.receive("a", [inbound("1")], {"offset": object()})
    # The messages go in first; then the cursor's statement fails on a table made to refuse it.
    refuse = "CREATE TRIGGER refuse BEFORE INSERT ON cursors BEGIN SELECT RAISE(ABORT, 'no'); END"
    await store._write(lambda db: db.execute(refuse).rowcount)
    with pytest.raises(StoreError, match="no") as caught:
        await store.receive("a", [inbound("1")], {"offset": 2})
    assert caught.value.code == "store_refused"
    assert await store.unhandled("a") == []
    assert await store.cursor("a") == {"offset": 1}
    await store.close()


async def test_each_begin_counts_an_attempt(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    [received] = await store.receive("a", [inbound()], None)
    assert await store.begin(received.row) == 1
    assert await store.begin(received.row) == 2
    [waiting] = await store.unhandled("a")
    assert (waiting.state, waiting.attempts) == (InboxState.HANDLING, 2)
    await store.close()


async def test_messages_that_an_agent_takes_at_once_are_stored_as_begun(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    ids = ["begun", "waits", "dropped"]
    rows = await store.receive(
        "a", [inbound(id) for id in ids], None, {"dropped": "old"}, {"begun", "dropped"}
    )
    assert [(r.state, r.attempts) for r in rows[:2]] == [
        (InboxState.HANDLING, 1),
        (InboxState.RECEIVED, 0),
    ]
    assert rows[2].state is InboxState.DROPPED
    assert store.counters.commits == 1
    assert await store.unhandled("a") == rows[:2]
    # A repetition begins nothing.
    assert await store.receive("a", [inbound("waits")], None, begun={"waits"}) == []
    assert [r.attempts for r in await store.unhandled("a")] == [1, 0]
    assert await store.begin(rows[0].row) == 2
    for _ in range(2):
        await store.release(rows[0].row)
    assert [(r.state, r.attempts) for r in await store.unhandled("a")] == [
        (InboxState.RECEIVED, 1),
        (InboxState.RECEIVED, 0),
    ]
    assert await store.begin(rows[0].row) == 2
    for _ in range(2):
        await store.release(rows[0].row, "no answer")
    assert [(r.state, r.attempts, r.reason) for r in await store.unhandled("a")] == [
        (InboxState.RECEIVED, 2, "no answer"),
        (InboxState.RECEIVED, 0, ""),
    ]
    await store.close()


async def test_finish_settles_the_message_and_owes_the_answers(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db", clock=Clock())
    [received] = await store.receive("a", [inbound()], None)
    picture = Attachment(kind=MediaKind.IMAGE, data=b"\x00\xff")
    answer = Outbound(key="k2", chat="chat", attachments=(picture,), context={"reply": "token"})
    owed = await store.finish(received.row, [outbound("k1"), answer])
    assert await store.unhandled("a") == []
    assert await store.owed("a") == owed
    assert [o.message for o in owed] == [outbound("k1"), answer]
    assert {(o.account, o.state, o.attempts, o.created_at) for o in owed} == {
        ("a", OutboxState.OWED, 0, 1_000_000.0)
    }
    await store.close()


async def test_a_buried_message_is_a_dead_letter(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    [received] = await store.receive("a", [inbound()], None)
    await store.bury(received.row, "crashed twice")
    assert await store.unhandled("a") == []
    assert await store.counts("a") == {"a": Counts(dead=1)}
    assert await store.receive("a", [inbound()], None) == []
    await store.close()


async def test_what_is_settled_stays_settled(journal: Opens) -> None:
    async with journal() as store:
        [done, dead] = await store.receive("a", [inbound("1"), inbound("2")], None)
        await store.finish(done.row, [])
        await store.bury(dead.row, "why")
        for call in (
            store.begin(done.row),
            store.begin(dead.row),
            store.finish(done.row, [outbound("late")]),
            store.finish(dead.row, [outbound("late")]),
            store.bury(done.row, "late"),
        ):
            with pytest.raises(StoreError, match=r"inbox row \d is (done|dead)") as caught:
                await call
            assert (caught.value.code, caught.value.final) == ("store_wrong_state", True)
        for row in (done.row, dead.row, 99):
            await store.release(row, "late")  # an attempt that has ended has no other end
        assert await store.owed("a") == []
        states = [entry.state for entry in await store.entries(Box.INBOX)]
        assert states == ["dead", "done"]
        for call in (store.begin(99), store.finish(99, []), store.bury(99, "why")):
            with pytest.raises(StoreError, match="inbox row 99 does not exist"):
                await call


# -- outbox ---------------------------------------------------------------------------------------


async def test_a_known_key_is_returned_as_it_stands(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    [first] = await store.post("a", [outbound("k", text="first")])
    await store.sending(first.row)
    await store.sent(first.row, Receipt("p1"))
    [again] = await store.post("a", [outbound("k", text="second")])
    assert (again.row, again.message.text) == (first.row, "first")
    assert (again.state, again.attempts, again.receipt) == (OutboxState.SENT, 1, "p1")
    [other] = await store.post("b", [outbound("k")])
    assert other.row != first.row
    await store.close()


async def test_a_sending_row_is_found_after_a_crash(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    one, two, three = await store.post("a", [outbound("1"), outbound("2"), outbound("3")])
    await store.sending(two.row)
    await store.sent(one.row, Receipt("p"))
    await store.close()
    store = await SqliteStore.open(tmp_path / "j.db")
    owed = await store.owed("a")
    assert [(o.row, o.state, o.attempts) for o in owed] == [
        (two.row, OutboxState.SENDING, 1),
        (three.row, OutboxState.OWED, 0),
    ]
    await store.close()


async def test_a_postponed_message_says_when_and_why(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    [owed] = await store.post("a", [outbound()])
    await store.sending(owed.row)
    await store.postpone(owed.row, 5_000.5, "timed out", maybe_doubled=True)
    await store.postpone(owed.row, 6_000.0, "again")
    [waiting] = await store.owed("a")
    assert (waiting.state, waiting.not_before, waiting.reason) == (OutboxState.OWED, 6_000, "again")
    assert waiting.maybe_doubled
    await store.close()


async def test_a_doubt_is_still_known_after_a_crash(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    [owed] = await store.post("a", [outbound()])
    await store.sending(owed.row)
    await store.postpone(owed.row, 5_000.5, "no answer", in_doubt=True)
    await store.close()
    store = await SqliteStore.open(tmp_path / "j.db")
    [waiting] = await store.owed("a")
    assert (waiting.state, waiting.not_before) == (OutboxState.SENDING, 5_000.5)
    assert (waiting.reason, waiting.maybe_doubled) == ("no answer", False)
    await store.postpone(owed.row, 0.0, "not sent")
    [waiting] = await store.owed("a")
    assert waiting.state is OutboxState.OWED
    await store.close()


async def test_held_and_refused_messages_leave_the_queue_and_can_come_back(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    held, refused = await store.post("a", [outbound("1"), outbound("2")])
    await store.hold(held.row, "no answer")
    await store.refuse(refused.row, "blocked by the user")
    assert await store.owed("a") == []
    assert await store.counts("a") == {"a": Counts(held=1, refused=1)}
    with pytest.raises(StoreError, match="is ambiguous"):
        await store.sending(held.row)
    await store.postpone(held.row, 0, "a person said so", maybe_doubled=True)
    await store.postpone(refused.row, 0, "a person said so")
    assert [o.row for o in await store.owed("a")] == [held.row, refused.row]
    await store.close()


async def test_sent_is_final_and_true_from_any_state(journal: Opens) -> None:
    async with journal() as store:
        [owed] = await store.post("a", [outbound()])
        await store.hold(owed.row, "no answer")
        await store.sent(owed.row, Receipt("found in the history"))
        for call in (
            store.sending(owed.row),
            store.postpone(owed.row, 0, "late"),
            store.postpone(owed.row, 0, "late", maybe_doubled=True),
            store.hold(owed.row, "late"),
            store.refuse(owed.row, "late"),
        ):
            with pytest.raises(StoreError, match=r"outbox row \d is sent") as caught:
                await call
            assert (caught.value.code, caught.value.final) == ("store_wrong_state", True)
        assert (await store.counts("a")).get("a", Counts()) == Counts()
        for call in (
            store.sending(99),
            store.sent(99, Receipt("x")),
            store.postpone(99, 0, "late"),
            store.hold(99, "late"),
            store.refuse(99, "late"),
        ):
            with pytest.raises(StoreError, match="outbox row 99 does not exist"):
                await call


async def test_what_waits_for_a_person_is_not_sent(journal: Opens) -> None:
    async with journal() as store:
        held, refused = await store.post("a", [outbound("1"), outbound("2")])
        await store.hold(held.row, "no answer")
        await store.refuse(refused.row, "blocked")
        for row in (held, refused):
            with pytest.raises(StoreError, match=r"is (ambiguous|dead)") as caught:
                await store.sending(row.row)
            assert caught.value.code == "store_wrong_state"
        assert await store.counts("a") == {"a": Counts(held=1, refused=1)}


# -- what is remembered ---------------------------------------------------------------------------


async def test_the_history_is_bounded_per_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "HISTORY_KEPT", 3)
    store = await SqliteStore.open(tmp_path / "j.db")
    await store.record(transition(0, "b"))
    for number in range(1, 6):
        await store.record(transition(number))
    assert await store.history("a") == [transition(3), transition(4), transition(5)]
    assert await store.history("a", limit=1) == [transition(5)]
    assert [t.generation for t in await store.history(limit=10)] == [0, 3, 4, 5]
    await store.close()


async def test_gaps_are_kept_newest_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "GAPS_KEPT", 2)
    store = await SqliteStore.open(tmp_path / "j.db")
    gaps = [Gap(since=float(n), until=n + 1.0, reason="fresh login") for n in range(3)]
    for gap in gaps:
        await store.add_gap("a", gap)
    assert await store.gaps("a") == gaps[1:]
    assert await store.gaps("a", limit=1) == gaps[2:]
    assert await store.gaps("b") == []
    await store.close()


async def test_remembered_values_survive_a_reopen(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    await store.remember("a", "token", b"old")
    await store.remember("a", "token", b"new\x00")
    await store.close()
    store = await SqliteStore.open(tmp_path / "j.db")
    assert await store.recall("a", "token") == b"new\x00"
    assert await store.recall("b", "token") is None
    await store.close()


# -- upkeep ---------------------------------------------------------------------------------------


async def test_prune_forgets_settled_rows_in_small_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "PRUNE_ROWS", 4)
    clock = Clock()
    store = await SqliteStore.open(tmp_path / "j.db", clock=clock)
    rows = await store.receive("a", [inbound(str(n)) for n in range(12)], None)
    for row in rows[:9]:
        await store.finish(row.row, [outbound(row.message.id)])
    await store.bury(rows[9].row, "kept")
    owed = await store.owed("a")
    for owes in owed[:8]:
        await store.sent(owes.row, Receipt("p"))
    await store.hold(owed[8].row, "kept")
    before = store.counters.commits
    clock.now += 2 * DAY
    assert await store.prune(2 * DAY + 1) == 0
    assert await store.prune(2 * DAY - 1) == 17
    # Refused: 1 commit a table. Removed: of 4 + 4 + 4 rows, then of 4 + 4 + 1, and a look at where
    # there are no more. For each table and time, one at what is known; for each time, one for room
    # to give back.
    assert store.counters.commits - before == 2 + (3 + 1) + (3 + 1) + 4 + 2
    assert await store.counts("a") == {"a": Counts(received=2, dead=1, held=1)}
    assert len(await store.receive("a", [inbound("0"), inbound("9")], None)) == 1
    await store.close()


async def test_what_was_accepted_and_did_not_arrive_is_a_dead_letter(journal: Opens) -> None:
    async with journal() as store:
        sent, owed = await store.post("a", [outbound("1"), outbound("2")])
        await store.sent(sent.row, Receipt("p1"))
        others = [("b", "1", "p1"), ("a", "1", "p2"), ("a", "2", ""), ("a", "3", "p")]
        for account, key, receipt in others:
            assert not await store.undelivered(account, key, receipt, "no")
        assert await store.undelivered("a", "1", "p1", "nobody there")
        assert not await store.undelivered("a", "1", "p1", "again")
        newest, oldest = await store.entries(Box.OUTBOX)
        assert (newest.state, newest.row) == (OutboxState.OWED, owed.row)
        assert (oldest.state, oldest.reason) == (OutboxState.DEAD, "nobody there")
        await store.retry(Box.OUTBOX, sent.row)
        assert not await store.undelivered("a", "1", "p1", "of the try before")
        await store.sent(sent.row, Receipt("p3"))
        assert await store.undelivered("a", "1", "p3", "no")


async def test_prune_keeps_known_ids_for_a_day(tmp_path: Path) -> None:
    clock = Clock()
    store = await SqliteStore.open(tmp_path / "j.db", clock=clock)
    [row] = await store.receive("a", [inbound()], None)
    await store.finish(row.row, [])
    clock.now += DAY - 1
    assert await store.prune(0) == 0
    assert await store.receive("a", [inbound()], None) == []
    clock.now += 2
    assert await store.prune(0) == 1
    await store.close()


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.receive("a", [inbound(text="\ud800")], None),
        lambda s: s.post("a", [outbound(text="\ud800")]),
        lambda s: s.receive("a", [], {"key": {1, 2}, "other": object()}),
        lambda s: s.finish(1, [outbound(text="\ud800")]),
    ],
)
async def test_what_can_not_be_encoded_is_refused(journal: Opens, call: Any) -> None:
    async with journal() as store:
        await store.receive("a", [inbound()], None, begun={"m1"})
        await store.post("a", [outbound("1"), outbound("2")])
        before = await store.counts("a")
        with pytest.raises(StoreError) as caught:
            await call(store)
        assert (caught.value.code, caught.value.final) == ("store_refused", True)
        assert await store.counts("a") == before


async def test_words_of_others_are_kept_such_that_they_can_be_read(journal: Opens) -> None:
    torn, whole = "half \ud800", "half \N{REPLACEMENT CHARACTER}"
    async with journal() as store:
        rows = await store.receive("a", [inbound("m1"), inbound("m2")], None, begun={"m1"})
        await store.release(rows[0].row, torn)
        await store.bury(rows[1].row, torn)
        owed = [row.row for row in await store.post("a", [outbound(key) for key in "1234"])]
        await store.postpone(owed[0], 0.0, torn)
        await store.hold(owed[1], torn)
        await store.refuse(owed[2], torn)
        await store.sent(owed[3], Receipt(torn))
        inbox, outbox = [await store.entries(box) for box in Box]
        assert [entry.reason for entry in inbox] == [whole] * 2
        assert [entry.reason or entry.receipt for entry in outbox] == [whole] * 4


# -- cost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "index"),
    [
        (lambda s: s.unhandled("a"), "inbox_open"),
        (lambda s: s.owed("a"), "outbox_open"),
        (lambda s: s.counts("a"), "inbox_open"),
        (lambda s: s.counts("a"), "outbox_open"),
        (lambda s: s.prune(), "INTEGER PRIMARY KEY"),
    ],
)
async def test_only_rows_of_interest_are_touched(tmp_path: Path, call: Any, index: str) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    statements: list[str] = []

    def listen(db: Any) -> int:
        db.set_trace_callback(statements.append)
        return 0

    await store._write(listen)
    await store._read(listen)
    await call(store)
    plans: list[str] = []

    def explain(db: Any) -> int:
        db.set_trace_callback(None)
        for statement in statements:
            if statement.startswith(("SELECT", "DELETE")):
                plans.extend(row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {statement}"))
        return 0

    await store._write(explain)
    assert any(f"USING {index}" in p or f"INDEX {index}" in p for p in plans)
    assert not any(plan.startswith("SCAN") for plan in plans if plan != "SCAN settings")
    assert not any("TEMP B-TREE FOR ORDER" in plan for plan in plans)
    await store.close()
