"""The settings: what each table of the file may hold, and what a checked file comes to."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from holdfast.adapter import Adapter, Secret, Settings
from holdfast.backlog import ALL, Backlog
from holdfast.observe.alerts import Rules
from holdfast.store.protocol import DEDUPE_SECONDS
from holdfast.supervision import Policy

# -- as written -----------------------------------------------------------------------------------


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[gateway]`` table."""

    state_dir: str = "state"
    """Journal, status file and control socket; relative to the configuration file."""
    agent: str = "echo"
    """What answers, for accounts that name no agent of their own."""
    hook_listen: str = "127.0.0.1:8070"
    """Address of the web hook server; it is started only if an account uses web hooks. It has 2,000
    connections at a time, or half of the process's descriptors if that is less."""
    hook_url: str | None = None
    """Public https URL under which the platforms reach ``hook_listen``."""
    proxy: str | None = None
    """HTTP proxy for all accounts; without it the usual environment variables count."""
    handlers: Annotated[int, Meta(ge=1, le=10_000)] = 64
    """How many chats of one account are handled at the same time; at most 10000."""
    handler_timeout: Annotated[float, Meta(ge=1, le=86_400)] = 120.0
    """Seconds an agent may take for one message; from 1 to 86400."""
    handler_attempts: Annotated[int, Meta(ge=1, le=1_000)] = 3
    """Tries per message before it becomes a dead letter."""
    retention: Annotated[
        float, Meta(ge=DEDUPE_SECONDS, description='"24h" or more: so long platforms send again')
    ] = DEDUPE_SECONDS
    """How long settled messages are kept to recognise repetitions: seconds, or ``"36h"`` or
    ``"7d"``; at least 24 hours. WhatsApp's are kept for 8 days at least, as Meta repeats for 7."""


class AccountKeys(msgspec.Struct, frozen=True, kw_only=True):
    """The keys every ``[accounts.NAME]`` table has besides its platform's own."""

    platform: str
    """One of Holdfast's own, for example ``telegram``, or one that an installed package adds."""
    agent: str | None = None
    """What answers this account: ``echo`` or ``python:module:function``."""
    enabled: bool = True
    """``false`` leaves the account out."""
    proxy: str | None = None
    """HTTP proxy of this account alone; ``""`` for none."""
    ambiguous: str = "resend"
    """What to do with a message that may or may not have arrived: resend, hold or drop."""
    backlog: str = "all"
    """What piled up while nobody listened: ``all`` of it is handled, only what is
    ``newer-than 10m`` (s, m, h, d), or ``skip``; the rest is kept in the journal as dropped."""
    policy: dict[str, Any] = {}
    """Overrides of the supervision policy."""


class WebSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[web]`` table."""

    listen: str = "127.0.0.1:8787"
    """Address of the dashboard, the API, the metrics and the probes; ``""`` for none. Any other
    than this machine's own demands a ``token``."""
    url: str | None = None
    """Public URL under which a proxy serves ``listen`` to others; demands a ``token``, too."""
    token: Secret | None = None
    """What callers must show: a secret of at least 16 characters."""


class AlertSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[alerts]`` table; without one nobody is alerted."""

    to: list[dict[str, Any]]
    """Whom to tell: tables of the kinds below, in the order in which accounts are tried."""
    after: Annotated[float, Meta(ge=1, description='for example "5m"')] = 180.0
    """How long an account must be down before that is told: seconds, or ``"3m"``."""
    remind: Annotated[float, Meta(ge=60, description='for example "1h"')] = 3_600.0
    """How often it is said again that a person must act; at least ``"1m"``."""
    group_window: Annotated[float, Meta(ge=0, description='for example "30s"')] = 30.0
    """How long an alert waits for others, which are then told in the same one."""


class AccountWay(msgspec.Struct, frozen=True, kw_only=True):
    """A message to a chat, by an account that is connected."""

    account: str
    """Its name in this configuration; it never tells of itself that it is down."""
    chat: str
    """The platform's id of the chat."""


class HookWay(msgspec.Struct, frozen=True, kw_only=True):
    """A request to a web hook."""

    url: Secret
    """Where to send the JSON document; like a secret, it may come from ``env`` or ``file``."""
    secret: Secret | None = None
    """Key of the signature; without it the request is not signed."""


class CommandWay(msgspec.Struct, frozen=True, kw_only=True):
    """A program that gets the JSON document on its standard input."""

    command: list[str]
    """The program and its arguments; no shell is involved."""


Way = AccountWay | HookWay | CommandWay

# -- as checked -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AccountConfig:
    """One account, ready to be built."""

    name: str
    platform: str
    adapter: type[Adapter] = field(repr=False)
    settings: Settings = field(repr=False)
    agent: str
    policy: Policy
    proxy: str | None
    ambiguous: str
    backlog: Backlog = ALL


@dataclass(frozen=True, slots=True)
class AlertsConfig:
    """Who is told of accounts in trouble, and when."""

    rules: Rules
    to: tuple[Way, ...]


@dataclass(frozen=True, slots=True)
class Config:
    """A whole configuration that has passed every check."""

    path: Path
    gateway: GatewaySettings
    accounts: dict[str, AccountConfig]
    warnings: tuple[str, ...] = ()
    alerts: AlertsConfig | None = None
    web: WebSettings = field(default_factory=WebSettings)

    @property
    def state_dir(self) -> Path:
        """Where the gateway keeps its files."""
        return Path(os.path.realpath(self.path.parent / self.gateway.state_dir))
