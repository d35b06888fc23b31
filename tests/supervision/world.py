"""A model of everything around the core: a shell that obeys its effects, and any kind of peer."""

from __future__ import annotations

from dataclasses import dataclass

from holdfast.supervision import (
    Abandon,
    Abort,
    Beat,
    BeatAcked,
    Cause,
    Close,
    Effect,
    Ended,
    Event,
    Kind,
    Open,
    Policy,
    Probe,
    Published,
    Ready,
    Report,
    State,
    Supervisor,
    Verified,
)
from holdfast.supervision.states import TRANSITIONS, Trigger

POLICY = Policy(fresh_limit=200, fresh_window=7_200.0)

LONGEST_WAIT = POLICY.verify_cap + POLICY.fresh_window
"""No deadline is further away than this, unless a server asked for more."""


@dataclass
class Connection:
    """What the shell holds open."""

    generation: int
    verify: bool
    ready: bool = False


class Shell:
    """Carries out effects to the letter, and asserts that they make sense."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.machine = Supervisor(POLICY, self._draw)
        self.connection: Connection | None = None
        self.beside: dict[int, Connection] = {}
        self.opens: list[float] = []
        self.last_proof = float("-inf")
        self.silence = POLICY.silence_limit
        self.server_wait_until = float("-inf")
        self.u = 0.5
        self._state = State.STOPPED
        self._welcome = Ready(0)

    def _draw(self) -> float:
        return self.u

    def send(self, event: Event) -> list[Effect]:
        """Hand over an event and obey."""
        effects = self.machine.handle(event, self.now)
        for effect in effects:
            self._obey(effect)
        self.check()
        return effects

    def _obey(self, effect: Effect) -> None:
        match effect:
            case Open(generation=generation, resume=resume, verify=verify, successor=successor):
                assert not (resume and verify)
                if successor:
                    assert self.connection is not None, "a successor of nobody"
                    assert self.connection.ready
                    assert not verify
                    assert not resume
                    self.beside[generation] = Connection(generation, verify)
                else:
                    assert self.connection is None, "two open generations"
                    self.connection = Connection(generation, verify)
                self.opens.append(self.now)
                assert self.now >= self.server_wait_until, "the server's wait was shortened"
            case Report(view=view, trigger=trigger):
                if trigger == Trigger.ROTATED:
                    self._rotated()
                elif trigger == Trigger.ENDED and view.state is State.CONNECTING:
                    self.connection = self.beside.pop(view.generation)
                if view.state is not self._state:
                    assert (self._state, Trigger(trigger), view.state) in TRANSITIONS
                    self._state = view.state
            case Abandon(generation=generation):
                assert self._is_open(generation)
                if self.beside.pop(generation, None) is None:
                    self.connection = None
            case Probe(generation=generation) | Beat(generation=generation):
                assert self.connection is not None
                assert self.connection.generation == generation
                assert self.connection.ready
            case Close(generation=generation) | Abort(generation=generation):
                assert self._is_open(generation)

    def _is_open(self, generation: int) -> bool:
        current = self.connection is not None and self.connection.generation == generation
        return current or generation in self.beside

    def _rotated(self) -> None:
        """The newest connection is the current one; its predecessor drains beside it."""
        assert self.connection is not None
        self.beside[self.connection.generation] = self.connection
        self.connection = self.beside.pop(self.machine.generation)
        self.connection.ready = True
        self.silence = self._welcome.silence or POLICY.silence_limit
        self.last_proof = self.now

    # -- what a peer may do -------------------------------------------------------------------

    def speak(self, event: Event) -> None:
        """An event of the open connection."""
        connection = self.connection
        assert connection is not None
        listening = self.machine.state is not State.CLOSING
        if listening and isinstance(event, Ready) and not connection.ready:
            connection.ready = True
            self.silence = event.silence or POLICY.silence_limit
            self.last_proof = self.now
        if isinstance(event, Verified) and connection.verify and listening:
            self.connection = None
        self.send(event)

    def proof(self, event: Event) -> None:
        """Something came in from the peer."""
        if self.machine.state is not State.CLOSING:
            self.last_proof = self.now
        self.speak(event)

    def beside_ready(self, event: Ready) -> None:
        """A connection beside the current one says that it is ready."""
        self._welcome = event
        self.send(event)

    def end(self, cause: Cause) -> None:
        """The connection's task is done."""
        assert self.connection is not None
        generation = self.connection.generation
        self.connection = None
        self._ended(generation, cause)

    def end_beside(self, generation: int, cause: Cause) -> None:
        """The task of a connection beside the current one is done."""
        del self.beside[generation]
        self._ended(generation, cause)

    def _ended(self, generation: int, cause: Cause) -> None:
        if cause.retry_after is not None:
            self.server_wait_until = max(self.server_wait_until, self.now + cause.retry_after)
        self.send(Ended(generation, cause))

    def serve(self, effects: list[Effect]) -> None:
        """What a healthy peer answers to what the shell just did."""
        connection = self.connection
        if connection is None:
            return
        if self.machine.state is State.CLOSING:
            self.end(Cause(Kind.LOST, "closed"))
        elif connection.verify:
            self.speak(Verified(connection.generation))
        elif not connection.ready:
            self.speak(Ready(connection.generation, beat=20.0))
        elif any(isinstance(effect, Probe | Beat) for effect in effects):
            self.proof(BeatAcked(connection.generation))

    # -- what must hold after every step ------------------------------------------------------

    def check(self) -> None:
        """The laws of the core."""
        machine = self.machine
        deadline = machine.next_deadline()
        view = machine.view(self.now)
        assert (deadline is None) == (machine.state is State.STOPPED)
        if deadline is not None:
            furthest = max(self.now + LONGEST_WAIT, self.server_wait_until)
            assert deadline <= furthest, "asleep for too long"
        if machine.state in (State.LIVE, State.SUSPECT):
            assert self.connection is not None
            assert self.connection.ready
        if machine.state in (State.STOPPED, State.BACKOFF, State.BLOCKED):
            assert self.connection is None, "a connection nobody watches"
        if machine.state is State.STOPPED:
            assert not self.beside, "stopped, and something goes on"
        assert len(self.beside) <= 2 + POLICY.recycle_limit
        if view.published is Published.CONNECTED:
            assert self.now - self.last_proof <= self.silence + 1e-6, "the status lies"
        recent = [at for at in self.opens if at + POLICY.opens_window > self.now]
        assert len(recent) <= POLICY.opens_limit, "a hot loop"
