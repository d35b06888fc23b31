"""The configuration: one TOML file, checked as a whole before anything starts.

Every mistake is one `ConfigError` line that says where it is, what is wrong and how to mend it.
Secrets come from the environment, files or the system keyring; the file needs to hold none.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, get_args
from urllib.parse import urlsplit

import msgspec

from holdfast.adapter import Adapter, Secret, Settings
from holdfast.backlog import ALL, UNITS, Backlog
from holdfast.errors import ConfigError
from holdfast.observe.alerts import Rules
from holdfast.platforms import find
from holdfast.secrets import Redaction, resolve
from holdfast.store.protocol import DEDUPE_SECONDS
from holdfast.supervision import Policy, PolicyError, preset

ACCOUNT_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
"""Account names appear in file names, URLs and metrics."""

DURATION = re.compile(r"(\d+(?:\.\d+)?) ?([smhd])")

DEFAULT_FILE = "holdfast.toml"

TOKEN_LENGTH = 16
"""Least characters of the web token: with 64 possible ones each, that is 96 bits."""

IN_PLACE = "the secret is written in the file"


class GatewaySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ``[gateway]`` table."""

    state_dir: str = "state"
    """Journal, status file and control socket; relative to the configuration file."""
    agent: str = "echo"
    """What answers, for accounts that name no agent of their own."""
    hook_listen: str = "127.0.0.1:8070"
    """Address of the web hook server; it is started only if an account uses web hooks."""
    hook_url: str | None = None
    """Public https URL under which the platforms reach ``hook_listen``."""
    proxy: str | None = None
    """HTTP proxy for all accounts; without it the usual environment variables count."""
    handlers: int = 64
    """How many chats of one account are handled at the same time."""
    handler_timeout: float = 120.0
    """Seconds an agent may take for one message."""
    handler_attempts: int = 3
    """Tries per message before it becomes a dead letter."""
    retention: float = DEDUPE_SECONDS
    """How long settled messages are kept to recognise repetitions: seconds, or ``"36h"`` or
    ``"7d"``; at least 24 hours."""


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
    after: float = 180.0
    """How long an account must be down before that is told: seconds, or ``"3m"``."""
    remind: float = 3_600.0
    """How often it is said again that a person must act; at least ``"1m"``."""
    group_window: float = 30.0
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

S = TypeVar("S", bound=msgspec.Struct)

AMBIGUOUS = ("resend", "hold", "drop")


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
        return (self.path.parent / self.gateway.state_dir).resolve()


def load(path: Path) -> Config:
    """Read and check a configuration file. Raises ConfigError."""
    config = build(_document(path), path)
    if any(IN_PLACE in w for w in config.warnings) and _readable_by_others(path):
        warning = f"{path}: holds secrets and is readable by others: chmod 600 it"
        return replace(config, warnings=(*config.warnings, warning))
    return config


def state_dir_of(path: Path) -> Path:
    """Where the gateway of a configuration file keeps its files. Raises ConfigError.

    Looks at no account and at no secret: a gateway can be asked how it is from a shell that does
    not hold its secrets, and while its configuration is being changed.
    """
    gateway = _gateway(_document(path).get("gateway", {}), f"{path}: [gateway]")
    return (path.parent / gateway.state_dir).resolve()


def _document(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            str(path), "there is no such file", "make one with `holdfast init`"
        ) from None
    except OSError as error:
        raise ConfigError(str(path), f"can not be read: {error.strerror}") from None
    except UnicodeError as error:
        raise ConfigError(str(path), f"is not UTF-8 text: {error}") from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(path), f"is not valid TOML: {error}") from None


def build(document: Mapping[str, Any], path: Path) -> Config:
    """Check a parsed configuration. Raises ConfigError."""
    where = str(path)
    for key in document:
        if key not in ("gateway", "accounts", "alerts", "web"):
            known = "known are [gateway], [accounts.*], [alerts], [web]"
            raise ConfigError(where, f"unknown table [{key}]", known)
    gateway = _gateway(document.get("gateway", {}), f"{where}: [gateway]")
    tables = document.get("accounts", {})
    if not isinstance(tables, dict) or not all(isinstance(t, dict) for t in tables.values()):
        raise ConfigError(where, "accounts must be tables like [accounts.my-bot]")
    if not tables:
        raise ConfigError(
            where, "there is no account", "add one table [accounts.NAME] with platform = ..."
        )
    warnings: list[str] = []
    accounts: dict[str, AccountConfig] = {}
    for name, table in tables.items():
        place = f"{where}: [accounts.{name}]"
        if not ACCOUNT_NAME.fullmatch(name):
            raise ConfigError(
                place, "not a usable account name", "use a-z, 0-9, '-', '_' and '.', at most 64"
            )
        account = _account(name, table, gateway, place, path.parent, warnings)
        if account is not None:
            accounts[name] = account
    if not accounts:
        raise ConfigError(where, "every account has enabled = false")
    alerts = None
    if "alerts" in document:
        place = f"{where}: [alerts]"
        alerts = _alerts(document["alerts"], set(accounts), place, path.parent, warnings)
    web = _web(document.get("web", {}), f"{where}: [web]", path.parent, warnings)
    return Config(path, gateway, accounts, tuple(warnings), alerts, web)


def _gateway(table: Any, where: str) -> GatewaySettings:
    if isinstance(table, dict) and isinstance(table.get("retention"), str):
        table = {**table, "retention": _duration(table["retention"], f"{where} retention")}
    settings = _convert(table, GatewaySettings, where)
    if not DEDUPE_SECONDS <= settings.retention < float("inf"):
        raise ConfigError(
            f"{where} retention",
            f"{settings.retention:g} s is less than the 24 hours in which platforms send again"
            if settings.retention < DEDUPE_SECONDS
            else "must be a number of seconds",
            'for example retention = "24h"',
        )
    host, _, port = settings.hook_listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(f"{where} hook_listen", f"{settings.hook_listen!r} is not HOST:PORT")
    for key in ("handlers", "handler_timeout", "handler_attempts"):
        if getattr(settings, key) <= 0:
            raise ConfigError(f"{where} {key}", "must be above 0")
    for key in ("hook_url", "proxy"):
        _check_url(getattr(settings, key), f"{where} {key}")
    return settings


def _web(table: Any, where: str, base: Path, warnings: list[str]) -> WebSettings:
    """The ``[web]`` table. Raises ConfigError."""
    if isinstance(table, dict) and "token" in table:
        if isinstance(table["token"], str):
            warnings.append(f"{where} token: {IN_PLACE}")
        table = {**table, "token": resolve(table["token"], f"{where} token", base)}
    settings = _convert(table, WebSettings, where)
    if not settings.listen:
        return settings
    host, _, port = settings.listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(f"{where} listen", f"{settings.listen!r} is not HOST:PORT")
    _check_url(settings.url, f"{where} url")
    if settings.token is None:
        if not is_loopback(host) or settings.url is not None:
            key, value = ("url", settings.url) if is_loopback(host) else ("listen", settings.listen)
            raise ConfigError(
                f"{where} {key}",
                f"{value!r} lets other machines in, and there is no token",
                'set token = { env = "HOLDFAST_WEB_TOKEN" }, or listen on 127.0.0.1 without url',
            )
    elif len(settings.token.reveal()) < TOKEN_LENGTH:
        raise ConfigError(
            f"{where} token",
            f"is shorter than {TOKEN_LENGTH} characters",
            "make one with `openssl rand -hex 32`",
        )
    elif not is_loopback(host) and not (settings.url or "").startswith("https:"):
        warnings.append(
            f"{where} listen: the token crosses the network in clear;"
            " put a proxy with TLS before it and set url"
        )
    return settings


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on ``host``."""
    name = host.strip("[]").lower()
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _duration(text: str, where: str) -> float:
    """Seconds of a text such as ``36h``. Raises ConfigError."""
    found = DURATION.fullmatch(text)
    if found is None:
        raise ConfigError(where, f"{text!r} is not a duration", 'write seconds, "36h" or "7d"')
    return float(found[1]) * UNITS[found[2]]


def _account(
    name: str,
    table: dict[str, Any],
    gateway: GatewaySettings,
    where: str,
    base: Path,
    warnings: list[str],
) -> AccountConfig | None:
    common = {f.name for f in msgspec.structs.fields(AccountKeys)}
    if "platform" not in table:
        raise ConfigError(where, "the key `platform` is missing", 'for example platform = "qqbot"')
    keys = _convert({k: v for k, v in table.items() if k in common}, AccountKeys, where)
    if not keys.enabled:
        return None
    adapter = find(keys.platform, f"{where} platform")
    own = {k: v for k, v in table.items() if k not in common}
    for info in msgspec.structs.fields(adapter.Settings):
        if _is_secret(info.type) and info.name in own:
            if isinstance(own[info.name], str):
                warnings.append(f"{where} {info.name}: {IN_PLACE}")
            own[info.name] = resolve(own[info.name], f"{where} {info.name}", base)
    settings = _convert(own, adapter.Settings, where, also=common)
    for info in msgspec.structs.fields(adapter.Settings):
        if info.name.endswith("url") or info.name == "homeserver":
            _check_url(getattr(settings, info.name), f"{where} {info.name}")
    if keys.ambiguous not in AMBIGUOUS:
        raise ConfigError(
            f"{where} ambiguous", f"{keys.ambiguous!r} is none of {', '.join(AMBIGUOUS)}"
        )
    try:
        backlog = Backlog.parse(keys.backlog)
    except ValueError as error:
        raise ConfigError(f"{where} backlog", str(error)) from error
    _check_url(keys.proxy or None, f"{where} proxy")
    return AccountConfig(
        name=name,
        platform=keys.platform,
        adapter=adapter,
        settings=settings,
        agent=keys.agent or gateway.agent,
        policy=_policy(keys, f"{where} policy"),
        proxy=gateway.proxy if keys.proxy is None else keys.proxy,
        ambiguous=keys.ambiguous,
        backlog=backlog,
    )


def _alerts(
    table: Any, accounts: set[str], where: str, base: Path, warnings: list[str]
) -> AlertsConfig:
    """The ``[alerts]`` table. Raises ConfigError."""
    times = Rules.__dataclass_fields__
    if isinstance(table, dict):
        table = {
            key: _duration(value, f"{where} {key}")
            if key in times and isinstance(value, str)
            else value
            for key, value in table.items()
        }
    settings = _convert(table, AlertSettings, where)
    for key, least in (("after", 1.0), ("remind", 60.0), ("group_window", 0.0)):
        if not least <= getattr(settings, key) < float("inf"):
            raise ConfigError(f"{where} {key}", f"must be at least {least:g} s", 'for example "5m"')
    if not settings.to:
        raise ConfigError(f"{where} to", "names nobody", f"add a table: {WAYS}")
    to = tuple(
        _way(one, accounts, f"{where} to[{i}]", base, warnings) for i, one in enumerate(settings.to)
    )
    telling = {way.account for way in to if isinstance(way, AccountWay)}
    if len(telling) == 1 and all(isinstance(way, AccountWay) for way in to):
        (only,) = telling
        warnings.append(f"{where} to: nobody is told when {only} itself is down; add another way")
    return AlertsConfig(Rules(**{key: getattr(settings, key) for key in times}), to)


WAYS = '{ account = "NAME", chat = "ID" }, { url = "https://..." } or { command = ["PROGRAM"] }'


def _way(
    table: dict[str, Any], accounts: set[str], where: str, base: Path, warnings: list[str]
) -> Way:
    kinds: dict[str, type[Way]] = {"account": AccountWay, "url": HookWay, "command": CommandWay}
    found = [kinds[key] for key in table if key in kinds]
    if len(found) != 1:
        raise ConfigError(where, "must be one way to tell somebody", f"write {WAYS}")
    own = dict(table)
    for key in ("url", "secret"):
        if found[0] is HookWay and key in own:
            if key == "secret" and isinstance(own[key], str):
                warnings.append(f"{where} {key}: {IN_PLACE}")
            own[key] = resolve(own[key], f"{where} {key}", base)
    way = _convert(own, found[0], where)
    match way:
        case AccountWay():
            if way.account not in accounts:
                problem = f"there is no enabled account {way.account!r}"
                raise ConfigError(f"{where} account", problem + _meant(way.account, accounts))
            if not way.chat:
                raise ConfigError(f"{where} chat", "is empty", "write the platform's id of a chat")
        case HookWay():
            _check_url(way.url.reveal(), f"{where} url", secret=True)
        case CommandWay():
            if not way.command or not way.command[0]:
                raise ConfigError(f"{where} command", "is empty", 'write ["PROGRAM", "ARGUMENT"]')
    return way


def _policy(keys: AccountKeys, where: str) -> Policy:
    known = set(Policy.__dataclass_fields__) - {"label"}
    for key, value in keys.policy.items():
        if key not in known:
            raise ConfigError(where, f"unknown key `{key}`{_meant(key, known)}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConfigError(f"{where}.{key}", f"must be a number, not {value!r}")
    try:
        return preset(keys.platform, keys.policy)
    except PolicyError as error:
        raise ConfigError(where, str(error)) from None


def _convert(table: Any, kind: type[S], where: str, also: set[str] | None = None) -> S:
    """``table`` as a settings struct. Raises ConfigError naming the key and what it should be."""
    if not isinstance(table, dict):
        raise ConfigError(where, "must be a table")
    fields = {info.name: info for info in msgspec.structs.fields(kind)}
    for key in table:
        if key not in fields:
            raise ConfigError(where, f"unknown key `{key}`{_meant(key, {*fields, *(also or ())})}")
    for name, info in fields.items():
        if info.required and name not in table:
            raise ConfigError(where, f"the key `{name}` is missing")
    try:
        return msgspec.convert(table, kind, dec_hook=_secret_hook)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        key = place.strip("`.").removeprefix(".")
        raise ConfigError(f"{where} {key}".strip(), _lower(problem)) from None


def _secret_hook(kind: type, value: Any) -> Any:
    if kind is Secret and isinstance(value, Secret):
        return value
    raise msgspec.ValidationError(f"Expected {kind.__name__}, got {type(value).__name__}")


def _is_secret(annotation: Any) -> bool:
    return annotation is Secret or Secret in get_args(annotation)


def _check_url(value: str | None, where: str, *, secret: bool = False) -> None:
    if value is None:
        return
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        usable = usable and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        shown = "this" if secret else Redaction(value).clean(repr(value))
        raise ConfigError(where, f"{shown} is not a usable URL", "it must begin with https://")


def _meant(key: str, known: set[str]) -> str:
    close = difflib.get_close_matches(key, sorted(known), n=1)
    if close:
        return f", did you mean `{close[0]}`?"
    return f" (known are {', '.join(sorted(known))})"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _readable_by_others(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


def check_identities(identities: Mapping[str, tuple[str, str]], where: str) -> None:
    """Refuse two accounts with one credential: each would steal the other's messages.

    ``identities`` maps account names to (platform, identity). Raises ConfigError.
    """
    seen: dict[tuple[str, str], str] = {}
    for name, identity in identities.items():
        if identity in seen:
            raise ConfigError(
                f"{where}: [accounts.{name}]",
                f"uses the same credentials as [accounts.{seen[identity]}]",
                "give each account its own bot, or disable one with enabled = false",
            )
        seen[identity] = name
