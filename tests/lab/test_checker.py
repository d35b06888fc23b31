"""The judge of `holdfast lab crash`: each planted flaw is found, and nothing else is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.lab.checker import BAD, Answer, History, Kind, Question, Row, Verdict, check, reaches
from holdfast.store.protocol import Box

CHATS = ("ann", "team")


def question(number: int, chat: str = "ann") -> Question:
    """Said at second ``number``."""
    return Question(token=f"bot-{number}", chat=chat, at=float(number))


def heard(asked: Question) -> Answer:
    """The answer to a question, where it belongs."""
    return Answer(token=asked.token, chat=asked.chat)


def rows(number: int, asked: Question) -> tuple[Row, Row]:
    """The journal of a question that was answered, taken in as the ``number``-th."""
    return (
        Row(box=Box.INBOX, row=number, token=asked.token, state="done"),
        Row(box=Box.OUTBOX, row=number, token=asked.token, state="sent"),
    )


def perfect(said: Sequence[Question], **more: object) -> History:
    """Everything was taken in and answered once, in order."""
    kept = [row for number, asked in enumerate(said, 1) for row in rows(number, asked)]
    history = History(account="bot", said=said, heard=[heard(asked) for asked in said], rows=kept)
    return replace(history, **more)  # type: ignore[arg-type]


def without(history: History, lost: Iterable[Question], *, kept: bool = False) -> History:
    """The same, but some questions were not answered, nor taken in unless ``kept``."""
    gone = {asked.token for asked in lost}
    return replace(
        history,
        heard=[answer for answer in history.heard if answer.token not in gone],
        rows=[
            row for row in history.rows if row.token not in gone or (kept and row.box is Box.INBOX)
        ],
    )


def found(verdict: Verdict) -> dict[Kind, int]:
    """What was found at all."""
    return {kind: count for kind, count in verdict.counts.items() if count}


SAID = tuple(question(number, CHATS[number % 2]) for number in range(1, 9))

histories = st.lists(st.sampled_from(CHATS), min_size=1, max_size=30).map(
    lambda chats: perfect([question(n, chat) for n, chat in enumerate(chats, 1)])
)


@given(histories, st.booleans(), st.booleans())
def test_a_perfect_history_is_good(history: History, replays: bool, ordered: bool) -> None:
    verdict = check(replace(history, replays=replays, ordered=ordered))
    assert verdict.good
    assert found(verdict) == {}
    assert verdict.said == verdict.answered == len(history.said)


@given(histories, st.data())
def test_chats_may_overtake_each_other(history: History, data: st.DataObject) -> None:
    tops = [[a for a in history.heard if a.chat == chat] for chat in CHATS]
    mixed: list[Answer] = []
    while any(tops):
        mixed.append(data.draw(st.sampled_from([top for top in tops if top])).pop(0))
    assert found(check(replace(history, heard=mixed))) == {}


@given(histories, st.data())
def test_a_planted_loss_is_found(history: History, data: st.DataObject) -> None:
    lost = data.draw(st.sampled_from(history.said))
    verdict = check(without(replace(history, replays=True), [lost]))
    assert found(verdict) == {Kind.LOST: 1}
    assert verdict.answered == len(history.said) - 1
    assert [finding.question for finding in verdict.bad] == [lost]
    assert not verdict.good


@given(histories, st.integers(1, 3), st.booleans(), st.data())
def test_a_planted_double_is_found_at_any_place(
    history: History, times: int, marked: bool, data: st.DataObject
) -> None:
    twice = data.draw(st.sampled_from(history.said))
    heard_ = list(history.heard)
    for _ in range(times):
        first = heard_.index(heard(twice))
        heard_.insert(data.draw(st.integers(first + 1, len(heard_))), heard(twice))
    kept = [
        replace(row, maybe_doubled=marked and row.token == twice.token and row.box is Box.OUTBOX)
        for row in history.rows
    ]
    verdict = check(replace(history, heard=heard_, rows=kept))
    assert found(verdict) == {Kind.AMBIGUOUS if marked else Kind.DOUBLED: times}
    assert verdict.good is marked


@given(histories, st.data())
def test_a_planted_swap_is_found(history: History, data: st.DataObject) -> None:
    chat = data.draw(st.sampled_from(sorted({asked.chat for asked in history.said})))
    places = [place for place, answer in enumerate(history.heard) if answer.chat == chat]
    if len(places) < 2:
        assert check(history).good
        return
    nth = data.draw(st.integers(0, len(places) - 2))
    one, other = places[nth], places[nth + 1]
    swapped = list(history.heard)
    swapped[one], swapped[other] = swapped[other], swapped[one]
    verdict = check(replace(history, heard=swapped))
    assert found(verdict) == {Kind.OUT_OF_ORDER: 1}
    assert [heard(finding.question) for finding in verdict.bad] == [history.heard[one]]


def test_a_platform_without_order_is_measured_by_the_journal() -> None:
    said = [question(1), question(2), question(3)]
    taken = [said[1], said[0], said[2]]
    kept = [row for number, asked in enumerate(taken, 1) for row in rows(number, asked)]
    history = perfect(said, rows=kept, heard=[heard(asked) for asked in taken])
    assert found(check(replace(history, ordered=False))) == {}
    assert found(check(history)) == {Kind.OUT_OF_ORDER: 1}
    as_said = replace(history, ordered=False, heard=[heard(asked) for asked in said])
    assert found(check(as_said)) == {Kind.OUT_OF_ORDER: 1}


def test_a_second_answer_is_a_double_and_not_out_of_order() -> None:
    history = perfect(SAID)
    verdict = check(replace(history, heard=[*history.heard, history.heard[0]]))
    assert found(verdict) == {Kind.DOUBLED: 1}


@pytest.mark.parametrize(
    ("gaps", "kind"),
    [
        ([], Kind.UNREPORTED),
        ([(2.5, 3.5)], Kind.GAP),
        ([(3.0, 3.0)], Kind.GAP),
        ([(0.0, 2.9), (3.1, 9.0)], Kind.UNREPORTED),
        ([(0.0, 1.0), (2.0, 4.0)], Kind.GAP),
    ],
)
def test_a_gap_excuses_what_it_covers(gaps: list[tuple[float, float]], kind: Kind) -> None:
    verdict = check(replace(without(perfect(SAID), [SAID[2]]), gaps=gaps))
    assert found(verdict) == {kind: 1}
    assert verdict.good is (kind is Kind.GAP)


def test_a_gap_is_no_excuse_where_the_platform_replays() -> None:
    history = perfect(SAID, replays=True, gaps=[(0.0, 99.0)])
    assert found(check(without(history, [SAID[2]]))) == {Kind.LOST: 1}


@pytest.mark.parametrize(
    ("kept", "kind"), [((2.0, 4.0), Kind.LOST), ((0.0, 2.9), Kind.GAP), ((3.1, 9.0), Kind.GAP)]
)
def test_a_gap_is_no_excuse_while_a_session_lives(kept: tuple[float, float], kind: Kind) -> None:
    history = perfect(SAID, gaps=[(0.0, 99.0)], kept=[kept])
    assert found(check(without(history, [SAID[2]]))) == {kind: 1}


@pytest.mark.parametrize(
    ("gap", "reach"),
    [((40.0, 60.0), 10.0), ((0.0, 60.0), 50.0), ((50.0, 70.0), 0.0), ((0.0, 200.0), 100.0)],
)
def test_how_far_a_gap_reaches_into_what_was_well(gap: tuple[float, float], reach: float) -> None:
    history = perfect(SAID, gaps=[gap], hearing=[(0.0, 50.0), (80.0, 180.0)])
    assert list(reaches(history)) == [reach]


def test_a_gap_is_no_excuse_for_what_the_journal_took() -> None:
    history = perfect(SAID, gaps=[(0.0, 99.0)])
    assert found(check(without(history, [SAID[2]], kept=True))) == {Kind.LOST: 1}


@pytest.mark.parametrize(
    ("box", "state", "kind"),
    [
        (Box.INBOX, "dead", Kind.DEAD),
        (Box.OUTBOX, "dead", Kind.DEAD),
        (Box.OUTBOX, "ambiguous", Kind.DEAD),
        (Box.INBOX, "handling", Kind.LOST),
        (Box.OUTBOX, "owed", Kind.LOST),
        (Box.OUTBOX, "sent", Kind.LOST),
    ],
)
def test_only_what_is_listed_for_a_person_is_excused(box: Box, state: str, kind: Kind) -> None:
    history = without(perfect(SAID, replays=True), [SAID[2]])
    row = Row(box=box, row=99, token=SAID[2].token, state=state)
    assert found(check(replace(history, rows=[*history.rows, row]))) == {kind: 1}


def test_an_answer_in_another_chat_is_none() -> None:
    history = perfect(SAID, replays=True)
    astray = [replace(answer, chat="nobody") for answer in history.heard[:1]]
    verdict = check(replace(history, heard=[*astray, *history.heard[1:]]))
    assert found(verdict) == {Kind.LOST: 1}


def test_a_finding_tells_what_the_journal_has() -> None:
    history = perfect(SAID, rows=[replace(row, maybe_doubled=True) for row in rows(7, SAID[0])])
    verdict = check(replace(history, heard=[heard(SAID[0]), *history.heard]))
    assert [str(finding) for finding in verdict.findings] == [
        "ambiguous: bot bot-1 in team said at 1.000 (answer 2);"
        " journal: inbox 7 done maybe_doubled, outbox 7 sent maybe_doubled"
    ]


def test_what_breaks_a_promise_comes_first() -> None:
    assert tuple(Kind)[: len(BAD)] == BAD
    history = without(perfect(SAID, gaps=[(1.0, 1.0)]), SAID[:2])
    kinds = [finding.kind for finding in check(history).findings]
    assert kinds == [Kind.UNREPORTED, Kind.GAP]
