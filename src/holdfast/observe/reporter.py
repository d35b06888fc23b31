"""Tells what the supervisors report: one log line per change that matters, and the history.

A long outage is one line when it begins, one when it is escalated, one when it ends; the attempts
in between are in the history and in the counters. Of a connection that comes and goes, what it was
like is told each time it has lasted.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from holdfast.store.protocol import Transition
from holdfast.supervision import Published, Report, State, View

log = logging.getLogger("holdfast")

_QUIET = frozenset({"silence or wake-up", "proof of life"})
"""Triggers that are no change for anybody but the machine itself."""


LASTS = 300.0
"""Seconds in one state after which it is told although the outage was: those of a stable run, and
the longest back-off, so that reports come at least as often. Twelve lines an hour at most."""


@dataclass(slots=True)
class _Told:
    state: Published = Published.STOPPED
    before: Published = Published.STOPPED
    """What was published before, told or not."""
    escalation: str = ""
    causes: set[str] = field(default_factory=set)
    outage: float | None = None
    """When the outage began that was told last, on the supervisor's clock."""
    restored: bool = False
    """Whether it was also told that it ended, so that it is known to come and go."""
    attempts: int = 0
    """The most failures in a row of that outage."""


class Reporter:
    """Logs reports of all accounts and turns them into lines of the history."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}

    def report(self, account: str, report: Report, wall: float) -> Transition | None:
        """Log what is new; the transition to store, or None when it is not worth a line."""
        self._log(account, report)
        return transition_of(account, report, wall)

    def _log(self, account: str, report: Report) -> None:
        view, told = report.view, self._told.setdefault(account, _Told())
        if view.outage_since not in (None, told.outage):
            told.outage, told.restored, told.attempts = view.outage_since, False, 0
        told.attempts = max(told.attempts, view.attempt)
        if view.published is not told.state and _worth_a_line(view, told):
            told.state = view.published
            self._changed(account, view, told.before, told)
        told.before = view.published
        if view.outage_since is None:
            told.outage = None
        escalation = view.escalation.code if view.escalation else ""
        if escalation and escalation != told.escalation:
            assert view.escalation is not None
            log.error(
                "escalated account=%s code=%s attempt=%d message=%r",
                account,
                escalation,
                view.attempt,
                view.escalation.message,
            )
        told.escalation = escalation

    def _changed(self, account: str, view: View, before: Published, told: _Told) -> None:
        cause = view.cause
        match view.published:
            case Published.CONNECTED:
                _connected(account, view, told)
            case Published.FATAL if cause is not None:
                log.error(
                    "fatal account=%s code=%s message=%r who_acts=%s hint=%r",
                    account,
                    cause.code,
                    cause.message,
                    cause.rule.who.value,
                    cause.advice,
                )
            case Published.RETRYING if cause is not None:
                retry_in = None if view.retry_at is None else round(view.retry_at - view.at, 1)
                level = logging.INFO if cause.code in told.causes else logging.WARNING
                told.causes.add(cause.code)
                log.log(
                    level,
                    "lost account=%s code=%s message=%r was=%s retry_in=%s",
                    account,
                    cause.code,
                    cause.message,
                    before.value,
                    retry_in,
                )
            case other:
                log.info("%s account=%s", other.value, account)


def transition_of(account: str, report: Report, wall: float) -> Transition | None:
    """A report as a line of the history, or None when it is not worth one."""
    view = report.view
    if report.trigger in _QUIET:
        return None
    waits = view.retry_at is not None and view.state in (State.BACKOFF, State.BLOCKED)
    cause = view.cause if view.published is not Published.CONNECTED else None
    return Transition(
        account=account,
        at=wall,
        state=view.published.value,
        trigger=report.trigger,
        generation=view.generation,
        attempt=view.attempt,
        code=cause.code if cause else "",
        message=cause.message if cause else "",
        retry_in=view.retry_at - view.at if waits and view.retry_at is not None else None,
    )


def _connected(account: str, view: View, told: _Told) -> None:
    told.causes.clear()
    if told.outage is None:
        log.info("connected account=%s generation=%d", account, view.generation)
        return
    told.restored = True
    log.info(
        "restored account=%s generation=%d after=%.1fs attempts=%d",
        account,
        view.generation,
        view.since - told.outage,
        told.attempts,
    )


def _worth_a_line(view: View, told: _Told) -> bool:
    """Whether a state that was not told yet is news."""
    if view.outage_since is None or view.published not in (Published.CONNECTED, Published.RETRYING):
        return True
    return not told.restored or view.at - view.since >= LASTS
