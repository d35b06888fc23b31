"""One simulated platform behind a cable that can be pulled, and the truth about both.

A stage knows what users said, what they were answered, and when the gateway was really deaf. It
compares that with the status the gateway publishes; it never looks inside the gateway.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

from holdfast.lab.faults.relay import Mode, Relay
from holdfast.lab.simulator import Simulator

PATIENCE = 20.0
"""Seconds after which a user of a healthy bot calls his message lost."""

SAMPLE = 0.1
"""Seconds between two looks at the published status."""


@dataclass(slots=True)
class Fault:
    """One fault that was inflicted, and how it went. Times on the loop's clock."""

    name: str
    began: float
    limit: float
    """Seconds after which `connected` is a lie while the gateway is deaf."""
    healed: float | None = None
    noticed: float | None = None
    recovered: float | None = None

    @property
    def detection(self) -> float | None:
        """Seconds until the status said otherwise than connected; None if it healed before."""
        return None if self.noticed is None else self.noticed - self.began

    @property
    def recovery(self) -> float | None:
        """Seconds from the healing until connected and really listening again."""
        if self.recovered is None or self.healed is None:
            return None
        return max(0.0, self.recovered - self.healed)


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
    gap: int
    detection_s: float | None
    recovery_s: float | None
    lie_s: float
    healed: int

    @property
    def good(self) -> bool:
        """Nothing lost, doubled or lied about."""
        return not (self.lost or self.doubled or self.lie_s)


@dataclass(slots=True)
class Stage:
    """A platform, its cable, its users. Use as ``async with Stage(sim) as stage``."""

    name: str
    simulator: Simulator
    relay: Relay = field(init=False)
    faults: list[Fault] = field(default_factory=list)
    lie: float = 0.0
    gaps: int = 0
    unknown: int = 0
    """Sends the gateway itself reports as of unknown fate: their doubles are marked."""
    state: str = "unknown"
    said: list[str] = field(default_factory=list)
    _deaf_since: float | None = None
    _recovered: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        await self.simulator.start()
        self.relay = Relay(self.simulator.host, self.simulator.port)
        await self.relay.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.relay.stop()
        await self.simulator.stop()

    def account(self) -> dict[str, Any]:
        """The gateway's account table, with every address led through the relay."""
        direct, led = f"127.0.0.1:{self.simulator.port}", f"127.0.0.1:{self.relay.port}"
        table = self.simulator.account()
        return {k: v.replace(direct, led) if isinstance(v, str) else v for k, v in table.items()}

    # -- users --------------------------------------------------------------------------------

    def say(self, *, group: bool = False) -> None:
        """A user says something that was never said before."""
        text = f"{self.name} message {len(self.said) + 1}"
        chat = "the team" if group else "ann"
        self.simulator.say(text, chat=chat, sender="ann", group=group)
        self.said.append(text)

    def answers(self) -> Counter[str]:
        """How often each thing said was answered."""
        counts: Counter[str] = Counter()
        for heard in self.simulator.heard:
            for text in self.said:
                # The last word is a number: "message 1" must not be found in "message 12".
                if heard.text.rstrip().endswith(text):
                    counts[text] += 1
        return counts

    def unanswered(self) -> int:
        """How many messages nobody has answered yet."""
        answers = self.answers()
        return sum(1 for text in self.said if not answers[text])

    def waiting_too_long(self) -> int:
        """Unanswered messages while nothing is wrong: lost, as far as a user can tell."""
        return 0 if self.deaf() or self.state != "connected" else self._overdue()

    def _overdue(self) -> int:
        answers = self.answers()
        now = asyncio.get_running_loop().time()
        said_at = {said.text: said.at for said in self.simulator.said}
        return sum(
            1 for text in self.said if not answers[text] and now - said_at.get(text, now) > PATIENCE
        )

    async def all_answered(self) -> None:
        """Wait until every message said so far is answered. Cancelling is safe."""
        await self.simulator.until(lambda: not self.unanswered(), timeout=None)

    async def all_recovered(self) -> None:
        """Wait until every fault so far is healed and recovered from. Cancelling is safe."""
        while any(fault.recovered is None for fault in self.faults):
            self._recovered.clear()
            await self._recovered.wait()

    # -- faults -------------------------------------------------------------------------------

    def strike(self, name: str, inflict: Callable[[], object], *, limit: float) -> Fault:
        """Inflict a fault now."""
        inflict()
        fault = Fault(name, asyncio.get_running_loop().time(), limit)
        self.faults.append(fault)
        return fault

    def heal(self, fault: Fault) -> None:
        """Put the cable back."""
        if self.relay.mode is not Mode.PASS:
            self.relay.heal()
        fault.healed = asyncio.get_running_loop().time()

    def deaf(self) -> bool:
        """The truth: would an event that occurs now not reach the gateway?"""
        return self.relay.mode is not Mode.PASS or not self.simulator.listening()

    def sample(self, state: str, gaps: int, every: float = SAMPLE) -> None:
        """Compare a published state with the truth; called every so many seconds."""
        now = asyncio.get_running_loop().time()
        self.state, self.gaps = state, gaps
        deaf = self.deaf()
        if not deaf:
            self._deaf_since = None
        elif self._deaf_since is None:
            self._deaf_since = now
        open_faults = [fault for fault in self.faults if fault.recovered is None]
        for fault in open_faults:
            if state != "connected" and fault.noticed is None and fault.healed is None:
                fault.noticed = now
            if fault.healed is not None and state == "connected" and not deaf:
                fault.recovered = now
                self._recovered.set()
        limit = max((fault.limit for fault in open_faults), default=DEFAULT_LIMIT)
        if state == "connected" and self._deaf_since is not None:
            self.lie += every if now - self._deaf_since > limit else 0.0

    def verdict(self, platform: str) -> Verdict:
        """What the run showed."""
        answers = self.answers()
        detections = [f.detection for f in self.faults if f.detection is not None]
        recoveries = [f.recovery for f in self.faults if f.recovery is not None]
        return Verdict(
            account=self.name,
            platform=platform,
            received=len(self.said),
            answered=sum(1 for text in self.said if answers[text]),
            doubled=max(0, sum(c - 1 for c in answers.values() if c > 1) - self.unknown),
            lost=self.unanswered(),
            gap=self.gaps,
            detection_s=round(max(detections), 2) if detections else None,
            recovery_s=round(max(recoveries), 2) if recoveries else None,
            lie_s=round(self.lie, 2),
            healed=len(recoveries),
        )


DEFAULT_LIMIT = 60.0
"""The silence limit where no fault sets a tighter one."""
