"""A supervisor with a clock that tests turn by hand, and a record of all it did."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

from holdfast.supervision import (
    Alive,
    Beat,
    Cause,
    Close,
    Effect,
    Ended,
    Event,
    GoingAway,
    Kick,
    Kind,
    Memory,
    Open,
    Policy,
    Probe,
    Published,
    Ready,
    Report,
    Start,
    State,
    Step,
    Stop,
    Supervisor,
    Tick,
    Verified,
    View,
)
from holdfast.supervision.states import Trigger

MAX_TICKS = 20_000
"""A simulated loop that spins on a zero delay would never end; this bounds it."""


def cause(kind: Kind = Kind.LOST, code: str = "", **more: Any) -> Cause:
    """A cause whose code is made up from its kind."""
    return Cause(kind, code or f"test_{kind.value}", **more)


class Driver:
    """Drives one supervisor: sends events, turns the clock, remembers opens and reports.

    ``u`` is the jitter's random number, constant: 1.0 gives the longest delays of the ladder.
    """

    def __init__(self, policy: Policy | None = None, *, u: float = 1.0, **numbers: Any) -> None:
        self.now = 1_000.0
        self.machine = Supervisor((policy or Policy()).with_(numbers), lambda: u)
        self.opens: list[tuple[float, Open]] = []
        self.reports: list[Report] = []
        self.rows: list[tuple[State, str, State]] = []

    # -- events -------------------------------------------------------------------------------

    def send(self, event: Event) -> list[Effect]:
        """Hand over an event now; the effects, without reports."""
        effects = self.machine.handle(event, self.now)
        for effect in effects:
            if isinstance(effect, Open):
                self.opens.append((self.now, effect))
            elif isinstance(effect, Report):
                before = self.reports[-1].view.state if self.reports else State.STOPPED
                if effect.view.state is not before or effect.trigger == Trigger.ROTATED:
                    self.rows.append((before, effect.trigger, effect.view.state))
                self.reports.append(effect)
        return [effect for effect in effects if not isinstance(effect, Report)]

    def start(self, memory: Memory | None = None) -> list[Effect]:
        return self.send(Start(memory))

    def stop(self) -> list[Effect]:
        return self.send(Stop())

    def ready(self, **more: Any) -> list[Effect]:
        return self.send(Ready(self.generation, **more))

    def end(self, kind: Kind = Kind.LOST, code: str = "", **more: Any) -> list[Effect]:
        return self.send(Ended(self.generation, cause(kind, code, **more)))

    def alive(self) -> list[Effect]:
        return self.send(Alive(self.generation))

    def kick(self, *, operator: bool = False) -> list[Effect]:
        return self.send(Kick(operator))

    def step(self, name: str, limit: float | None = None) -> list[Effect]:
        return self.send(Step(self.generation, name, limit))

    def verified(self) -> list[Effect]:
        return self.send(Verified(self.generation))

    def goodbye(self) -> int:
        """The peer announces the end of the newest connection; the generation of that one."""
        leaving = self.generation
        self.send(GoingAway(leaving))
        return leaving

    def end_of(self, generation: int, kind: Kind = Kind.LOST, **more: Any) -> list[Effect]:
        """A connection that is not the newest comes to its end."""
        return self.send(Ended(generation, cause(kind, **more)))

    # -- time ---------------------------------------------------------------------------------

    def wait(self, seconds: float) -> list[Effect]:
        """Let time pass; each deadline on the way is ticked exactly on time."""
        until = self.now + seconds
        effects: list[Effect] = []
        for _ in range(MAX_TICKS):
            deadline = self.machine.next_deadline()
            if deadline is None or deadline > until:
                self.now = until
                return effects
            self.now = max(self.now, deadline)
            effects += self.send(Tick())
        raise AssertionError("the deadlines do not move on: the machine spins")

    def tick(self, *, late: float = 0.0) -> list[Effect]:
        """Jump to the next deadline (or ``late`` seconds beyond it) and tick."""
        deadline = self.machine.next_deadline()
        assert deadline is not None
        self.now = max(self.now, deadline + late)
        return self.send(Tick())

    def freeze(self, seconds: float) -> list[Effect]:
        """The event loop stands still for ``seconds``; then it ticks, once."""
        self.now += seconds
        return self.send(Tick())

    def wait_for(self, state: State, *, within: float) -> float:
        """Tick until ``state``; the seconds it took."""
        begin = self.now
        for _ in range(MAX_TICKS):
            if self.machine.state is state:
                break
            self.tick()
            assert self.now <= begin + within, f"{state} not reached within {within} s"
        assert self.machine.state is state
        return self.now - begin

    # -- short cuts ---------------------------------------------------------------------------

    def live(self, *, silence: float = 1e6, resumable: bool = False, **more: Any) -> Driver:
        """Start if need be, and go live; by default on a connection that never falls silent."""
        if self.machine.state is State.STOPPED:
            self.start()
        self.wait_for(State.CONNECTING, within=1_000_000)
        self.ready(silence=silence, resumable=resumable, **more)
        assert self.machine.state is State.LIVE
        return self

    def well(self) -> Driver:
        """Live for longer than a stable run."""
        self.live()
        self.wait(self.machine.policy.stable_after)
        return self

    def fail(self, times: int = 1, kind: Kind = Kind.UNREACHABLE, **more: Any) -> Driver:
        """Let so many attempts in a row fail."""
        if self.machine.state is State.STOPPED:
            self.start()
        for _ in range(times):
            self.wait_for(State.CONNECTING, within=1_000_000)
            self.end(kind, **more)
        return self

    def blocked(self, kind: Kind = Kind.CREDENTIALS) -> Driver:
        """Refused at the first login."""
        self.fail(1, kind)
        assert self.machine.state is State.BLOCKED
        return self

    # -- readings: calls, so that nobody takes yesterday's for today's -------------------------

    def state(self) -> State:
        return self.machine.state

    def view(self) -> View:
        return self.machine.view(self.now)

    def reported(self) -> Published:
        """The published name of the last report."""
        return self.reports[-1].view.published

    def memory(self) -> Memory:
        return self.machine.memory(self.now)

    @property
    def cause(self) -> Cause:
        """The cause on view, which there must be."""
        found = self.view().cause
        assert found is not None
        return found

    @property
    def generation(self) -> int:
        return self.machine.generation

    @property
    def delay(self) -> float:
        """Seconds until the next deadline."""
        deadline = self.machine.next_deadline()
        assert deadline is not None
        return deadline - self.now


def opened(effects: list[Effect]) -> list[Open]:
    return [effect for effect in effects if isinstance(effect, Open)]


def probed(effects: list[Effect]) -> bool:
    return any(isinstance(effect, Probe) for effect in effects)


def beaten(effects: list[Effect]) -> bool:
    return any(isinstance(effect, Beat) for effect in effects)


def closed(effects: list[Effect]) -> bool:
    return any(isinstance(effect, Close) for effect in effects)


def most_in_window(times: list[float], window: float) -> int:
    """The largest number of moments (in order) within any half-open window of that length."""
    ends = (bisect_left(times, at + window) for at in times)
    return max((end - begin for begin, end in enumerate(ends)), default=0)
