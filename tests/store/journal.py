"""Values and clocks the tests of the journal share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from holdfast.messages import Inbound, Outbound
from holdfast.store.protocol import Store

DAY = 86_400.0

Opens = Callable[[], AbstractAsyncContextManager[Store]]


@dataclass
class Clock:
    """Unix seconds that move when told."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def inbound(name: str = "m1", *, chat: str = "chat", text: str = "hello") -> Inbound:
    return Inbound(id=name, chat=chat, sender="ann", text=text)


def outbound(key: str = "k1", *, text: str = "answer") -> Outbound:
    return Outbound(key=key, chat="chat", text=text, reply_to="m1")


def names(directory: Path, part: str = "") -> list[str]:
    """The files of a directory whose names contain ``part``."""
    return sorted(path.name for path in directory.iterdir() if part in path.name)
