"""One play of one mode: stages, users, a subject between them, and the notes that are taken.

A scene knows the truth (what was said and heard, when the way was really open) from the simulators
and cables alone. What the subject says of itself it only writes down.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from holdfast.lab.checker import Answer, History, Question, Row
from holdfast.lab.fault import Fault
from holdfast.lab.faults.relay import Mode as Network
from holdfast.lab.faults.relay import Relay
from holdfast.lab.injection import play
from holdfast.lab.judge import STOP
from holdfast.lab.profile import Profile
from holdfast.lab.record import Moment, Record
from holdfast.lab.simulator import Arming
from holdfast.lab.stage import Stage
from holdfast.lab.subjects import Reading, Running
from holdfast.lab.terms import Clock, Expect, Play

FINE, COARSE = 0.1, 10.0
"""Seconds between two looks: while something happens, and while simulated hours pass, in which
every fact and every report is looked at besides."""

FAILING: Final = ("retrying", "fatal")
"""States for which there is a cause."""

BUSY: Final = 5.0
"""Seconds after the last news in which something is taken to happen still."""

ECHO: Final = 2.0
"""Seconds after everything is accounted for in which a second answer would come."""

SETTLE: Final = 180.0
"""Seconds in which everything said must be accounted for in the end, a platform's redelivery not
counted: the sender's own ladder takes its time."""

PATIENCE: Final = 90.0
"""Seconds beyond what is expected for which a play waits before it calls a thing never."""


class Seat:
    """One account: its platform, its cable, its users, and its record."""

    def __init__(self, stage: Stage, profile: Profile) -> None:
        self.stage, self.profile = stage, profile
        self.record = Record(stage.name)
        self.said: list[Question] = []
        self.heard: list[Answer] = []
        self.heard_at: dict[str, float] = {}
        """Token -> when its first answer came."""
        self.waiting: set[tuple[str, str]] = set()
        self.gaps: list[tuple[float, float]] = []
        """As published, Unix seconds."""
        self.told: list[Reading] = []
        """Every failure that was published, in the order of time, however soon it was over."""
        self.in_hand = False
        """The subject tells of messages that it has and has not answered."""
        self.unplayed: list[str] = []
        """What the platform was told to do and never got to, in words."""
        self.excused_until = 0.0
        """Unix seconds: what was said before may be in a reported gap instead of answered."""
        self._armed: list[tuple[Play, Sequence[Arming]]] = []
        """What the platform was told since the last healing."""
        self._read = 0
        self._shut = False
        """Nothing passes, over old connections or new ones."""
        self._open_since = 0.0
        """When the way was last opened, on the loop's clock."""
        self._struck: int | None = None
        """How many ways in there were when all of them were struck."""

    @property
    def name(self) -> str:
        """The account's name."""
        return self.stage.name

    @property
    def simulator(self) -> Any:
        """The platform."""
        return self.stage.simulator

    # -- users --------------------------------------------------------------------------------

    def say(self, wall: float, chat: str, ask: str, **more: Any) -> str:
        """Somebody says what was never said before; returns its token."""
        token = f"{self.name}-{len(self.said) + 1}"
        group = chat.startswith("team") and self.stage.groups
        self.said.append(Question(token=token, chat=chat, at=wall))
        self.waiting.add((chat, token))
        sender = "ann" if group else chat
        text = f"{ask} number {token}".strip()
        self.simulator.say(text, chat=chat, sender=sender, group=group, **more)
        return token

    def listen(self, now: float) -> bool:
        """Take note of the answers that have come since the last look; whether there were any."""
        heard = self.simulator.heard[self._read :]
        self._read += len(heard)
        said = {asked.token for asked in self.said}
        for one in heard:
            # One answer may be to several messages at once.
            for token in filter(said.__contains__, dict.fromkeys(one.text.split())):
                if one.edit_of is None or token not in self.heard_at:
                    self.heard.append(Answer(token=token, chat=one.chat))
                self.heard_at.setdefault(token, now)
                self.waiting.discard((one.chat, token))
        return bool(heard)

    def owed(self, chat: str | None = None) -> int:
        """Messages, of one chat or of all, that must be answered: only what was said before the
        last healing, or has been accounted for, may be in a gap instead."""
        waiting = [one for one in self.said if (one.chat, one.token) in self.waiting]
        return sum(
            chat in (None, one.chat) and not (one.at <= self.excused_until and self._missing(one))
            for one in waiting
        )

    def _missing(self, asked: Question) -> bool:
        """Whether a message fell into a reported gap that the platform can not fill. Gaps reach
        further than what was lost: as long as something is in hand, it may be this one."""
        gaps = () if self.profile.replays or self.in_hand else self.gaps
        return any(since <= asked.at <= until for since, until in gaps)

    def unaccounted(self) -> int:
        """Messages that are neither answered nor in a reported gap."""
        return sum(
            not self._missing(asked)
            for asked in self.said
            if (asked.chat, asked.token) in self.waiting
        )

    # -- platform -----------------------------------------------------------------------------

    async def play(self, what: Play) -> None:
        """Let the platform misbehave."""
        known = len(self.simulator.faults.armings)
        await play(self.simulator, self.profile.plays[what])
        self._armed.append((what, self.simulator.faults.armings[known:]))

    def waiting_plays(self) -> list[Play]:
        """What the platform was told since the last healing, and has not got to."""
        return [what for what, armings in self._armed if not self.simulator.faults.met(armings)]

    def behave(self) -> None:
        """The platform is itself again; what it never got to is written down."""
        self.unplayed += [
            f"the platform never got to {what.value}" for what in self.waiting_plays()
        ]
        self._armed.clear()
        self.simulator.faults.clear()
        self.profile.mend(self.simulator)

    # -- network ------------------------------------------------------------------------------

    def throw(self, switch: Callable[..., None], *args: Any) -> None:
        """Throw a switch of the cable."""
        self.stage.cable(switch, *args)
        mode = self.stage.relay.mode
        self._shut = mode in (Network.CUT, Network.REFUSE, Network.DRIP) or switch is FREEZE
        holed = mode in (Network.HOLE, Network.HOLE_IN, Network.STALL)
        self._struck = self.profile.links(self.simulator) if holed else None

    def heal(self) -> None:
        """Put the cable back."""
        self.stage.cable.heal()
        self._shut, self._struck = False, None
        self._open_since = self.simulator.now()

    def deaf(self) -> bool:
        """The truth: would an event that occurs now not reach the account?"""
        if self._shut:
            return True
        if self._struck is not None and self.profile.links(self.simulator) == self._struck:
            return True  # the platform believes in a link of which nothing arrives
        if self.simulator.listening():
            return False
        return bool(self.simulator.now() - self._open_since > self.profile.returns)


class Scene:
    """A play under way. Made by `holdfast.lab.engine`."""

    def __init__(
        self,
        expect: Expect,
        seats: Mapping[str, Seat],
        running: Running,
        *,
        clock: Clock = Clock.SIMULATED,
        every: float = FINE,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.expect, self.running = expect, running
        self.simulated = clock is Clock.SIMULATED
        """Whether time jumps when nothing is left to do."""
        self.seats = dict(seats)
        self.seat = next(iter(self.seats.values()))
        """The account that a mode is about."""
        self.tell, self._every = tell, every
        self.stop_s = 0.0
        """The longest stop so far."""
        self.notes: dict[str, Any] = {}
        """What a step leaves for a later one."""
        self.aids = contextlib.AsyncExitStack()
        """What steps have set up; it is put away when the subject has stopped."""
        self.mends: list[Callable[[], object]] = []
        """What the next healing undoes besides."""
        self.epilogue: list[Callable[[Sequence[Row]], None]] = []
        """What steps have to look at in the account's journal when all is over."""
        self._news = self.now()
        self._looked, self._stirred = asyncio.Event(), asyncio.Event()
        self._wall = time.time() - self.now()
        self._sleeps: list[tuple[float, float]] = []
        """When the machine slept, on the loop's clock, and for how many seconds."""
        running.on_change = self.look
        for seat in self.seats.values():
            seat.simulator.on_note = self._stirred.set

    # -- clocks -------------------------------------------------------------------------------

    @staticmethod
    def now() -> float:
        """Seconds on the loop's clock."""
        return asyncio.get_running_loop().time()

    def wall(self) -> float:
        """Unix seconds that pass as the loop's do."""
        return self._wall + self.now()

    def wall_at(self, at: float) -> float:
        """Unix seconds of a time on the loop's clock; of one in which the machine slept, of the
        awakening."""
        return self._wall + at - sum(slept for since, slept in self._sleeps if at < since)

    def awake(self, since: float, until: float) -> list[tuple[float, float]]:
        """What of a time on the loop's clock the machine was awake, in Unix seconds."""
        sleeps = [(at, slept) for at, slept in self._sleeps if since < at <= until]
        begins = [since, *(at for at, _ in sleeps)]
        ends = [*(self.wall_at(at) - slept for at, slept in sleeps), self.wall_at(until)]
        return list(zip(map(self.wall_at, begins), ends, strict=True))

    def slept(self, seconds: float) -> None:
        """The whole machine has slept: the time of day went on, the loop's clock did not."""
        self._wall += seconds
        self._sleeps.append((self.now(), seconds))

    # -- notes --------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Look for ever: often while something happens, in simulated hours less often."""
        while True:
            self.look()
            if self.simulated and self.now() - self._news > BUSY:
                await self._stir(COARSE)
            else:
                await asyncio.sleep(self._every)

    async def _stir(self, within: float) -> None:
        """Wait for the next fact on any platform, so long at most."""
        self._stirred.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._stirred.wait()

    def look(self) -> None:
        """Write down how things are now."""
        now = self.now()
        for seat in self.seats.values():
            news = seat.listen(now)
            before = len(seat.record.moments)
            seat.record.follow(self._moment(seat, now))
            if news or len(seat.record.moments) != before:
                self._news = now
        self._looked.set()

    def _moment(self, seat: Seat, now: float) -> Moment:
        reading = self.running.read(seat.name)
        if reading is None:
            return Moment(at=now, state=None, deaf=seat.deaf())
        seat.in_hand = bool(reading.inbox or reading.outbox)
        if reading.gap is not None and reading.gap not in seat.gaps:
            seat.gaps.append(reading.gap)
        if reading.state in FAILING and _cause(reading) not in map(_cause, seat.told[-1:]):
            seat.told.append(reading)
        return Moment(
            at=now,
            state=reading.state,
            deaf=seat.deaf(),
            generation=reading.generation,
            kind=reading.kind,
            code=reading.code,
            attempt=reading.attempt,
            flapping=reading.flapping,
            attention=reading.attention,
        )

    async def until(self, condition: Callable[[], bool], within: float) -> bool:
        """Wait until a condition on the notes holds; False when it did not in time."""
        self._news = self.now()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not condition():
                    self._looked.clear()
                    await self._looked.wait()
                return True
        return condition()

    def object(self, what: str, seat: Seat | None = None) -> None:
        """Something is otherwise than it must be."""
        (seat or self.seat).record.broken.append(what)

    # -- faults -------------------------------------------------------------------------------

    def strike(self, name: str, seat: Seat | None = None) -> Fault:
        """A fault begins now."""
        fault = Fault(name, self.now())
        (seat or self.seat).record.faults.append(fault)
        self._news = self.now()
        self.tell(f"{(seat or self.seat).name}: {name}")
        return fault

    async def play(self, what: Play, seat: Seat | None = None) -> None:
        """Let the platform misbehave."""
        await (seat or self.seat).play(what)

    def heal(self, only: Seat | None = None) -> None:
        """End every fault of network and platform that lasts, of one account or of all."""
        while self.mends:
            self.mends.pop()()
        for seat in self.seats.values() if only is None else [only]:
            seat.heal()
            seat.behave()
            seat.excused_until = self.wall()
            for fault in seat.record.faults:
                fault.healed = self.now() if fault.healed is None else fault.healed
        self._news = self.now()
        self.tell("healed")

    def open_faults(self) -> list[Fault]:
        """Faults that are not recovered from."""
        records = (seat.record for seat in self.seats.values())
        return [fault for record in records for fault in record.faults if not fault.recovered]

    # -- the subject --------------------------------------------------------------------------

    def absent(self, since: float) -> None:
        """From then until now the subject could have told nothing."""
        for seat in self.seats.values():
            seat.record.absences.append((since, self.now()))

    async def stop(self) -> None:
        """Let the subject end as its users end it; one that never does must not hold up the lab."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP + PATIENCE):
                self.stop_s = max(self.stop_s, await self.running.stop())
                return
        self.object(f"it did not stop within {STOP + PATIENCE:g} s")

    # -- the end ------------------------------------------------------------------------------

    async def settle(self) -> None:
        """Mend everything and wait until all that was said is accounted for."""
        self.heal()
        redelivery = max(seat.profile.redelivery for seat in self.seats.values())
        await self.until(self._accounted_for, (SETTLE if self.simulated else 60.0) + redelivery)
        await self.until(lambda: False, ECHO)

    def _accounted_for(self) -> bool:
        return not any(seat.unaccounted() for seat in self.seats.values())

    def _walls(self, spans: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(self.wall_at(since), self.wall_at(until)) for since, until in spans]

    def _hearing(self, record: Record) -> list[tuple[float, float]]:
        return [part for span in record.hearing() for part in self.awake(*span)]

    async def close(self, began: float) -> None:
        """Stop the subject and complete the records."""
        ended = self.now()
        async with self.aids:
            await self.stop()
        for seat in self.seats.values():
            seat.listen(self.now())
            rows = await self.running.rows(seat.name)
            if seat is self.seat:
                for check in self.epilogue:
                    check(rows)
            seat.record.began, seat.record.ended = began, ended
            seat.record.publishes = self.running.publishes
            seat.record.history = History(
                account=seat.name,
                said=seat.said,
                heard=seat.heard,
                rows=rows,
                gaps=[*seat.gaps, *await self.running.gaps(seat.name)],
                replays=seat.profile.replays and not self.expect.gap,
                kept=() if self.expect.gap else self._walls(seat.profile.kept(seat.simulator)),
                hearing=[(0.0, self.wall_at(began)), *self._hearing(seat.record)],
                ordered=seat.profile.ordered,
            )


def _cause(reading: Reading) -> tuple[str, ...]:
    return reading.state, reading.kind, reading.code, reading.message, reading.hint


FREEZE: Final = partial(Relay.stall, new=True)
"""The server stands still (T2): its kernel takes every connection, and nobody answers."""

SWITCHES: Final[Mapping[str, Callable[..., None]]] = {
    "pass": Relay.pass_,
    "hole": Relay.hole,
    "hole_in": Relay.hole_in,
    "cut": Relay.cut,
    "refuse": Relay.refuse,
    "rst": Relay.rst,
    "fin": Relay.fin,
    "stall": Relay.stall,
    "freeze": FREEZE,
    "late": Relay.late,
    "drip": Relay.drip,
    "idle_drop": Relay.idle_drop,
}
"""Name -> what a cable can do (T1)."""
