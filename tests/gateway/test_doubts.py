"""Of a try that may have arrived: sent again, held or dropped, and marked."""

from __future__ import annotations

import asyncio
import errno
import math

import pytest

from holdfast.adapter import BadFrame, HttpFailed, Outcome
from holdfast.gateway.sender import RESEND_LIMIT, SEND_LIMIT
from holdfast.messages import Outbound, Receipt
from holdfast.supervision import Cause, Kind
from tests.gateway.desk import Mouth, Table, failed
from tests.gateway.tools import now

UNKNOWN = [
    failed(Outcome.UNKNOWN),
    HttpFailed(Cause(Kind.TIMEOUT, "late"), sent=True),
    BadFrame("not JSON"),
    RuntimeError("a defect"),
    ConnectionResetError(errno.ECONNRESET, "reset"),
    asyncio.CancelledError(),
]


@pytest.mark.parametrize("error", UNKNOWN, ids=lambda e: type(e).__name__)
async def test_what_may_have_arrived_is_sent_again_and_marked(error: BaseException) -> None:
    table = Table()
    table.sender.connected(True)
    table.mouth.script = [error]
    await table.owe("a", "b")
    await table.quiet()
    assert table.mouth.texts() == ["a", "a", "b"]
    rows = list(table.store.outbox.values())
    assert [row.maybe_doubled for row in rows] == [True, False]
    assert table.sender.unknown == 1
    await table.close()


@pytest.mark.parametrize(
    ("policy", "state", "tries"),
    [("resend", "sent", 2), ("hold", "ambiguous", 1), ("drop", "dead", 1)],
)
async def test_the_policies_for_what_may_have_arrived(policy: str, state: str, tries: int) -> None:
    table = Table(ambiguous=policy)
    table.sender.connected(True)
    table.mouth.script = [failed(Outcome.UNKNOWN)]
    await table.owe("a", "b")
    await table.quiet()
    assert table.states() == [state, "sent"]
    assert table.mouth.texts() == ["a"] * tries + ["b"]
    await table.close()


@pytest.mark.parametrize(
    ("policy", "state", "tries"),
    [("resend", "sent", 1), ("hold", "ambiguous", 0), ("drop", "dead", 0)],
)
async def test_the_policies_for_a_try_in_which_the_process_died(
    policy: str, state: str, tries: int
) -> None:
    table = Table(ambiguous=policy)
    (row,) = await table.store.post("bot", [Outbound(key="k", chat="c", text="a")])
    await table.store.sending(row.row)
    table.sender.connected(True)
    await table.recover()
    await table.quiet()
    assert table.states() == [state]
    assert table.mouth.texts() == ["a"] * tries
    assert table.store.outbox[row.row].maybe_doubled == (policy == "resend")
    assert table.sender.unknown == 1
    await table.close()


async def test_nothing_is_sent_again_without_end() -> None:
    table = Table()
    table.sender.connected(True)
    table.mouth.script = [failed(Outcome.UNKNOWN)] * 100
    await table.owe("a")
    await table.quiet()
    assert len(table.mouth.tries) == RESEND_LIMIT
    assert table.states() == ["ambiguous"]
    await table.close()


async def test_a_message_that_kills_every_process_is_not_sent_without_end() -> None:
    table = Table()
    (row,) = await table.store.post("bot", [Outbound(key="k", chat="c", text="a")])
    for _ in range(RESEND_LIMIT):
        await table.store.postpone(row.row, 0.0, "died", maybe_doubled=True)
        await table.store.sending(row.row)
    table.sender.connected(True)
    await table.recover()
    await table.quiet()
    assert (table.mouth.tries, table.states()) == ([], ["ambiguous"])
    await table.close()


async def test_tries_that_never_left_do_not_count_as_unknown_ones() -> None:
    table = Table()
    (row,) = await table.store.post("bot", [Outbound(key="k", chat="c", text="a")])
    for _ in range(RESEND_LIMIT + 1):
        await table.store.sending(row.row)
        await table.store.postpone(row.row, 0.0, "not sent")
    await table.store.sending(row.row)
    table.sender.connected(True)
    await table.recover()
    await table.quiet()
    assert table.states() == ["sent"]
    await table.close()


async def test_where_the_platform_recognises_repeats_they_are_free() -> None:
    table = Table(mouth=Mouth(idempotent=math.inf), ambiguous="hold")
    table.sender.connected(True)
    begun: list[int] = []

    async def sending(row: int) -> None:
        begun.append(row)

    table.store.sending = sending  # type: ignore[method-assign]
    table.mouth.script = [failed(Outcome.UNKNOWN)] * 10
    await table.owe("a")
    await table.quiet()
    assert table.states() == ["sent"]
    assert set(table.mouth.keys) == {"k0"}
    assert len(table.mouth.keys) == 11
    # No crash can hide anything here, so no fsync is spent on the beginning of a try.
    assert begun == []
    assert not next(iter(table.store.outbox.values())).maybe_doubled
    await table.close()


WINDOW = 300.0
"""Seconds for which a platform of these tests recognises a repetition."""


@pytest.mark.parametrize(
    ("policy", "state", "tries"),
    [("resend", "sent", 2), ("hold", "ambiguous", 1), ("drop", "dead", 1)],
)
@pytest.mark.parametrize("asleep", [False, True])
async def test_a_repetition_that_comes_too_late_to_be_recognised_is_a_doubt(
    policy: str, state: str, tries: int, asleep: bool
) -> None:
    """An outage outlasts what the platform remembers, or the machine slept through it."""
    table = Table(mouth=Mouth(idempotent=WINDOW), ambiguous=policy)

    async def cut(message: Outbound) -> Receipt:
        table.sender.connected(False)
        raise failed(Outcome.UNKNOWN)

    table.mouth.script = [cut]
    table.sender.connected(True)
    await table.owe("a")
    if asleep:
        await asyncio.sleep(10)
        table.wall += WINDOW  # the loop's clock stood still meanwhile
    else:
        await asyncio.sleep(WINDOW)
    assert table.sender.unknown == 0
    table.sender.connected(True)
    await table.quiet()
    (row,) = table.store.outbox.values()
    assert (row.state.value, len(table.mouth.tries)) == (state, tries)
    assert row.maybe_doubled == (policy == "resend")
    assert table.sender.unknown == 1
    await table.close()


@pytest.mark.parametrize("back", [0.0, -86_400.0])
async def test_within_what_the_platform_remembers_a_repetition_is_free(back: float) -> None:
    table = Table(mouth=Mouth(idempotent=WINDOW), ambiguous="hold")
    table.sender.connected(True)
    table.mouth.script = [failed(Outcome.UNKNOWN)] * 6
    await table.owe("a")
    await asyncio.sleep(10)
    table.wall += back  # a clock that is set back makes no try younger, nor older
    await table.quiet()
    assert (len(table.mouth.tries), table.states()) == (7, ["sent"])
    assert not next(iter(table.store.outbox.values())).maybe_doubled
    await table.close()


async def test_tries_beyond_it_are_counted_as_everywhere() -> None:
    table = Table(mouth=Mouth(idempotent=WINDOW))
    table.sender.connected(True)
    table.mouth.script = [failed(Outcome.UNKNOWN)] * 100
    await table.owe("a")
    await table.quiet()
    assert table.states() == ["ambiguous"]
    assert table.sender.unknown == RESEND_LIMIT
    moments = [at for at, _, _ in table.mouth.tries]
    assert moments[-1] - moments[0] == pytest.approx(RESEND_LIMIT * WINDOW, rel=0.3)
    await table.close()


@pytest.mark.parametrize(
    ("age", "policy", "state", "tries"),
    [
        (WINDOW - SEND_LIMIT - 5, "hold", "sent", 1),
        (WINDOW - SEND_LIMIT + 5, "hold", "ambiguous", 0),
        (WINDOW - SEND_LIMIT + 5, "resend", "sent", 1),
        (-5.0, "hold", "ambiguous", 0),  # owed in the future: nobody knows for how long
    ],
)
@pytest.mark.parametrize("died", [False, True])
async def test_a_doubt_outlives_the_process(
    age: float, policy: str, state: str, tries: int, died: bool
) -> None:
    """It died in the middle of a try, or stopped between a lost answer and the repetition."""
    before = Table(mouth=Mouth(idempotent=WINDOW), ambiguous="hold")
    (owed,) = await before.store.post("bot", [Outbound(key="k", chat="c", text="a")])
    if died:
        await before.store.sending(owed.row)
    else:
        before.sender.connected(True)
        before.mouth.script = [failed(Outcome.UNKNOWN), failed(Outcome.NOT_SENT)]
        before.sender.put([owed])
        await asyncio.sleep(1.5)
        assert len(before.mouth.tries) == 2
        await before.close()
    table = Table(mouth=Mouth(idempotent=WINDOW), ambiguous=policy, store=before.store)
    table.wall = owed.created_at + age - now()
    table.sender.connected(True)
    await table.recover()
    await table.quiet()
    (row,) = table.store.outbox.values()
    assert (row.state.value, len(table.mouth.tries)) == (state, tries)
    assert row.maybe_doubled == (policy == "resend")
    await table.close()


async def test_what_was_never_tried_is_no_doubt_however_old() -> None:
    table = Table(mouth=Mouth(idempotent=WINDOW), ambiguous="hold")
    await table.store.post("bot", [Outbound(key="k", chat="c", text="a")])
    table.wall += 86_400
    table.sender.connected(True)
    await table.recover()
    await table.quiet()
    assert table.states() == ["sent"]
    await table.close()
