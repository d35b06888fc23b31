"""What the lab wrote down about one account while a mode was played; no clock, no I/O.

The truth (what was really deaf) stands beside what the subject published, and both are dated by
the same clock, so that a verdict needs nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from holdfast.lab.checker import History
from holdfast.lab.fault import Fault
from holdfast.lab.subjects import Left

STOPS: Final = ("stopping", "stopped")
"""States that the lab itself brings about: they tell of no fault."""


class Late(str):
    """A problem of time alone: what had to come by then had not, and may have come since."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """From ``at`` until the next moment this was so."""

    at: float
    """Seconds on the loop's clock."""
    state: str | None
    """What was published; None when nothing was."""
    deaf: bool
    """The truth: an event would not have reached the bot."""
    generation: int | None = None
    kind: str = ""
    code: str = ""
    attempt: int = 0
    flapping: bool = False
    attention: bool = False


@dataclass(slots=True)
class Record:
    """All that is known of one account of one play."""

    account: str
    moments: list[Moment] = field(default_factory=list)
    """Changes only, in the order of time."""
    faults: list[Fault] = field(default_factory=list)
    opens: list[float] = field(default_factory=list)
    """When attempts to log in began."""
    absences: list[tuple[float, float]] = field(default_factory=list)
    """Times in which the subject was dead, frozen or blocked and could not have told anything."""
    broken: list[str] = field(default_factory=list)
    """What a step found otherwise than it must be, in words."""
    history: History | None = None
    """What was said, answered, kept and reported."""
    publishes: bool = True
    began: float = 0.0
    ended: float = 0.0

    def follow(self, moment: Moment) -> None:
        """Take note of how things are now. Only what has changed is kept."""
        last = self.moments[-1] if self.moments else None
        if moment.generation and moment.generation != (last and last.generation):
            self.opens.append(moment.at)
        if last is None or not _same(last, moment):
            self.moments.append(moment)
        for fault in self.faults:
            self._date(fault, moment)

    def hearing(self) -> list[tuple[float, float]]:
        """When the account could hear, connection by connection: from and until, by the loop."""
        spans: list[tuple[float, float]] = []
        ends = [*(moment.at for moment in self.moments[1:]), self.ended]
        for n, (moment, end) in enumerate(zip(self.moments, ends, strict=True)):
            if moment.deaf or moment.state in STOPS:
                continue
            before = self.moments[n - 1] if n else None
            if spans and before and spans[-1][1] == moment.at and not _anew(before, moment):
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((moment.at, end))
        for began, ended in self.absences:
            spans = [part for span in spans for part in _without(span, began, ended)]
        return spans

    def _date(self, fault: Fault, moment: Moment) -> None:
        if fault.noticed is None and self._told(fault, moment):
            fault.noticed = moment.at
        up = moment.state in (None, "connected") and not moment.deaf
        if fault.healed is not None and fault.recovered is None and up:
            fault.recovered = moment.at

    def _told(self, fault: Fault, moment: Moment) -> bool:
        """Whether the status has said that something is wrong: by its state, or by having begun
        anew since, for a reader may be too slow to see the moment between."""
        if moment.state in STOPS:
            return False
        if moment.state not in (None, "connected"):
            return True
        before = [m.generation for m in self.moments if m.at <= fault.began and m.generation]
        return bool(before and moment.generation and moment.generation > before[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How the subject as a whole went."""

    stop_s: float
    """Seconds its last stop took."""
    before: Left
    """In use before it was started."""
    after: Left
    """In use after it had stopped."""
    accidents: Sequence[str] = ()
    """What went wrong with the subject itself: an exit, a traceback."""


def _anew(a: Moment, b: Moment) -> bool:
    """Whether there is another connection since."""
    return bool(b.generation and a.generation != b.generation)


def _without(span: tuple[float, float], began: float, ended: float) -> list[tuple[float, float]]:
    """What is left of a span when another is taken away."""
    since, until = span
    left = [(since, min(until, began)), (max(since, ended), until)]
    return [(a, b) for a, b in left if a < b]


def _same(a: Moment, b: Moment) -> bool:
    return (a.state, a.deaf, a.generation, a.kind, a.code, a.flapping, a.attention) == (
        b.state,
        b.deaf,
        b.generation,
        b.kind,
        b.code,
        b.flapping,
        b.attention,
    )
