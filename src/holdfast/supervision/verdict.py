"""When a person must act. Only the peer's own word blocks an account, and never its first one."""

from __future__ import annotations

from holdfast.supervision.causes import Cause, Kind
from holdfast.supervision.policy import Policy


class Court:
    """Weighs what a peer says of our credentials, and keeps the verdict.

    One false 401 must not silence a bot for good: a verdict on an account that was well is
    confirmed by an independent call before it blocks, and a blocked one is verified again by
    itself, ever more slowly.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.verdict: Cause | None = None
        self._was_well = False
        self._confirming = False
        self._delay = policy.verify_first
        self._conflict_since: float | None = None

    def well(self) -> None:
        """The peer let us in."""
        self._was_well, self._confirming, self.verdict = True, False, None

    def cleared(self) -> None:
        """The credentials were found good: what was said of them was a passing error."""
        self.verdict, self._confirming = None, False

    def stable(self) -> None:
        """A stable run: old quarrels are over."""
        self._conflict_since = None
        self._delay = self.policy.verify_first

    def lift(self) -> None:
        """Forget a verdict: whoever kicks or reconfigures says that he has acted."""
        self.cleared()
        self.stable()
        self._was_well = False

    @property
    def verify(self) -> bool:
        """The next attempt only checks the credentials."""
        blocked_by = self.verdict.kind if self.verdict is not None else None
        return self._confirming or blocked_by in (Kind.CREDENTIALS, Kind.REFUSED)

    def convicts(self, cause: Cause, now: float, *, verified: bool) -> bool:
        """Whether this word of the peer's blocks; ``verified`` if an independent call got it."""
        if cause.kind is Kind.REPLACED:
            if self._conflict_since is None:
                self._conflict_since = now
            return now - self._conflict_since >= self.policy.conflict_grace
        if verified or not self._was_well:
            return True
        self._was_well, self._confirming = False, True
        return False

    def block(self, verdict: Cause) -> float:
        """Keep the verdict; the seconds until it is looked at again."""
        self.verdict, self._confirming = verdict, False
        if verdict.kind is Kind.REPLACED:
            return self.policy.conflict_recheck
        delay, self._delay = self._delay, min(self._delay * 2, self.policy.verify_cap)
        return delay
