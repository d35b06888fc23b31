"""The supervisor of one account. Everything that decides whether a bot lives happens here.

Rules of this file:
- No I/O, no clock, no randomness: the caller passes ``now`` and a source of jitter.
- Every state except STOPPED has a deadline, so a connection can not die in silence.
- Every state change is a row of `states.TRANSITIONS`.
- Counting only makes us slower and louder; only the peer's verdict makes us wait for a person.
- Success is a stable run, never a mere connect.
- A late clock convicts nobody.
"""

from __future__ import annotations

from collections.abc import Callable

from holdfast.supervision.backoff import jittered, rung
from holdfast.supervision.causes import Cause, Kind, Remedy
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
    Kick,
    Memory,
    Open,
    Probe,
    Ready,
    Reconfigured,
    Report,
    Start,
    Step,
    Stop,
    Tick,
    Verified,
    Woke,
)
from holdfast.supervision.pace import Pace
from holdfast.supervision.policy import Policy
from holdfast.supervision.pulse import Pulse
from holdfast.supervision.states import Breaker, Published, State, Trigger, check
from holdfast.supervision.view import View

_UP = frozenset({State.CONNECTING, State.LIVE, State.SUSPECT})

_NO_LIFE = frozenset({Kind.UNREACHABLE, Kind.TIMEOUT, Kind.THROTTLED, Kind.LOCAL})
"""Kinds that say nothing about the peer's habit of dropping connections it had accepted."""

_SLOW_JITTER = 0.9
"""Slow probes keep close to their cap: their herd has long dispersed, their number matters."""


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
        self._out: list[Effect] = []
        # the open connection, if any
        self._open: int | None = None
        self._verifying = False
        self._resuming = False
        self._touched_at: float | None = None
        self._ready_at: float | None = None
        self._pulse: Pulse | None = None
        self._step = ""
        self._attempt_by = 0.0
        self._step_by = 0.0
        self._verdict_by_us: Cause | None = None
        self._aborted = False
        # waiting
        self._retry_at: float | None = None
        self._before_kick: float | None = None
        # memory over connections
        self._cause: Cause | None = None
        self._failures = 0
        self._quick = 0
        self._resumable = False
        self._resume_failures = 0
        self._was_well = False
        self._confirming = False
        self._verdict: Cause | None = None
        self._verify_delay = policy.verify_first
        self._conflict_since: float | None = None
        self._outage_since: float | None = None
        self._last_proof: float | None = None
        self._since = 0.0
        self._published = Published.STOPPED
        self._stale_events = 0
        self._abandoned = 0

    # -- the two doors ------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take in what happened at ``now`` (seconds, monotonic); return what to do, in order."""
        self._out = []
        if isinstance(event, FromConnection) and event.generation != self._open:
            self._stale_events += 1
            return []
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
            case Ended(cause=cause):
                self._ended(cause, now)
            case Budget(remaining=remaining, total=total, reset_after=reset_after):
                self._pace.logged_in(now, remaining, total, reset_after)
            case _ if self.state is State.CLOSING:
                pass  # nothing a dying connection says changes its end
            case Step(name=name, limit=limit):
                self._touch(now)
                self._step = name
                self._step_by = now + (limit or self.policy.step_timeout)
            case Ready():
                self._ready(event, now)
            case Alive():
                self._alive(now)
            case BeatAcked():
                self._beat_acked(now)
            case BeatFailed(cause=cause):
                self._beat_failed(cause, now)
            case Verified():
                self._verified(now)
        if self.state is State.BACKOFF and self._retry_at is not None and self._retry_at <= now:
            self._begin(now)
        return self._out

    def next_deadline(self) -> float | None:
        """When `Tick` is due; None only in STOPPED."""
        match self.state:
            case State.STOPPED:
                return None
            case State.CONNECTING:
                return min(self._attempt_by, self._step_by)
            case State.LIVE | State.SUSPECT:
                return min(self._life_deadlines())
            case State.CLOSING:
                return self._attempt_by
            case State.BACKOFF | State.BLOCKED:
                return self._retry_at

    def memory(self, now: float) -> Memory:
        """What must survive a restart of the process."""
        return self._pace.memory(now, resumable=self._resumable)

    def view(self, now: float) -> View:
        """A reading for status, history, metrics and alerts, computed from dated evidence."""
        pulse = self._pulse
        return View(
            at=now,
            state=self.state,
            published=self._publish(now),
            since=self._since,
            generation=self.generation,
            attempt=self._failures,
            retry_at=self._retry_at,
            cause=self._cause,
            escalation=self._escalation(),
            step=self._step,
            suspect=self.state is State.SUSPECT,
            flapping=self._flapping,
            attention=self._verdict is not None or self._failures >= self.policy.escalate_after,
            breaker=self._breaker(),
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
        self._wanted = True
        if memory is not None:
            self._pace.restore(memory, now)
            self._resumable = memory.resumable
        if self.state is State.STOPPED:
            self._retry_at = self._earliest(now, now)
            self._go(Trigger.START, State.BACKOFF, now)

    def _stop(self, now: float) -> None:
        self._wanted = False
        if self.state in _UP:
            self._verdict_by_us = Cause(Kind.RECYCLED, "stopped", "stopped by the operator")
            self._close(Trigger.STOP, now)
        elif self.state in (State.BACKOFF, State.BLOCKED):
            self._halt(now)
        elif self.state is State.CLOSING:
            self._tell(Trigger.STOP, now)

    def _kick(self, operator: bool, now: float) -> None:
        if self.state is State.BACKOFF:
            assert self._retry_at is not None
            self._before_kick = self._retry_at if self._retry_at > now else None
            self._retry_at = min(self._retry_at, self._earliest(now, now))
        elif self.state is State.BLOCKED and operator:
            self._lift()
            self._retry_at = self._earliest(now, now)
            self._go(Trigger.KICK, State.BACKOFF, now)
        elif self.state in (State.LIVE, State.SUSPECT) and operator:
            self._replace(Cause(Kind.RECYCLED, "kicked", "reconnected by the operator"), now)

    def _reconfigured(self, policy: Policy, now: float) -> None:
        self.policy = self._pace.policy = policy
        self._pace.wait_until = now
        self._lift()
        self._failures = self._quick = 0
        if self.state is State.BLOCKED:
            self._retry_at = self._earliest(now, now)
            self._go(Trigger.KICK, State.BACKOFF, now)
        elif self.state is State.BACKOFF:
            self._retry_at = self._earliest(now, now)
        elif self.state in _UP:
            self._replace(Cause(Kind.RECYCLED, "reconfigured", "the configuration changed"), now)

    def _lift(self) -> None:
        """Forget a verdict: whoever kicks or reconfigures says that he has acted."""
        self._verdict = self._conflict_since = None
        self._was_well = self._confirming = False
        self._verify_delay = self.policy.verify_first

    def _woke(self, slept: float, now: float) -> None:
        self._pace.slept(slept)
        if self.state is State.CONNECTING:
            self._excuse_attempt(now)
        elif self.state in (State.LIVE, State.SUSPECT):
            self._doubt(now)
        elif self.state is State.BACKOFF:
            self._kick(False, now)

    # -- what a connection says ---------------------------------------------------------------

    def _ready(self, event: Ready, now: float) -> None:
        if self.state is not State.CONNECTING:
            return
        self._ready_at = self._touched_at = self._last_proof = now
        self._pulse = Pulse(
            now,
            event.silence or self.policy.silence_limit,
            event.grace or self.policy.probe_grace,
            event.beat,
        )
        self._resumable = event.resumable
        self._resume_failures = 0
        self._was_well, self._confirming, self._verdict = True, False, None
        self._before_kick = None
        self._step = ""
        self._go(Trigger.READY, State.LIVE, now)

    def _touch(self, now: float) -> None:
        if self._touched_at is None:
            self._touched_at = now

    def _alive(self, now: float) -> None:
        self._touch(now)
        self._last_proof = now
        if self._pulse is not None:
            self._pulse.alive(now)
        if self.state is State.SUSPECT:
            self._go(Trigger.PROOF, State.LIVE, now)

    def _beat_acked(self, now: float) -> None:
        if self._pulse is not None:
            self._pulse.ack(now)
        self._alive(now)

    def _beat_failed(self, cause: Cause, now: float) -> None:
        if self._pulse is None:
            return
        if not cause.retryable:
            self._give_up(cause, now)
            return
        self._pulse.beat_failed()
        self._judge_beats(now, f"last: {cause.message or cause.code}")

    def _verified(self, now: float) -> None:
        """The credentials are good after all: the verdict was a passing error."""
        self._drop_connection()
        self._verdict, self._confirming = None, False
        self._retry_at = self._earliest(now + self._ladder(Kind.UNKNOWN), now)
        self._go(Trigger.VERIFIED, State.BACKOFF, now)

    # -- deadlines ----------------------------------------------------------------------------

    def _tick(self, now: float) -> None:
        deadline = self.next_deadline()
        if deadline is None or now < deadline:
            return
        late = now - deadline > self.policy.late_after
        match self.state:
            case State.CONNECTING if late:
                self._excuse_attempt(now)
            case State.CONNECTING:
                self._give_up(self._overdue(), now)
            case State.LIVE | State.SUSPECT if late:
                self._doubt(now)
            case State.LIVE | State.SUSPECT:
                self._tick_life(now)
            case State.CLOSING:
                self._tick_closing(now)
            case State.BLOCKED:
                self._begin(now)
            case _:
                pass  # BACKOFF: handle() begins the attempt

    def _overdue(self) -> Cause:
        step = self._step or "connect"
        return Cause(
            Kind.TIMEOUT,
            f"{self.policy.label}_{step.replace(' ', '_')}_timeout",
            f"no answer in step {step!r}",
            step=step,
        )

    def _life_deadlines(self) -> list[float]:
        pulse = self._pulse
        assert pulse is not None
        deadlines = [pulse.idle_at if self.state is State.LIVE else self._attempt_by]
        if pulse.next_beat is not None:
            deadlines.append(pulse.next_beat)
        if self._ready_at is not None:
            deadlines.append(self._ready_at + self.policy.stable_after)
        return deadlines

    def _tick_life(self, now: float) -> None:
        pulse = self._pulse
        assert pulse is not None
        if self._ready_at is not None and now >= self._ready_at + self.policy.stable_after:
            self._stable(now)
        if pulse.next_beat is not None and now >= pulse.next_beat:
            assert self._open is not None
            pulse.beat(now)
            if self._judge_beats(now, "sent, but not acknowledged"):
                return
            self._out.append(Beat(self._open))
        if self.state is State.LIVE and now >= pulse.idle_at:
            self._doubt(now)
        elif self.state is State.SUSPECT and now >= self._attempt_by:
            silent = now - pulse.last
            self._give_up(
                Cause(
                    Kind.SILENT,
                    f"{self.policy.label}_silent",
                    f"nothing received for {silent:.0f} s, probe included",
                ),
                now,
            )

    def _judge_beats(self, now: float, detail: str) -> bool:
        assert self._pulse is not None
        if self._pulse.missed < self.policy.beat_misses:
            return False
        self._give_up(
            Cause(
                Kind.SILENT,
                f"{self.policy.label}_heartbeat_unacked",
                f"{self._pulse.missed} heartbeats in a row failed ({detail})",
            ),
            now,
        )
        return True

    def _doubt(self, now: float) -> None:
        """Ask for proof, with full grace from now on; forgive what a late clock missed."""
        assert self._pulse is not None
        assert self._open is not None
        if now >= (self._pulse.next_beat or now + 1):
            self._pulse.forgive(now)
        self._attempt_by = now + self._pulse.grace
        self._out.append(Probe(self._open))
        if self.state is State.LIVE:
            self._go(Trigger.DOUBT, State.SUSPECT, now)

    def _excuse_attempt(self, now: float) -> None:
        self._attempt_by = now + self.policy.attempt_timeout
        self._step_by = now + self.policy.step_timeout

    def _stable(self, now: float) -> None:
        """A stable run: the only thing that resets counters."""
        self._ready_at = None
        self._failures = self._quick = 0
        self._conflict_since = self._outage_since = None
        self._verify_delay = self.policy.verify_first
        self._out.append(Report(self.view(now), "stable"))

    # -- closing ------------------------------------------------------------------------------

    def _give_up(self, cause: Cause, now: float) -> None:
        self._verdict_by_us = cause
        if self._outage_since is None:
            self._outage_since = now
        self._close(Trigger.GIVE_UP, now)

    def _replace(self, cause: Cause, now: float) -> None:
        self._verdict_by_us = cause
        self._close(Trigger.REPLACE, now)

    def _close(self, trigger: Trigger, now: float) -> None:
        assert self._open is not None
        if self._verdict_by_us is not None:
            self._cause = self._verdict_by_us
        self._attempt_by = now + self.policy.close_timeout
        self._aborted = False
        self._out.append(Close(self._open))
        self._go(trigger, State.CLOSING, now)

    def _tick_closing(self, now: float) -> None:
        assert self._open is not None
        if not self._aborted:
            self._aborted = True
            self._attempt_by = now + self.policy.abort_timeout
            self._out.append(Abort(self._open))
            return
        self._abandoned += 1
        self._out.append(Abandon(self._open))
        self._ended(Cause(Kind.LOCAL, "abandoned", "the connection ignored its abort"), now)

    def _drop_connection(self) -> None:
        self._open = None
        self._pulse = None
        self._ready_at = self._touched_at = None
        self._verdict_by_us = None
        self._verifying = False
        self._step = ""

    # -- after the end ------------------------------------------------------------------------

    def _ended(self, cause: Cause, now: float) -> None:
        ours = self._verdict_by_us
        cause = ours or cause
        planned = ours is not None and ours.kind is Kind.RECYCLED
        lived_since = self._touched_at if self._ready_at is None else self._ready_at
        quick = (
            not planned
            and lived_since is not None
            and now - lived_since < self.policy.quick_life
            and cause.kind not in _NO_LIFE
        )
        was_live = self._pulse is not None
        tried_resume = self._resuming and self._touched_at is not None and not was_live
        verifying = self._verifying
        self._drop_connection()
        if not self._wanted:
            self._halt(now)
            return
        self._cause = cause
        if self._outage_since is None and not planned:
            self._outage_since = now
        if quick:
            self._quick += 1
        elif was_live:
            self._quick = 0
        self._note_session(cause, tried_resume)
        if cause.retry_after is not None:
            self._pace.server_wait(now, cause.retry_after)
        if planned:
            self._retry_at = self._earliest(now, now)
        elif cause.rule.remedy is Remedy.PERSON:
            if self._must_block(cause, verifying, now):
                self._block(cause, now)
                return
            self._schedule(cause, now)
        elif self._verdict is not None:
            # A blocked account could not be re-verified for want of a network: it stays blocked.
            self._block(self._verdict, now)
            return
        elif cause.rule.remedy is Remedy.RECONNECT and not quick and self._pace.recycle(now):
            self._retry_at = self._earliest(now + self.policy.recycle_delay * self._rand(), now)
        else:
            self._schedule(cause, now)
        self._go(Trigger.ENDED, State.BACKOFF, now)

    def _note_session(self, cause: Cause, tried_resume: bool) -> None:
        self._resume_failures += tried_resume
        if cause.kind is Kind.SESSION or self._resume_failures >= self.policy.resume_tries:
            self._resumable = False
            self._resume_failures = 0

    def _schedule(self, cause: Cause, now: float) -> None:
        """Count the failure and set the next try; a failed kick changes neither."""
        planned, self._before_kick = self._before_kick, None
        if planned is not None and planned > now:
            self._retry_at = self._earliest(planned, now)
            return
        self._failures += 1
        self._retry_at = self._earliest(now + self._ladder(cause.kind), now)

    def _ladder(self, kind: Kind) -> float:
        policy = self.policy
        slow = (
            self._flapping
            or kind is Kind.THROTTLED
            or self._failures >= min(policy.breaker_after, policy.escalate_after)
        )
        if kind is Kind.REPLACED and not slow:
            cap = policy.conflict_cap
        else:
            cap = policy.backoff_slow_cap if slow else policy.backoff_cap
        failures = max(self._failures, policy.breaker_after) if self._flapping else self._failures
        step = rung(failures, first=policy.backoff_first, factor=policy.backoff_factor, cap=cap)
        return jittered(step, self._rand(), low=_SLOW_JITTER if slow and step == cap else 0.5)

    def _must_block(self, cause: Cause, verifying: bool, now: float) -> bool:
        if cause.kind is Kind.REPLACED:
            if self._conflict_since is None:
                self._conflict_since = now
            return now - self._conflict_since >= self.policy.conflict_grace
        if verifying or not self._was_well:
            return True
        # A verdict on an account that was well is confirmed by an independent call first.
        self._was_well, self._confirming = False, True
        return False

    def _block(self, verdict: Cause, now: float) -> None:
        again = self._verdict is not None
        self._verdict, self._confirming = verdict, False
        self._cause = verdict
        if verdict.kind is Kind.REPLACED:
            delay = self.policy.conflict_recheck
        else:
            if again:
                self._verify_delay = min(self._verify_delay * 2, self.policy.verify_cap)
            delay = self._verify_delay
        self._retry_at = self._earliest(now + delay, now)
        self._go(Trigger.VERDICT, State.BLOCKED, now)

    def _halt(self, now: float) -> None:
        self._retry_at = self._before_kick = None
        self._go(Trigger.STOP, State.STOPPED, now)

    # -- beginning ----------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        blocked_by = self._verdict.kind if self._verdict is not None else None
        self.generation += 1
        self._open = self.generation
        self._verifying = self._confirming or blocked_by in (Kind.CREDENTIALS, Kind.REFUSED)
        self._resuming = self._resumable and not self._verifying
        self._excuse_attempt(now)
        self._step_by = self._attempt_by
        self._retry_at = None
        self._pace.opened(now)
        self._out.append(Open(self._open, resume=self._resuming, verify=self._verifying))
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
        if self._verdict is not None:
            return Published.FATAL
        if self._pulse is not None and self.state is not State.CLOSING:
            # Computed from dated evidence: past its limit nobody is told "connected".
            return Published.CONNECTED if now <= self._pulse.dead_at else Published.RETRYING
        return Published.CONNECTING if self._outage_since is None else Published.RETRYING

    @property
    def _flapping(self) -> bool:
        return self._quick >= self.policy.flap_after

    def _breaker(self) -> Breaker:
        if self._failures < self.policy.breaker_after:
            return Breaker.CLOSED
        return Breaker.HALF_OPEN if self.state in _UP else Breaker.OPEN

    def _escalation(self) -> Cause | None:
        """The error of many failures, naming the path of the last one; retries go on."""
        last, label = self._cause, self.policy.label
        if last is None:
            return None
        what = f"last: {last.code}" + (f", {last.message}" if last.message else "")
        if self._failures >= self.policy.escalate_after:
            return Cause(
                last.kind,
                f"{label}_reconnect_exhausted",
                f"{self._failures} attempts in a row failed ({what}); Holdfast keeps trying",
                hint=last.hint,
            )
        if self._flapping:
            return Cause(
                last.kind,
                f"{label}_quick_disconnect",
                f"{self._quick} connections in a row died within "
                f"{self.policy.quick_life:g} s ({what}); retries are slowed down",
                hint=last.hint,
            )
        return None
