"""The asyncio loop around a supervisor: one timer, effects carried out in order, nothing decided.

An account of the gateway and a supervised SDK are the same shell around different attempts.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

from holdfast.adapter import cause_of
from holdfast.supervision import (
    Abandon,
    Abort,
    Beat,
    Cause,
    Close,
    Effect,
    Ended,
    Event,
    Kick,
    Kind,
    Open,
    Policy,
    Probe,
    Report,
    Start,
    State,
    Stop,
    Supervisor,
    Tick,
    Verified,
    View,
    Woke,
)

log = logging.getLogger("holdfast.account")

Drive = Probe | Beat | Close | Abort | Abandon
"""Effects that an attempt carries out."""


class Attempt(Protocol):
    """One connection, as its shell drives it. What it says comes back through `Shell.post`."""

    def beat(self) -> None:
        """Send a heartbeat."""

    def probe(self) -> None:
        """Ask the peer for proof."""

    def close(self) -> None:
        """End politely."""

    def abort(self) -> None:
        """End now."""

    def abandon(self) -> None:
        """It ignores even that: forget it."""


class Shell(ABC):
    """A supervisor with a clock and a loop. All methods must be called on the loop's thread."""

    def __init__(self, name: str, policy: Policy, rand: Callable[[], float]) -> None:
        self.name = name
        self.supervisor = Supervisor(policy, rand)
        self._attempts: dict[int, Attempt] = {}
        """By generation: the current one, and those beside it while one takes another's place."""
        self._timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    @abstractmethod
    def _begin(self, effect: Open) -> Attempt:
        """Start an attempt (only a check of the credentials where the effect says so)."""

    @abstractmethod
    def _told(self, report: Report) -> None:
        """The supervisor reports; may raise."""

    def _ticked(self) -> None:  # noqa: B027  most shells have nothing to do
        """The timer fired and the supervisor has seen it."""

    async def pause(self) -> None:
        """End the connection; `resume` begins again. Returns within 5 s, from any state."""
        self.post(Stop())
        await self.until(lambda view: view.state is State.STOPPED)

    def resume(self) -> None:
        """Undo `pause`."""
        self.post(Start())

    def kick(self, *, operator: bool = False) -> None:
        """Try now; see `supervision.Kick`."""
        self.post(Kick(operator))

    def woke(self, slept: float) -> None:
        """The machine was suspended for so many seconds."""
        self.post(Woke(slept))

    def view(self) -> View:
        """A reading of the supervision, now."""
        return self.supervisor.view(asyncio.get_running_loop().time())

    async def until(self, condition: Callable[[View], bool]) -> View:
        """Wait until a reading satisfies the condition. Cancelling is safe."""
        while not condition(view := self.view()):
            self._changed.clear()
            await self._changed.wait()
        return view

    def post(self, event: Event) -> None:
        """Hand an event to the supervisor and carry out what it wants."""
        if isinstance(event, Ended | Verified):
            self._attempts.pop(event.generation, None)
        try:
            for effect in self.supervisor.handle(event, asyncio.get_running_loop().time()):
                self._do(effect)
        finally:  # without a timer nothing would ever be tried again
            self._arm()

    def _do(self, effect: Effect) -> None:
        match effect:
            case Open():
                self._open(effect)
            case Report():
                self._changed.set()
                self._tell(effect)
            case _:
                self._drive(effect)

    def _open(self, effect: Open) -> None:
        try:
            self._attempts[effect.generation] = self._begin(effect)
        except Exception as error:
            log.exception("start failed account=%s generation=%d", self.name, effect.generation)
            end = Ended(effect.generation, _start_failed(error))
            # Not at once: the effects after this one are of before that end.
            asyncio.get_running_loop().call_soon(self.post, end)

    def _drive(self, effect: Drive) -> None:
        """Pass it on to its attempt, if that could be started. What fails is not done, and the
        supervisor goes on to the next means at its deadline."""
        attempt = self._attempts.get(effect.generation)
        if attempt is None:
            return
        try:
            match effect:
                case Probe():
                    attempt.probe()
                case Beat():
                    attempt.beat()
                case Close():
                    attempt.close()
                case Abort():
                    attempt.abort()
                case Abandon():
                    del self._attempts[effect.generation]
                    attempt.abandon()
        except Exception:
            log.exception("not done account=%s effect=%r", self.name, effect)

    def _tell(self, report: Report) -> None:
        try:
            self._told(report)
        except Exception:
            # Whoever listens may fail; the effects after this one are still to be carried out.
            log.exception("report not taken account=%s trigger=%r", self.name, report.trigger)

    def _arm(self) -> None:
        deadline = self.supervisor.next_deadline()
        if self._timer is not None:
            # A later deadline needs no new timer: an early tick is harmless and arms the next.
            if deadline is not None and self._timer.when() <= deadline:
                return
            self._timer.cancel()
            self._timer = None
        if deadline is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(deadline, loop.time()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        self.post(Tick())
        self._ticked()


def _start_failed(error: Exception) -> Cause:
    """Nothing has left this machine yet: whatever it was, it was local."""
    cause = cause_of(error)
    if cause.kind is Kind.LOCAL:
        return cause
    return Cause(
        Kind.LOCAL,
        "start_failed",
        f"the attempt could not be started: {type(error).__name__}: {error}",
    )
