"""Times and accounts in plain words."""

from __future__ import annotations

import time
from collections.abc import Iterator

from holdfast import durations
from holdfast.observe.status import AccountStatus, CauseStatus, ProofStatus, believed

STATES = {
    "connecting": "is connecting",
    "connected": "is connected",
    "retrying": "is not connected; Holdfast keeps trying",
    "fatal": "is not connected, and only a person can change that",
    "stopping": "is being stopped",
    "stopped": "is stopped",
}
"""Every published state."""


def ago(at: float | None, now: float) -> str:
    """How long ago a moment was."""
    return "never" if at is None else f"{durations.say(now - at)} ago"


def clock(at: float) -> str:
    """A moment in local time."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def counted(number: int, one: str, many: str) -> str:
    """``1 message``, ``2 messages``."""
    return f"{number} {one if number == 1 else many}"


def shown_state(account: AccountStatus, now: float, doubted: bool) -> str:
    """The state for people: what may be believed, and unknown when nothing may."""
    return f"unknown (last: {account.state})" if doubted else believed(account, now)


def needs_person(account: AccountStatus) -> bool:
    """Whether somebody must act. A paused account is as somebody wants it."""
    return not account.paused and (account.attention or account.state == "fatal")


def flags(account: AccountStatus) -> list[str]:
    """What is worth knowing beside the state."""
    candidates = {
        "paused": account.paused,
        "silent, being probed": account.suspect,
        "flapping": account.flapping,
        "needs attention": needs_person(account),
    }
    return [flag for flag, is_set in candidates.items() if is_set]


def explanation(account: AccountStatus, now: float, doubt: str) -> list[tuple[str, str]]:
    """An account in labelled sentences; ``doubt`` is why the status can not be believed."""
    return list(_sentences(account, now, doubt))


def _sentences(account: AccountStatus, now: float, doubt: str) -> Iterator[tuple[str, str]]:
    yield "State", _state(account, now, doubt)
    if account.paused:
        yield "Paused", "by an operator; `holdfast resume` connects it again"
    elif not doubt and believed(account, now) != account.state:
        yield "Doubt", "it claims to be connected, but its last proof of life is too old"
    if account.suspect:
        yield "Silent", "for longer than usual; a probe is out"
    if account.flapping:
        yield "Flapping", "connections die within seconds of their opening"
    if not account.paused:
        yield from _cause(account)
    yield from _next(account, now)
    yield "Proof of life", _proof(account.transport, now)
    yield "Last message in", _proof(account.inbound, now)
    yield "Last message out", _proof(account.outbound, now)
    if account.gap is not None:
        since, until = float(account.gap["since"]), float(account.gap["until"])
        yield (
            "Gap",
            f"messages from {clock(since)} to {clock(until)} may be missing: "
            f"{account.gap['reason']}",
        )
    yield "Waiting", _waiting(account)
    if account.dead or account.unknown:
        yield (
            "Trouble",
            f"{counted(account.dead, 'message', 'messages')} given up, "
            f"{counted(account.unknown, 'send', 'sends')} of unknown fate, since the start; "
            "`holdfast dead list` shows what waits for a person",
        )


def _state(account: AccountStatus, now: float, doubt: str) -> str:
    since = f"since {clock(account.since)} ({durations.say(now - account.since)})"
    if doubt:
        return f"unknown: {doubt}; it was {account.state} {since}"
    state = believed(account, now)
    return f"{state}: {STATES.get(state, 'is in this state')}, {since}"


def _cause(account: AccountStatus) -> Iterator[tuple[str, str]]:
    cause = account.cause
    if account.state == "connected":
        if cause is not None:
            yield "Last trouble", _why(cause)
        yield "Who must act", "nobody"
        return
    if account.outage_since is not None:
        yield "Down since", clock(account.outage_since)
    if cause is None:
        yield "Why", "no failure so far"
        yield "Who must act", "nobody"
        return
    yield "Why", _why(cause)
    worst = cause
    if account.escalation is not None and account.escalation.code != cause.code:
        yield "Escalated", _why(account.escalation)
        worst = account.escalation if account.escalation.who_acts != "nobody" else cause
    yield "Who must act", worst.who_acts
    yield "What to do", worst.hint


def _why(cause: CauseStatus) -> str:
    text = f"{cause.message} " if cause.message else ""
    return f"{text}[{cause.kind}: {cause.code}]"


def _next(account: AccountStatus, now: float) -> Iterator[tuple[str, str]]:
    if account.next_retry_at is not None and account.state in ("retrying", "fatal"):
        wait = account.next_retry_at - now
        when = f"in {durations.say(wait)}" if wait > 0 else "now"
        failures = f", after {counted(account.attempt, 'failure', 'failures')}"
        yield "Next try", when + (failures if account.attempt else "")
    elif account.state == "connecting" and account.step:
        yield "Step", account.step


def _proof(proof: ProofStatus, now: float) -> str:
    return ago(proof.at, now)


def _waiting(account: AccountStatus) -> str:
    inbox = counted(account.inbox, "message", "messages")
    outbox = counted(account.outbox, "reply", "replies")
    return f"{inbox} to be answered, {outbox} to be sent"
