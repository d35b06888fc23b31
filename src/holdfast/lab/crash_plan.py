"""The plan of a crash run: every choice of `holdfast lab crash`, made before it begins.

All of it comes from one ``random.Random(seed)``: the same seed, length and roles give the same plan
on every machine. Only how long things take on the real clock is not planned.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from holdfast.adapter import Traits
from holdfast.killpoints import POINTS, Point
from holdfast.lab.faults.relay import Relay

TOTAL_PACE = 40.0
"""Messages a second that all users write together: 24,000 in ten minutes."""

SHARE = 0.4
"""Part of a platform's total rate that its users take: the rest is for what an outage left."""

ROOM = 3.0
"""How many times over the chats' own rates carry the pace, for the same reason."""

LEAST_CHATS = 12
"""Chats of a platform: one that waits, say for a chat page to come back, holds up no other."""

LIFE = (3.0, 8.0)
"""Seconds from the start of a gateway to its SIGKILL, where no kill point comes before."""

FARTHEST_PASS = 200
"""The highest pass of a kill point, chosen so that each order of magnitude is as likely."""

REST = (4.0, 12.0)
"""Seconds between two network faults of a platform."""

REPEAT_EVERY = 3.0
"""Seconds between two faults of the platform itself, on average."""


class Act(StrEnum):
    """What happens at a moment of the plan."""

    SAY = "say"
    CUT = "cut"
    HEAL = "heal"
    ARM = "arm"


@dataclass(frozen=True, slots=True)
class Break:
    """A network fault and how long it may last."""

    name: str
    switch: Any
    seconds: tuple[float, float]


BREAKS = {
    one.name: one
    for one in (
        Break("reset", Relay.rst, (0.1, 0.5)),
        Break("refused", Relay.refuse, (0.5, 3.0)),
        Break("pulled", Relay.cut, (0.5, 4.0)),
        Break("holed", Relay.hole, (0.5, 4.0)),
    )
}
"""Name -> a network fault; all of them are short, for the silence limits are not on trial here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Habit:
    """What a platform does to messages by itself."""

    repeats: tuple[str, ...]
    """Faults of its simulator that repeat messages or hide what became of an answer. None of them
    loses a message for good or changes the order on purpose."""
    ordered: bool = True
    """Whether it hands messages over in the order in which they were said."""


HABITS: Mapping[str, Habit] = {
    "telegram": Habit(repeats=("close_before_answer", "close_after_answer", "send_answer_lost")),
    "qqbot": Habit(repeats=("dup_event", "dup_after_resume", "send_answer_lost")),
    "dingtalk": Habit(repeats=("dup_event", "send_answer_lost")),
    "feishu": Habit(
        repeats=("dup_event", "dup_after_ack", "dup_message", "send_answer_lost"),
        ordered=False,  # what was not acknowledged comes with the next repeat
    ),
    "slack": Habit(
        repeats=("dup_event", "ack_lost", "abort_on_event", "mention_twin", "send_answer_lost"),
        ordered=False,  # as above
    ),
    "mattermost": Habit(repeats=("dup_event", "send_answer_lost")),
    "discord": Habit(repeats=("dup_event", "dup_after_resume", "send_answer_lost")),
    "matrix": Habit(repeats=("close_before_answer", "send_answer_lost")),
    "whatsapp": Habit(
        repeats=("dup_event", "ack_lost", "send_answer_lost"),
        ordered=False,  # as above
    ),
    "webchat": Habit(repeats=("dup_say", "mute_seen", "vanish_before_seen", "forgets_seen")),
}
"""Platform -> its habits."""


@dataclass(frozen=True, slots=True)
class Role:
    """The users of one account, and what happens to them."""

    account: str
    pace: float
    """Messages a second."""
    chats: tuple[str, ...]
    groups: frozenset[str] = frozenset()
    """Those of the chats that are groups."""
    repeats: tuple[str, ...] = ()

    @classmethod
    def of(cls, account: str, traits: Traits, habit: Habit, players: int, groups: bool) -> Role:
        """As fast as ``players`` accounts share the total, in as many chats as the rates need."""
        pace = TOTAL_PACE / players
        if traits.rate_total is not None:
            pace = min(pace, SHARE * traits.rate_total.per_second)
        number = LEAST_CHATS
        if traits.rate_chat is not None:
            number = max(number, math.ceil(ROOM * pace / traits.rate_chat.per_second))
        chats = tuple(f"team{n}" if groups and n % 2 else f"user{n}" for n in range(1, number + 1))
        return cls(
            account,
            pace,
            chats,
            frozenset(chat for chat in chats if chat.startswith("team")),
            habit.repeats,
        )


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happens to an account."""

    at: float
    """Seconds from the beginning."""
    account: str
    act: Act
    what: str = ""
    """The chat, the name of the network fault, or that of the platform's own."""


@dataclass(frozen=True, slots=True)
class Life:
    """One life of the gateway: killed at a kill point, or after so many seconds."""

    seconds: float
    point: Point | None = None
    nth: int = 1

    @property
    def charge(self) -> str | None:
        """The value of ``HOLDFAST_KILL_POINT``; None for none."""
        return None if self.point is None else f"{self.point}:{self.nth}"


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run."""

    seed: int
    seconds: float
    steps: tuple[Step, ...] = field(repr=False)
    """In the order of time."""
    lives: tuple[Life, ...] = field(repr=False)
    """More than can be lived."""


def plan(seed: int, seconds: float, roles: Sequence[Role]) -> Plan:
    """All choices of a run."""
    rng = random.Random(seed)
    steps = [step for role in roles for step in _steps(rng, role, seconds)]
    steps.sort(key=lambda step: step.at)
    lives = tuple(_life(rng, number) for number in range(math.ceil(seconds) + len(POINTS)))
    return Plan(seed, seconds, tuple(steps), lives)


def _steps(rng: random.Random, role: Role, seconds: float) -> Iterator[Step]:
    for at in _moments(rng, role.pace, seconds):
        yield Step(at, role.account, Act.SAY, rng.choice(role.chats))
    if role.repeats:
        for at in _moments(rng, 1 / REPEAT_EVERY, seconds):
            yield Step(at, role.account, Act.ARM, rng.choice(role.repeats))
    at = rng.uniform(*REST)
    while at < seconds:
        fault = BREAKS[rng.choice(sorted(BREAKS))]
        yield Step(at, role.account, Act.CUT, fault.name)
        at += rng.uniform(*fault.seconds)
        yield Step(at, role.account, Act.HEAL)
        at += rng.uniform(*REST)


def _moments(rng: random.Random, pace: float, seconds: float) -> Iterator[float]:
    """A Poisson process."""
    at = rng.expovariate(pace)
    while at < seconds:
        yield at
        at += rng.expovariate(pace)


def _life(rng: random.Random, number: int) -> Life:
    """Every other life ends at a kill point: each in its turn, at a pass by chance."""
    seconds, nth = rng.uniform(*LIFE), round(FARTHEST_PASS ** rng.random())
    if number % 2 == 0:
        return Life(seconds)
    return Life(seconds, POINTS[number // 2 % len(POINTS)], nth)
