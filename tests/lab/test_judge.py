"""The judge of `holdfast lab score`: each law and each expectation, broken once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.lab.checker import Answer, History, Question, Row
from holdfast.lab.fault import Fault
from holdfast.lab.judge import (
    GROWTH,
    SLACK,
    STOP,
    judge,
    judge_ending,
    lie,
    most_opens,
    only_late,
)
from holdfast.lab.profile import profile
from holdfast.lab.record import Ending, Late, Moment, Record
from holdfast.lab.subjects import Left
from holdfast.lab.terms import AT_ONCE, SILENCE, Expect
from holdfast.store.protocol import Box

LOSSES = 1_000.0
"""Unix seconds of the loop's zero."""


def moment(
    at: float, state: str | None = "connected", *, deaf: bool = False, **more: object
) -> Moment:
    """By default the account is well."""
    known = {"generation": 1} | more
    return Moment(at=at, state=state, deaf=deaf, **known)  # type: ignore[arg-type]


def said(*tokens: str) -> History:
    """Said in one chat, a second apart, and answered."""
    return History(
        account="bot",
        said=[Question(token=t, chat="ann", at=LOSSES + n) for n, t in enumerate(tokens)],
        heard=[Answer(token=t, chat="ann") for t in tokens],
    )


def played(
    *moments: Moment,
    faults: Sequence[Fault] = (),
    opens: Sequence[float] = (0.0,),
    history: History | None = None,
    ended: float = 600.0,
) -> Record:
    """A play of ten minutes; without moments the account was well all the time."""
    record = Record("bot", opens=list(opens), began=0.0, ended=ended)
    record.moments = list(moments) or [moment(0.0)]
    record.faults = list(faults)
    record.history = history or said("bot-1", "bot-2")
    return record


def problems(record: Record, expect: Expect | None = None, **more: Any) -> tuple[str, ...]:
    """What the judge finds."""
    return judge(record, expect or Expect(), **more).problems


def blip(
    *, began: float = 100.0, noticed: float = 1.0, healed: float = 50.0, back: float = 3.0
) -> Record:
    """One loss, seen ``noticed`` seconds later, and healed ``healed`` seconds after it began."""
    fault = Fault("rst", began, began + healed, began + noticed, began + healed + back)
    assert fault.recovered is not None
    return played(
        moment(0.0),
        moment(began, deaf=True),
        moment(began + noticed, "retrying", deaf=True, kind="lost", code="bot_lost"),
        moment(fault.recovered, generation=2, kind="lost", code="bot_lost"),
        faults=[fault],
        opens=[0.0, fault.recovered],
    )


# -- the laws -------------------------------------------------------------------------------------


def test_a_good_play_is_good_and_measured() -> None:
    verdict = judge(blip(), Expect(detect=AT_ONCE, kinds=frozenset({"lost"})))
    assert verdict.problems == ()
    figures = verdict.figures
    assert (figures.said, figures.answered) == (2, 2)
    assert (figures.detection_s, figures.recovery_s) == ((1.0,), (3.0,))
    assert (figures.lie_s, figures.opens_a_minute) == (0.0, 1)


def test_connected_while_deaf_is_a_lie_past_the_limit() -> None:
    record = played(moment(0.0), moment(100.0, deaf=True), moment(200.0))
    assert problems(record) == ("connected was a lie for 39 s",)
    assert problems(record, silence=100.0) == ()


def test_a_new_state_does_not_start_the_deafness_anew() -> None:
    record = played(
        moment(0.0, deaf=True), moment(100.0, "retrying", deaf=True), moment(200.0, deaf=True)
    )
    assert lie(record) == (100.0 - SILENCE - SLACK) + 400.0


def test_who_was_frozen_is_given_the_limit_once_more() -> None:
    record = played(moment(0.0), moment(100.0, deaf=True), moment(300.0))
    record.absences = [(110.0, 230.0)]
    assert lie(record) == 300.0 - 230.0 - SILENCE - SLACK


def test_what_was_not_told_is_no_lie() -> None:
    assert lie(played(moment(0.0, None, deaf=True))) == 0.0


@given(
    st.lists(
        st.tuples(
            st.floats(0.0, 500.0),
            st.sampled_from(["connected", "retrying", "fatal", None]),
            st.booleans(),
        ),
        min_size=1,
    )
)
def test_a_lie_is_never_longer_than_the_time_it_could_be_told_in(
    spells: list[tuple[float, str | None, bool]],
) -> None:
    line = [moment(at, state, deaf=deaf) for at, state, deaf in sorted(spells, key=lambda s: s[0])]
    record = played(*line)
    ends = [*(m.at for m in line[1:]), record.ended]
    told = [(m, end - m.at) for m, end in zip(line, ends, strict=True) if m.state == "connected"]
    found = lie(record)
    assert 0.0 <= found <= sum(length for m, length in told if m.deaf) + 1e-6
    if found:
        assert lie(record, silence=record.ended) == 0.0
        assert lie(record, silence=0.0) >= found


def test_the_history_is_judged_by_the_checker() -> None:
    lost = said("bot-1", "bot-2")
    lost = replace(lost, heard=lost.heard[:1], rows=[row("bot-2", "received")])
    (problem,) = problems(played(history=lost))
    assert problem.startswith("lost: bot bot-2 in ann")
    twice = said("bot-1")
    twice = replace(twice, heard=[*twice.heard, *twice.heard])
    (problem,) = problems(played(history=twice))
    assert problem.startswith("doubled: bot bot-1")


def test_what_breaks_no_promise_is_counted_and_no_problem() -> None:
    history = said("bot-1", "bot-2", "bot-3")
    history = replace(
        history,
        heard=[*history.heard[:1], history.heard[0]],
        rows=[row("bot-1", "sent", maybe_doubled=True), row("bot-3", "dead")],
        gaps=[(LOSSES + 1.0, LOSSES + 1.0)],
    )
    verdict = judge(played(history=history), Expect(doubles=True))
    assert verdict.problems == ()
    figures = verdict.figures
    assert (figures.ambiguous, figures.gap, figures.dead) == (1, 1, 1)


def test_a_mark_excuses_no_double_where_nothing_was_hidden() -> None:
    history = said("bot-1")
    history = replace(
        history,
        heard=[*history.heard, *history.heard],
        rows=[row("bot-1", "sent", maybe_doubled=True)],
    )
    (problem,) = problems(played(history=history))
    assert problem.startswith("ambiguous: bot bot-1 in ann")
    assert problems(played(history=history), Expect(doubles=True)) == ()


@pytest.mark.parametrize(("since", "found"), [(SILENCE + SLACK, 0), (SILENCE + SLACK + 1.0, 1)])
def test_a_gap_begins_with_the_last_sign_of_life(since: float, found: int) -> None:
    history = replace(said("bot-1"), hearing=[(0.0, 500.0)], gaps=[(500.0 - since, 560.0)])
    words = ("a gap covers 62 s in which all was well",)
    assert problems(played(history=history)) == words * found


def row(token: str, state: str, *, maybe_doubled: bool = False) -> Row:
    """A row of the journal."""
    box = Box.OUTBOX if state == "sent" else Box.INBOX
    return Row(box=box, row=1, token=token, state=state, maybe_doubled=maybe_doubled)


def test_ten_attempts_a_minute_are_the_most_ever() -> None:
    ten = [float(6 * n) for n in range(10)]
    assert problems(played(opens=ten)) == ()
    assert problems(played(opens=[*ten, 59.0])) == ("11 attempts within 60 s, 10 are allowed",)
    assert problems(played(opens=ten), Expect(opens=(5, 120.0))) == (
        "10 attempts within 120 s, 5 are allowed",
    )


@given(st.lists(st.floats(0.0, 1_000.0)), st.floats(1.0, 300.0))
def test_the_fullest_window_holds_as_many_as_any(opens: list[float], window: float) -> None:
    fullest = most_opens(opens, window)
    assert fullest <= len(opens)
    for edge in range(0, 1_000, 50):
        assert sum(edge <= at < edge + window for at in opens) <= fullest


# -- the expectations -----------------------------------------------------------------------------


def test_too_late_and_never_noticed() -> None:
    expect = Expect(detect=AT_ONCE)
    assert problems(blip(noticed=AT_ONCE + SLACK), expect) == ()
    assert problems(blip(noticed=9.0), expect) == ("rst: noticed after 9.0 s, 2 are allowed",)
    blind = played(faults=[Fault("rst", 100.0)])
    assert problems(blind, expect) == ("rst: never noticed",)
    assert problems(blind, Expect()) == ()


def test_who_publishes_nothing_need_not_notice() -> None:
    record = played(moment(0.0, None), faults=[Fault("rst", 100.0)])
    record.publishes = False
    assert problems(record, Expect(detect=AT_ONCE, kinds=frozenset({"lost"}))) == ()


def test_too_late_and_never_back() -> None:
    assert problems(blip(back=6.0 + SLACK)) == ()
    assert problems(blip(back=9.0)) == ("rst: back after 9.0 s, 6 are allowed",)
    gone = played(faults=[Fault("rst", 100.0, healed=120.0, noticed=101.0)])
    assert problems(gone) == ("rst: not back 480 s after it was healed",)
    assert problems(gone, Expect(recover=None)) == ()


def late(record: Record, expect: Expect | None = None) -> bool:
    """Whether the judge finds nothing but lateness."""
    verdict = judge(record, expect or Expect())
    return only_late(verdict.problems, [verdict.figures])


def test_a_matter_of_time_is_told_from_a_matter_of_fact() -> None:
    assert not late(blip())
    assert late(blip(back=9.0))
    assert late(blip(noticed=9.0), Expect(detect=AT_ONCE))
    assert not late(played(faults=[Fault("rst", 100.0, healed=120.0, noticed=101.0)]))
    assert not late(played(faults=[Fault("rst", 100.0)]), Expect(detect=AT_ONCE))
    lost = blip(back=9.0)
    lost.history = replace(said("bot-1"), heard=[])
    assert not late(lost)


def test_what_a_step_waited_for_in_vain_is_late_only_if_it_came_after_all() -> None:
    came, never = blip(), played(faults=[Fault("rst", 100.0, healed=120.0, noticed=101.0)])
    for record in (came, never):
        record.broken.append(Late("not back within 6 s"))
    assert late(came)
    assert not late(never, Expect(recover=None))
    came.broken.append("a page was quoted")
    assert not late(came)


def test_no_recovery_is_asked_for_before_the_platforms_first_wait() -> None:
    waits = profile("dingtalk").longest_wait
    assert problems(blip(back=15.0), longest_wait=waits) == ()
    late = problems(blip(back=22.0), longest_wait=waits)
    assert late == ("rst: back after 22.0 s, 20 are allowed",)


def test_a_fault_left_to_the_ladder_grants_the_step_it_may_have_come_to() -> None:
    expect = Expect(recover=10.0, ladder=True)
    waits = profile("dingtalk").longest_wait
    minute = blip(healed=60.0, back=88.0)
    assert problems(minute, expect, longest_wait=waits) == ()
    assert problems(minute, longest_wait=waits) == ("rst: back after 88.0 s, 20 are allowed",)
    late = problems(blip(healed=60.0, back=92.0), expect, longest_wait=waits)
    assert late == ("rst: back after 92.0 s, 90 are allowed",)


@pytest.mark.parametrize(
    ("platform", "failing", "longest"),
    [
        ("slack", 0.0, 1.0),
        ("slack", 1.0, 2.0),
        ("slack", 60.0, 60.0),  # 64 by the ladder, but for its cap
        ("dingtalk", 9.0, 20.0),
        ("dingtalk", 60.0, 80.0),
        ("dingtalk", 7_200.0, 300.0),
    ],
)
def test_the_longest_wait_is_the_step_reached_by_the_shortest_ones(
    platform: str, failing: float, longest: float
) -> None:
    assert profile(platform).longest_wait(failing) == longest


def test_back_before_it_was_healed_took_no_time() -> None:
    assert judge(blip(healed=50.0, back=-10.0), Expect()).figures.recovery_s == (0.0,)


def test_a_healthy_account_must_be_left_alone() -> None:
    expect = Expect(recover=None, undisturbed=True)
    fault = Fault("quiet", 100.0)
    assert problems(played(faults=[fault]), expect) == ()
    called = played(
        moment(0.0), moment(150.0, "retrying", kind="silent", code="bot_silent"), faults=[fault]
    )
    assert problems(called, expect) == ("a healthy account was called retrying: silent bot_silent",)
    anew = played(moment(0.0), moment(150.0, generation=2), faults=[fault])
    assert problems(anew, expect) == ("a healthy connection was replaced",)


def test_the_stop_at_the_end_disturbs_nobody() -> None:
    record = played(moment(0.0), moment(600.0, "stopping"), faults=[Fault("quiet", 100.0)])
    assert problems(record, Expect(recover=None, undisturbed=True)) == ()


def test_the_status_must_name_the_cause() -> None:
    kinds = frozenset({"credentials"})
    assert problems(blip(), Expect(kinds=kinds)) == ("the status named lost, not ['credentials']",)
    dumb = played(faults=[Fault("rst", 100.0)])
    assert problems(dumb, Expect(kinds=kinds)) == (
        "the status named no cause, not ['credentials']",
    )


def test_what_a_step_found_is_told_first() -> None:
    record = blip(back=9.0)
    record.broken.append("3 messages not answered within 30 s")
    assert problems(record)[0] == "3 messages not answered within 30 s"
    assert len(problems(record)) == 2


def test_a_record_without_an_end_is_not_judged() -> None:
    with pytest.raises(AssertionError, match="when the play is over"):
        judge(Record("bot"), Expect())


# -- the end --------------------------------------------------------------------------------------

BEFORE = Left(tasks=3, threads=2, sockets=5, descriptors=20)


def ending(after: Left = BEFORE, *, stop_s: float = 0.2, accidents: Sequence[str] = ()) -> Ending:
    """By default nothing is left, and the stop was quick."""
    return Ending(stop_s=stop_s, before=BEFORE, after=after, accidents=accidents)


def test_a_clean_end() -> None:
    assert judge_ending(ending()) == ()
    less = Left(tasks=1, threads=1, sockets=2, descriptors=9)
    assert judge_ending(ending(less, stop_s=STOP)) == ()


@pytest.mark.parametrize(
    ("what", "free"), [("tasks", 0), ("sockets", 0), ("threads", GROWTH), ("descriptors", GROWTH)]
)
def test_nothing_may_be_left_behind(what: str, free: int) -> None:
    kept = replace(BEFORE, **{what: getattr(BEFORE, what) + free})
    assert judge_ending(ending(kept)) == ()
    one_more = replace(kept, **{what: getattr(kept, what) + 1})
    assert judge_ending(ending(one_more)) == (f"{free + 1} {what} left behind",)


def test_a_slow_stop_and_an_accident() -> None:
    slow = judge_ending(ending(stop_s=5.5))
    assert slow == ("the stop took 5.5 s",)
    assert only_late(slow, ())
    assert not only_late(judge_ending(ending(accidents=["exit 1"])), ())
    assert judge_ending(ending(accidents=["exit 1"])) == ("exit 1",)


# -- the record -----------------------------------------------------------------------------------


def followed(*moments: Moment, faults: Sequence[Fault] = ()) -> Record:
    """A record of what was seen, in turn."""
    record = Record("bot", faults=list(faults))
    for one in moments:
        record.follow(one)
    return record


def test_only_changes_are_kept_and_attempts_are_dated() -> None:
    record = followed(
        moment(0.0, "connecting", deaf=True),
        moment(1.0),
        moment(2.0),
        moment(3.0, deaf=True),
        moment(4.0, "connecting", deaf=True, generation=2),
    )
    assert [m.at for m in record.moments] == [0.0, 1.0, 3.0, 4.0]
    assert record.opens == [0.0, 4.0]


def test_what_was_heard_is_told_connection_by_connection() -> None:
    record = followed(
        moment(0.0, "connecting", deaf=True, generation=1),
        moment(1.0),
        moment(5.0, kind="lost"),
        moment(10.0, deaf=True),
        moment(20.0, generation=2),
        moment(30.0, generation=3),
        moment(90.0, "stopping", generation=3),
    )
    record.ended = 100.0
    assert record.hearing() == [(1.0, 10.0), (20.0, 30.0), (30.0, 90.0)]
    record.absences = [(40.0, 50.0)]
    assert record.hearing() == [(1.0, 10.0), (20.0, 30.0), (30.0, 40.0), (50.0, 90.0)]


def test_a_fault_is_noticed_and_recovered_from() -> None:
    fault = Fault("rst", 10.0)
    record = followed(moment(0.0), moment(10.0, deaf=True), faults=[fault])
    assert fault.noticed is None
    record.follow(moment(12.0, "retrying", deaf=True))
    fault.healed = 20.0
    record.follow(moment(21.0, deaf=True, generation=2))
    assert fault.recovered is None
    record.follow(moment(23.0, generation=2))
    assert (fault.detection, fault.recovery) == (2.0, 3.0)


def test_a_new_connection_tells_of_the_loss_of_the_old_one() -> None:
    fault = Fault("rst", 10.0)
    followed(moment(0.0), moment(11.0, generation=2), faults=[fault])
    assert fault.noticed == 11.0


def test_the_recovery_of_who_publishes_nothing_is_that_of_its_hearing() -> None:
    fault = Fault("rst", 10.0, healed=20.0)
    followed(moment(21.0, None, deaf=True), moment(24.0, None), faults=[fault])
    assert (fault.noticed, fault.recovered) == (None, 24.0)


def test_a_stop_that_was_asked_for_tells_of_no_fault() -> None:
    fault = Fault("quiet", 10.0)
    record = followed(moment(0.0), moment(20.0, "stopping"), faults=[fault])
    record.follow(moment(20.0, "stopped", generation=0))
    assert fault.noticed is None
    assert record.opens == [0.0]
