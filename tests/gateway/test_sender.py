"""From the outbox to the platform: order, rates, and waits."""

from __future__ import annotations

import asyncio
import itertools
import math
from pathlib import Path

import pytest

from holdfast.adapter import Disconnect, HttpFailed, Outcome, Rate, SendFailed
from holdfast.errors import StoreError
from holdfast.gateway.sender import SEND_LIMIT, Bucket
from holdfast.messages import Outbound, Receipt
from holdfast.store.protocol import Box, OutboxState
from holdfast.store.sqlite import SqliteStore
from holdfast.supervision import Cause, Kind
from tests.gateway.desk import Mouth, Table, failed
from tests.gateway.tools import now, until


async def test_nothing_is_sent_while_down_and_all_in_order_after() -> None:
    table = Table()
    await table.owe(*"abc")
    await asyncio.sleep(3_600)
    assert table.mouth.tries == []
    table.sender.connected(True)
    await table.quiet()
    assert table.mouth.texts() == ["a", "b", "c"]
    table.sender.connected(False)
    await table.owe("d")
    await asyncio.sleep(3_600)
    assert table.sender.depth == 1
    table.sender.connected(True)
    await table.quiet()
    assert table.mouth.texts() == ["a", "b", "c", "d"]
    assert table.states() == ["sent"] * 4
    assert table.sender.sent == 4
    await table.close()


NOT_SENT = [
    failed(Outcome.NOT_SENT),
    HttpFailed(Cause(Kind.UNREACHABLE, "refused"), sent=False),
    Disconnect(Cause(Kind.CREDENTIALS, "no_token")),
]


@pytest.mark.parametrize("error", NOT_SENT, ids=lambda e: type(e).__name__)
async def test_what_was_not_sent_is_tried_for_as_long_as_it_takes(error: Exception) -> None:
    table = Table(ambiguous="hold")
    table.sender.connected(True)
    table.mouth.script = [error] * 12
    await table.owe("a", "b")
    await table.quiet()
    assert table.mouth.texts() == ["a"] * 13 + ["b"]
    moments = [at for at, _, _ in table.mouth.tries[:13]]
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert gaps[:4] == pytest.approx([0.75, 1.5, 3, 6])
    assert max(gaps) <= 60
    assert table.sender.unknown == 0
    await table.close()


async def test_what_waits_for_its_recipient_is_counted_apart() -> None:
    table = Table()
    table.sender.connected(True)
    gone = Cause(Kind.UNREACHABLE, "visitor_away")
    table.mouth.script = [SendFailed(Outcome.NOT_SENT, gone, away=True)] * 3
    await table.owe("a", "b")
    await asyncio.sleep(0.1)
    assert (table.sender.depth, table.sender.away) == (2, 2)
    table.mouth.script = [failed(Outcome.NOT_SENT)]
    table.sender.recipient_back()
    await until(lambda: not table.mouth.script)
    await asyncio.sleep(0)
    assert (table.sender.depth, table.sender.away) == (2, 0)  # now it is another trouble
    table.mouth.script = [SendFailed(Outcome.NOT_SENT, gone, away=True)]
    table.sender.recipient_back()
    await until(lambda: table.sender.away == 2)
    table.sender.recipient_back()
    await table.quiet()
    assert (table.sender.depth, table.sender.away) == (0, 0)
    await table.close()


async def test_a_refused_message_is_a_dead_letter_and_stops_nobody() -> None:
    table = Table()
    table.sender.connected(True)
    table.mouth.script = [failed(Outcome.REFUSED)]
    await table.owe("a", "b", "c")
    await table.quiet()
    assert table.states() == ["dead", "sent", "sent"]
    assert table.mouth.texts() == ["a", "b", "c"]
    assert table.sender.refused == 1
    assert next(iter(table.store.outbox.values())).reason == "REFUSED"
    await table.close()


async def test_a_dead_letter_says_what_a_person_can_do() -> None:
    table = Table()
    table.sender.connected(True)
    cause = Cause(Kind.REFUSED, "no_right", "the upload was refused (7)", "Grant the right.")
    table.mouth.script = [SendFailed(Outcome.REFUSED, cause)]
    await table.owe("a")
    await table.quiet()
    (dead,) = table.store.outbox.values()
    assert dead.reason == "no_right: the upload was refused (7). Grant the right."
    await table.close()


GONE = Cause(Kind.REFUSED, "gone", "the user has left", "Ask him.")


async def test_what_was_accepted_and_did_not_arrive_is_a_dead_letter() -> None:
    table = Table()
    table.sender.connected(True)
    await table.owe("a", "b")
    await table.quiet()
    await table.sender.undelivered("k0", "r1", GONE)
    await table.sender.undelivered("k1", "of another try", GONE)
    await table.sender.undelivered("of another program", "r1", GONE)
    assert table.states() == ["dead", "sent"]
    assert (table.sender.sent, table.sender.refused) == (2, 1)
    assert next(iter(table.store.outbox.values())).reason == "gone: the user has left. Ask him."
    await table.close()


@pytest.mark.parametrize(("receipt", "state"), [("r1", "dead"), ("r0", "sent")])
async def test_it_may_be_said_before_the_acceptance_is_recorded(receipt: str, state: str) -> None:
    table = Table()
    table.sender.connected(True)

    async def accepted(message: Outbound) -> Receipt:
        await table.sender.undelivered(message.key, receipt, GONE)
        return Receipt("r1")

    table.mouth.script = [accepted]
    await table.owe("a", "b")
    await table.quiet()
    assert table.states() == [state, "sent"]
    await table.close()


async def test_what_did_not_arrive_waits_for_a_journal_that_can_not_write() -> None:
    table = Table()
    table.sender.connected(True)
    await table.owe("a")
    await table.quiet()
    table.store.fail = StoreError("store_full", "there is no room left")
    with pytest.raises(StoreError):
        await table.sender.undelivered("k0", "r1", GONE)
    table.store.fail = None
    await table.sender.undelivered("k0", "r1", GONE)
    assert table.states() == ["dead"]
    await table.close()


async def test_the_servers_wait_is_a_floor_for_its_own_chat_only() -> None:
    table = Table()
    table.sender.connected(True)
    table.mouth.script = [failed(Outcome.NOT_SENT, retry_after=500.0)]
    await table.owe("a", chat="slow")
    await table.owe("b", chat="free")
    await table.quiet()
    slow = [at for at, chat, _ in table.mouth.tries if chat == "slow"]
    free = [at for at, chat, _ in table.mouth.tries if chat == "free"]
    assert slow[1] - slow[0] == pytest.approx(500, abs=0.01)
    assert free == [1_000]
    await table.close()


async def test_a_recipient_who_is_back_need_not_wait_for_the_next_rung() -> None:
    table = Table()
    table.sender.connected(True)
    table.mouth.script = [failed(Outcome.NOT_SENT)] * 8
    await table.owe("a")
    await until(lambda: len(table.mouth.tries) == 8, 500)
    began = now()
    table.sender.recipient_back()
    await table.quiet()
    assert table.mouth.tries[-1][0] == began
    await table.close()


async def test_news_of_an_account_that_stays_up_end_no_wait() -> None:
    table = Table(mouth=Mouth(idempotent=math.inf))
    table.sender.connected(True)
    table.mouth.script = [failed(Outcome.NOT_SENT)] * 8
    await table.owe("a")
    for _ in range(120):
        await asyncio.sleep(1)
        table.sender.connected(True)
    assert len(table.mouth.tries) == 8  # at 0, 0.75, 2.25, 5.25, ... and 93 s
    table.sender.connected(False)
    table.sender.connected(True)
    await table.quiet()
    assert now() - 1_000 == pytest.approx(120, abs=1)
    await table.close()


async def test_a_recipient_who_is_back_shortens_no_wait_of_the_servers() -> None:
    table = Table()
    table.sender.connected(True)
    table.mouth.script = [failed(Outcome.NOT_SENT, retry_after=500.0)]
    await table.owe("a")
    await asyncio.sleep(100)
    table.sender.recipient_back()
    await table.quiet()
    first, second = (at for at, _, _ in table.mouth.tries)
    assert second - first >= 500
    await table.close()


async def test_the_servers_wait_survives_a_restart() -> None:
    table = Table()
    table.sender.connected(True)
    table.mouth.script = [failed(Outcome.NOT_SENT, retry_after=500.0)]
    await table.owe("a")
    await asyncio.sleep(100)
    await table.close()
    again = Table(store=table.store)
    again.sender.connected(True)
    await again.recover()
    await again.quiet()
    ((at, _, _),) = again.mouth.tries
    assert at - 1_000 == pytest.approx(500, abs=1)
    await again.close()


async def test_a_wall_clock_that_is_set_back_prolongs_no_wait() -> None:
    table = Table()
    table.sender.connected(True)
    table.mouth.script = [failed(Outcome.NOT_SENT)]
    await table.owe("a")
    await asyncio.sleep(0.1)
    table.wall -= 86_400
    began = now()
    await table.quiet()
    assert now() - began < 2
    await table.close()


async def test_a_wall_clock_that_was_ahead_holds_nothing_up_after_a_restart() -> None:
    table = Table()
    table.wall += 30 * 86_400
    table.sender.connected(True)
    table.mouth.script = [failed(Outcome.NOT_SENT)] * 3
    await table.owe("a", "b")
    await asyncio.sleep(2)
    await table.close()
    again = Table(store=table.store)  # it is put right meanwhile
    again.sender.connected(True)
    began = now()
    await again.recover()
    await again.quiet()
    assert again.mouth.texts() == ["a", "b"]
    assert now() - began < 1
    await again.close()


async def test_a_send_that_hangs_is_ended_and_its_chat_goes_on() -> None:
    async def hang(message: Outbound) -> Receipt:
        await asyncio.Event().wait()
        raise AssertionError

    table = Table()
    table.sender.connected(True)
    table.mouth.script = [hang]
    await table.owe("a")
    await table.owe("b", chat="other")
    await table.quiet()
    moments = {(chat, n): at for n, (at, chat, _) in enumerate(table.mouth.tries)}
    assert moments["other", 1] == 1_000
    assert moments["c", 2] - 1_000 == pytest.approx(SEND_LIMIT, abs=2)
    await table.close()


async def test_a_journal_that_fails_delays_and_never_doubles() -> None:
    table = Table()
    table.sender.connected(True)

    async def accepted(message: Outbound) -> Receipt:
        table.store.fail = StoreError("disk_full", "no space")
        return Receipt("r")

    table.mouth.script = [accepted]
    await table.owe("a")
    await asyncio.sleep(60)
    assert len(table.mouth.tries) == 1
    table.store.fail = None
    await table.quiet()
    assert (len(table.mouth.tries), table.states()) == (1, ["sent"])
    table.store.fail = None
    await table.owe("b")
    table.store.fail = StoreError("disk_full", "no space")
    await asyncio.sleep(60)
    assert table.mouth.texts() == ["a"]  # nothing is tried that a crash would hide
    table.store.fail = None
    await table.quiet()
    assert table.mouth.texts() == ["a", "b"]
    await table.close()


async def test_a_classifier_that_raises_loses_no_message() -> None:
    class Clumsy(Mouth):
        def classify(self, error: BaseException) -> Cause | None:
            raise KeyError("classify")

    table = Table(mouth=Clumsy())
    table.sender.connected(True)
    table.mouth.script = [failed(Outcome.NOT_SENT)]
    await table.owe("a", "b")
    await table.quiet()
    assert table.mouth.texts() == ["a", "a", "b"]
    await table.close()


async def test_the_rate_of_a_chat() -> None:
    table = Table(mouth=Mouth(rate_chat=Rate(per_second=0.5, burst=2)))
    table.sender.connected(True)
    await table.owe(*"abcd")
    await table.owe("x", chat="other")
    await table.quiet()
    moments = [at - 1_000 for at, chat, _ in table.mouth.tries if chat == "c"]
    assert moments == pytest.approx([0, 0, 2, 4], abs=0.01)
    assert [at for at, chat, _ in table.mouth.tries if chat == "other"] == [1_000]
    await table.close()


async def test_the_rate_of_all_chats_together() -> None:
    table = Table(mouth=Mouth(rate_total=Rate(per_second=2.0, burst=1)))
    table.sender.connected(True)
    for chat in "abcdef":
        await table.owe("x", chat=chat)
    await table.quiet()
    moments = [at - 1_000 for at, _, _ in table.mouth.tries]
    assert moments == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5], abs=0.01)
    await table.close()


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    bucket = Bucket(Rate(per_second=1.0, burst=3))
    assert [bucket.take(10_000.0) for _ in range(5)] == [0, 0, 0, 1, 2]
    assert [bucket.take(99_999.0) for _ in range(4)] == [0, 0, 0, 1]


async def test_a_row_that_is_put_again_is_sent_once_and_a_retried_one_again() -> None:
    table = Table()
    rows = await table.store.post("bot", [Outbound(key="k", chat="c", text="a")])
    table.sender.put(rows)
    table.sender.put(rows)
    assert table.sender.depth == 1
    table.mouth.script = [failed(Outcome.REFUSED)]
    table.sender.connected(True)
    await table.quiet()
    assert (table.mouth.texts(), table.states()) == (["a"], ["dead"])
    table.sender.put([(await table.store.retry(Box.OUTBOX, rows[0].row)).owed()])
    await table.quiet()
    assert (table.mouth.texts(), table.states()) == (["a", "a"], ["sent"])
    await table.close()


async def test_a_row_that_is_not_owed_any_more_is_let_go(tmp_path: Path) -> None:
    """Whoever settled it, the sender was not told."""
    store = await SqliteStore.open(tmp_path / "j.db")
    table = Table(store=store)  # type: ignore[arg-type]
    rows = await store.post(
        "bot", [Outbound(key=f"k{text}", chat="c", text=text) for text in "abc"]
    )
    await store.refuse(rows[0].row, "the reason")
    await store.sent(rows[1].row, Receipt("r"))
    table.sender.put(rows)
    table.sender.connected(True)
    await table.quiet()
    assert table.mouth.texts() == ["c"]
    entries = await store.entries(Box.OUTBOX)
    assert [(entry.state, entry.reason) for entry in reversed(entries)] == [
        ("dead", "the reason"),
        ("sent", ""),
        ("sent", ""),
    ]
    await table.close()
    await store.close()


@pytest.mark.parametrize("receipt", [Receipt(None), None])  # type: ignore[arg-type]
async def test_a_receipt_that_can_not_be_kept_asks_a_person_and_stops_nobody(
    receipt: Receipt, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def accept(message: Outbound) -> Receipt:
        return receipt

    store = await SqliteStore.open(tmp_path / "j.db")
    table = Table(store=store)  # type: ignore[arg-type]
    table.mouth.script = [accept]
    table.sender.connected(True)
    table.sender.put(
        await store.post("bot", [Outbound(key=f"k{n}", chat="c", text=n) for n in "ab"])
    )
    await table.quiet()
    assert table.mouth.texts() == ["a", "b"]
    second, first = await store.entries(Box.OUTBOX)
    assert (first.state, second.state) == ("ambiguous", "sent")
    assert first.reason.startswith("a defect: ")
    assert "message set aside account=bot key=ka" in caplog.text
    assert table.sender.unknown == 1
    await table.close()
    await store.close()


async def test_rows_that_are_settled_are_not_sent() -> None:
    table = Table()
    rows = await table.store.post(
        "bot", [Outbound(key=f"k{n}", chat="c", text=str(n)) for n in range(3)]
    )
    await table.store.sent(rows[0].row, Receipt("r"))
    await table.store.refuse(rows[1].row, "no")
    table.sender.connected(True)
    table.sender.put(list(table.store.outbox.values()))
    await table.quiet()
    assert table.mouth.texts() == ["2"]
    assert table.store.outbox[rows[2].row].state is OutboxState.SENT
    await table.close()


@pytest.mark.parametrize("idempotent", [0.0, math.inf])
async def test_a_third_try_waits_for_a_sign_of_life(idempotent: float) -> None:
    """Else a dead network, not yet known to be, would use up all tries of a message."""
    table = Table(mouth=Mouth(idempotent=idempotent))
    signs = [now()]
    table.sender._proof = lambda: signs[-1]
    table.sender.connected(True)
    table.mouth.script = [failed(Outcome.UNKNOWN)] * 2
    await table.owe("a")
    await asyncio.sleep(600)
    assert len(table.mouth.tries) == (3 if idempotent else 2)
    signs.append(now())
    await table.quiet()
    assert table.states() == ["sent"]
    await table.close()


async def test_who_waits_for_a_sign_of_life_hears_of_the_loss_and_of_the_stop() -> None:
    table = Table()
    began = now()
    table.sender._proof = lambda: began
    table.sender.connected(True)
    table.mouth.script = [failed(Outcome.UNKNOWN)] * 2
    await table.owe("a")
    await asyncio.sleep(60)
    table.sender.connected(False)
    await asyncio.sleep(60)
    assert len(table.mouth.tries) == 2
    table.sender.connected(True)
    await table.quiet()
    assert table.states() == ["sent"]
    table.mouth.script = [failed(Outcome.UNKNOWN)] * 2
    await table.owe("b")
    await asyncio.sleep(60)
    stopped = now()
    await table.close()
    assert now() - stopped <= 3.0
    assert table.states() == ["sent", "owed"]


async def test_who_comes_back_while_a_failure_is_written_down_is_not_waited_for() -> None:
    table = Table(mouth=Mouth(idempotent=math.inf))
    postpone = table.store.postpone

    async def slowly(*args: object, **more: object) -> None:
        table.sender.recipient_back()
        await postpone(*args, **more)  # type: ignore[arg-type]

    table.store.postpone = slowly  # type: ignore[method-assign]
    table.sender.connected(True)
    table.mouth.script = [failed(Outcome.NOT_SENT)] * 6
    began = now()
    await table.owe("a")
    await table.quiet()
    assert now() - began < 1.0  # the ladder would be at 32 s
    await table.close()
