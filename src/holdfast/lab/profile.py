"""What a platform can play in the lab, and what can not happen on it, with the reasons."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from typing import Any, Final

from holdfast.lab.cast import CAST
from holdfast.lab.injection import Injection
from holdfast.lab.terms import SILENCE, Expect, Play

ASKED: Final = 6_775.0
"""Seconds that a rate limit asks for wherever the protocol can say it. Somebody was really asked
for as much, came back after a minute, and was shut out for longer."""


@dataclass(frozen=True, slots=True)
class Throttle:
    """How a platform refuses calls as too frequent, for as long as it is told to."""

    inject: Injection[Any]
    fault: str
    """The simulator's fault of which each refused call is one play."""
    wait: float | None = ASKED
    """Seconds it asks for, in its answers or in its papers; None: it only says too fast."""
    granted: str = ""
    """The fact of one that it grants, where only calls of this kind are refused; empty: no call at
    all is welcome meanwhile."""
    doubts: float = 0.0
    """Seconds from the first refusal in which it may be asked again, where one failed look is not
    enough to give up a connection that stands. From then on nothing is forgiven."""


def _links(simulator: Any) -> int:
    return int(simulator.count("link-open"))


def _nothing(simulator: Any) -> None:
    """Clearing its faults mends everything."""


def _itself(simulator: Any, number: int) -> None:
    """Each simulator is a bot of its own already."""


def _no_sessions(simulator: Any) -> Sequence[tuple[float, float]]:
    """Nothing is kept for anybody."""
    return ()


OVER: Final = ("resume window", "resume refused", "token reset")
"""Reasons of `session-ended` for which the bot can do nothing."""


def sessions(simulator: Any) -> Sequence[tuple[float, float]]:
    """For `Profile.kept`, of platforms whose sessions are resumed: each from its login to the next
    one, but for those that the platform itself has ended before that."""
    logins = [(fact.at, fact.detail["session"]) for fact in simulator.log if fact.what == "login"]
    ends = {
        fact.detail["session"]: fact.at
        for fact in simulator.log
        if fact.what == "session-ended" and fact.detail["reason"] in OVER
    }
    nexts = [*(at for at, _ in logins[1:]), math.inf]
    return [
        (at, after)
        for (at, session), after in zip(logins, nexts, strict=True)
        if ends.get(session, math.inf) >= after
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One platform. Raises ValueError when a play is neither carried out nor declined, or both."""

    platform: str
    plays: Mapping[Play, Injection[Any]]
    lacks: Mapping[Play, str]
    """Play -> why it can not happen here: a property of the platform, as its papers tell."""
    excused: Mapping[str, str] = field(default_factory=dict)
    """Mode, or mode and variant as ``mode: variant`` -> why it can not happen here, where no play
    says so."""
    replays: bool = False
    """The platform keeps what is missed: no reported gap excuses a loss."""
    kept: Callable[[Any], Sequence[tuple[float, float]]] = _no_sessions
    """Times, on the loop's clock, in which a simulator kept what was said for a session that could
    have been resumed, and so no reported gap excuses a loss."""
    ordered: bool = True
    """It hands messages over in the order in which they were said."""
    idempotent: float = 0.0
    """Seconds for which a send repeated with the same key arrives once; `math.inf` for ever."""
    alone: str = ""
    """Why only one account of it can take part in a play; empty: any number can."""
    silence: float = SILENCE
    redelivery: float = 0.0
    """Seconds after which it repeats, by itself, what nobody has acknowledged."""
    own_redelivery: float | None = None
    """The same where the lab does not hasten it, see `holdfast.lab.cast`; None: no other."""
    first_wait: float = 1.0
    """Seconds of its preset's first back-off: no recovery can be asked for sooner."""
    cap: float = 60.0
    """Seconds of its preset's longest back-off after an error that is nobody's fault."""
    slow_cap: float = 300.0
    """Seconds of its preset's longest back-off while flapping, throttled or escalated."""
    returns: float = 0.0
    """Seconds until users whose page lost its connection come back by themselves: as long as the
    way is open and they are still on it, what they say now arrives, and nobody is deaf."""
    beat: float = 0.0
    """Seconds between two heartbeats as the platform asks for them; 0 where nothing beats."""
    logins_throttled: Throttle | None = None
    """`Play.THROTTLE` as a wait that nobody would wait for who clamps it."""
    sends_throttled: Throttle | None = None
    """`Play.SEND_THROTTLED` for every send, and as long a wait."""
    links: Callable[[Any], int] = _links
    """How many ways in the bot has opened, from a simulator."""
    mend: Callable[[Any], object] = _nothing
    """Undoes, at once, what plays have done to a simulator besides arming its faults."""
    rename: Callable[[Any, int], object] = _itself
    """Makes the bot of a simulator, before it starts, the platform's second, third and so on."""

    def __post_init__(self) -> None:
        both = self.plays.keys() & self.lacks.keys()
        neither = set(Play) - self.plays.keys() - self.lacks.keys()
        if both or neither:
            names = ", ".join(sorted(play.name for play in both | neither))
            raise ValueError(f"{self.platform} must either play or decline: {names}")
        for play, throttle in (
            (Play.THROTTLE, self.logins_throttled),
            (Play.SEND_THROTTLED, self.sends_throttled),
        ):
            if (throttle is None) is not (play in self.lacks):
                raise ValueError(f"{self.platform} must say how it throttles: {play.name}")

    def longest_wait(self, failing: float) -> float:
        """Seconds of the longest back-off that may be running after so many of failed attempts."""
        step, begun = self.first_wait, 0.0
        # Each step at its shortest: jitter takes up to half of it.
        while step < self.cap and (begun := begun + step / 2) <= failing:
            step = min(self.cap, 2 * step)
        return step

    def expected(self, expect: Expect) -> Expect:
        """What must follow here: who recognises what is sent again shows it once, marked or not."""
        return replace(expect, doubles=expect.doubles and not self.idempotent)

    def unhurried(self) -> Profile:
        """The platform as it is for others, where the lab shortens none of its waits."""
        own = self.own_redelivery
        return self if own is None else replace(self, redelivery=own)


@cache
def profile(platform: str) -> Profile:
    """The profile of a platform. Raises KeyError for one that nobody plays."""
    if platform not in CAST:
        raise KeyError(f"no platform {platform!r}; there are: {', '.join(CAST)}")
    found: Profile = import_module(f"holdfast.lab.profiles.{platform}").PROFILE
    return found
