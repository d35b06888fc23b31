"""The current connection of an account: what it has shown, and until when it must show more.

A new connection is a new object, so that nothing of a former one can be believed of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from holdfast.supervision.causes import Cause, Kind
from holdfast.supervision.policy import Policy
from holdfast.supervision.pulse import Pulse

EXCUSES = 3
"""Limits in a row that are put off because our own clock was late or the machine slept. Without a
bound a dead connection would be kept for ever where every timer is late."""


@dataclass(slots=True)
class Current:
    """One connection from its dialling to its end; without a generation there is none.

    ``by`` is when what goes on now must have an end: the attempt, the doubt, the closing.
    """

    generation: int | None = None
    verifying: bool = False
    """It only checks the credentials."""
    resuming: bool = False
    """It offers the peer the old session."""
    began_at: float = 0.0
    by: float = inf
    step: str = ""
    step_by: float = inf
    touched_at: float | None = None
    """When the peer first did anything, even if it was only to accept a socket."""
    heard: bool = False
    """Whether anything was received."""
    ready_at: float | None = None
    """When it got ready, until the run counts as stable."""
    pulse: Pulse | None = None
    """Its proofs of life, once it was ready."""
    ours: Cause | None = None
    """Why we are closing it."""
    aborted: bool = False
    _excuses: int = 0

    # -- on its way ---------------------------------------------------------------------------

    def dialling(self, policy: Policy, now: float) -> None:
        """The attempt and its first step get their full limits, from now on."""
        self.by = now + policy.attempt_timeout
        self.step_by = now + policy.step_timeout

    def touch(self, now: float) -> None:
        """The peer did something."""
        if self.touched_at is None:
            self.touched_at = now

    def stepped(self, name: str, by: float, now: float) -> None:
        """The attempt has come to its next step, which has a limit of its own."""
        self.touch(now)
        self.step, self.step_by = name, by

    def overdue(self, label: str) -> Cause:
        """The cause of an attempt that passed a limit; ``label`` begins its code."""
        step = self.step or "connect"
        code = f"{label}_{step.replace(' ', '_')}_timeout"
        return Cause(Kind.TIMEOUT, code, f"no answer in step {step!r}", step=step)

    # -- its life -----------------------------------------------------------------------------

    def lives(self, pulse: Pulse, now: float) -> None:
        """It is ready, and has just proved it."""
        self.ready_at = self.touched_at = now
        self.pulse, self.step = pulse, ""
        self._excuses = 0

    def alive(self, now: float) -> None:
        """Something came in: the only thing that puts a limit off for ever."""
        self.touch(now)
        self.heard = True
        self._excuses = 0
        if self.pulse is not None:
            self.pulse.alive(now)

    def excused(self) -> bool:
        """Whether a limit may be put off once more for a fault of our own."""
        self._excuses += 1
        return self._excuses <= EXCUSES

    def proof_by(self, *, doubted: bool) -> float:
        """When the peer must have proved itself, or a heartbeat is due."""
        assert self.pulse is not None
        due = self.by if doubted else self.pulse.idle_at
        return due if self.pulse.next_beat is None else min(due, self.pulse.next_beat)
