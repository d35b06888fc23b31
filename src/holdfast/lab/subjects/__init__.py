"""Whom the lab puts to the test: Holdfast and its peers, behind one door.

A subject is told the configuration of its accounts, is started, stopped and killed, and is asked
what it publishes. The lab never looks inside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from holdfast.lab.checker import Row
from holdfast.lab.stage import Stage
from holdfast.lab.terms import Ability, Clock


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a subject publishes of one account at one moment."""

    state: str
    """``connected``, ``retrying``, ``connecting``, ``fatal``, ``stopping``, ``stopped``."""
    generation: int | None = None
    """The number of its newest connection, if it tells."""
    kind: str = ""
    """The kind of the cause that it names."""
    code: str = ""
    message: str = ""
    """The cause in words."""
    hint: str = ""
    """What to do about it, in words."""
    attempt: int = 0
    next_retry_at: float | None = None
    """Unix seconds."""
    suspect: bool = False
    flapping: bool = False
    attention: bool = False
    inbox: int = 0
    outbox: int = 0
    gap: tuple[float, float] | None = None
    """The last reported gap, Unix seconds."""


@dataclass(frozen=True, slots=True)
class Told:
    """The answer of a command that was run: its exit status, and what it wrote."""

    status: int
    text: str


@dataclass(frozen=True, slots=True)
class Left:
    """What a subject had in use: the census of T17."""

    tasks: int = 0
    threads: int = 0
    sockets: int = 0
    descriptors: int = 0
    memory: int = 0
    """Resident bytes."""


class Running(Protocol):
    """A subject between its stages. Every wait is bounded; the context that made it ends it."""

    @property
    def publishes(self) -> bool:
        """Whether it says anything about the state of an account."""

    on_change: Callable[[], None]
    """Called at every change it tells of; readers that can not be told of one look anyway."""

    async def start(self) -> None:
        """Begin to work. Raises OSError when it can not be started at all."""

    async def stop(self) -> float:
        """End as users end it; the seconds it took. Idempotent."""

    async def kill(self) -> None:
        """End at once, as by SIGKILL. Needs `Ability.KILL`."""

    def charge(self, point: str) -> None:
        """Let the next life end at a kill point, see `holdfast.killpoints`. Needs
        `Ability.KILL_POINT`."""

    def tear(self) -> None:
        """End its journal with half a page of garbage, while it is dead. Needs `Ability.KILL` and
        `Ability.JOURNAL`."""

    def rename(self, pid: int) -> None:
        """Let its status name another process as its writer. Needs `Ability.KILL`."""

    def fill_disk(self, full: bool) -> None:
        """Let no file of its grow, or let them again. Needs `Ability.DISK`."""

    def exhaust(self, none_left: bool) -> None:
        """Let it have no descriptor more than now, or let it again. Needs `Ability.LIMITS`."""

    async def freeze(self) -> None:
        """Stop in the middle of whatever it does. Needs `Ability.FREEZE`."""

    async def thaw(self) -> None:
        """Undo `freeze`."""

    async def stall(self, seconds: float) -> None:
        """Block its event loop. Needs `Ability.STALL`."""

    async def order(self, verb: str, account: str) -> None:
        """``kick``, ``pause`` or ``resume``. Needs `Ability.CONTROL`."""

    async def reload(self) -> None:
        """Take over what the settings of the stages are now, without a new start. Needs
        `Ability.CONTROL`."""

    def names(self, answer: str) -> None:
        """How its names are resolved: ``ok``, ``fail``, ``hang``, or ``dead-v6``: to an IPv6
        address first. Needs `Ability.RESOLVER`."""

    def suspend(self, seconds: float) -> None:
        """Let its clocks tell that the machine has slept so long. Needs `Ability.SUSPEND`."""

    def misdate(self, seconds: float) -> None:
        """Step its wall clock, not the world's. Needs `Ability.SUSPEND`."""

    def move(self) -> None:
        """Let the kernel tell it of a new address. Needs `Ability.SUSPEND`."""

    def log(self) -> str:
        """What it has written to its log so far. Needs `Ability.LOG`."""

    async def ask(self) -> Told:
        """Ask it from outside how it is, as its users do. Needs `Ability.ASK`."""

    async def second(self, *, shared: bool) -> Told | None:
        """Start a second one with the same accounts, on the same state directory or another;
        None when it has not given up after some seconds. Needs `Ability.TWICE`."""

    def environ(self, variables: Mapping[str, str]) -> None:
        """Be started with these environment variables besides its own, until the play ends."""

    def read(self, account: str) -> Reading | None:
        """What it publishes now; None when it publishes nothing."""

    def census(self) -> Left:
        """What it has in use now."""

    def accidents(self) -> Sequence[str]:
        """What went wrong with itself that nobody had asked for: an exit, a traceback."""

    async def rows(self, account: str) -> Sequence[Row]:
        """Its journal after the end, for doubles it has marked; empty if it keeps none."""

    async def gaps(self, account: str) -> Sequence[tuple[float, float]]:
        """Every gap it has reported, Unix seconds."""


class Subject(Protocol):
    """A program that can be put to the test."""

    name: str
    version: str
    clock: Clock
    """On whose time it can be played: a peer's is always the real one."""
    abilities: frozenset[Ability]
    platforms: frozenset[str] | None
    """The platforms it speaks; None: all of them."""
    stop_limit: float
    """Seconds in which its stop must have ended: what it promises, or what its users give it."""
    hurried: bool
    """Whether platforms shorten their own waits in its plays: what a platform repeats sooner than
    it really does would be held against a program that has promised us nothing."""

    def missing(self) -> str | None:
        """Why it can not be run on this machine, and how to mend that; None when it can."""

    def run(
        self,
        home: Path,
        stages: Mapping[str, Stage],
        *,
        policy: Mapping[str, Any],
        gateway: Mapping[str, Any],
    ) -> AbstractAsyncContextManager[Running]:
        """Prepare it for open stages, account name -> stage, without starting it."""
