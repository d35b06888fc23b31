"""The plan of a chaos run: every choice of the nemesis, made before it begins.

All of it comes from one ``random.Random(seed)``. A plan is a flat list of moves in the order of
time, so that a failure can be shrunk: any part of a plan is a plan.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from holdfast.lab.profile import Profile
from holdfast.lab.terms import Play

NETWORK: Final = ("hole", "cut", "refuse", "rst", "fin", "freeze")
"""Switches of the cable, as likely as the platform's own misdeeds together."""

PLAYS: Final = (
    Play.NO_ACK,
    Play.POLL_HANGS,
    Play.POLL_DRIPS,
    Play.POLL_FAILS,
    Play.GOODBYE,
    Play.NOTICE,
    Play.EXPIRE,
    Play.STALL_LOGIN,
    Play.CLOSE_AT_ONCE,
    Play.ACCEPT_ONLY,
    Play.ERROR_ONCE,
    Play.MALFORMED_ONCE,
    Play.THROTTLE,
    Play.REVOKE,
    Play.TOKEN_HANG,
    Play.DUPLICATE,
    Play.REDELIVER,
    Play.ACK_LOST,
    Play.BAD_FRAME,
    Play.LOSE_SEND_ANSWER,
    Play.SEND_THROTTLED,
)
"""What platforms do that may not cost a message. Those that make them forget their place or change
the order on purpose have modes of their own; so has one that falls mute and goes on answering, for
which another limit of silence holds (`logical-zombie`)."""

REST: Final = (30.0, 900.0)
"""Seconds between two faults of an account."""

LENGTHS: Final = (1.0, 7_200.0)
"""Seconds a fault lasts, each order of magnitude as likely."""

SHARE: Final = 4
"""What part of a run a fault takes at most: an hour must not be one long outage."""

TALK: Final = 60.0
"""Seconds between two messages of an account's users, on average."""

CHATS: Final = ("ann", "ben", "team")


class Act(StrEnum):
    """What happens."""

    SAY = "say"
    NETWORK = "network"
    PLATFORM = "platform"
    HEAL = "heal"
    KICK = "kick"


@dataclass(frozen=True, slots=True)
class Move:
    """One thing that happens to one account."""

    at: float
    """Seconds from the beginning."""
    account: str
    act: Act
    what: str = ""
    """The chat, the switch, or the name of the play."""

    def __str__(self) -> str:
        return f"{self.at:.1f} s {self.account} {self.act} {self.what}".rstrip()


def plan(seed: int, seconds: float, profiles: Sequence[Profile]) -> list[Move]:
    """All moves of a run; what still lasts at its end is not healed by a move."""
    rng = random.Random(seed)
    moves = [move for one in profiles for move in _moves(rng, one, seconds)]
    return sorted((move for move in moves if move.at < seconds), key=lambda move: move.at)


def _moves(rng: random.Random, profile: Profile, seconds: float) -> Iterator[Move]:
    name = profile.platform
    plays = [play for play in PLAYS if play in profile.plays]
    at = rng.expovariate(1 / TALK)
    while at < seconds:
        yield Move(at, name, Act.SAY, rng.choice(CHATS))
        at += rng.expovariate(1 / TALK)
    at = rng.uniform(*REST)
    while at < seconds:
        if rng.random() < 0.5:
            yield Move(at, name, Act.NETWORK, rng.choice(NETWORK))
        else:
            yield Move(at, name, Act.PLATFORM, rng.choice(plays).name)
        low, high = LENGTHS[0], min(LENGTHS[1], seconds / SHARE)
        at += low * (high / low) ** rng.random()
        yield Move(at, name, Act.HEAL)
        if rng.random() < 0.2:
            yield Move(at + rng.uniform(0.0, 5.0), name, Act.KICK)
        at += rng.uniform(*REST)


def shrink(moves: Sequence[Move], fails: Callable[[Sequence[Move]], bool]) -> list[Move]:
    """The shortest part of a failing plan that still fails, as far as leaving out ever smaller
    pieces shows (delta debugging). ``fails`` is asked about plans only."""
    left, pieces = list(moves), 2
    while len(left) > 1:
        size = -(-len(left) // pieces)
        for start in range(0, len(left), size):
            without = left[:start] + left[start + size :]
            if without and fails(without):
                left, pieces = without, max(2, pieces - 1)
                break
        else:
            if size == 1:
                return left
            pieces = min(len(left), 2 * pieces)
    return left
