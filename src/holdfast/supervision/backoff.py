"""The back-off ladder: how long to wait after the n-th failure in a row."""

from __future__ import annotations

_MAX_DOUBLINGS = 64
"""Beyond this every ladder is at its cap; it keeps the power finite."""


def rung(failures: int, *, first: float, factor: float, cap: float) -> float:
    """The ladder's step in seconds after ``failures`` failures (at least 1), before jitter."""
    return min(cap, first * factor ** min(max(failures, 1) - 1, _MAX_DOUBLINGS))


def jittered(step: float, u: float, *, low: float = 0.5) -> float:
    """A delay spread over [low, 1] of the step by ``u`` in [0, 1), so that herds disperse."""
    return step * (low + (1.0 - low) * u)
