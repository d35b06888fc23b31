"""One simulated platform behind a cable that can be pulled, and the truth about both.

A stage knows what users said, what they were answered, and when the gateway was really deaf. It
compares that with the status the gateway publishes; it never looks inside the gateway.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from holdfast.lab.cable import HOST, Cable
from holdfast.lab.fault import Fault
from holdfast.lab.faults.relay import Relay
from holdfast.lab.simulator import Simulator
from holdfast.observe.status import AccountStatus, believed

if TYPE_CHECKING:
    from holdfast.lab.faults.tls import Authority

PATIENCE = 20.0
"""Seconds after which a user of a healthy bot calls his message lost."""

SAMPLE = 0.1
"""Seconds between two looks at the published status."""

DEFAULT_LIMIT = 60.0
"""The silence limit where no fault sets a tighter one."""


@dataclass(slots=True)
class Trouble(Fault):
    """A fault, and how long it may go unnoticed."""

    limit: float = DEFAULT_LIMIT
    """Seconds after which `connected` is a lie while the gateway is deaf."""


@dataclass(slots=True)
class Verdict:
    """What a run showed about one account: counts and seconds."""

    account: str
    platform: str
    received: int
    answered: int
    doubled: int
    """Answers delivered twice without the gateway's own mark that it could not know."""
    lost: int
    """Neither answered nor in a reported gap."""
    gap: int
    """Not answered, and reported as missing by a platform that can not replay."""
    detection_s: float | None
    recovery_s: float | None
    lie_s: float
    healed: int
    faults: int

    @property
    def good(self) -> bool:
        """Every fault healed, and nothing lost, doubled or lied about."""
        return self.healed == self.faults and not (self.lost or self.doubled or self.lie_s)


@dataclass(slots=True)
class Stage:
    """A platform, its cable, its users. Use as ``async with Stage(sim) as stage``."""

    name: str
    simulator: Simulator
    groups: bool = True
    """Whether the platform has group chats."""
    called: bool = False
    """Whether the platform comes to the gateway: then no connection tells of its death."""
    replays: bool = False
    """Whether the platform keeps what is missed: then no reported gap excuses a loss."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the account, besides what the simulator asks for."""
    host: str = HOST
    """How the account is told to call the platform."""
    authority: Authority | None = None
    """Who signs the platform's certificates; None: it speaks in clear."""
    cable: Cable = field(init=False)
    faults: list[Trouble] = field(default_factory=list)
    lie: float = 0.0
    gaps: dict[tuple[float, float], tuple[float, float]] = field(default_factory=dict)
    """Every gap that was reported, in Unix seconds -> the same on the loop's clock."""
    unknown: int = 0
    """Sends the gateway itself reports as of unknown fate: their doubles are marked."""
    state: str = "unknown"
    said: list[str] = field(default_factory=list)
    _open: dict[str, float] = field(default_factory=dict)
    """What is not answered yet -> when it was said."""
    _answers: Counter[str] = field(default_factory=Counter)
    _counted: int = 0
    _deaf_since: float | None = None
    _sampled: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        await self.simulator.start()
        self.cable = Cable(self.simulator.port)
        await self.cable.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.cable.stop()
        await self.simulator.stop()

    @property
    def relay(self) -> Relay:
        """The cable's way from the gateway to the platform."""
        return self.cable.outward

    def account(self) -> dict[str, Any]:
        """The gateway's account table, with every address led through the cable."""
        return {**self.cable.led(self.simulator.account(), self.host), **self.settings}

    # -- users --------------------------------------------------------------------------------

    def say(self, *, group: bool = False) -> None:
        """A user says something that was never said before; without groups another user does."""
        text = f"{self.name} message {len(self.said) + 1}"
        second = "the team" if self.groups else "ben"
        chat = second if group else "ann"
        sender = "ann" if self.groups else chat
        self.simulator.say(text, chat=chat, sender=sender, group=group and self.groups)
        self.said.append(text)
        self._open[text] = asyncio.get_running_loop().time()

    def answers(self) -> Counter[str]:
        """How often each thing said was answered."""
        heard = self.simulator.heard
        for answer in heard[self._counted :]:
            # The last word is a number: "message 1" must not be found in "message 12".
            last = answer.text.rstrip()
            for text in self.said:
                if last.endswith(text):
                    self._answers[text] += 1
                    self._open.pop(text, None)
        self._counted = len(heard)
        return self._answers

    def unanswered(self) -> int:
        """How many messages nobody has answered yet."""
        self.answers()
        return len(self._open)

    def missing(self) -> int:
        """How many unanswered messages fell into a reported gap that the platform can not fill."""
        self.answers()
        return sum(map(self._in_gap, self._open.values()))

    def _in_gap(self, moment: float) -> bool:
        reported = self.gaps.values()
        return not self.replays and any(since <= moment <= until for since, until in reported)

    def waiting_too_long(self) -> int:
        """Unanswered messages while nothing is wrong: lost, as far as a user can tell."""
        return 0 if self.deaf() or self.state != "connected" else self._overdue()

    def _overdue(self) -> int:
        self.answers()
        old = asyncio.get_running_loop().time() - PATIENCE
        return sum(1 for at in self._open.values() if at < old and not self._in_gap(at))

    async def all_answered(self) -> None:
        """Wait until every message said so far is answered. Cancelling is safe."""
        await self.simulator.until(lambda: not self.unanswered(), timeout=None)

    async def all_accounted_for(self) -> None:
        """Wait until every message is answered or in a reported gap. Cancelling is safe."""
        while self.unanswered() > self.missing():
            await self._next_sample()

    async def all_recovered(self) -> None:
        """Wait until every fault so far is healed and recovered from. Cancelling is safe."""
        while any(fault.recovered is None for fault in self.faults):
            await self._next_sample()

    async def _next_sample(self) -> None:
        self._sampled.clear()
        await self._sampled.wait()

    # -- faults -------------------------------------------------------------------------------

    def strike(self, name: str, inflict: Callable[[], object], *, limit: float) -> Trouble:
        """Inflict a fault now."""
        inflict()
        fault = Trouble(name, asyncio.get_running_loop().time(), limit=limit)
        self.faults.append(fault)
        return fault

    def heal(self, fault: Trouble) -> None:
        """Put the cable back."""
        if self.cable.broken:
            self.cable.heal()
        fault.healed = asyncio.get_running_loop().time()

    def deaf(self) -> bool:
        """The truth: would an event that occurs now not reach the gateway?"""
        return self.cable.broken or not self.simulator.listening()

    def sample(self, entry: AccountStatus, wall: float, every: float = SAMPLE) -> None:
        """Compare a published status with the truth; called every so many seconds.

        ``wall`` is the Unix time of this moment.
        """
        now = asyncio.get_running_loop().time()
        self.state = believed(entry, wall)
        if entry.gap is not None:
            since, until = float(entry.gap["since"]), float(entry.gap["until"])
            self.gaps.setdefault((since, until), (since + now - wall, until + now - wall))
        deaf = self.deaf()
        if not deaf:
            self._deaf_since = None
        elif self._deaf_since is None:
            self._deaf_since = now
        self._follow(now, deaf)
        limit = max((f.limit for f in self.faults if f.recovered is None), default=DEFAULT_LIMIT)
        if self.state == "connected" and self._deaf_since is not None:
            self.lie += every if now - self._deaf_since > limit else 0.0
        self._sampled.set()

    def _follow(self, now: float, deaf: bool) -> None:
        """Date what becomes of the faults."""
        for fault in self.faults:
            if fault.recovered is not None:
                continue
            if self.state != "connected" and fault.noticed is None and fault.healed is None:
                fault.noticed = now
            if fault.healed is not None and self.state == "connected" and not deaf:
                fault.recovered = now

    def verdict(self, platform: str) -> Verdict:
        """What the run showed."""
        missing, unanswered = self.missing(), self.unanswered()
        answered = len(self.said) - unanswered
        detections = [f.detection for f in self.faults if f.detection is not None]
        recoveries = [f.recovery for f in self.faults if f.recovery is not None]
        return Verdict(
            account=self.name,
            platform=platform,
            received=len(self.said),
            answered=answered,
            doubled=max(0, self.answers().total() - answered - self.unknown),
            lost=unanswered - missing,
            gap=missing,
            detection_s=round(max(detections), 2) if detections else None,
            recovery_s=round(max(recoveries), 2) if recoveries else None,
            lie_s=round(self.lie, 2),
            healed=len(recoveries),
            faults=len(self.faults),
        )
