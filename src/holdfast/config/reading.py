"""Reads a configuration file and checks its tables, one after the other."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import msgspec

from holdfast.adapter import Secret
from holdfast.backlog import Backlog
from holdfast.config.settings import (
    AccountConfig,
    AccountKeys,
    AccountWay,
    AlertsConfig,
    AlertSettings,
    CommandWay,
    Config,
    GatewaySettings,
    HookWay,
    Way,
    WebSettings,
)
from holdfast.config.values import check_url, collide, convert, host_of, is_loopback, meant, seconds
from holdfast.errors import ConfigError
from holdfast.observe.alerts import Rules
from holdfast.platforms import find
from holdfast.secrets import resolve, without_user
from holdfast.supervision import Policy, PolicyError, preset

ACCOUNT_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
"""Account names appear in file names, URLs and metrics."""

TOKEN_LENGTH = 16
"""Least characters of the web token: with 64 possible ones each, that is 96 bits."""

IN_PLACE = "the secret is written in the file"

AMBIGUOUS = ("resend", "hold", "drop")


def load(path: Path) -> Config:
    """Read and check a configuration file. Raises ConfigError."""
    config = build(_document(path), path)
    if any(IN_PLACE in w for w in config.warnings) and _readable_by_others(path):
        warning = f"{path}: holds secrets and is readable by others; run: chmod 600 {path}"
        return replace(config, warnings=(*config.warnings, warning))
    return config


def state_dir_of(path: Path) -> Path:
    """Where the gateway of a configuration file keeps its files. Raises ConfigError.

    Looks at no account and at no secret: a gateway can be asked how it is from a shell that does
    not hold its secrets, and while its configuration is being changed.
    """
    gateway = _gateway(_document(path).get("gateway", {}), f"{path}: [gateway]")
    return Path(os.path.realpath(path.parent / gateway.state_dir))


def _document(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
    except FileNotFoundError:
        raise ConfigError(
            str(path), "there is no such file", "make one with `holdfast init`"
        ) from None
    except OSError as error:
        hint = "name the configuration file: --config FILE"
        if isinstance(error, PermissionError):
            hint = "let the user who runs Holdfast read it, or run this as that user"
        raise ConfigError(str(path), f"can not be read: {error.strerror}", hint) from None
    except UnicodeError as error:
        raise ConfigError(str(path), f"is not UTF-8 text: {error}", "save it as UTF-8") from None
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
        for dotted in _dotted(name, table):
            problem = "a name with a dot must be quoted"
            raise ConfigError(
                f"{where}: [accounts.{dotted}]", problem, f'write [accounts."{dotted}"]'
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
    if web.listen and collide(gateway.hook_listen, web.listen):
        raise ConfigError(
            f"{where}: [gateway] hook_listen",
            f"{gateway.hook_listen} is what [web] listen has, too",
            "give each a port of its own",
        )
    return Config(path, gateway, accounts, tuple(warnings), alerts, web)


def _dotted(name: str, table: dict[str, Any]) -> Iterator[str]:
    """The names of accounts that TOML takes for tables of another one."""
    for key, part in table.items():
        if isinstance(part, dict):
            if "platform" in part:
                yield f"{name}.{key}"
            yield from _dotted(f"{name}.{key}", part)


def _gateway(table: Any, where: str) -> GatewaySettings:
    if isinstance(table, dict) and "retention" in table:
        table = {**table, "retention": seconds(table["retention"], f"{where} retention")}
    settings = convert(table, GatewaySettings, where)
    if not settings.state_dir or "\0" in settings.state_dir:
        raise ConfigError(f"{where} state_dir", "names no directory", 'for example "state"')
    host_of(settings.hook_listen, f"{where} hook_listen")
    for key in ("hook_url", "proxy"):
        check_url(getattr(settings, key), f"{where} {key}")
    return settings


def _web(table: Any, where: str, base: Path, warnings: list[str]) -> WebSettings:
    """The ``[web]`` table. Raises ConfigError."""
    if isinstance(table, dict) and "token" in table:
        if isinstance(table["token"], str):
            warnings.append(f"{where} token: {IN_PLACE}")
        table = {**table, "token": resolve(table["token"], f"{where} token", base)}
    settings = convert(table, WebSettings, where)
    if not settings.listen:
        return settings
    host = host_of(settings.listen, f"{where} listen")
    check_url(settings.url, f"{where} url")
    if settings.token is None:
        if not is_loopback(host) or settings.url is not None:
            key, value = ("url", settings.url) if is_loopback(host) else ("listen", settings.listen)
            shown = without_user(value or "")
            raise ConfigError(
                f"{where} {key}",
                f"{shown!r} lets other machines in, and there is no token",
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
    keys = convert({k: v for k, v in table.items() if k in common}, AccountKeys, where)
    if not keys.enabled:
        return None
    adapter = find(keys.platform, f"{where} platform")
    own = {k: v for k, v in table.items() if k not in common}
    for info in msgspec.structs.fields(adapter.Settings):
        if _is_secret(info.type) and info.name in own:
            if isinstance(own[info.name], str):
                warnings.append(f"{where} {info.name}: {IN_PLACE}")
            own[info.name] = resolve(own[info.name], f"{where} {info.name}", base)
    settings = convert(own, adapter.Settings, where, also=common)
    for info in msgspec.structs.fields(adapter.Settings):
        if info.name.endswith("url") or info.name == "homeserver":
            check_url(getattr(settings, info.name), f"{where} {info.name}")
    if settings.needs_hook_url and gateway.hook_url is None:
        hint = "set hook_url in [gateway] to the public https address of hook_listen"
        raise ConfigError(where, "the platform calls it, and there is no [gateway] hook_url", hint)
    if keys.ambiguous not in AMBIGUOUS:
        raise ConfigError(
            f"{where} ambiguous", f"{keys.ambiguous!r} is none of {', '.join(AMBIGUOUS)}"
        )
    try:
        backlog = Backlog.parse(keys.backlog)
    except ValueError as error:
        raise ConfigError(f"{where} backlog", str(error)) from error
    check_url(keys.proxy or None, f"{where} proxy")
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
            key: seconds(value, f"{where} {key}") if key in times else value
            for key, value in table.items()
        }
    settings = convert(table, AlertSettings, where)
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
    way = convert(own, found[0], where)
    match way:
        case AccountWay():
            if way.account not in accounts:
                problem = f"there is no enabled account {way.account!r}"
                raise ConfigError(f"{where} account", problem + meant(way.account, accounts))
            if not way.chat:
                raise ConfigError(f"{where} chat", "is empty", "write the platform's id of a chat")
        case HookWay():
            check_url(way.url.reveal(), f"{where} url", secret=True)
        case CommandWay():
            if not way.command or not way.command[0]:
                raise ConfigError(f"{where} command", "is empty", 'write ["PROGRAM", "ARGUMENT"]')
    return way


def _policy(keys: AccountKeys, where: str) -> Policy:
    known = set(Policy.__dataclass_fields__) - {"label"}
    for key in keys.policy:
        if key not in known:
            raise ConfigError(where, f"unknown key `{key}`{meant(key, known)}")
    try:
        return preset(keys.platform, keys.policy)
    except PolicyError as error:
        raise ConfigError(where, str(error)) from None


def _is_secret(annotation: Any) -> bool:
    return annotation is Secret or Secret in get_args(annotation)


def _readable_by_others(path: Path) -> bool:
    return bool(path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


def check_identities(identities: Mapping[str, tuple[str, str]], where: str) -> None:
    """Refuse two accounts with one credential: each would steal the other's messages.

    ``identities`` maps account names to (platform, identity). Raises ConfigError.
    """
    seen: dict[tuple[str, str], str] = {}
    for name, identity in identities.items():
        if identity in seen:
            other = seen[identity]
            problem = f"has the same credentials, or the same page, as [accounts.{other}]"
            hint = (
                "give each account its own bot (a web chat another `path`), or disable one with "
                "enabled = false"
            )
            raise ConfigError(f"{where}: [accounts.{name}]", problem, hint)
        seen[identity] = name
