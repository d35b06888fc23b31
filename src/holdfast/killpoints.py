"""T14: named places at which the process kills itself when told to, to prove what a crash leaves.

``HOLDFAST_KILL_POINT=after-persist`` makes the first `reach` of that point the end of the process,
``after-persist:3`` the third. The end is SIGKILL: no clean-up, no flush, no ``atexit``. The
variable is read once, when this module is imported; without it `reach` is one comparison.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Iterator
from typing import Final, Literal, get_args

Point = Literal[
    "after-receive",
    "after-persist",
    "after-ack",
    "in-handler",
    "before-send",
    "after-send-before-record",
]

POINTS: Final[tuple[Point, ...]] = get_args(Point)

VARIABLE: Final = "HOLDFAST_KILL_POINT"


class BadKillPoint(ValueError):
    """The variable names no kill point, or no positive pass. The lab's mistake, not the user's."""


class _Charge:
    """An armed point: which, and how many passes are left."""

    __slots__ = ("_nth", "_passes", "_point")

    def __init__(self, point: str, nth: int) -> None:
        self._point, self._nth = point, nth
        # A count is atomic: the store reaches its point from a thread of its own.
        self._passes: Iterator[int] = itertools.count(1)

    def reach(self, point: str) -> None:
        if point not in POINTS:
            raise BadKillPoint(_unknown(point))
        if point == self._point and next(self._passes) == self._nth:
            # Unbuffered, because nothing buffered survives the next line.
            os.write(2, f"holdfast: killed at {point}, pass {self._nth}\n".encode())
            os.kill(os.getpid(), signal.SIGKILL)


_charge: _Charge | None = None


def arm(spec: str | None) -> None:
    """Arm the point named by ``spec`` (``point`` or ``point:nth``); None or empty disarms.

    Raises BadKillPoint for an unknown name or a pass that is not a positive integer.
    """
    global _charge
    if not spec:
        _charge = None
        return
    point, colon, count = spec.partition(":")
    if point not in POINTS:
        raise BadKillPoint(_unknown(point))
    if colon and not (count.isascii() and count.isdigit() and int(count) > 0):
        raise BadKillPoint(f"{VARIABLE}={spec}: the pass after the colon must be 1, 2, 3, ...")
    _charge = _Charge(point, int(count or 1))


def reach(point: Point) -> None:
    """Say that execution is at ``point``. Does not return when that is where it must die."""
    if _charge is not None:
        _charge.reach(point)


def _unknown(point: str) -> str:
    return f"{VARIABLE}: no kill point {point!r}; known: {', '.join(POINTS)}"


arm(os.environ.get(VARIABLE))
