"""The supervisor of one account. Everything that decides whether a bot lives happens here.

Rules of this file:
- No I/O, no clock, no randomness: the caller passes ``now`` and a source of jitter.
- Every state except STOPPED has a deadline, so a connection can not die in silence.
- Every state change is a row of `states.TRANSITIONS`.
- Counting only makes us slower and louder; only the peer's verdict makes us wait for a person.
- Success is a stable run, never a mere connect.
- A late clock convicts nobody, a few times in a row. Only proof of life puts a limit off for ever.

It is longer than the other files on purpose: what it decides is read in one sitting, or not at all.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from holdfast.supervision.causes import OF_THE_NETWORK, Cause, Kind, Remedy
from holdfast.supervision.current import Current
from holdfast.supervision.events import (
    Abandon,
    Abort,
    Alive,
    Beat,
    BeatAcked,
    BeatFailed,
    Budget,
    Close,
    Effect,
    Ended,
    Event,
    FromConnection,
    GoingAway,
    Kick,
    Memory,
    Open,
    Probe,
    Ready,
    Reconfigured,
    Refused,
    Report,
    Start,
    Step,
    Stop,
    Tick,
    Woke,
)
from holdfast.supervision.overlap import Overlap
from holdfast.supervision.pace import Pace
from holdfast.supervision.policy import Policy
from holdfast.supervision.pulse import Pulse
from holdfast.supervision.states import Published, State, Trigger, check
from holdfast.supervision.tally import NO_LIFE, Tally
from holdfast.supervision.verdict import Court
from holdfast.supervision.view import View

NEW_ATTEMPT = 1.0
"""Seconds in which an attempt counts as dialled after the news that made somebody kick it."""

_UP = frozenset({State.CONNECTING, State.LIVE, State.SUSPECT})


class Supervisor:
    """Turns events into effects and always knows its next deadline.

    After each `handle` the caller carries out the effects in order, reads `next_deadline`, and
    sends `Tick` when it has passed. ``rand`` returns a float in [0, 1).
    """

    def __init__(self, policy: Policy, rand: Callable[[], float]) -> None:
        self.policy = policy
        self.state = State.STOPPED
        self.generation = 0
        self._rand = rand
        self._wanted = False
        self._pace = Pace(policy)
        self._tally = Tally(policy)
        self._court = Court(policy)
        self._beside = Overlap(policy)
        self._out: list[Effect] = []
        self._current = Current()
        # waiting
        self._retry_at: float | None = None
        self._before_kick: float | None = None
        # memory over connections
        self._cause: Cause | None = None
        self._resumable = False
        self._resume_failures = 0
        self._outage_since: float | None = None
        self._refused_at: float | None = None
        self._last_proof: float | None = None
        self._since = 0.0
        self._published = Published.STOPPED
        self._stale_events = 0
        self._abandoned = 0

    # -- the two doors ------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take in what happened at ``now`` (seconds, monotonic); return what to do, in order."""
        if (
            type(event) is Alive
            and event.generation == self._current.generation
            and self.state is State.LIVE
        ):
            # One per inbound frame, and it never has an effect: the shortest road.
            self._alive(now)
            return []
        if isinstance(event, FromConnection) and event.generation != self._current.generation:
            return self._from_beside(event, now)
        self._out = []
        match event:
            case Start(memory=memory):
                self._start(memory, now)
            case Stop():
                self._stop(now)
            case Tick():
                self._tick(now)
            case Kick(operator=operator):
                self._kick(operator, now)
            case Woke(slept=slept):
                self._woke(slept, now)
            case Reconfigured(policy=policy):
                self._reconfigured(policy, now)
            case Refused(cause=cause):
                self._refused(cause, now)
            case Ended(cause=cause):
                self._ended(cause, now)
            case Budget(remaining=remaining, total=total, reset_after=reset_after):
                self._pace.logged_in(now, remaining, total, reset_after)
            case _ if self.state is State.CLOSING:
                pass  # nothing a dying connection says changes its end
            case Step(name=name, limit=limit):
                self._stepped(name, limit, now)
            case Ready():
                self._ready(event, now)
            case Alive():
                self._alive(now)
            case BeatAcked():
                self._beat_acked(now)
            case BeatFailed(cause=cause):
                self._beat_failed(cause, now)
            case GoingAway():
                self._going_away(now)
            case _:
                self._verified(now)
        self._begin_if_due(now)
        return self._out

    def next_deadline(self) -> float | None:
        """When `Tick` is due; None only in STOPPED."""
        if self.state is State.STOPPED:
            return None
        return min(self._deadline(), self._beside.deadline())

    def _deadline(self) -> float:
        """When the current state must have an end, or is to be looked at."""
        match self.state:
            case State.CONNECTING:
                return min(self._current.by, self._current.step_by)
            case State.LIVE | State.SUSPECT:
                return min(self._proof_by(), self._stable_at())
            case State.CLOSING:
                return self._current.by
            case _:
                assert self._retry_at is not None
                return self._retry_at

    def awaits(self, generation: int) -> bool:
        """Whether a `Ready` of this connection would make it the current one."""
        if generation == self._current.generation:
            return self.state is State.CONNECTING
        return generation == self._beside.successor

    def memory(self, now: float) -> Memory:
        """What must survive a restart of the process."""
        return self._pace.memory(now, resumable=self._resumable)

    def view(self, now: float) -> View:
        """A reading for status, history, metrics and alerts, computed from dated evidence."""
        pulse = self._current.pulse
        published = self._publish(now)
        lapsed = pulse is not None and published is not self._published
        return View(
            at=now,
            state=self.state,
            published=published,
            since=pulse.dead_at if pulse and lapsed else self._since,
            generation=self.generation,
            attempt=self._tally.failures,
            retry_at=self._retry_at,
            cause=self._cause,
            escalation=self._tally.escalation(self._cause),
            step=self._current.step,
            suspect=self.state is State.SUSPECT,
            rotating=self._beside.successor is not None,
            flapping=self._tally.flapping,
            attention=self._court.verdict is not None or self._tally.exhausted,
            breaker=self._tally.breaker(trying=self.state in _UP),
            last_proof=self._last_proof,
            valid_until=pulse.dead_at if pulse else None,
            outage_since=self._outage_since,
            missed_beats=pulse.missed if pulse else 0,
            beats=pulse.acked if pulse else 0,
            stale_events=self._stale_events,
            abandoned=self._abandoned,
        )

    # -- what people want ---------------------------------------------------------------------

    def _start(self, memory: Memory | None, now: float) -> None:
        resumed, self._wanted = not self._wanted, True
        if self.state is State.CLOSING and resumed:
            self._tell(Trigger.START, now)
        elif self.state is State.STOPPED:
            if memory is not None:
                self._pace.restore(memory, now)
                self._resumable = memory.resumable
            self._retry_at = self._earliest(now, now)
            self._go(Trigger.START, State.BACKOFF, now)

    def _stop(self, now: float) -> None:
        self._wanted = False
        if self.state in _UP:
            stopped = Cause(Kind.RECYCLED, "stopped", "stopped by the operator")
            self._close(Trigger.STOP, stopped, now)
        elif self.state in (State.BACKOFF, State.BLOCKED):
            self._halt(now)
        elif self.state is State.CLOSING:
            self._out += self._beside.close(now)
            self._tell(Trigger.STOP, now)

    def _kick(self, operator: bool, now: float) -> None:
        judged = operator and self._court.verdict is not None
        if judged:
            self._court.lift()
            self._before_kick = None
        if self.state is State.BACKOFF:
            assert self._retry_at is not None
            plan = self._before_kick
            self._before_kick = self._retry_at if plan is None else max(plan, self._retry_at)
            self._retry_at = min(self._retry_at, self._earliest(now, now))
        elif self.state is State.BLOCKED and judged:
            self._retry_at = self._earliest(now, now)
            self._go(Trigger.KICK, State.BACKOFF, now)
        elif judged or (operator and self.state in (State.LIVE, State.SUSPECT)):
            self._replace(Cause(Kind.RECYCLED, "kicked", "reconnected by the operator"), now)
        elif self._outage_since is not None and self._current.began_at < now - NEW_ATTEMPT:
            # An attempt dialled in the outage would only hang until its limit.
            if self.state is State.CONNECTING:
                self._replace(Cause(Kind.RECYCLED, "network_back", "the network is back"), now)

    def _reconfigured(self, policy: Policy, now: float) -> None:
        self.policy = self._pace.policy = self._tally.policy = policy
        self._court.policy = self._beside.policy = policy
        self._pace.wait_until = now
        self._court.lift()
        self._before_kick = None
        self._tally.reset()
        if self.state is State.BLOCKED:
            self._retry_at = self._earliest(now, now)
            self._go(Trigger.KICK, State.BACKOFF, now)
        elif self.state is State.BACKOFF:
            self._retry_at = self._earliest(now, now)
        else:
            self._replace(Cause(Kind.RECYCLED, "reconfigured", "the configuration changed"), now)

    def _woke(self, slept: float, now: float) -> None:
        """Ask for proof. News of the network alone, which may come every second, moves no limit
        and ends no wait for anything but a network.
        """
        self._slept(slept)
        current = self._current
        excused = slept > 0 and current.excused()
        if self.state is State.CONNECTING and excused:
            current.dialling(self.policy, now)
        elif current.pulse is not None and self.state is not State.CLOSING:
            if excused:
                current.pulse.forgive()
            moves = excused or self.state is State.LIVE
            self._doubt(now, now + current.pulse.grace if moves else current.by)
        elif self.state is State.BACKOFF and (
            slept > 0 or self._cause is None or self._cause.kind in OF_THE_NETWORK
        ):
            self._kick(False, now)

    def _slept(self, seconds: float) -> None:
        """The monotonic clock stood still meanwhile: all that was is so much longer ago."""
        self._pace.slept(seconds)
        self._since -= seconds
        if self._last_proof is not None:
            self._last_proof -= seconds
        if self._outage_since is not None:
            self._outage_since -= seconds
        if self._current.pulse is not None:
            self._current.pulse.last -= seconds

    # -- what a connection says ---------------------------------------------------------------

    def _ready(self, event: Ready, now: float) -> None:
        if self.state is State.CONNECTING:
            self._resume_failures = 0
            self._live(event, Trigger.READY, now)

    def _live(self, event: Ready, trigger: Trigger, now: float) -> None:
        silence = event.silence or self.policy.silence_limit
        grace = event.grace or self.policy.probe_grace
        self._current.lives(Pulse(now, silence, grace, event.beat), now)
        self._last_proof = now
        self._resumable = event.resumable
        self._court.well()
        self._before_kick = None
        self._go(trigger, State.LIVE, now)

    def _stepped(self, name: str, limit: float | None, now: float) -> None:
        if self.state is State.CONNECTING:
            self._current.stepped(name, now + (limit or self.policy.step_timeout), now)

    def _alive(self, now: float) -> None:
        self._current.alive(now)
        self._last_proof = now
        if self.state is State.SUSPECT:
            self._go(Trigger.PROOF, State.LIVE, now)

    def _refused(self, cause: Cause, now: float) -> None:
        """The connection may outlive its credentials by hours: give it up, and ask."""
        if self._current.pulse is None or self.state is State.CLOSING or cause.retryable:
            return
        if self._refused_at is not None and now - self._refused_at < self.policy.verify_first:
            return  # they have just been found good: nothing new is known
        self._refused_at = now
        self._give_up(cause, now)

    def _beat_acked(self, now: float) -> None:
        if self._current.pulse is not None:
            self._current.pulse.ack(now)
        self._alive(now)

    def _beat_failed(self, cause: Cause, now: float) -> None:
        pulse = self._current.pulse
        if pulse is None:
            return
        self._heed(cause, now)
        if not cause.retryable:
            self._give_up(cause, now)
            return
        pulse.beat_failed()
        self._judge_beats(pulse, now, f"last: {cause.message or cause.code}")

    def _verified(self, now: float) -> None:
        """The credentials are good after all, or again: nothing is left to wait for."""
        if not self._current.verifying:
            return
        self._current = Current()
        self._court.cleared()
        self._retry_at = self._earliest(now, now)
        self._go(Trigger.VERIFIED, State.BACKOFF, now)

    # -- a planned change of connections ------------------------------------------------------

    def _going_away(self, now: float) -> None:
        """The peer announced the end of this connection: dial its successor, if there is room."""
        if self._current.pulse is None or self._beside.successor is not None:
            return
        if self._pace.earliest(now, now, fresh=True) > now or not self._pace.recycle(now):
            return
        self.generation += 1
        self._pace.opened(now)
        self._beside.dial(self.generation, now)
        self._out.append(Open(self.generation, resume=False, successor=True))
        self._tell(Trigger.ROTATE, now)

    def _from_beside(self, event: FromConnection, now: float) -> list[Effect]:
        """Another connection than the current one speaks."""
        if event.generation not in self._beside:
            self._stale_events += 1
            return []
        self._out = []
        successor = event.generation == self._beside.successor
        match event:
            case Ended(cause=cause):
                self._beside.ended(event.generation)
                self._heed(cause, now)
                self._beside_ended(now, successor=successor)
            case Budget(remaining=remaining, total=total, reset_after=reset_after):
                self._pace.logged_in(now, remaining, total, reset_after)
            case Ready() if successor:
                self._succeeded(event, now)
            case _:
                pass  # only the current connection's life counts
        self._begin_if_due(now)
        return self._out

    def _beside_ended(self, now: float, *, successor: bool) -> None:
        if self.state is State.CLOSING and self._current.generation is None and not self._beside:
            self._rest(now)
        elif successor:
            self._tell(Trigger.ROTATE, now)

    def _succeeded(self, event: Ready, now: float) -> None:
        """The successor is ready; the connection before it goes on, or goes on being closed."""
        former, self._current = self._current, Current(event.generation, began_at=now)
        assert former.generation is not None
        self._beside.takes_over()
        if self.state is State.CLOSING:
            self._beside.leave(former.generation, former.by, aborted=former.aborted)
        else:
            self._beside.drain(former.generation, now)
        self._live(event, Trigger.ROTATED, now)

    def _take_over(self, successor: int, now: float) -> None:
        """The connection ended before its successor was ready: that one is now the attempt."""
        self._current = Current(successor, began_at=now)
        self._current.dialling(self.policy, now)
        self._current.by = self._beside.takes_over()
        self._go(Trigger.ENDED, State.CONNECTING, now)

    def _rest(self, now: float) -> None:
        """Everything has ended: stopped, or, if that is no longer wanted, on to the next try."""
        self._current = Current()
        if not self._wanted:
            self._halt(now)
            return
        self._retry_at = self._earliest(now, now)
        self._go(Trigger.ENDED, State.BACKOFF, now)

    # -- deadlines ----------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        if self._beside:
            self._tick_beside(now)
        if self.state is State.STOPPED or now < (deadline := self._deadline()):
            return
        match self.state:
            case State.CONNECTING if self._late(deadline, now):
                self._current.dialling(self.policy, now)
            case State.CONNECTING:
                self._give_up(self._current.overdue(self.policy.label), now)
            case State.LIVE | State.SUSPECT:
                self._tick_life(now)
            case State.CLOSING:
                self._tick_closing(now)
            case State.BLOCKED:
                self._begin(now)
            case _:
                pass  # BACKOFF: handle() begins the attempt

    def _late(self, deadline: float, now: float) -> bool:
        """Whether our own clock was late, and that may count as an excuse once more."""
        return now - deadline > self.policy.late_after and self._current.excused()

    def _proof_by(self) -> float:
        return self._current.proof_by(doubted=self.state is State.SUSPECT)

    def _stable_at(self) -> float:
        """When the run counts as stable; a run in doubt never does."""
        ready_at = self._current.ready_at
        if ready_at is None or self.state is not State.LIVE:
            return inf
        return ready_at + self.policy.stable_after

    def _tick_life(self, now: float) -> None:
        generation, pulse = self._current.generation, self._current.pulse
        assert generation is not None
        assert pulse is not None
        late = self._late(self._proof_by(), now)
        if late:
            pulse.forgive()
        elif now >= self._stable_at():
            self._stable(now)
        if pulse.next_beat is not None and now >= pulse.next_beat:
            pulse.beat(now)
            if self._judge_beats(pulse, now, "sent, but not acknowledged"):
                return
            self._out.append(Beat(generation))
        if late:
            self._doubt(now, now + pulse.grace)
        elif self.state is State.LIVE and now >= pulse.idle_at:
            self._doubt(now, pulse.dead_at)
        elif self.state is State.SUSPECT and now >= self._current.by:
            silence = f"nothing received for {now - pulse.last:.0f} s, probe included"
            self._give_up_silent("silent", silence, now)

    def _judge_beats(self, pulse: Pulse, now: float, detail: str) -> bool:
        if pulse.missed < self.policy.beat_misses:
            return False
        missed = f"{pulse.missed} heartbeats in a row failed ({detail})"
        self._give_up_silent("heartbeat_unacked", missed, now)
        return True

    def _doubt(self, now: float, until: float) -> None:
        """Ask for proof; without it the connection is given up at ``until``."""
        assert self._current.generation is not None
        self._current.by = until
        self._out.append(Probe(self._current.generation))
        if self.state is State.LIVE:
            self._go(Trigger.DOUBT, State.SUSPECT, now)
        else:
            self._tell(Trigger.DOUBT, now)

    def _stable(self, now: float) -> None:
        """A stable run: the only thing that resets counters."""
        self._current.ready_at = None
        self._tally.reset()
        self._court.stable()
        self._outage_since = None
        self._out.append(Report(self.view(now), "stable"))

    # -- closing ------------------------------------------------------------------------------

    def _give_up(self, cause: Cause, now: float) -> None:
        if self._outage_since is None:
            self._outage_since = now
        self._close(Trigger.GIVE_UP, cause, now)

    def _give_up_silent(self, code: str, message: str, now: float) -> None:
        self._give_up(Cause(Kind.SILENT, f"{self.policy.label}_{code}", message), now)

    def _replace(self, cause: Cause, now: float) -> None:
        """A planned end: the next attempt follows at once, and nothing is counted."""
        if self.state in _UP:
            self._close(Trigger.REPLACE, cause, now)
        elif self.state is State.CLOSING:
            self._current.ours = cause
            self._tell(Trigger.REPLACE, now)

    def _close(self, trigger: Trigger, cause: Cause, now: float) -> None:
        current = self._current
        assert current.generation is not None
        if trigger is not Trigger.GIVE_UP:  # a successor may save what is given up
            self._out += self._beside.close(now)
        current.ours = self._cause = cause
        current.by = now + self.policy.close_timeout
        self._out.append(Close(current.generation))
        self._go(trigger, State.CLOSING, now)

    def _tick_beside(self, now: float) -> None:
        due = self._beside.tick(now)
        self._out += due
        if any(isinstance(effect, Abandon) for effect in due):
            self._abandoned += 1
            self._beside_ended(now, successor=False)

    def _tick_closing(self, now: float) -> None:
        current = self._current
        assert current.generation is not None
        if not current.aborted:
            current.aborted = True
            current.by = now + self.policy.abort_timeout
            self._out.append(Abort(current.generation))
            return
        self._abandoned += 1
        self._out.append(Abandon(current.generation))
        self._ended(Cause(Kind.LOCAL, "abandoned", "the connection ignored its abort"), now)

    # -- after the end ------------------------------------------------------------------------

    def _ended(self, told: Cause, now: float) -> None:
        gone, self._current = self._current, Current()
        cause = gone.ours or told
        planned = gone.ours is not None and gone.ours.kind is Kind.RECYCLED
        was_live = gone.pulse is not None
        # The platform answered, and refused no more than the old session: log in afresh at once.
        session_refused = gone.resuming and not was_live and cause.kind is Kind.SESSION
        quick = not (gone.verifying or session_refused) and self._tally.lived(
            gone.touched_at, now, cause.kind, was_live=was_live, planned=planned
        )
        at_once = session_refused and not self._tally.flapping
        at_once |= cause.rule.remedy is Remedy.RECONNECT and not quick
        self._heed(told, now)
        fruitless = was_live and self._tally.flapping  # continued, and each time ended at once
        resume_failed = not planned and self._resume_failed(gone, cause)
        if told.kind is Kind.SESSION or fruitless or resume_failed:
            self._resumable, self._resume_failures = False, 0
        if not self._wanted:
            self._halt(now)
            return
        self._cause = cause
        if self._outage_since is None and not planned:
            self._outage_since = now
        if self._beside.successor is not None:
            self._take_over(self._beside.successor, now)
            return
        self._out += self._beside.close(now)
        if planned:
            self._retry_at = self._earliest(now, now)
        elif cause.rule.remedy is Remedy.PERSON:
            if self._court.convicts(cause, now, verified=gone.verifying):
                self._block(cause, now)
                return
            self._schedule(cause, now)
        elif self._court.verdict is not None:
            # A blocked account could not be re-verified for want of a network: it stays blocked.
            self._block(self._court.verdict, now)
            return
        elif at_once and self._pace.recycle(now):
            self._before_kick = None
            self._retry_at = self._earliest(now + self.policy.recycle_delay * self._rand(), now)
        else:
            self._schedule(cause, now)
        self._go(Trigger.ENDED, State.BACKOFF, now)

    def _heed(self, cause: Cause, now: float) -> None:
        """A server's wait binds us whatever else is going on."""
        if cause.retry_after is not None:
            self._pace.server_wait(now, cause.retry_after)

    def _resume_failed(self, gone: Current, cause: Cause) -> bool:
        """Count attempts to resume that the peer did not answer well; whether they are enough."""
        if gone.resuming and gone.pulse is None and gone.touched_at is not None:
            # A network that is down says nothing about the session; a peer that falls mute does.
            mute = cause.kind is Kind.TIMEOUT and gone.heard
            self._resume_failures += mute or cause.kind not in NO_LIFE
        return self._resume_failures >= self.policy.resume_tries

    def _schedule(self, cause: Cause, now: float) -> None:
        """Count the failure and set the next try; a failed kick changes neither."""
        planned, self._before_kick = self._before_kick, None
        if planned is not None and planned > now:
            self._retry_at = self._earliest(planned, now)
            return
        self._tally.failures += 1
        self._retry_at = self._earliest(now + self._tally.delay(cause.kind, self._rand()), now)

    def _block(self, verdict: Cause, now: float) -> None:
        self._cause = verdict
        self._retry_at = self._earliest(now + self._court.block(verdict), now)
        self._go(Trigger.VERDICT, State.BLOCKED, now)

    def _halt(self, now: float) -> None:
        if self._beside:
            self._out += self._beside.close(now)
            if self.state is not State.CLOSING:
                self._go(Trigger.STOP, State.CLOSING, now)
            return
        self._retry_at = self._before_kick = self._outage_since = None
        self._go(Trigger.STOP, State.STOPPED, now)

    # -- beginning ----------------------------------------------------------------------------

    def _begin_if_due(self, now: float) -> None:
        if self.state is State.BACKOFF and self._retry_at is not None and self._retry_at <= now:
            self._begin(now)

    def _begin(self, now: float) -> None:
        self.generation += 1
        verify = self._court.verify
        resume = self._resumable and not verify
        by = now + self.policy.attempt_timeout
        self._current = Current(self.generation, verify, resume, began_at=now, by=by)
        self._retry_at = None
        self._pace.opened(now)
        self._out.append(Open(self.generation, resume=resume, verify=verify))
        self._go(Trigger.DUE, State.CONNECTING, now)

    def _earliest(self, wish: float, now: float) -> float:
        return self._pace.earliest(wish, now, fresh=not self._resumable)

    # -- telling ------------------------------------------------------------------------------

    def _go(self, trigger: Trigger, target: State, now: float) -> None:
        check(self.state, trigger, target)
        self.state = target
        self._tell(trigger, now)

    def _tell(self, trigger: Trigger, now: float) -> None:
        published = self._publish(now)
        if published is not self._published:
            self._published, self._since = published, now
        self._out.append(Report(self.view(now), trigger.value))

    def _publish(self, now: float) -> Published:
        if self.state is State.STOPPED:
            return Published.STOPPED
        if not self._wanted:
            return Published.STOPPING
        if self._court.verdict is not None:
            return Published.FATAL
        pulse = self._current.pulse
        if pulse is not None and self.state is not State.CLOSING:
            # Computed from dated evidence: past its limit nobody is told "connected".
            return Published.CONNECTED if now <= pulse.dead_at else Published.RETRYING
        return Published.CONNECTING if self._outage_since is None else Published.RETRYING
