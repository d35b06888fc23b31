"""An alert in words for people, and as a document for programs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from holdfast import durations
from holdfast.observe.alerts import Alert, Line, What
from holdfast.observe.status import CauseStatus, cause_status
from holdfast.supervision import Who

MOST_LINES = 20
"""Accounts an alert names; of more, their number is told."""

LONGEST_CAUSE = 300
"""Characters of what a platform said that fit into a chat."""

VERSION = 1
"""Changes when a field of the document changes its meaning or goes."""


class AlertLine(msgspec.Struct, frozen=True, kw_only=True):
    """One account of an alert."""

    account: str
    """Its name in the configuration."""
    platform: str
    """As in the configuration."""
    what: What
    """``down``, ``flapping``, ``fatal``, ``still-fatal`` or ``back``."""
    since: float
    """When the incident began, in Unix seconds."""
    lasted: float
    """Seconds from then until now, or until it was back."""
    again: bool
    """It was said to be back before, and did not hold."""
    cause: CauseStatus | None
    """Why it was lost, as in the status; what a person must do is its ``hint``."""
    attempts: int
    """Failures in a row."""
    caught_up: int
    """With ``back``: messages of the outage that were received afterwards."""
    gap: bool
    """With ``back``: other messages of the outage may be missing; ``holdfast gaps`` lists it."""


class AlertDocument(msgspec.Struct, frozen=True, kw_only=True):
    """What a web hook and a command are given."""

    version: int = VERSION
    """Changes when a field changes its meaning or goes."""
    id: str
    """The same on every try to deliver it."""
    at: float
    """When it was written, in Unix seconds."""
    test: bool = False
    """It was asked for by ``holdfast alerts test``."""
    text: str
    """All of it in words."""
    shared: str = ""
    """What the accounts that are down have in common: ``network``, a platform, or nothing."""
    accounts: tuple[AlertLine, ...] = ()
    """The accounts it is about."""


def document(id: str, alert: Alert, at: float, wall: Callable[[float], float]) -> AlertDocument:
    """An alert for programs; ``wall`` turns its times into Unix seconds."""
    return AlertDocument(
        id=id,
        at=at,
        text=text(alert),
        shared=alert.shared,
        accounts=tuple(
            AlertLine(
                account=line.account,
                platform=line.platform,
                what=line.what,
                since=wall(line.since),
                lasted=line.lasted,
                again=line.again,
                cause=cause_status(line.cause),
                attempts=line.attempts,
                caught_up=line.caught_up,
                gap=line.gap,
            )
            for line in alert.lines
        ),
    )


def text(alert: Alert) -> str:
    """An alert for people, a line per account and one for what they have in common."""
    lines = sorted(alert.lines, key=lambda line: (_GRAVE.index(line.what), line.account))
    parts = [_shared(alert)] if alert.shared else []
    parts += [_sentence(line) for line in lines[:MOST_LINES]]
    if len(lines) > MOST_LINES:
        parts.append(f"and {len(lines) - MOST_LINES} more; `holdfast status` shows all")
    return "\n".join(parts)


_GRAVE = [What.FATAL, What.STILL_FATAL, What.FLAPPING, What.DOWN, What.BACK]
"""What a reader needs first."""


def _shared(alert: Alert) -> str:
    number = sum(line.what is What.DOWN for line in alert.lines)
    if alert.shared == "network":
        return (
            f"No account is connected, {number} were lost together: look at this machine's "
            "network, DNS and proxy first."
        )
    return f"All {number} accounts of {alert.shared} were lost together; the others work."


def _sentence(line: Line) -> str:
    return f"{line.account} ({line.platform}) " + "; ".join(_clauses(line))


def _clauses(line: Line) -> Iterator[str]:
    lasted = durations.say(line.lasted)
    again = " again" if line.again else ""
    match line.what:
        case What.BACK:
            yield f"is back after {lasted}" + _caught_up(line.caught_up)
            if line.gap:
                yield "messages of that time may be missing, see `holdfast gaps`"
            return
        case What.DOWN:
            yield f"is down{again}, for {lasted}"
        case What.FLAPPING:
            yield f"flaps{again}, for {lasted}: its connections die within seconds"
        case What.FATAL:
            yield f"needs you{again}: it can not connect by itself"
        case What.STILL_FATAL:
            yield f"still needs you: it has been down for {lasted}"
    if line.cause is not None:
        yield f"why: {_why(line)}"
        acts = line.cause.rule.who is Who.OPERATOR
        yield f"what to do: {line.cause.advice}" if acts else line.cause.advice


def _why(line: Line) -> str:
    assert line.cause is not None
    said = " ".join(line.cause.message.split())[:LONGEST_CAUSE]
    return f"{said} [{line.cause.kind.value}: {line.cause.code}]".lstrip()


def _caught_up(number: int) -> str:
    if not number:
        return ""
    return f", {number} {'message' if number == 1 else 'messages'} caught up"
