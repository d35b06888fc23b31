"""When the simulated Feishu platform pushes an event, and when it repeats it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from holdfast.lab.simulators.feishu_platform import OpenPlatform
from holdfast.lab.simulators.feishu_rules import Event

Attempt = Callable[[Event], None]


class Deliveries:
    """The events that nobody has acknowledged yet, each tried until somebody does.

    "Handle within 3 s, otherwise the event is redelivered after 15 s, 5 min, 1 h and 6 h" (event
    subscription page). The seconds are counted from the try before. A try that finds no connection
    counts as one without acknowledgement: nothing is written about it. After the last try an event
    is ``lost``.
    """

    def __init__(self, lab: OpenPlatform, attempt: Attempt) -> None:
        self._lab, self._attempt = lab, attempt
        self._open: dict[str, asyncio.TimerHandle] = {}
        self._extra: set[asyncio.TimerHandle] = set()

    def begin(self, event: Event) -> None:
        """Something happens: try at once."""
        self._try(event, () if event.callback else self._lab.redelivery)
        if self._lab.faults.take("dup_event") is not None:
            self._attempt(event)

    def _try(self, event: Event, repeats: tuple[float, ...]) -> None:
        loop = asyncio.get_running_loop()
        if repeats:
            handle = loop.call_later(repeats[0], self._try, event, repeats[1:])
        else:
            handle = loop.call_later(self._lab.ack_within, self._give_up, event)
        self._open[event.id] = handle
        self._attempt(event)

    def _give_up(self, event: Event) -> None:
        del self._open[event.id]
        self._lab.note("lost", id=event.key, reason="not acknowledged")

    def acked(self, event: Event) -> None:
        """Somebody acknowledged it in time: it is not repeated."""
        if self._lab.faults.take("ack_lost") is not None:
            return
        self._lab.note("ack", id=event.key)
        if (handle := self._open.pop(event.id, None)) is not None:
            handle.cancel()
            if (fault := self._lab.faults.take("dup_after_ack")) is not None:
                self.later(fault.get("delay", 0.0), self._attempt, event)

    def failed(self, event: Event, reason: Any) -> None:
        """Somebody answered otherwise, or too late; the repeat comes when it is due."""
        self._lab.note("nack", id=event.key, reason=reason)

    def later(self, delay: float, work: Callable[..., None], *args: Any) -> None:
        """Call ``work`` after ``delay`` seconds, unless ``stop`` comes first."""
        loop = asyncio.get_running_loop()
        self._extra = {handle for handle in self._extra if handle.when() > loop.time()}
        self._extra.add(loop.call_later(delay, work, *args))

    def stop(self) -> None:
        """Repeat nothing any more."""
        for handle in (*self._open.values(), *self._extra):
            handle.cancel()
        self._open.clear()
        self._extra.clear()
