"""The nemesis: its plan comes from the seed, failures are shrunk, a short run keeps the laws."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast.lab.cast import CAST
from holdfast.lab.chaos import chaos, slope
from holdfast.lab.chaos_plan import Act, Move, plan, shrink
from holdfast.lab.profile import profile
from holdfast.lab.subjects.inprocess import House
from holdfast.lab.terms import Clock, Play

HOUR = 3_600.0

PROFILES = [profile(name) for name in CAST]


def test_one_seed_gives_one_plan() -> None:
    assert plan(7, HOUR, PROFILES) == plan(7, HOUR, PROFILES)
    assert plan(7, HOUR, PROFILES) != plan(8, HOUR, PROFILES)


@given(st.integers(0, 10_000))
def test_every_plan_can_be_played(seed: int) -> None:
    moves = plan(seed, HOUR, PROFILES)
    assert [move.at for move in moves] == sorted(move.at for move in moves)
    assert moves[-1].at < HOUR, "a run is as long as was asked for"
    for one in PROFILES:
        mine = [move for move in moves if move.account == one.platform]
        open_, began = False, 0.0
        for move in mine:
            if move.act in (Act.NETWORK, Act.PLATFORM):
                assert not open_, "one fault at a time"
                open_, began = True, move.at
            elif move.act is Act.HEAL:
                open_ = False
                assert move.at - began <= HOUR / 4, "an hour is not one long outage"
            if move.act is Act.PLATFORM:
                assert Play[move.what] in one.plays


@given(st.sets(st.integers(0, 99), min_size=1, max_size=4))
def test_shrinking_finds_exactly_what_is_needed(needed: set[int]) -> None:
    moves = [Move(float(n), "bot", Act.SAY, str(n)) for n in range(100)]

    def fails(some: object) -> bool:
        assert isinstance(some, list)
        return needed <= {int(move.what) for move in some}

    assert {int(move.what) for move in shrink(moves, fails)} == needed


def test_a_slope_is_per_hour() -> None:
    assert slope([(0.0, 5.0), (60.0, 6.0), (120.0, 7.0)]) == pytest.approx(60.0)
    assert slope([(0.0, 5.0), (60.0, 5.0)]) == 0.0


def test_half_an_hour_of_chaos_breaks_no_law() -> None:
    names = ["telegram", "mattermost"]
    moves = plan(1, HOUR / 2, [profile(name) for name in names])
    run = chaos(1, moves, HOUR / 2, names, Clock.SIMULATED)
    assert run.problems == []
    assert run.moves["network"] + run.moves["platform"] > 1
    assert all(figures.answered for figures in run.figures.values())


def test_the_summary_adds_up() -> None:
    moves = [Move(1.0, "telegram", Act.SAY, "ann"), Move(10.0, "telegram", Act.SAY, "team")]
    run = chaos(1, moves, 20.0, ["telegram"], Clock.SIMULATED)
    told = run.summary()
    assert (told["said"], told["answered"], told["lost"]) == (2, 2, 0)
    assert told["moves"] == {"say": 2}
    assert told["problems"] == []


def test_a_question_that_is_not_answered_does_not_end_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def order(self: House, verb: str, account: str) -> None:
        raise TimeoutError

    monkeypatch.setattr(House, "order", order)
    moves = [Move(10.0, "telegram", Act.KICK), Move(20.0, "telegram", Act.SAY, "still here")]
    run = chaos(1, moves, 60.0, ["telegram"], Clock.SIMULATED)
    assert run.problems == ["telegram: kick: TimeoutError"]
    assert (run.figures["telegram"].said, run.figures["telegram"].answered) == (1, 1)
