"""When the next attempt may be made: the ladder and the four floors below which it never goes.

Floors: the server's own wait, the hot-loop bound, the budget of fresh logins, and nothing else.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
from math import isfinite

from holdfast.supervision.events import Memory
from holdfast.supervision.policy import Policy

SCARCE = 0.2
"""Below this share of the login budget, what is left is spread over the time to its reset."""

RESERVE = 0.05
"""This share of the budget is kept for a person's own restarts."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What the platform itself said of the login budget."""

    remaining: int
    total: int
    resets_at: float


class Pace:
    """Remembers opens, logins and server waits of one account; answers ``earliest``."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.wait_until = float("-inf")
        self._opens: deque[float] = deque()
        self._recycles: deque[float] = deque()
        self._fresh: deque[float] = deque()
        self._quota: Quota | None = None

    def restore(self, memory: Memory, now: float) -> None:
        """Take over what survived a restart; what is known at first hand is not counted twice."""
        self.server_wait(now, memory.wait)
        if not self._fresh:
            self._fresh.extend(now - age for age in memory.fresh_ages)

    def memory(self, now: float, *, resumable: bool) -> Memory:
        """What must survive a restart."""
        self._forget(now)
        return Memory(
            wait=max(0.0, self.wait_until - now),
            fresh_ages=tuple(now - at for at in self._fresh),
            resumable=resumable,
        )

    def opened(self, now: float) -> None:
        """An attempt begins."""
        self._opens.append(now)

    def logged_in(
        self, now: float, remaining: int | None, total: int | None, reset_after: float | None
    ) -> None:
        """A fresh login was spent; the platform may have said what is left."""
        self._fresh.append(now)
        if remaining is not None and total and reset_after is not None:
            self._quota = Quota(remaining, total, now + reset_after)

    def recycle(self, now: float) -> bool:
        """Spend one immediate reconnect; False when this window's are used up."""
        while self._recycles and self._recycles[0] + self.policy.opens_window <= now:
            self._recycles.popleft()
        if len(self._recycles) >= self.policy.recycle_limit:
            return False
        self._recycles.append(now)
        return True

    def server_wait(self, now: float, seconds: float) -> None:
        """The server said how long to wait: a floor that only ever grows.

        However long, but never for ever: an infinite wait would be a death in silence.
        """
        if isfinite(seconds):
            self.wait_until = max(self.wait_until, now + seconds)

    def slept(self, seconds: float) -> None:
        """The machine was suspended: for the server that time has passed."""
        self.wait_until -= seconds
        self._fresh = deque(at - seconds for at in self._fresh)
        if self._quota is not None:
            self._quota = replace(self._quota, resets_at=self._quota.resets_at - seconds)

    def earliest(self, wish: float, now: float, *, fresh: bool) -> float:
        """The first moment at or after ``wish`` at which an attempt is allowed."""
        self._forget(now)
        at = max(wish, now, self.wait_until)
        if len(self._opens) >= self.policy.opens_limit:
            at = max(at, self._opens[-self.policy.opens_limit] + self.policy.opens_window)
        if fresh:
            at = max(at, self._budgeted(now))
        return at

    def budget(self, now: float) -> Quota | None:
        """The tighter of our own count and the platform's; None where nobody counts."""
        self._forget(now)
        own = None
        limit = self.policy.fresh_limit
        if limit is not None:
            oldest = self._fresh[0] if self._fresh else now
            own = Quota(limit - len(self._fresh), limit, oldest + self.policy.fresh_window)
        known = [quota for quota in (own, self._quota) if quota is not None]
        return min(known, key=lambda quota: quota.remaining / quota.total, default=None)

    def _budgeted(self, now: float) -> float:
        quota = self.budget(now)
        if quota is None or quota.remaining > quota.total * SCARCE or not self._fresh:
            return now
        spare = quota.remaining - quota.total * RESERVE
        if spare < 1:
            return quota.resets_at
        return self._fresh[-1] + (quota.resets_at - now) / spare

    def _forget(self, now: float) -> None:
        # The very sums the floors are made of: rounded otherwise, one more might slip through.
        while self._opens and self._opens[0] + self.policy.opens_window <= now:
            self._opens.popleft()
        while self._fresh and self._fresh[0] + self.policy.fresh_window <= now:
            self._fresh.popleft()
        if self._quota is not None and self._quota.resets_at <= now:
            self._quota = None
