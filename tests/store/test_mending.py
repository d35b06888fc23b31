"""What people ask of a journal, shown on each of its kinds."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.errors import StoreError
from holdfast.messages import Gap, Receipt
from holdfast.store.protocol import (
    Box,
    Counts,
    Entry,
    InboxState,
    NotMendable,
    OutboxState,
    Owed,
    Received,
    Store,
    name_of,
)
from holdfast.store.sqlite import SqliteStore
from tests.store.journal import Opens, inbound, outbound


async def dead(store: Store, *names: str, account: str = "a", chat: str = "chat") -> list[Received]:
    rows = await store.receive(account, [inbound(name, chat=chat) for name in names], None)
    for row in rows:
        await store.begin(row.row)
        await store.bury(row.row, "failed thrice")
    return rows


async def waiting(store: Store, *keys: str, account: str = "a") -> list[Owed]:
    rows = await store.post(account, [outbound(key) for key in keys])
    for row in rows:
        await store.sending(row.row)
    return rows


def shown(entries: list[Entry]) -> list[tuple[str, str]]:
    names = [getattr(e.message, "id", "") or getattr(e.message, "key", "") for e in entries]
    return list(zip(names, [e.state for e in entries], strict=True))


# -- looking --------------------------------------------------------------------------------------


async def test_entries_are_newest_first_and_come_in_pages(journal: Opens) -> None:
    async with journal() as store:
        await store.receive("a", [inbound(str(n)) for n in range(5)], None)
        first = await store.entries(Box.INBOX, limit=2)
        second = await store.entries(Box.INBOX, limit=2, before=first[-1].row)
        last = await store.entries(Box.INBOX, limit=2, before=second[-1].row)
        assert [e.message for e in (*first, *second, *last)] == [inbound(n) for n in "43210"]
        assert await store.entries(Box.OUTBOX) == []


async def test_entries_can_be_narrowed(journal: Opens) -> None:
    async with journal() as store:
        await dead(store, "1", account="a", chat="x")
        await dead(store, "2", account="b", chat="x")
        [open_row, done] = await store.receive("a", [inbound("3", chat="y"), inbound("4")], None)
        await store.finish(done.row, [])
        inbox = store.entries
        assert shown(await inbox(Box.INBOX, account="b")) == [("2", "dead")]
        assert shown(await inbox(Box.INBOX, chat="x")) == [("2", "dead"), ("1", "dead")]
        assert shown(await inbox(Box.INBOX, states=["done", "received"])) == [
            ("4", "done"),
            ("3", "received"),
        ]
        only = await inbox(Box.INBOX, account="a", chat="x", states=[InboxState.DEAD])
        assert shown(only) == [("1", "dead")]
        assert await inbox(Box.INBOX, account="a", before=only[0].row) == []
        assert open_row.row > only[0].row


async def test_an_entry_tells_all_that_is_known(journal: Opens) -> None:
    async with journal() as store:
        [message] = await dead(store, "1")
        [out] = await waiting(store, "k")
        await store.postpone(out.row, 77.5, "timed out", maybe_doubled=True)
        entry = await store.entry(Box.INBOX, message.row)
        assert entry is not None
        assert (entry.box, entry.row, entry.account, entry.state, entry.chat, entry.attempts) == (
            Box.INBOX,
            message.row,
            "a",
            "dead",
            "chat",
            1,
        )
        assert (entry.message, entry.reason, entry.at) == (
            inbound("1"),
            "failed thrice",
            message.received_at,
        )
        assert entry.settled_at is not None
        assert entry.settled_at >= entry.at
        entry = await store.entry(Box.OUTBOX, out.row)
        assert entry is not None
        assert (entry.message, entry.state, entry.not_before, entry.reason, entry.attempts) == (
            outbound("k"),
            "owed",
            77.5,
            "timed out",
            1,
        )
        assert (entry.maybe_doubled, entry.settled_at, entry.receipt) == (True, None, "")
        await store.sent(out.row, Receipt("p1"))
        entry = await store.entry(Box.OUTBOX, out.row)
        assert entry is not None
        assert (entry.state, entry.receipt) == ("sent", "p1")
        assert entry.settled_at is not None
        assert await store.entry(Box.INBOX, 999) is None


async def test_counts_are_by_account_and_state(journal: Opens) -> None:
    async with journal() as store:
        assert await store.counts() == {}
        await dead(store, "1", "2")
        rows = await store.receive("a", [inbound("3"), inbound("4"), inbound("5")], None)
        await store.begin(rows[0].row)
        await store.finish(rows[1].row, [])
        held, refused, _ = await waiting(store, "k1", "k2", "k3")
        await store.post("a", [outbound("k4")])
        await store.hold(held.row, "no answer")
        await store.refuse(refused.row, "blocked")
        await store.add_gap("b", Gap(since=1.0, until=2.0, reason="r"))
        a = Counts(received=1, handling=1, dead=2, owed=1, sending=1, held=1, refused=1)
        assert await store.counts("a") == {"a": a}
        found = await store.counts()
        assert (found["a"], found["b"]) == (a, Counts(gaps=1))


# -- mending --------------------------------------------------------------------------------------


async def test_a_retried_dead_letter_stands_behind_what_its_chat_waits_for(journal: Opens) -> None:
    async with journal() as store:
        first, second = await dead(store, "1", "2")
        await store.receive("a", [inbound("3")], None)
        again = await store.retry(Box.INBOX, second.row)
        assert (again.row, again.state, again.attempts) == (second.row, InboxState.RECEIVED, 0)
        assert (again.reason, again.settled_at) == ("failed thrice", None)
        assert again.received() == (await store.unhandled("a"))[-1]
        await store.receive("a", [inbound("4")], None)
        await store.retry(Box.INBOX, first.row)
        assert [r.message.id for r in await store.unhandled("a")] == ["3", "2", "4", "1"]
        assert await store.begin(second.row) == 1
        assert await store.receive("a", [inbound("2")], None) == []


async def test_its_place_survives_a_restart(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    first, second = await dead(store, "1", "2")
    held, other = await waiting(store, "k1", "k2")
    await store.hold(held.row, "no answer")
    await store.receive("a", [inbound("3")], None)
    await store.retry(Box.INBOX, second.row)
    await store.retry(Box.INBOX, first.row)
    await store.retry(Box.OUTBOX, held.row)
    await store.receive("a", [inbound("4")], None)
    await store.close()
    store = await SqliteStore.open(tmp_path / "j.db")
    # Two that were retried at one moment keep their own order.
    assert [r.message.id for r in await store.unhandled("a")] == ["3", "1", "2", "4"]
    assert [o.row for o in await store.owed("a")] == [other.row, held.row]
    await store.close()


@pytest.mark.parametrize("held", [True, False], ids=["held", "refused"])
async def test_a_retried_send_is_owed_again_and_marked_if_held(journal: Opens, held: bool) -> None:
    async with journal() as store:
        [row] = await waiting(store, "k")
        await (store.hold if held else store.refuse)(row.row, "no answer")
        again = await store.retry(Box.OUTBOX, row.row)
        assert (again.state, again.attempts, again.not_before) == (OutboxState.OWED, 0, 0.0)
        assert (again.maybe_doubled, again.reason) == (held, "no answer")
        assert await store.owed("a") == [again.owed()]
        await store.sending(row.row)
        await store.sent(row.row, Receipt("p"))


async def test_what_is_dropped_is_settled(journal: Opens) -> None:
    async with journal() as store:
        [message] = await dead(store, "1")
        held, refused = await waiting(store, "k1", "k2")
        await store.hold(held.row, "no answer")
        await store.refuse(refused.row, "blocked")
        assert (await store.drop(Box.INBOX, message.row)).state == InboxState.DROPPED
        for row in (held, refused):
            dropped = await store.drop(Box.OUTBOX, row.row)
            assert dropped.state == OutboxState.DROPPED
            assert dropped.settled_at is not None
        assert (await store.counts("a")).get("a", Counts()) == Counts()
        assert await store.unhandled("a") == []
        assert await store.owed("a") == []
        assert await store.receive("a", [inbound("1")], None) == []
        [known] = await store.post("a", [outbound("k1")])
        assert known.state is OutboxState.DROPPED


@pytest.mark.parametrize("action", ["retry", "drop"])
async def test_only_what_waits_for_a_person_can_be_mended(journal: Opens, action: str) -> None:
    async with journal() as store:
        received, handling, done, dropped = await store.receive(
            "a", [inbound(str(n)) for n in range(4)], None
        )
        await store.begin(handling.row)
        await store.finish(done.row, [])
        await store.bury(dropped.row, "why")
        await store.drop(Box.INBOX, dropped.row)
        owed, sending, sent = await store.post("a", [outbound(str(n)) for n in range(3)])
        await store.sending(sending.row)
        await store.sent(sent.row, Receipt("p"))
        cases = [(Box.INBOX, row.row) for row in (received, handling, done, dropped)]
        cases += [(Box.OUTBOX, row.row) for row in (owed, sending, sent)]
        for box, row in cases:
            before = await store.entry(box, row)
            assert before is not None
            state = f"{name_of(box, row)} is {before.state}"
            with pytest.raises(NotMendable, match=state) as caught:
                await getattr(store, action)(box, row)
            assert "can be retried or dropped" in caught.value.hint
            assert await store.entry(box, row) == before
        with pytest.raises(NotMendable, match="there is no message in-99"):
            await getattr(store, action)(Box.INBOX, 99)


async def test_a_dropped_row_is_out_of_everybodys_reach(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "j.db")
    [message] = await dead(store, "1")
    [out] = await waiting(store, "k")
    await store.refuse(out.row, "blocked")
    await store.drop(Box.INBOX, message.row)
    await store.drop(Box.OUTBOX, out.row)
    for call in (
        store.begin(message.row),
        store.bury(message.row, "late"),
        store.postpone(out.row, 0, "late"),
        store.hold(out.row, "late"),
        store.refuse(out.row, "late"),
    ):
        with pytest.raises(StoreError, match="is dropped"):
            await call
    await store.close()


# -- gaps -----------------------------------------------------------------------------------------


async def test_a_dismissed_gap_is_not_listed_but_remembered(journal: Opens) -> None:
    async with journal() as store:
        gaps = [Gap(since=float(n), until=n + 1.0, reason="fresh login") for n in range(3)]
        for account, gap in zip("aba", gaps, strict=True):
            await store.add_gap(account, gap)
        listed = await store.gap_entries()
        assert [(e.account, e.gap) for e in listed] == list(zip("aba", gaps, strict=True))
        assert await store.gap_entries("a", limit=1) == [listed[2]]
        assert await store.dismiss_gap(listed[0].id) == listed[0]
        assert await store.gap_entries("a") == [listed[2]]
        assert (await store.counts())["a"].gaps == 1
        assert await store.gaps() == gaps
        assert await store.gaps("a") == [gaps[0], gaps[2]]
        for id in (listed[0].id, 99):
            with pytest.raises(NotMendable, match=f"gap {id} does not exist"):
                await store.dismiss_gap(id)
