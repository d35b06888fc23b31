"""A failure mode as data: what it is, how it is brought about, and what must follow.

A mode is a list of `Step`s from `holdfast.lab.steps` and an `Expect`. Nothing in it names a
platform or a subject: what only a platform can do is a `Play`, which the platform's profile carries
out or declines with a reason, and so it follows from the data where a mode applies.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from holdfast.lab.profile import Profile
from holdfast.lab.scene import Scene
from holdfast.lab.terms import Ability, Clock, Expect, Play

LONG: Final = 180.0
"""Seconds of mere waiting beyond which a play is one of `Ability.HOURS`."""


class Group(StrEnum):
    """What part of life a mode belongs to."""

    SILENT = "silent death"
    RECONNECTING = "reconnecting"
    NETWORK = "network and host"
    OWNERSHIP = "ownership and credentials"
    STATUS = "status"
    MESSAGES = "messages"
    LIFECYCLE = "lifecycle"


Doing = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that is done or waited for, with the words that tell of it."""

    words: str
    do: Doing = field(repr=False)
    needs: frozenset[Play | Ability] = frozenset()
    lasts: float = 0.0
    """Seconds it takes at the least, whatever the subject does."""

    def __str__(self) -> str:
        return self.words


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One of the ways in which connections die. Raises ValueError for one without steps."""

    id: str
    group: Group
    what: str
    """What happens, in a sentence."""
    variants: Mapping[str, Sequence[Step]]
    """Name -> how it is brought about. Every variant is played."""
    expect: Expect = field(default_factory=Expect)
    clock: Clock = Clock.SIMULATED
    why: str = "it lasts longer than anybody waits"
    """Why it, or what is `real` of it, is played on its clock."""
    real: frozenset[str] = frozenset()
    """Variants of a simulated mode that are about the kernel or the process, and so need the real
    clock. The quick set leaves them out."""
    only: frozenset[str] | None = None
    """Platforms on which it can happen at all; None: all."""
    elsewhere: str = ""
    """Why it can not happen on the other platforms."""
    host: str = "127.0.0.1"
    """How the bot is told to call the platform: a name, where the mode is about names."""
    accounts: int = 1
    """How many accounts of the platform take part."""
    account: Mapping[str, Any] = field(default_factory=dict)
    """Settings of every account, where the mode is about them."""
    policy: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of the supervision policy, where the mode is about them."""
    gateway: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the whole subject, where the mode is about them."""
    tls: Collection[str] = ()
    """Variants in which the platform speaks TLS, with certificates of the lab's own authority."""
    quick: bool = False
    """Whether it belongs to the quick set."""
    quick_on: frozenset[str] = frozenset()
    """Platforms on which the quick set plays it, where that takes long; empty: on all."""
    slow: frozenset[str] = frozenset()
    """Variants that the quick set leaves out: they last for hours, or show what another shows."""

    def __post_init__(self) -> None:
        if not self.variants or not all(self.variants.values()):
            raise ValueError(f"{self.id} has no steps")

    def clock_of(self, variant: str) -> Clock:
        """On whose time a variant is played."""
        return Clock.REAL if variant in self.real else self.clock

    def needs(self, variant: str) -> frozenset[Play | Ability]:
        """What a variant asks of platform and subject."""
        steps = self.variants[variant]
        derived = {
            Ability.SEVERAL: self.accounts > 1,
            Ability.SETTINGS: bool(self.account or self.gateway),
            Ability.HOURS: sum(step.lasts for step in steps) > LONG,
        }
        asked = frozenset(ability for ability, needed in derived.items() if needed)
        return asked.union(*(step.needs for step in steps))

    def excuse(self, variant: str, profile: Profile) -> str | None:
        """Why it can not happen on a platform; None when it can."""
        if self.only is not None and profile.platform not in self.only:
            return self.elsewhere
        for name in (self.id, f"{self.id}: {variant}"):
            if name in profile.excused:
                return profile.excused[name]
        if self.accounts > 1 and profile.alone:
            return profile.alone
        asked = (need for need in self.needs(variant) if isinstance(need, Play))
        missing = sorted((play for play in asked if play in profile.lacks), key=lambda p: p.name)
        return profile.lacks[missing[0]] if missing else None
