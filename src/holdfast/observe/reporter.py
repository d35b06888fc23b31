"""Tells what the supervisors report: one log line per change that matters, and the history.

A long outage is one line when it begins, one when it is escalated, one when it ends; the attempts
in between are in the history and in the counters.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from holdfast.store.protocol import Transition
from holdfast.supervision import Published, Report, State, View

log = logging.getLogger("holdfast")

_QUIET = frozenset({"silence or wake-up", "proof of life"})
"""Triggers that are no change for anybody but the machine itself."""


@dataclass(slots=True)
class _Told:
    state: Published = Published.STOPPED
    escalation: str = ""
    causes: set[str] = field(default_factory=set)


class Reporter:
    """Logs reports of all accounts and turns them into lines of the history."""

    def __init__(self) -> None:
        self._told: dict[str, _Told] = {}

    def report(self, account: str, report: Report, wall: float) -> Transition | None:
        """Log what is new; the transition to store, or None when it is not worth a line."""
        view = report.view
        self._log(account, report)
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

    def _log(self, account: str, report: Report) -> None:
        view, told = report.view, self._told.setdefault(account, _Told())
        state, before = view.published, told.state
        told.state = state
        if state is not before:
            self._changed(account, view, before, told)
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
                down = view.at - view.outage_since if view.outage_since is not None else 0.0
                log.info(
                    "connected account=%s generation=%d after=%.1fs attempts=%d",
                    account,
                    view.generation,
                    down,
                    view.attempt,
                )
                told.causes.clear()
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
