"""The subjects by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

from holdfast.lab.subjects import Subject
from holdfast.lab.subjects.inprocess import InProcess
from holdfast.lab.subjects.peers import Peer, hermes_state
from holdfast.lab.subjects.process import AsProcess
from holdfast.lab.terms import Clock

HOLDFAST: Final = "holdfast"

PROCESS: Final = "holdfast:process"
"""Holdfast as a process on the real clock, also where simulated time would do."""


class UnknownSubject(KeyError):
    """There is no subject of that name; the message lists those there are."""

    def __str__(self) -> str:
        return str(self.args[0])


def _holdfast(clock: Clock, seed: int) -> Subject:
    return InProcess(seed) if clock is Clock.SIMULATED else AsProcess()


def _process(clock: Clock, seed: int) -> Subject:
    return AsProcess(PROCESS)


def _sdk(package: str, platform: str, clock: Clock, seed: int) -> Subject:
    return Peer(f"sdk:{package}", frozenset({platform}))


SDKS: Final = {
    "aiogram": "telegram",
    "dingtalk-stream": "dingtalk",
    "discord.py": "discord",
    "lark-oapi": "feishu",
    "python-telegram-bot": "telegram",
    "qq-botpy": "qqbot",
    "slack-sdk": "slack",
}
"""Package -> the platform it speaks."""


def _hermes(clock: Clock, seed: int) -> Subject:
    spoken = frozenset({"discord", "feishu", "mattermost", "qqbot", "telegram"})
    return Peer("hermes-agent", spoken, state=hermes_state)


def _astrbot(clock: Clock, seed: int) -> Subject:
    return Peer("astrbot", frozenset({"feishu", "telegram"}))


SUBJECTS: Mapping[str, Callable[[Clock, int], Subject]] = {
    HOLDFAST: _holdfast,
    PROCESS: _process,
    **{f"sdk:{name}": partial(_sdk, name, platform) for name, platform in SDKS.items()},
    "hermes-agent": _hermes,
    "astrbot": _astrbot,
}
"""Name -> the subject for a mode of that clock, and a seed."""


def subject(name: str, clock: Clock, seed: int = 1) -> Subject:
    """The subject of a name, for a mode of that clock. Raises UnknownSubject.

    ``seed``: of what it leaves to chance, if that is in the lab's hands: on the real clock nothing
    repeats itself exactly.
    """
    if name not in SUBJECTS:
        known = ", ".join(sorted(SUBJECTS))
        raise UnknownSubject(f"there is no subject {name!r}; there are: {known}")
    return SUBJECTS[name](clock, seed)
