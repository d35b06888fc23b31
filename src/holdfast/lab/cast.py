"""Who plays which platform in the demo, and what each needs beyond its cable.

Simulators are named, not imported: each is loaded when it is played.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from holdfast.lab.simulator import Simulator
from holdfast.lab.stage import Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One platform's part."""

    simulator: str
    """``module:Class`` below `holdfast.lab.simulators`."""
    needs: Mapping[str, str] = field(default_factory=dict)
    """Module of a library that may be missing -> the extra of Holdfast that brings it."""
    introduce: Callable[[Any, str], object] | None = None
    """Tells the simulator the base address of the gateway's web hooks, before the gateway runs."""
    hasten: Callable[[Any], None] | None = None
    """Shortens the platform's own waits: the lab's faults come seconds apart instead of days."""
    groups: bool = True
    """Whether the platform has group chats."""

    def missing(self) -> str | None:
        """Why it can not be played on this machine, in words; None when it can."""
        for module, extra in self.needs.items():
            if not _installed(module):
                return f"{module} is not installed (pip install 'holdfast[{extra}]')"
        return None

    def stage(self, name: str, *, hurried: bool = True) -> Stage:
        """A stage for it, not yet open; unless ``hurried`` the platform waits as it really does."""
        module, _, kind = self.simulator.partition(":")
        simulator: Simulator = getattr(import_module(f"holdfast.lab.simulators.{module}"), kind)()
        if hurried and self.hasten is not None:
            self.hasten(simulator)
        called = self.introduce is not None
        return Stage(name, simulator, groups=self.groups, called=called)

    async def meet(self, stage: Stage) -> None:
        """Tell an open stage where the gateway will be found."""
        if self.introduce is not None:
            outcome = self.introduce(stage.simulator, stage.cable.hook_url)
            if inspect.isawaitable(outcome):
                await outcome


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package around it
        return False


def _enter_callback(whatsapp: Any, hook_url: str) -> None:
    """The callback address is in force, verified long ago."""
    whatsapp.steal_callback(f"{hook_url}/whatsapp/{whatsapp.phone_number_id}")


def _open_pages(webchat: Any, hook_url: str) -> None:
    """Two people look at the page, from now on and for good."""
    webchat.page = hook_url + webchat.path
    for visitor in ("ann", "ben"):
        webchat.open_tab(visitor)


def _redeliver_soon(feishu: Any) -> None:
    """Every 5 s for some minutes, then each minute for a day, instead of after 15 s, 5 min, 1 h
    and 6 h."""
    feishu.redelivery = (5.0,) * 60 + (60.0,) * 1_440


CAST: Mapping[str, Part] = {
    "telegram": Part(simulator="telegram:TelegramSimulator"),
    "qqbot": Part(simulator="qqbot:QQBotSimulator"),
    "dingtalk": Part(simulator="dingtalk:DingTalkSimulator"),
    "feishu": Part(
        simulator="feishu:FeishuSimulator",
        needs={"google.protobuf": "feishu"},
        hasten=_redeliver_soon,
    ),
    "slack": Part(simulator="slack:SlackSimulator"),
    "mattermost": Part(simulator="mattermost:MattermostSimulator"),
    "discord": Part(simulator="discord:DiscordSimulator"),
    "matrix": Part(simulator="matrix:MatrixSimulator"),
    "whatsapp": Part(simulator="whatsapp:WhatsAppSimulator", introduce=_enter_callback),
    "webchat": Part(simulator="webchat:WebChatSimulator", introduce=_open_pages, groups=False),
}
"""Platform -> its part."""
