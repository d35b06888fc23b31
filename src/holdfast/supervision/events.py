"""Events (what happened) and effects (what to do now): plain values, all times in seconds."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.supervision.causes import Cause
from holdfast.supervision.policy import Policy
from holdfast.supervision.view import View


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What must survive a restart, in relative seconds so that no clock is trusted.

    A server's wait is a floor that a restart does not lift, and logins already spent stay spent.
    """

    wait: float = 0.0
    """Seconds the server still wants us to wait."""
    fresh_ages: tuple[float, ...] = ()
    """Ages of the fresh logins inside the budget's window, oldest first."""
    resumable: bool = False
    """Whether a stored session may be resumed."""


# -- events ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Somebody wants the account up."""

    memory: Memory | None = None


@dataclass(frozen=True, slots=True)
class Stop:
    """Somebody wants the account down. A level, not an edge: it is never lost."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The deadline has passed, or may have."""


@dataclass(frozen=True, slots=True)
class Kick:
    """Try now. By an operator it also lifts a verdict; by the network it only ends a back-off."""

    operator: bool = False


@dataclass(frozen=True, slots=True)
class Woke:
    """The machine was suspended, or the kernel has news of the network (``slept`` is 0): every
    proof of life is in doubt."""

    slept: float
    """Seconds in which the monotonic clock stood still."""


@dataclass(frozen=True, slots=True)
class Reconfigured:
    """Credentials or policy changed: verdicts and waits of the old ones are void."""

    policy: Policy


@dataclass(frozen=True, slots=True)
class Refused:
    """Our credentials were refused elsewhere than on the connection: by a send."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class FromConnection:
    """Base of all events of one connection; another generation's event is dropped."""

    generation: int


@dataclass(frozen=True, slots=True)
class Step(FromConnection):
    """The attempt reached a named step, which must finish within ``limit`` seconds."""

    name: str
    limit: float | None = None


@dataclass(frozen=True, slots=True)
class Ready(FromConnection):
    """The protocol's own proof of a working login (READY, first poll answered)."""

    beat: float | None = None
    """Heartbeat interval; None where the platform has none."""
    silence: float | None = None
    """Longest legitimate silence; None takes the policy's."""
    grace: float | None = None
    """How long a probe may stay unanswered; None takes the policy's."""
    resumable: bool = False
    """Whether this session can be resumed after a loss."""


@dataclass(frozen=True, slots=True)
class Alive(FromConnection):
    """Something came in from the peer."""


@dataclass(frozen=True, slots=True)
class BeatAcked(FromConnection):
    """The peer acknowledged a heartbeat."""


@dataclass(frozen=True, slots=True)
class BeatFailed(FromConnection):
    """A heartbeat could not be sent or was refused."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class GoingAway(FromConnection):
    """The peer has announced the planned end of this connection, and takes a second one."""


@dataclass(frozen=True, slots=True)
class Budget(FromConnection):
    """A fresh login was spent, and what the platform says is left of its quota."""

    remaining: int | None = None
    total: int | None = None
    reset_after: float | None = None


@dataclass(frozen=True, slots=True)
class Ended(FromConnection):
    """The connection's task is done: by return, exception or cancellation, all the same."""

    cause: Cause


@dataclass(frozen=True, slots=True)
class Verified(FromConnection):
    """The credentials were checked by an independent call and found good."""


Event = (
    Start
    | Stop
    | Tick
    | Kick
    | Woke
    | Reconfigured
    | Refused
    | Step
    | Ready
    | Alive
    | BeatAcked
    | BeatFailed
    | GoingAway
    | Budget
    | Ended
    | Verified
)


# -- effects --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Open:
    """Begin a connection; with ``verify`` only check the credentials.

    A ``successor`` is opened beside the current connection, which goes on meanwhile.
    """

    generation: int
    resume: bool
    verify: bool = False
    successor: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    """Ask the peer to prove that it is there."""

    generation: int


@dataclass(frozen=True, slots=True)
class Beat:
    """Send a heartbeat."""

    generation: int


@dataclass(frozen=True, slots=True)
class Close:
    """End the connection politely; an abort follows if that takes too long."""

    generation: int


@dataclass(frozen=True, slots=True)
class Abort:
    """End the connection now, without waiting for anything."""

    generation: int


@dataclass(frozen=True, slots=True)
class Abandon:
    """The connection ignores even the abort: forget it and go on."""

    generation: int


@dataclass(frozen=True, slots=True)
class Report:
    """Something worth telling changed; status, history, metrics and alerts all read this."""

    view: View
    trigger: str


Effect = Open | Probe | Beat | Close | Abort | Abandon | Report
