"""What the supervision core costs per inbound frame, against a floor in the same run.

The floor is an empty method that dispatches on the event's class the way the core does. Prints one
JSON object; times are microseconds per event, the best of several rounds (the least disturbed).

    python bench/core.py
"""

from __future__ import annotations

import json
import timeit
from collections.abc import Callable

from holdfast.supervision import Alive, BeatAcked, Event, Policy, Ready, Start, Supervisor

ROUNDS = 7
EVENTS = 100_000
TARGET = 2.0
"""Microseconds per `Alive`: a thousand frames a second then cost 0.2 % of a core."""


class Floor:
    """Takes an event in and does nothing with it."""

    def handle(self, event: Event, now: float) -> list[object]:
        match event:
            case Alive():
                pass
            case _:
                pass
        return []


def live() -> Supervisor:
    """A supervisor on a live connection."""
    supervisor = Supervisor(Policy(), lambda: 0.5)
    supervisor.handle(Start(), 0.0)
    supervisor.handle(Ready(1, beat=30.0), 0.1)
    return supervisor


def microseconds(handle: Callable[[Event, float], object], event: Event) -> float:
    """The best round's time per event."""
    best = min(timeit.repeat(lambda: handle(event, 1.0), number=EVENTS, repeat=ROUNDS))
    return round(best / EVENTS * 1e6, 3)


def main() -> None:
    floor = microseconds(Floor().handle, Alive(1))
    alive = microseconds(live().handle, Alive(1))
    result = {
        "floor_us": floor,
        "alive_us": alive,
        "beat_acked_us": microseconds(live().handle, BeatAcked(1)),
        "stale_us": microseconds(live().handle, Alive(7)),
        "next_deadline_us": microseconds(lambda *_: live_deadline(), Alive(1)),
        "alive_to_floor": round(alive / floor, 2),
        "target_us": TARGET,
        "within_target": alive <= TARGET,
    }
    print(json.dumps(result, indent=2))


_LIVE = live()


def live_deadline() -> float | None:
    """The question the shell asks after each event."""
    return _LIVE.next_deadline()


if __name__ == "__main__":
    main()
