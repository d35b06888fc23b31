"""What an adapter's author hands in: his adapter, a test server, and how it is made to misbehave.

Everything that happens on the network (refused, mute, cut, reset, no name) the kit does itself with
a relay before the server. Only what the platform itself must do is asked of the author, as a table
from `Need` to the fault that plays it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Generic, Protocol, TypeVar

from holdfast.adapter import Adapter
from holdfast.lab.injection import Armed, Injection, play
from holdfast.supervision import Kind, Policy, preset

SILENCE = 60.0
"""Seconds for which a dead connection may pass as connected: the promise of the whole project."""


class Need(Enum):
    """What a scenario asks of the platform. A fault lasts until `Bench.heal`; none need repeat.

    Faults of a login or of a message strike the next one: the kit ends the connection, or says
    something, by itself.
    """

    STALL_LOGIN = "accept a login and never answer it"
    REVOKE = "refuse the credentials from now on, on the live connection too"
    REPAIR = "accept the credentials again"
    REPLACED = "say that another client has taken the account over"
    THROTTLE = "answer logins with a rate limit, telling `Bench.retry_after` if the platform can"
    GOODBYE = "ask the live connection to end, as planned, and end it"
    NOTICE = "announce the planned end of the live connection, and end it some seconds later"
    REFUSE_RESUME = "know nothing of the session or place the bot wants to continue from"
    DUPLICATE = "deliver the next messages twice"
    REORDER = "let the next message be overtaken by the one after it"
    BAD_FRAME = "send something that can not be understood before the next message"
    LOSE_SEND_ANSWER = "take the bot's next message and cut the connection instead of answering"


class Text(Protocol):
    """A message of the bot, as a user received it."""

    @property
    def text(self) -> str:
        """What it says."""


class Server(Protocol):
    """A test server on 127.0.0.1; every `holdfast.lab.simulator.Simulator` is one.

    Addresses that it hands out must follow the Host header of the request, or the relay before it
    would be left out.
    """

    port: int

    @property
    def heard(self) -> Sequence[Text]:
        """Everything users received from the bot, oldest first."""

    def say(self, text: str, *, chat: str, sender: str) -> str:
        """A user writes to the bot in private; the message waits where the platform keeps it."""

    def listening(self) -> bool:
        """The truth: would a message that is said now reach the bot over a link it has open?"""

    def account(self) -> dict[str, Any]:
        """The table that configures an account on this server."""


S = TypeVar("S", bound=Server)


@dataclass(frozen=True)  # no slots: on 3.11 they break ``Ending[S](...)``
class Ending(Generic[S]):
    """One documented way in which the platform ends a connection or refuses one (C08)."""

    code: str
    """What the platform calls it: a close code, an HTTP status."""
    kind: Kind
    """What the adapter must make of it."""
    inject: Injection[S]


class BenchError(ValueError):
    """A bench that contradicts itself; the message names each contradiction."""


@dataclass(frozen=True, kw_only=True)  # no slots: on 3.11 they break ``Bench[S](...)``
class Bench(Generic[S]):
    """An adapter under test. Raises BenchError when the tables contradict each other."""

    adapter: type[Adapter]
    server: Callable[[], AbstractAsyncContextManager[S]]
    """Makes a server; one per scenario, so that nothing carries over."""
    faults: Mapping[Need, Injection[S]] = field(default_factory=dict)
    endings: Sequence[Ending[S]] = ()
    """Every documented close code, or status, that ends a connection."""
    introduce: Callable[[S, str], object] | None = None
    """Tells the server the base address of the account's web hooks, where it must be known before
    the account runs."""
    clear: Callable[[S], object] | None = None
    """Ends every fault; by default ``server.faults.clear()`` where there is such a thing."""
    retry_after: float | None = None
    """Seconds that the THROTTLE fault asks for; None where the platform does not say."""
    not_applicable: Mapping[str, str] = field(default_factory=dict)
    """Scenario (``"C17"``) -> the reason, a property of the platform, why it can not happen."""
    deviations: Mapping[str, str] = field(default_factory=dict)
    """Scenario -> the known reason why it fails. One that passes all the same is an error."""
    silence: float = SILENCE
    """Above 60 s only where the platform's own heartbeat makes that impossible."""
    redelivery: float = 0.0
    """Seconds after which the platform pushes a message again that nobody has acknowledged."""
    policy: Mapping[str, Any] = field(default_factory=dict)
    """Overrides of the supervision policy."""

    def __post_init__(self) -> None:
        problems = [
            f"{scenario!r} is no scenario"
            for scenario in (*self.not_applicable, *self.deviations)
            if not re.fullmatch(r"C(0[1-9]|[12]\d|30)", scenario)
        ]
        both = sorted(self.not_applicable.keys() & self.deviations.keys())
        problems += [f"{s} can not be both not applicable and a deviation" for s in both]
        reasons = {**self.not_applicable, **self.deviations}
        problems += [f"{s} gives no reason" for s, reason in reasons.items() if not reason.strip()]
        problems += [f"the server has no fault {name!r}" for name in self._unknown_faults()]
        if self.adapter.traits.liveness.every <= 0:
            problems.append("the adapter declares no proof of life")
        if problems:
            raise BenchError("; ".join(problems))

    def _unknown_faults(self) -> list[str]:
        known: Mapping[str, str] | None = getattr(self.server, "FAULTS", None)
        if known is None:
            return []
        injections = [*self.faults.values(), *(ending.inject for ending in self.endings)]
        names = [i.name if isinstance(i, Armed) else i for i in injections]
        return [name for name in names if isinstance(name, str) and name not in known]

    @property
    def platform(self) -> str:
        """The platform's name."""
        return self.adapter.platform

    def supervision(self) -> Policy:
        """The policy the account runs under."""
        return preset(self.platform, self.policy)

    async def introduce_to(self, server: S, hook_url: str) -> None:
        """Tell the server where the account's web hooks are."""
        if self.introduce is not None:
            outcome = self.introduce(server, hook_url)
            if inspect.isawaitable(outcome):
                await outcome

    async def inject(self, server: S, need: Need) -> None:
        """Play a fault. Raises KeyError when the bench has none for the need."""
        await play(server, self.faults[need])

    async def heal(self, server: S) -> None:
        """End every fault that lasts."""
        if self.clear is not None:
            await play(server, self.clear)
        elif (faults := getattr(server, "faults", None)) is not None:
            faults.clear()
