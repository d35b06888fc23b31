"""Counters over connections, and how slow and how loud they make us. They never block anything."""

from __future__ import annotations

from holdfast.supervision.backoff import jittered, rung
from holdfast.supervision.causes import Cause, Kind
from holdfast.supervision.policy import Policy
from holdfast.supervision.states import Breaker

NO_LIFE = frozenset(
    {
        Kind.UNREACHABLE,
        Kind.TIMEOUT,
        Kind.THROTTLED,
        Kind.LOCAL,
        Kind.CREDENTIALS,
        Kind.REFUSED,
    }
)
"""Kinds that say nothing about the peer's habit of dropping connections it had accepted: it was not
reached, or it gave a reason that only a person can mend."""

SLOW_JITTER = 0.9
"""Slow probes keep close to their cap: their herd has long dispersed, their number matters."""


class Tally:
    """Failures in a row and quick lives in a row; only a stable run resets the failures."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.failures = 0
        self.quick = 0

    def reset(self) -> None:
        """A stable run, or a new configuration."""
        self.failures = self.quick = 0

    def lived(
        self, since: float | None, now: float, kind: Kind, *, was_live: bool, planned: bool
    ) -> bool:
        """A connection ended; whether it was a quick life, which proves nothing.

        ``since`` is when it began to live, None if it never did.
        """
        if since is None:
            return False
        if now - since >= self.policy.quick_life:
            if was_live:
                self.quick = 0
            return False
        # A conflict has its own grace and its own verdict; its short lives are the rival's doing,
        # and those that a trouble of this machine ended (a full disk) are not the peer's either.
        counts = not planned and kind not in (Kind.REPLACED, Kind.LOCAL)
        quick = counts and (was_live or kind not in NO_LIFE)
        self.quick += quick
        return quick

    @property
    def flapping(self) -> bool:
        """Connections keep dying within seconds of their opening."""
        return self.quick >= self.policy.flap_after

    @property
    def exhausted(self) -> bool:
        """Past the escalation threshold: an error is published, and the retries go on."""
        return self.failures >= self.policy.escalate_after

    def breaker(self, *, trying: bool) -> Breaker:
        """The circuit breaker's state; ``trying`` while a connection is open."""
        if self.failures < self.policy.breaker_after:
            return Breaker.CLOSED
        return Breaker.HALF_OPEN if trying else Breaker.OPEN

    def delay(self, kind: Kind, u: float) -> float:
        """The ladder's wait in seconds after a failure of this kind, jittered by ``u``."""
        policy = self.policy
        slow = (
            self.flapping
            or kind is Kind.THROTTLED
            or self.exhausted
            or self.failures >= policy.breaker_after
        )
        if kind is Kind.REPLACED and not self.flapping:
            # Inside the grace the rival may be our own former self: no breaker before its end.
            cap = policy.conflict_cap
        else:
            cap = policy.backoff_slow_cap if slow else policy.backoff_cap
        failures = max(self.failures, policy.breaker_after) if self.flapping else self.failures
        step = rung(failures, first=policy.backoff_first, factor=policy.backoff_factor, cap=cap)
        return jittered(step, u, low=SLOW_JITTER if slow and step == cap else 0.5)

    def escalation(self, last: Cause | None) -> Cause | None:
        """The error of many failures, naming the path of the last one; None below the limits."""
        if last is None:
            return None
        label = self.policy.label
        what = f"last: {last.code}" + (f", {last.message}" if last.message else "")
        if self.exhausted:
            return Cause(
                last.kind,
                f"{label}_reconnect_exhausted",
                f"{self.failures} attempts in a row failed ({what}); Holdfast keeps trying",
                hint=last.hint,
            )
        if self.flapping:
            return Cause(
                last.kind,
                f"{label}_quick_disconnect",
                f"{self.quick} connections in a row died within "
                f"{self.policy.quick_life:g} s ({what}); retries are slowed down",
                hint=last.hint,
            )
        return None
