"""How a platform is made to misbehave: by the name of a simulator's fault, or by a call."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

S = TypeVar("S")

Injection = str | Callable[[S], object]
"""The name of a simulator's fault, armed until it is cleared; or a call, awaited if need be."""


@dataclass(frozen=True, slots=True)
class Armed:
    """A simulator's fault, ready to be armed. Made by `arm`."""

    name: str
    times: int | None
    params: Mapping[str, Any]

    def __call__(self, server: Any) -> None:
        server.faults.arm(self.name, times=self.times, **self.params)


def arm(name: str, *, times: int | None = None, **params: Any) -> Armed:
    """A simulator's fault with parameters; by default it stays armed until it is cleared."""
    return Armed(name, times, params)


async def play(server: S, injection: Injection[S]) -> None:
    """Carry out one injection."""
    inject = arm(injection) if isinstance(injection, str) else injection
    outcome = inject(server)
    if inspect.isawaitable(outcome):
        await outcome
