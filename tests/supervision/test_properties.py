"""Any peer, any person, any clock: the laws of the core hold after every single event.

The search is the same on every run; see ``conftest.py`` for how to search at random.
"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from holdfast.supervision import (
    Alive,
    BeatAcked,
    BeatFailed,
    Budget,
    Cause,
    Effect,
    Ended,
    Event,
    GoingAway,
    Kick,
    Kind,
    Memory,
    Policy,
    Ready,
    Reconfigured,
    Refused,
    Start,
    State,
    Step,
    Stop,
    Tick,
    Verified,
    Woke,
)

from .driver import Driver, cause, most_in_window
from .world import LONGEST_WAIT, POLICY, Shell

KINDS = st.sampled_from(list(Kind))
WAITS = st.none() | st.floats(0.0, 5_000.0)
CAUSES = st.builds(Cause, KINDS, st.just("made_up"), retry_after=WAITS)
TIMES = st.sampled_from([0.0, 0.001, 0.5, 1.0, 4.0, 5.0, 10.0, 20.0, 60.0, 90.0, 300.0, 4_000.0])

SYSTEMS_TURN = frozenset({State.CONNECTING, State.SUSPECT, State.CLOSING, State.BACKOFF})


class Account(RuleBasedStateMachine):
    """One account in an adversarial world."""

    def __init__(self) -> None:
        super().__init__()
        self.shell = Shell()

    @initialize(wait=st.floats(0.0, 1_000.0), logins=st.integers(0, 200), resumable=st.booleans())
    def start(self, wait: float, logins: int, resumable: bool) -> None:
        self.shell.server_wait_until = self.shell.now + wait
        ages = tuple(float(30 * age) for age in range(logins, 0, -1))
        self.shell.send(Start(Memory(wait=wait, fresh_ages=ages, resumable=resumable)))

    # -- people and the machine -----------------------------------------------------------------

    @rule(memory=st.none() | st.just(Memory()))
    def start_again(self, memory: Memory | None) -> None:
        self.shell.send(Start(memory))

    @rule(operator=st.booleans(), times=st.integers(1, 12))
    def kick(self, operator: bool, times: int) -> None:
        for _ in range(times):
            self.shell.send(Kick(operator))

    @rule()
    def reconfigure(self) -> None:
        self.shell.server_wait_until = float("-inf")
        self.shell.send(Reconfigured(POLICY))

    @rule(cause=CAUSES)
    def refuse_a_send(self, cause: Cause) -> None:
        self.shell.send(Refused(cause))

    @rule(slept=TIMES)
    def wake(self, slept: float) -> None:
        self.shell.server_wait_until -= slept
        self.shell.send(Woke(slept))

    @rule(answers=st.booleans())
    def stop(self, answers: bool) -> None:
        shell = self.shell
        begin = shell.now
        shell.send(Stop())
        for _ in range(40):
            if shell.connection is not None and answers:
                shell.end(cause())
            for generation in list(shell.beside) if answers else ():
                shell.end_beside(generation, cause())
            deadline = shell.machine.next_deadline()
            if deadline is None:
                break
            shell.now = max(shell.now, deadline)
            shell.send(Tick())
        assert shell.machine.state is State.STOPPED
        assert shell.now - begin < 5.0

    # -- time -------------------------------------------------------------------------------------

    @rule(u=st.floats(0.0, 1.0, exclude_max=True))
    def jitter(self, u: float) -> None:
        self.shell.u = u

    @rule(times=st.integers(1, 15))
    def tick_on_time(self, times: int) -> None:
        for _ in range(times):
            self._tick()

    def _tick(self) -> list[Effect]:
        shell = self.shell
        deadline = shell.machine.next_deadline()
        if deadline is None:
            return []
        shell.now = max(shell.now, deadline)
        effects = shell.send(Tick())
        after = shell.machine.next_deadline()
        assert after is None or after > shell.now, "the deadline does not move on: a spin"
        return effects

    @rule(seconds=TIMES)
    def freeze(self, seconds: float) -> None:
        """Nobody ticks for a while: what is published must be true even so."""
        self.shell.now += seconds
        self.shell.check()

    # -- the peer ---------------------------------------------------------------------------------

    @precondition(lambda self: self.shell.connection is not None)
    @rule(cause=CAUSES)
    def end(self, cause: Cause) -> None:
        self.shell.end(cause)

    @rule(cause=CAUSES, times=st.integers(2, 15), ready=st.booleans())
    def end_again_and_again(self, cause: Cause, times: int, ready: bool) -> None:
        for _ in range(times):
            self._tick()
            connection = self.shell.connection
            if connection is None:
                continue
            if ready and not connection.verify:
                self.shell.speak(Ready(connection.generation, resumable=True))
            self.shell.end(cause)

    @precondition(lambda self: self.shell.connection is not None)
    @rule(
        beat=st.none() | st.floats(1.0, 60.0),
        silence=st.none() | st.floats(5.0, 120.0),
        grace=st.none() | st.floats(1.0, 60.0),
        resumable=st.booleans(),
    )
    def ready(
        self, beat: float | None, silence: float | None, grace: float | None, resumable: bool
    ) -> None:
        connection = self.shell.connection
        assert connection is not None
        if not connection.verify:
            self.shell.speak(Ready(connection.generation, beat, silence, grace, resumable))

    @precondition(lambda self: self.shell.connection is not None)
    @rule(data=st.data())
    def say(self, data: st.DataObject) -> None:
        connection = self.shell.connection
        assert connection is not None
        event: Event = data.draw(_events(connection.generation))
        if isinstance(event, BeatFailed) and connection.ready:
            wait = event.cause.retry_after
            if wait is not None and self.shell.machine.state is not State.CLOSING:
                until = self.shell.now + wait
                self.shell.server_wait_until = max(self.shell.server_wait_until, until)
        if isinstance(event, Alive | BeatAcked):
            self.shell.proof(event)
        else:
            self.shell.speak(event)

    # -- a planned change of connections ----------------------------------------------------------

    @precondition(lambda self: self.shell.connection is not None)
    @rule()
    def say_goodbye(self) -> None:
        connection = self.shell.connection
        assert connection is not None
        if not connection.verify:
            self.shell.send(GoingAway(connection.generation))

    @precondition(lambda self: bool(self.shell.beside))
    @rule(data=st.data(), silence=st.none() | st.floats(5.0, 120.0))
    def beside_speaks(self, data: st.DataObject, silence: float | None) -> None:
        generation = data.draw(st.sampled_from(sorted(self.shell.beside)))
        match data.draw(st.sampled_from(["ready", "end", "say"])):
            case "ready":
                self.shell.beside_ready(Ready(generation, silence=silence))
            case "end":
                self.shell.end_beside(generation, data.draw(CAUSES))
            case _:
                self.shell.send(data.draw(_events(generation)))

    @rule(data=st.data(), back=st.integers(1, 3))
    def stale(self, data: st.DataObject, back: int) -> None:
        """A former connection speaks: nothing changes but the counter."""
        machine = self.shell.machine
        connection = self.shell.connection
        open_now = {*self.shell.beside, connection.generation} if connection else self.shell.beside
        generation = min({machine.generation + 1, *open_now}) - back
        event = data.draw(_events(generation) | st.builds(Ended, st.just(generation), CAUSES))
        before, deadline = machine.view(self.shell.now), machine.next_deadline()
        assert self.shell.send(event) == []
        after = machine.view(self.shell.now)
        assert machine.next_deadline() == deadline
        assert after.stale_events == before.stale_events + 1
        assert _facts(after) == _facts(before)

    # -- a healthy world --------------------------------------------------------------------------

    @precondition(lambda self: self.shell.machine.state in SYSTEMS_TURN)
    @rule()
    def heal(self) -> None:
        """From now on all goes well: the account is live again in bounded time."""
        shell = self.shell
        shell.serve([])
        bound = max(shell.now, shell.server_wait_until) + LONGEST_WAIT
        for _ in range(50):
            if shell.machine.state in (State.LIVE, State.STOPPED):
                break
            shell.serve(self._tick())
            assert shell.now <= bound, "a healthy world does not bring the account back"
        assert shell.machine.state is not State.BLOCKED
        assert shell.machine.state in (State.LIVE, State.STOPPED)


def _facts(view: object) -> dict[str, object]:
    names = [name for name in view.__dataclass_fields__ if name != "stale_events"]  # type: ignore[attr-defined]
    return {name: getattr(view, name) for name in names}


def _events(generation: int) -> st.SearchStrategy[Event]:
    return st.one_of(
        st.builds(Step, st.just(generation), st.just("step"), st.none() | st.floats(0.1, 50.0)),
        st.builds(Alive, st.just(generation)),
        st.builds(BeatAcked, st.just(generation)),
        st.builds(BeatFailed, st.just(generation), CAUSES),
        st.builds(Verified, st.just(generation)),
        st.builds(GoingAway, st.just(generation)),
        st.builds(
            Budget,
            st.just(generation),
            st.none() | st.integers(0, 1_000),
            st.none() | st.integers(0, 1_000),
            st.none() | st.floats(0.0, 7_000.0),
        ),
    )


TestAccount = Account.TestCase

# -- the hot-loop bound, searched for on purpose ---------------------------------------------------

MOVES = st.sampled_from(["ready", "end", "kick", "kick!", "reconfigure", "restart", "wake", "tick"])


@given(
    moves=st.lists(st.tuples(MOVES, KINDS), min_size=30, max_size=120),
    u=st.floats(0.0, 1.0, exclude_max=True),
    limit=st.integers(5, 12),
    window=st.floats(10.0, 100.0),
)
def test_no_peer_and_no_person_makes_a_hot_loop(
    moves: list[tuple[str, Kind]], u: float, limit: int, window: float
) -> None:
    policy = Policy(opens_limit=limit, opens_window=window)
    driver = Driver(policy, u=u)
    driver.start()
    for move, kind in moves:
        match move:
            case "ready":
                driver.ready(resumable=True)
            case "end":
                driver.end(kind)
            case "kick":
                driver.kick()
            case "kick!":
                driver.kick(operator=True)
            case "reconfigure":
                driver.send(Reconfigured(policy))
            case "restart":
                driver.stop()
                driver.end()
                driver.start()
            case "wake":
                driver.send(Woke(1.0))
            case _:
                driver.tick()
    assert most_in_window([at for at, _ in driver.opens], window) <= limit
