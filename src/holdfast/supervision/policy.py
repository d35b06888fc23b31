"""How patient, how fast, how loud: every number of the supervision, validated as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

MOST = 31_536_000
"""No number is above it: a year in seconds. The times made of them are shown as dates."""

STEEPEST = 1000
"""The ladder's largest factor: its power stays a number however many failures there are."""


class PolicyError(ValueError):
    """A policy that contradicts itself; the message names each contradiction."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The numbers of one account's supervision. All durations in seconds.

    Raises PolicyError when the numbers contradict each other.
    """

    attempt_timeout: float = 30.0
    """A whole connection attempt: DNS 5, TCP 5, TLS 5, upgrade 10, login 10."""
    step_timeout: float = 10.0
    """One named step of an attempt (waiting for HELLO, for READY, ...)."""

    backoff_first: float = 1.0
    """The ladder's first step; jitter takes up to half of each step."""
    backoff_factor: float = 2.0
    """By how much each step of the ladder is longer than the one before."""
    backoff_cap: float = 60.0
    """The ladder's last step."""
    backoff_slow_cap: float = 300.0
    """The cap while throttled, flapping, or with the breaker open."""

    stable_after: float = 300.0
    """A run of this length resets the counters; a mere connect never does."""
    quick_life: float = 5.0
    """A connection that dies sooner has proved nothing."""
    flap_after: int = 3
    """This many quick lives in a row are a fault of their own."""

    silence_limit: float = 60.0
    """Longest silence before a connection is dead, probe included."""
    probe_grace: float = 20.0
    """How much of the silence limit is left to answer the probe."""
    beat_misses: int = 3
    """Heartbeats in a row not sent or not acknowledged that end a connection."""

    escalate_after: int = 10
    """Consecutive failures after which an error is published and a person is told."""
    breaker_after: int = 10
    """Consecutive failures after which only slow single probes are made."""

    fresh_limit: int | None = None
    """Fresh logins the platform allows in ``fresh_window``; None where it does not count."""
    fresh_window: float = 86_400.0
    """The time over which the platform counts fresh logins."""

    opens_limit: int = 10
    """Hot-loop bound: never more opens than this in ``opens_window``, on any path."""
    opens_window: float = 60.0
    """The window of ``opens_limit`` and ``recycle_limit``."""

    recycle_delay: float = 1.0
    """Longest delay of a planned reconnect; jitter spreads it from 0."""
    recycle_limit: int = 5
    """Immediate reconnects per ``opens_window``; further ones back off."""
    resume_tries: int = 2
    """Failed resumes after which a fresh login is made."""

    conflict_grace: float = 90.0
    """How long a second owner may be our own former self (field reports: 30 to 90 s)."""
    conflict_cap: float = 10.0
    """Longest delay between attempts inside that grace."""
    conflict_recheck: float = 300.0
    """How often an account that another client has taken is tried again."""

    verify_first: float = 300.0
    """First re-verification of a blocked account; doubles up to ``verify_cap``."""
    verify_cap: float = 3_600.0
    """Longest time between two re-verifications."""

    close_timeout: float = 3.0
    """A polite close; then the abort. Together below the 5 s in which every stop ends."""
    abort_timeout: float = 0.5
    """After the abort; then the connection is abandoned."""

    drain_timeout: float = 10.0
    """How long a connection goes on once its successor is ready. DingTalk sends nothing new on it
    10 s after its goodbye."""

    late_after: float = 2.0
    """A deadline noticed later than this was missed by us, not by the peer."""

    label: str = "account"
    """Prefix of the codes of the supervisor's own errors, for example ``qq``."""

    def __post_init__(self) -> None:
        problems = list(self._no_numbers())
        if problems:  # what is no number can not be compared
            raise PolicyError(problems)
        for small, large in (
            ("backoff_first", "backoff_cap"),
            ("backoff_cap", "backoff_slow_cap"),
            ("step_timeout", "attempt_timeout"),
            ("probe_grace", "silence_limit"),
            ("quick_life", "stable_after"),
            ("recycle_limit", "opens_limit"),
            ("conflict_cap", "conflict_grace"),
            ("verify_first", "verify_cap"),
        ):
            if getattr(self, small) > getattr(self, large):
                problems.append(
                    f"{small} ({getattr(self, small)}) must not exceed "
                    f"{large} ({getattr(self, large)})"
                )
        if not 1 <= self.backoff_factor <= STEEPEST:
            problems.append(
                f"backoff_factor must be from 1 to {STEEPEST} (it is {self.backoff_factor})"
            )
        if self.probe_grace >= self.silence_limit:
            problems.append("probe_grace must be shorter than silence_limit")
        if self.close_timeout + self.abort_timeout >= 5.0:
            problems.append(
                "close_timeout + abort_timeout must stay below 5 s, the promised time to stop"
            )
        if problems:
            raise PolicyError(problems)

    def _no_numbers(self) -> Iterator[str]:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "label" or (field.name == "fresh_limit" and value is None):
                continue
            whole = field.type != "float"
            kinds: tuple[type, ...] = (int,) if whole else (int, float)
            if type(value) not in kinds or not (whole or abs(value) < math.inf):
                kind = "whole" if whole else "finite"
                yield f"{field.name} must be a {kind} number (it is {value!r})"
            elif value <= 0:
                yield f"{field.name} must be above 0 (it is {value!r})"
            elif value > MOST:
                yield f"{field.name} must be at most {MOST}"

    def with_(self, overrides: Mapping[str, Any]) -> Policy:
        """A copy with some numbers changed, validated again. Raises PolicyError."""
        return replace(self, **overrides)


PRESETS: dict[str, Mapping[str, Any]] = {
    # The first step is 20 s because jitter takes up to half of it and the platform's users
    # asked for at least 10 s; never above 300 s.
    "dingtalk": {"backoff_first": 20.0, "backoff_cap": 300.0, "label": "dingtalk"},
    "feishu": {"backoff_first": 2.0, "backoff_slow_cap": 60.0, "label": "feishu"},
    # The ladder of a long poller ends at 60 s even past escalation: a poll a minute hurts nobody.
    "telegram": {"backoff_slow_cap": 60.0, "label": "telegram"},
    # session_start_limit: 1000 a day (QQ documentation, GET /gateway/bot).
    "qqbot": {
        "backoff_first": 2.0,
        "escalate_after": 100,
        "fresh_limit": 1000,
        "label": "qq",
    },
    # The first /sync of a large account takes a server longer than any login.
    "matrix": {"attempt_timeout": 60.0, "label": "matrix"},
    # 1000 IDENTIFY a day (past it the token is reset); a heartbeat that is not acknowledged before
    # the next one is due ends the connection (Discord gateway documentation).
    "discord": {"fresh_limit": 1000, "beat_misses": 1, "label": "discord"},
}
"""What differs from the defaults, by platform."""


def preset(platform: str, overrides: Mapping[str, Any] | None = None) -> Policy:
    """The policy of a platform, with the user's own numbers on top. Raises PolicyError."""
    chosen = {"label": platform, **PRESETS.get(platform, {}), **(overrides or {})}
    return Policy(**chosen)
