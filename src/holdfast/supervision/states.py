"""States, published names, and the transition table: the whole machine on one page.

Rules of this file: every state change the machine makes is a row of `TRANSITIONS`; a change that is
no row raises at once. The diagram in the documentation is generated from the same rows.
"""

from __future__ import annotations

from enum import Enum, StrEnum


class State(Enum):
    """Where an account's connection stands. Every state except STOPPED has a deadline."""

    STOPPED = "stopped"
    CONNECTING = "connecting"
    LIVE = "live"
    SUSPECT = "suspect"
    CLOSING = "closing"
    BACKOFF = "backoff"
    BLOCKED = "blocked"


class Published(StrEnum):
    """What the outside world is told."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    RETRYING = "retrying"
    FATAL = "fatal"
    STOPPING = "stopping"
    STOPPED = "stopped"


class Breaker(StrEnum):
    """The circuit breaker: a view of the failure counter, not a second machine."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Trigger(StrEnum):
    """What moves the machine from one state to the next."""

    START = "start"
    STOP = "stop"
    READY = "ready"
    PROOF = "proof of life"
    DOUBT = "silence or wake-up"
    ENDED = "connection ended"
    VERDICT = "a person must act"
    VERIFIED = "credentials verified"
    GIVE_UP = "limit passed"
    DUE = "retry due"
    KICK = "kick"
    REPLACE = "planned replacement"
    ROTATE = "successor sought"
    ROTATED = "successor ready"


ACTS: dict[State, str] = {
    State.STOPPED: "nobody",
    State.CONNECTING: "system",
    State.LIVE: "nobody",
    State.SUSPECT: "system",
    State.CLOSING: "system",
    State.BACKOFF: "system",
    State.BLOCKED: "person",
}

_UP = (State.CONNECTING, State.LIVE, State.SUSPECT)

TRANSITIONS: frozenset[tuple[State, Trigger, State]] = frozenset(
    [
        (State.STOPPED, Trigger.START, State.BACKOFF),
        (State.BACKOFF, Trigger.DUE, State.CONNECTING),
        (State.BLOCKED, Trigger.DUE, State.CONNECTING),
        (State.BLOCKED, Trigger.KICK, State.BACKOFF),
        (State.CONNECTING, Trigger.READY, State.LIVE),
        (State.LIVE, Trigger.DOUBT, State.SUSPECT),
        (State.SUSPECT, Trigger.PROOF, State.LIVE),
        (State.LIVE, Trigger.ROTATED, State.LIVE),
        (State.SUSPECT, Trigger.ROTATED, State.LIVE),
        (State.CLOSING, Trigger.ROTATED, State.LIVE),
        *(
            (state, Trigger.ENDED, State.CONNECTING)
            for state in (State.LIVE, State.SUSPECT, State.CLOSING)
        ),
        *((state, Trigger.GIVE_UP, State.CLOSING) for state in _UP),
        *((state, Trigger.STOP, State.CLOSING) for state in _UP),
        *((state, Trigger.REPLACE, State.CLOSING) for state in _UP),
        *((state, Trigger.ENDED, State.BACKOFF) for state in (*_UP, State.CLOSING)),
        *((state, Trigger.VERDICT, State.BLOCKED) for state in (*_UP, State.CLOSING)),
        (State.CONNECTING, Trigger.VERIFIED, State.BACKOFF),
        (State.CLOSING, Trigger.STOP, State.STOPPED),
        *((state, Trigger.STOP, State.STOPPED) for state in (State.BACKOFF, State.BLOCKED)),
        # Former connections may still be on their way out.
        *((state, Trigger.STOP, State.CLOSING) for state in (State.BACKOFF, State.BLOCKED)),
    ]
)


class IllegalTransition(AssertionError):
    """The machine tried a change that the table does not have: a defect of Holdfast."""


def check(state: State, trigger: Trigger, target: State) -> None:
    """Raise IllegalTransition unless the change is a row of the table."""
    if (state, trigger, target) not in TRANSITIONS:
        raise IllegalTransition(f"{state.value} --{trigger.value}--> {target.value}")


def diagram() -> str:
    """The table as a Mermaid state diagram; the documentation holds exactly this text."""
    lines = ["stateDiagram-v2", "    [*] --> STOPPED"]
    order = list(State)
    triggers = list(Trigger)
    rows: dict[tuple[State, State], list[Trigger]] = {}
    for state, trigger, target in TRANSITIONS:
        rows.setdefault((state, target), []).append(trigger)
    for state, target in sorted(rows, key=lambda r: (order.index(r[0]), order.index(r[1]))):
        labels = sorted(rows[state, target], key=triggers.index)
        lines.append(
            f"    {state.name} --> {target.name}: {', '.join(label.value for label in labels)}"
        )
    return "\n".join(lines) + "\n"
