"""What has happened since the start, counted from the reports: what a reading of now can not tell.

Counting goes on whether or not anybody ever asks for metrics, so nothing here needs a library.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate

from holdfast.supervision import Kind, Published, Report, View
from holdfast.supervision.states import Trigger

BOUNDS = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 45.0, 65.0, 90.0, 120.0, 180.0, 300.0, 600.0)
"""Seconds. 65 is the promised 60 of detection with room for timers; at 180 people are told."""

MOST_CODES = 50
"""Causes told apart per account; platforms invent close codes, and a label must stay bounded."""

OTHER = "other"
"""The code of all further causes."""

_ENDS = frozenset({Trigger.ENDED, Trigger.VERDICT})


@dataclass(frozen=True, slots=True)
class Spread:
    """A histogram, read: how many values were at most each of `BOUNDS`, then how many in all."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    sum: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """A ledger, read. Accounts that are no longer configured are still in it."""

    transitions: Mapping[tuple[str, str, str], int]
    """By account, published state and code of the cause."""
    ends: Mapping[tuple[str, str], int]
    """Connections and attempts that ended, by account and code."""
    unknown: Mapping[str, int]
    """Ends by an error nobody has classified, by account."""
    detection: Mapping[str, Spread]
    """Seconds from the last proof of life to the news of its loss, by platform; losses that the
    machine slept through are left out."""
    recovery: Mapping[str, Spread]
    """Seconds from the news of a loss to the next connection that works, by platform."""


class Histogram:
    """Values in seconds, counted by `BOUNDS`."""

    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count a value."""
        self._counts[bisect_left(BOUNDS, seconds)] += 1
        self._sum += seconds

    def spread(self) -> Spread:
        """A reading."""
        return Spread(tuple(accumulate(self._counts)), self._sum)


class Ledger:
    """Counts the reports of all accounts of a gateway, by the same views as the status."""

    def __init__(self) -> None:
        self._states: dict[str, Published] = {}
        self._lost_at: dict[str, float] = {}
        self._codes: dict[str, set[str]] = {}
        self._transitions: Counter[tuple[str, str, str]] = Counter()
        self._ends: Counter[tuple[str, str]] = Counter()
        self._unknown: Counter[str] = Counter()
        self._detection: dict[str, Histogram] = {}
        self._recovery: dict[str, Histogram] = {}
        self._waking = False

    @contextmanager
    def waking(self) -> Iterator[None]:
        """The machine has slept, and the accounts hear of it: how long nobody could notice a loss
        says nothing about how long we take to."""
        self._waking = True
        try:
            yield
        finally:
            self._waking = False

    def report(self, account: str, platform: str, report: Report) -> None:
        """Count what a report says."""
        view = report.view
        before = self._states.get(account, Published.STOPPED)
        self._states[account] = view.published
        if view.published is not before:
            self._transitions[account, view.published.value, self._code(account, view)] += 1
            self._measure(account, platform, before, report)
        if report.trigger in _ENDS and view.cause is not None:
            self._ends[account, self._code(account, view)] += 1
            self._unknown[account] += view.cause.kind is Kind.UNKNOWN

    def totals(self) -> Totals:
        """A reading that later reports do not change."""
        return Totals(
            transitions=dict(self._transitions),
            ends=dict(self._ends),
            unknown=dict(self._unknown),
            detection={name: found.spread() for name, found in self._detection.items()},
            recovery={name: found.spread() for name, found in self._recovery.items()},
        )

    def _code(self, account: str, view: View) -> str:
        """Why the account is not connected, from a bounded number of codes; empty if it is."""
        if view.cause is None or view.published is Published.CONNECTED:
            return ""
        known = self._codes.setdefault(account, set())
        if len(known) < MOST_CODES:
            known.add(view.cause.code)
        return view.cause.code if view.cause.code in known else OTHER

    def _measure(self, account: str, platform: str, before: Published, report: Report) -> None:
        view = report.view
        match view.published:
            case Published.CONNECTED:
                lost_at = self._lost_at.pop(account, None)
                if lost_at is not None:
                    self._recovery.setdefault(platform, Histogram()).observe(view.at - lost_at)
            case Published.RETRYING | Published.FATAL if before is Published.CONNECTED:
                if view.last_proof is not None and not _planned(report):
                    if not self._waking:
                        detection = self._detection.setdefault(platform, Histogram())
                        detection.observe(view.at - view.last_proof)
                    self._lost_at[account] = view.at
        if view.published not in (Published.RETRYING, Published.CONNECTING):
            # A person's time, be it to mend or to resume, says nothing about our recovery.
            self._lost_at.pop(account, None)


def _planned(report: Report) -> bool:
    """Whether a connection was replaced and not lost; a doubt still shows the cause before it."""
    cause = report.view.cause
    return report.trigger != Trigger.DOUBT and cause is not None and cause.kind is Kind.RECYCLED
