"""Connections beside the current one: a successor being dialled, former ones on their way out.

A peer that announces the end of a connection gets its successor before that end, so that nobody is
deaf in between. Each connection here has a deadline and ends by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from math import inf

from holdfast.supervision.events import Abandon, Abort, Close, Effect
from holdfast.supervision.policy import Policy


class Stage(Enum):
    """How far a connection beside the current one has come."""

    DIALLING = "dialling"
    DRAINING = "draining"
    CLOSING = "closing"
    ABORTED = "aborted"


@dataclass(slots=True)
class _Side:
    stage: Stage
    by: float


class Overlap:
    """Bookkeeping of the connections beside the current one, by generation."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.successor: int | None = None
        self._sides: dict[int, _Side] = {}

    def __contains__(self, generation: int) -> bool:
        return generation in self._sides

    def __bool__(self) -> bool:
        return bool(self._sides)

    def deadline(self) -> float:
        """When `tick` is due; infinite without any connection here."""
        return min((side.by for side in self._sides.values()), default=inf)

    def dial(self, generation: int, now: float) -> None:
        """A successor is being dialled."""
        self.successor = generation
        self._sides[generation] = _Side(Stage.DIALLING, now + self.policy.attempt_timeout)

    def takes_over(self) -> float:
        """The successor becomes the current connection; the deadline of its attempt."""
        assert self.successor is not None
        side = self._sides.pop(self.successor)
        self.successor = None
        return side.by

    def drain(self, generation: int, now: float) -> None:
        """A former connection may still bring what was sent to it."""
        self._sides[generation] = _Side(Stage.DRAINING, now + self.policy.drain_timeout)

    def leave(self, generation: int, by: float, *, aborted: bool) -> None:
        """A former connection is being closed already, and keeps its deadline."""
        self._sides[generation] = _Side(Stage.ABORTED if aborted else Stage.CLOSING, by)

    def ended(self, generation: int) -> None:
        """A connection beside the current one is gone."""
        del self._sides[generation]
        if generation == self.successor:
            self.successor = None

    def close(self, now: float) -> list[Effect]:
        """All must go; what is already going keeps its deadline."""
        staying = (Stage.DIALLING, Stage.DRAINING)
        return [
            self._close(generation, side, now)
            for generation, side in self._sides.items()
            if side.stage in staying
        ]

    def tick(self, now: float) -> list[Effect]:
        """What is due: politely first, then without waiting, then forgotten."""
        due = [(generation, side) for generation, side in self._sides.items() if side.by <= now]
        return [self._next(generation, side, now) for generation, side in due]

    def _next(self, generation: int, side: _Side, now: float) -> Effect:
        match side.stage:
            case Stage.CLOSING:
                side.stage, side.by = Stage.ABORTED, now + self.policy.abort_timeout
                return Abort(generation)
            case Stage.ABORTED:
                self.ended(generation)
                return Abandon(generation)
            case _:
                return self._close(generation, side, now)

    def _close(self, generation: int, side: _Side, now: float) -> Effect:
        if generation == self.successor:
            self.successor = None
        side.stage, side.by = Stage.CLOSING, now + self.policy.close_timeout
        return Close(generation)
