"""The plan of a crash run: one seed, one plan; everything comes up in it, and nothing too often."""

from __future__ import annotations

from collections import Counter
from importlib import import_module

import pytest

from holdfast.adapter import Liveness, Rate, Traits
from holdfast.killpoints import POINTS
from holdfast.lab.cast import CAST
from holdfast.lab.crash_plan import BREAKS, HABITS, LIFE, TOTAL_PACE, Act, Role, plan

MINUTES_10 = 600.0

ROLES = (
    Role("one", 20.0, ("user2", "team1"), frozenset({"team1"}), ("dup_event", "ack_lost")),
    Role("two", 5.0, ("user2", "user4", "team1"), frozenset({"team1"})),
)


def traits(total: Rate | None, chat: Rate | None) -> Traits:
    """A platform with these rates."""
    return Traits(liveness=Liveness("x", 1.0), max_text=100, rate_total=total, rate_chat=chat)


def test_a_seed_is_a_plan() -> None:
    assert plan(7, 60.0, ROLES) == plan(7, 60.0, ROLES)
    assert plan(7, 60.0, ROLES).steps != plan(8, 60.0, ROLES).steps
    assert plan(7, 60.0, ROLES).lives != plan(8, 60.0, ROLES).lives


def test_everything_comes_up() -> None:
    made = plan(1, MINUTES_10, ROLES)
    assert {life.point for life in made.lives} == {None, *POINTS}
    assert all(LIFE[0] <= life.seconds <= LIFE[1] and life.nth >= 1 for life in made.lives)
    for role in ROLES:
        own = [step for step in made.steps if step.account == role.account]
        said = {step.what for step in own if step.act is Act.SAY}
        assert said == set(role.chats)
        assert {step.what for step in own if step.act is Act.CUT} == set(BREAKS)
        assert {step.what for step in own if step.act is Act.ARM} == set(role.repeats)


def test_steps_are_in_order_and_every_cut_is_healed_before_the_next() -> None:
    made = plan(1, MINUTES_10, ROLES)
    assert [step.at for step in made.steps] == sorted(step.at for step in made.steps)
    for role in ROLES:
        acts = [
            step.act
            for step in made.steps
            if step.account == role.account and step.act in (Act.CUT, Act.HEAL)
        ]
        assert acts == [Act.CUT, Act.HEAL] * (len(acts) // 2)


def test_a_long_run_says_as_much_as_its_pace() -> None:
    count = Counter(s.account for s in plan(1, MINUTES_10, ROLES).steps if s.act is Act.SAY)
    for role in ROLES:
        assert count[role.account] == pytest.approx(role.pace * MINUTES_10, rel=0.1)


def test_a_kill_point_is_named_as_the_process_expects_it() -> None:
    lives = plan(1, 60.0, ROLES).lives
    charges = [life.charge for life in lives]
    assert charges[0] is None
    assert charges[1] == f"{POINTS[0]}:{lives[1].nth}"


@pytest.mark.parametrize(
    ("total", "chat", "pace", "chats"),
    [
        (None, None, TOTAL_PACE / 2, 12),
        (Rate(10.0), None, 4.0, 12),
        (Rate(1000.0), Rate(1.0), TOTAL_PACE / 2, 60),
        (Rate(10.0), Rate(1 / 6), 4.0, 72),
    ],
)
def test_users_keep_below_the_rates(
    total: Rate | None, chat: Rate | None, pace: float, chats: int
) -> None:
    role = Role.of("bot", traits(total, chat), HABITS["telegram"], 2, groups=True)
    assert role.pace == pytest.approx(pace)
    assert len(role.chats) == len(set(role.chats)) == chats
    assert len(role.groups) == chats / 2
    assert not Role.of("bot", traits(total, chat), HABITS["telegram"], 2, groups=False).groups


@pytest.mark.parametrize("name", CAST)
def test_every_platform_has_habits_that_its_simulator_knows(name: str) -> None:
    module, _, kind = CAST[name].simulator.partition(":")
    if CAST[name].missing() is None:
        simulator = getattr(import_module(f"holdfast.lab.simulators.{module}"), kind)
        assert set(HABITS[name].repeats) <= set(simulator.FAULTS)
    assert HABITS[name].repeats
