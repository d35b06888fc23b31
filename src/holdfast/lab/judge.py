"""From what was written down to a verdict: pure, so that a planted record has one for ever.

Laws that hold in every mode, whatever it expects beside them: `connected` is never published for
longer than the silence limit while the account is deaf; nothing is lost without a reported gap,
nothing answered twice (where a fault hides an answer: not without a mark), nothing out of order in
its chat; no more than ten attempts in a minute; the subject stops within five seconds and leaves
nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from holdfast.lab.checker import BAD, Kind, check, reaches
from holdfast.lab.fault import Fault
from holdfast.lab.record import Ending, Late, Moment, Record
from holdfast.lab.terms import SILENCE, Expect

STOP: Final = 5.0
"""Seconds in which every stop ends (promise P4)."""

SLACK: Final = 1.0
"""Seconds of grace for bytes on their way, and for the ten looks a second at the status."""

GROWTH: Final = 2
"""Threads or descriptors beyond the beginning's that may be a library's own for good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What was measured of one account."""

    said: int
    answered: int
    detection_s: tuple[float | None, ...]
    """Per fault; None: never noticed."""
    recovery_s: tuple[float | None, ...]
    """Per healed fault; None: never recovered."""
    lie_s: float
    lost: int
    unreported: int
    doubled: int
    out_of_order: int
    ambiguous: int
    gap: int
    dead: int
    opens_a_minute: int
    """The most in any minute."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Figures, and every law and expectation that was broken, in words."""

    figures: Figures
    problems: tuple[str, ...]


def judge(
    record: Record,
    expect: Expect,
    silence: float = SILENCE,
    longest_wait: Callable[[float], float] = lambda failing: 0.0,
) -> Verdict:
    """Judge one account. ``longest_wait``: see `Profile`; no recovery is asked for sooner than the
    platform's first wait, as after a fault that is healed at once."""
    assert record.history is not None, "a record is judged when the play is over"
    found = check(record.history)
    figures = Figures(
        said=found.said,
        answered=found.answered,
        detection_s=tuple(fault.detection for fault in record.faults),
        recovery_s=tuple(f.recovery for f in record.faults if f.healed is not None),
        lie_s=round(lie(record, silence), 2),
        lost=found.counts[Kind.LOST],
        unreported=found.counts[Kind.UNREPORTED],
        doubled=found.counts[Kind.DOUBLED],
        out_of_order=found.counts[Kind.OUT_OF_ORDER],
        ambiguous=found.counts[Kind.AMBIGUOUS],
        gap=found.counts[Kind.GAP],
        dead=found.counts[Kind.DEAD],
        opens_a_minute=most_opens(record.opens, 60.0),
    )
    problems = [*record.broken]
    if figures.lie_s:
        problems.append(f"connected was a lie for {figures.lie_s:g} s")
    # A mark tells that nobody could know. Where the platform hides nothing, everybody could.
    bad = BAD if expect.doubles else (*BAD, Kind.AMBIGUOUS)
    problems += [str(finding) for finding in found.findings if finding.kind in bad]
    for reach in reaches(record.history):
        if reach > silence + SLACK:
            problems.append(f"a gap covers {reach:.0f} s in which all was well")
    limit, window = expect.opens
    if (most := most_opens(record.opens, window)) > limit:
        problems.append(f"{most} attempts within {window:g} s, {limit} are allowed")
    for fault in record.faults:
        problems += _of(fault, expect, record, longest_wait)
    if expect.undisturbed:
        problems += _disturbances(record)
    if expect.kinds:
        problems += _unnamed(record, expect.kinds)
    return Verdict(figures, tuple(problems))


def judge_ending(ending: Ending, stop_limit: float = STOP) -> tuple[str, ...]:
    """What was wrong with how the subject as a whole went."""
    problems = [*ending.accidents]
    if ending.stop_s > stop_limit:
        problems.append(Late(f"the stop took {ending.stop_s:.1f} s"))
    before, after = ending.before, ending.after
    for what, grown, free in (
        ("tasks", after.tasks - before.tasks, 0),
        ("sockets", after.sockets - before.sockets, 0),
        ("threads", after.threads - before.threads, GROWTH),
        ("descriptors", after.descriptors - before.descriptors, GROWTH),
    ):
        if grown > free:
            problems.append(f"{grown} {what} left behind")
    return tuple(problems)


def only_late(problems: Sequence[str], figures: Sequence[Figures]) -> bool:
    """Whether nothing was wrong but the time: all that had to come came, later than promised."""
    never = any(None in one.recovery_s for one in figures)
    return bool(problems) and not never and all(isinstance(one, Late) for one in problems)


def lie(record: Record, silence: float = SILENCE) -> float:
    """Seconds in which `connected` was published while deaf for longer than the limit."""
    total, deaf_since = 0.0, None
    for moment, until in _spells(record):
        if not moment.deaf:
            deaf_since = None
            continue
        deaf_since = moment.at if deaf_since is None else deaf_since
        if moment.state == "connected":
            since = _present(record, deaf_since)
            total += max(0.0, until - max(moment.at, since + silence + SLACK))
    return total


def most_opens(opens: Sequence[float], window: float) -> int:
    """The most attempts in any stretch of ``window`` seconds."""
    return max((sum(at <= other < at + window for other in opens) for at in opens), default=0)


def _spells(record: Record) -> Iterator[tuple[Moment, float]]:
    """Each moment with its end."""
    ends = [moment.at for moment in record.moments[1:]]
    return zip(record.moments, [*ends, record.ended], strict=True)


def _present(record: Record, since: float) -> float:
    """From when on the subject could have known: it was dead, frozen or blocked meanwhile."""
    return max([since, *(end for began, end in record.absences if end > since)])


def _of(
    fault: Fault, expect: Expect, record: Record, longest_wait: Callable[[float], float]
) -> Iterator[str]:
    if expect.detect is not None and record.publishes:
        took = fault.detection
        if took is None:
            yield f"{fault.name}: never noticed"
        elif took > expect.detect + SLACK:
            yield Late(f"{fault.name}: noticed after {took:.1f} s, {expect.detect:g} are allowed")
    if expect.recover is not None and fault.healed is not None:
        took = fault.recovery
        if took is None:
            waited = record.ended - fault.healed
            yield f"{fault.name}: not back {waited:.0f} s after it was healed"
            return
        allowed = max(expect.recover, longest_wait(0.0))
        if expect.ladder:
            allowed = expect.recover + longest_wait(fault.healed - fault.began)
        if took > allowed + SLACK:
            yield Late(f"{fault.name}: back after {took:.1f} s, {allowed:g} are allowed")


def _disturbances(record: Record) -> Iterator[str]:
    up = next((m.at for m in record.moments if m.state == "connected"), record.began)
    began = min((fault.began for fault in record.faults), default=up)
    end = record.ended
    after = [m for m in record.moments if began < m.at < end]
    down = [moment for moment in after if moment.state not in (None, "connected")]
    if down:
        yield f"a healthy account was called {down[0].state}: {down[0].kind} {down[0].code}"
    before = [m.generation for m in record.moments if m.at <= began and m.generation]
    anew = [m for m in after if before and m.generation and m.generation > before[-1]]
    if anew and not down:
        yield "a healthy connection was replaced"


def _unnamed(record: Record, kinds: frozenset[str]) -> Iterator[str]:
    if not record.publishes or not record.faults:
        return
    began = record.faults[0].began
    told = {m.kind for m in record.moments if m.at >= began and m.kind and m.state != "connected"}
    if not told & kinds:
        yield f"the status named {', '.join(sorted(told)) or 'no cause'}, not {sorted(kinds)}"
