"""The play of the demo: users who chat, cables that are pulled, and a watcher who takes notes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from holdfast.gateway.gateway import Gateway
from holdfast.lab.faults.relay import Relay
from holdfast.lab.stage import DEFAULT_LIMIT, SAMPLE, Stage, Trouble, Verdict

READY = 20.0
"""Seconds in which all platforms should be connected; the play begins in any case."""

SETTLE = 8.0
"""Seconds at the end in which nothing is broken and the last answers arrive."""

REDELIVERY = 20.0
"""Seconds beyond, for platforms that wait before they hand a message out again."""

TALK = 1.6
"""Seconds between two messages of a platform's users, where it lets the bot answer so often."""

CHATS = 2
"""Chats among which the users of a platform take turns."""

OPENING, STAGGER = 2.0, 0.9
"""Seconds until the first fault of the first platform, and between those of two platforms."""

QUIET = 8.0
"""Seconds between two faults of one platform."""


@dataclass(frozen=True, slots=True)
class Trick:
    """A fault of the demo's repertoire."""

    name: str
    switch: Callable[[Relay], None]
    seconds: float
    """How long until the cable is put back."""
    limit: float
    """Seconds after which `connected` is a lie, for a platform with a connection."""


RESET = Trick("connection reset", Relay.rst, 0.5, 3.0)
HOLE = Trick("silent hole", Relay.cut, 12.0, 60.0)
PULLED = Trick("cable pulled", Relay.refuse, 4.0, 3.0)

REPERTOIRE = (RESET, HOLE, PULLED)


def repertoire(number: int) -> tuple[Trick, ...]:
    """The tricks for the platform of a number: neighbours begin with different ones."""
    first = number % len(REPERTOIRE)
    return REPERTOIRE[first:] + REPERTOIRE[:first]


def opening(number: int, platforms: int, window: float | None) -> float:
    """Seconds until the first fault of a platform; in a short ``window`` all come sooner."""
    stagger = STAGGER
    if window is not None:
        stagger = max(0.0, min(stagger, (window - OPENING - PULLED.seconds) / platforms))
    return OPENING + stagger * number


class Demo:
    """Stages, a gateway between them and its agent, and the play."""

    def __init__(
        self,
        gateway: Gateway,
        stages: dict[str, Stage],
        left_out: Mapping[str, str] | None = None,
    ) -> None:
        self.gateway, self.stages = gateway, stages
        self.left_out = dict(left_out or {})
        """Platforms that can not be played on this machine, and why."""
        self.events: deque[str] = deque(maxlen=8)
        """The newest things that happened, in words."""
        self.told = 0
        """How many things happened in all."""
        self._enough = asyncio.Event()
        self._held: dict[str, Trouble] = {}
        """Platforms whose cable a person has pulled."""

    # -- a person's hand ----------------------------------------------------------------------

    def cables(self) -> dict[str, bool]:
        """Account -> whether its cable is out, by whomever."""
        return {name: stage.cable.broken for name, stage in self.stages.items()}

    def pull(self, name: str) -> None:
        """Pull a cable; the play leaves it alone until it is put back. Idempotent."""
        if name not in self._held:
            self._held[name] = self._strike(self.stages[name], PULLED)

    def put_back(self, name: str) -> None:
        """Put a cable back, whoever has pulled it. Idempotent."""
        stage = self.stages[name]
        fault = self._held.pop(name, None)
        if fault is not None:
            stage.heal(fault)
        elif stage.cable.broken:
            stage.cable.heal()

    async def _let_go(self, name: str) -> None:
        while name in self._held:  # noqa: ASYNC110 - a person takes seconds
            await asyncio.sleep(SAMPLE)

    # -- the play -----------------------------------------------------------------------------

    async def play(self, seconds: float | None) -> None:
        """Chat and break things for so long (None: until `end`), then let it settle."""
        window = None if seconds is None else max(1.0, seconds - SETTLE)
        with contextlib.suppress(TimeoutError):  # who is missing will be seen
            await self._ready()
        async with asyncio.TaskGroup() as group:
            watcher = group.create_task(self._watch())
            actors = [group.create_task(self._users(stage)) for stage in self.stages.values()]
            for number, stage in enumerate(self.stages.values()):
                actors.append(group.create_task(self._break(stage, number, window)))
            await self._pause(window)
            self._enough.set()
            for name in list(self._held):
                self.put_back(name)
            await asyncio.wait(actors, timeout=SETTLE)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SETTLE + REDELIVERY):
                    await self._settled()
            for actor in (*actors, watcher):
                actor.cancel()

    def end(self) -> None:
        """That is enough: cables are put back, and the play ends as if its time were over."""
        self._tell("the end: all cables go back, and the last answers come in")
        self._enough.set()

    async def _pause(self, seconds: float | None) -> None:
        """So long, or until it is enough."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._enough.wait()

    def verdicts(self) -> list[Verdict]:
        """What the play showed."""
        return [stage.verdict(platform) for platform, stage in self.stages.items()]

    def conclusion(self) -> str:
        """What the play showed, in a sentence."""
        verdicts = self.verdicts()
        bad = [verdict.account for verdict in verdicts if not verdict.good]
        if bad:
            return f"Not as promised: {', '.join(bad)}."
        healed, gaps = sum(v.healed for v in verdicts), sum(v.gap for v in verdicts)
        told = f"\n{gaps} messages fell into gaps that were reported." if gaps else ""
        return f"All {healed} faults healed; nothing lost, doubled or lied about.{told}"

    async def _ready(self) -> None:
        async with asyncio.timeout(READY):
            for name, stage in self.stages.items():
                await self.gateway.desk(name).account.until(lambda v: v.published == "connected")
                while not stage.simulator.listening():  # noqa: ASYNC110 - its news tell no link
                    await asyncio.sleep(SAMPLE)

    async def _settled(self) -> None:
        for stage in self.stages.values():
            await stage.all_recovered()
            await stage.all_accounted_for()

    def _pace(self, name: str) -> float:
        """Seconds between two messages that the platform lets the bot answer without a queue."""
        rate = self.gateway.desk(name).account.adapter.traits.rate_chat
        return TALK if rate is None else max(TALK, 1.2 / (CHATS * rate.per_second))

    async def _users(self, stage: Stage) -> None:
        pace, group = self._pace(stage.name), False
        while not self._enough.is_set():
            stage.say(group=group)
            group = not group
            await self._pause(pace)

    async def _break(self, stage: Stage, number: int, window: float | None) -> None:
        loop = asyncio.get_running_loop()
        end = None if window is None else loop.time() + window
        tricks, played = repertoire(number), Counter[str]()
        await self._pause(opening(number, len(self.stages), window))
        while not self._enough.is_set():
            fits = [t for t in tricks if end is None or loop.time() + t.seconds <= end]
            if not fits:
                return
            trick = min(fits, key=lambda trick: played[trick.name])
            played[trick.name] += 1
            await self._let_go(stage.name)
            await self._one(stage, trick)
            await self._pause(QUIET)

    async def _one(self, stage: Stage, trick: Trick) -> None:
        fault = self._strike(stage, trick)
        await self._pause(trick.seconds)
        await self._let_go(stage.name)
        stage.heal(fault)
        self._tell(f"{stage.name}: cable back")
        await stage.all_recovered()
        self._tell(f"{stage.name}: connected again after {fault.recovery or 0.0:.1f} s")

    def _strike(self, stage: Stage, trick: Trick) -> Trouble:
        limit = DEFAULT_LIMIT if stage.called else trick.limit
        self._tell(f"{stage.name}: {trick.name}")
        return stage.strike(trick.name, lambda: stage.cable(trick.switch), limit=limit)

    def _tell(self, text: str) -> None:
        self.events.append(text)
        self.told += 1

    async def _watch(self) -> None:
        while True:
            status = self.gateway.status()
            for name, stage in self.stages.items():
                entry = status.accounts[name]
                stage.unknown = entry.unknown
                stage.sample(entry, status.written_at)
            await asyncio.sleep(SAMPLE)
