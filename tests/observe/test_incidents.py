"""Reports in, incidents and counted seconds out; the clock is the test's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.observe.incidents import (
    FIRST,
    HOUR,
    LAST,
    MINUTE,
    SIZES,
    UNSEEN,
    Action,
    Batch,
    Chronicle,
    End,
    Incident,
    Piece,
    Spent,
    Standing,
    standing_of,
)
from holdfast.supervision import Breaker, Cause, Kind, Published, Report, State, View

T0 = 1_800_000_000.0
"""A full hour."""

LOST = Cause(Kind.LOST, "parrot_lost", "the peer has gone")
SILENT = Cause(Kind.SILENT, "parrot_silent", "nothing heard for 60 s")


def report(
    published: Published,
    *,
    cause: Cause | None = None,
    generation: int = 1,
    proof: float | None = None,
    attention: bool = False,
    trigger: str = "connection ended",
) -> Report:
    """A report at 100 s of the supervisor's clock; ``proof`` is so many seconds old."""
    view = View(
        at=100.0,
        state=State.BACKOFF,
        published=published,
        since=100.0,
        generation=generation,
        attempt=generation,
        retry_at=105.0 if published is Published.RETRYING else None,
        cause=cause,
        escalation=None,
        step="",
        suspect=False,
        rotating=False,
        flapping=False,
        attention=attention,
        breaker=Breaker.CLOSED,
        last_proof=None if proof is None else 100.0 - proof,
        valid_until=None,
        outage_since=None,
        missed_beats=0,
        beats=0,
        stale_events=0,
        abandoned=0,
    )
    return Report(view=view, trigger=trigger)


UP = report(Published.CONNECTED, proof=0.0)
DIALS = report(Published.CONNECTING)
DOWN = report(Published.RETRYING, cause=LOST)
OFF = report(Published.STOPPED)


def told(*reports: tuple[float, Report], until: float = 0.0) -> Batch:
    """What a chronicle holds after some reports at seconds after `T0`."""
    chronicle = Chronicle(40)
    for at, one in reports:
        chronicle.report("polly", one, T0 + at)
    chronicle.look(T0 + until)
    return chronicle.take()


def only(batch: Batch) -> Incident:
    """The one incident."""
    (incident,) = batch.incidents.values()
    return incident


# -- incidents ------------------------------------------------------------------------------------


def test_an_outage_with_its_cause_attempts_proofs_and_recovery() -> None:
    incident = only(
        told(
            (0, UP),
            (10, report(Published.RETRYING, cause=LOST, proof=4.0)),
            (15, report(Published.CONNECTING, cause=LOST, generation=2, trigger="retry due")),
            (15.5, report(Published.CONNECTING, cause=LOST, generation=2, trigger="step")),
            (20, report(Published.RETRYING, cause=SILENT, generation=2)),
            (25, report(Published.CONNECTING, cause=SILENT, generation=3, trigger="retry due")),
            (26, report(Published.CONNECTED, generation=3, proof=0.25, trigger="ready")),
        )
    )
    assert incident.number == 41
    assert (incident.since, incident.until, incident.end) == (T0 + 10, T0 + 26, End.RECOVERED)
    assert incident.cause is not None
    assert incident.last_cause is not None
    assert (incident.cause.code, incident.last_cause.code) == ("parrot_lost", "parrot_silent")
    assert incident.attempts == 2
    assert (incident.life_before, incident.life_after) == (T0 + 6, T0 + 25.75)
    assert not incident.escalated
    assert [(one.at - T0, one.state) for one in incident.moments] == [
        (10, "retrying"),
        (15, "connecting"),
        (15.5, "connecting"),
        (20, "retrying"),
        (25, "connecting"),
        (26, "connected"),
    ]
    assert incident.moments[0].retry_in == 5.0
    assert (incident.moments[-1].code, incident.moments[-1].message) == ("", "")


def test_life_before_is_the_last_proof_while_it_was_connected() -> None:
    """Not that of the report before, and nothing a peer says to one whom it does not let in."""
    lost = report(Published.RETRYING, cause=SILENT, proof=45.0)
    assert only(told((0, UP), (3_600, lost))).life_before == T0 + 3_555
    refused = report(Published.RETRYING, cause=LOST, generation=2, proof=0.5)
    resumed = told((0, UP), (9, report(Published.STOPPED, proof=2.0)), (60, DIALS), (61, refused))
    assert only(resumed).life_before == T0 + 7
    assert only(told((0, DIALS), (1, refused))).life_before is None


def test_the_first_try_after_a_start_is_no_incident_until_it_fails() -> None:
    assert told((0, DIALS), (1, UP)).incidents == {}
    failed = only(told((0, DIALS), (1, DOWN)))
    assert (failed.since, failed.until, failed.life_before) == (T0 + 1, None, None)
    assert failed.attempts == 1


@pytest.mark.parametrize("published", [Published.CONNECTING, Published.RETRYING, Published.FATAL])
def test_every_loss_is_an_incident(published: Published) -> None:
    assert only(told((0, UP), (1, report(published, cause=LOST)))).since == T0 + 1


def test_a_stop_ends_it_without_a_recovery() -> None:
    incident = only(told((0, UP), (1, DOWN), (5, report(Published.STOPPED, proof=2.0))))
    assert (incident.until, incident.end, incident.life_after) == (T0 + 5, End.STOPPED, None)


def test_a_person_was_needed_once_is_told_to_the_end() -> None:
    fatal = report(Published.FATAL, cause=LOST, attention=True)
    incident = only(told((0, UP), (1, fatal), (2, DIALS), (3, UP)))
    assert incident.escalated
    assert incident.end is End.RECOVERED


def test_accounts_have_incidents_of_their_own() -> None:
    chronicle = Chronicle()
    for name in ("polly", "jack"):
        chronicle.report(name, UP, T0)
        chronicle.report(name, DOWN, T0 + 1)
    chronicle.report("polly", UP, T0 + 2)
    found = {one.account: one for one in chronicle.take().incidents.values()}
    assert found["polly"].end is End.RECOVERED
    assert found["jack"].end is None


def test_a_day_of_tries_keeps_its_beginning_and_its_end() -> None:
    tries = [(float(n), report(Published.RETRYING, cause=LOST, generation=n)) for n in range(1, 90)]
    incident = only(told((0, UP), *tries, (99, UP)))
    times = [one.at - T0 for one in incident.moments]
    assert times == [*range(1, FIRST + 1), *range(90 - LAST + 1, 90), 99]
    assert incident.omitted == 90 - FIRST - LAST


# -- seconds --------------------------------------------------------------------------------------


def seconds(batch: Batch, size: int) -> dict[float, tuple[float, float, float]]:
    """Up, down and off by the start of their piece, from `T0`."""
    return {
        piece.start - T0: (spent.up, spent.down, spent.off)
        for piece, spent in batch.pieces.items()
        if piece.size == size
    }


def test_seconds_are_counted_by_standing_and_piece() -> None:
    batch = told((50, UP), (70, DOWN), (75, UP), (80, OFF), until=100)
    assert seconds(batch, MINUTE) == {0: (10, 0, 0), 60: (15, 5, 20)}
    assert seconds(batch, HOUR) == {0: (25, 5, 20)}


@pytest.mark.parametrize("state", list(Published))
def test_what_a_state_counts_as(state: Published) -> None:
    wanted = {"connected": "up", "stopped": "off", "stopping": "off"}
    assert standing_of(state) == wanted.get(state.value, "down")
    batch = told((0, report(state, cause=LOST)), until=10)
    assert seconds(batch, HOUR)[0] == tuple(10 * (standing_of(state) is one) for one in Standing)


def test_what_nobody_saw_is_not_counted() -> None:
    batch = told((0, UP), (20, UP), (20 + UNSEEN + 1, UP), until=70)
    assert seconds(batch, HOUR) == {0: (20 + 70 - 51, 0, 0)}


def test_a_clock_that_is_set_back_counts_nothing() -> None:
    assert seconds(told((20, UP), (10, UP), until=15), HOUR) == {0: (5, 0, 0)}


@given(st.lists(st.tuples(st.floats(0, 29), st.sampled_from([UP, DOWN, OFF, DIALS])), min_size=1))
def test_no_second_is_lost_or_counted_twice(steps: list[tuple[float, Report]]) -> None:
    chronicle, now = Chronicle(), T0
    for step, one in steps:
        now += step
        chronicle.report("polly", one, now)
    batch = chronicle.take()
    for size in SIZES:
        counted = {p: s for p, s in batch.pieces.items() if p.size == size}
        total = sum(s.up + s.down + s.off for s in counted.values())
        assert total == pytest.approx(now - T0 - steps[0][0], abs=1e-3)
        for spent in counted.values():
            assert spent.up + spent.down + spent.off <= size + 1e-3


# -- handing over ---------------------------------------------------------------------------------


def test_what_was_taken_is_not_given_again() -> None:
    chronicle = Chronicle()
    chronicle.report("polly", UP, T0)
    chronicle.report("polly", DOWN, T0 + 1)
    chronicle.act(Action(at=T0, who="uid 0", what="kick", path="/", status=200))
    first = chronicle.take(pieces=False)
    assert (len(first.incidents), len(first.actions), first.pieces) == (1, 1, {})
    second = chronicle.take()
    assert (second.incidents, second.actions) == ({}, [])
    assert seconds(second, HOUR) == {0: (1, 0, 0)}


def test_what_could_not_be_written_is_kept_by_the_hour() -> None:
    chronicle = Chronicle()
    chronicle.report("polly", UP, T0)
    chronicle.report("polly", DOWN, T0 + 10)
    failed = chronicle.take()
    chronicle.report("polly", UP, T0 + 15)
    chronicle.put_back(failed)
    again = chronicle.take()
    assert seconds(again, HOUR) == {0: (10, 5, 0)}
    assert seconds(again, MINUTE) == {}
    assert only(again).end is End.RECOVERED  # the newer one of the two


def test_what_is_kept_is_bounded() -> None:
    chronicle = Chronicle()
    act = Action(at=T0, who="uid 0", what="kick", path="/", status=200)
    incident = Incident(number=1, account="polly", since=T0)
    batch = Batch(
        {Piece(account="polly", size=HOUR, start=0): Spent(1.0)},
        dict.fromkeys(range(2000), incident),
        [act] * 2_000,
    )
    chronicle.put_back(batch)
    kept = chronicle.take()
    assert (len(kept.incidents), len(kept.actions), min(kept.incidents)) == (1_000, 1_000, 1_000)
