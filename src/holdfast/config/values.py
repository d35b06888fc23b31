"""Single values of a configuration: what is wrong with one, where it is, and how to mend it."""

from __future__ import annotations

import difflib
import ipaddress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from holdfast import durations
from holdfast.adapter import Secret
from holdfast.errors import ConfigError
from holdfast.secrets import without_user

S = TypeVar("S", bound=msgspec.Struct)


def convert(table: Any, kind: type[S], where: str, also: set[str] | None = None) -> S:
    """``table`` as a settings struct. Raises ConfigError naming the key and what it should be."""
    if not isinstance(table, dict):
        raise ConfigError(where, "must be a table")
    fields = {info.name: info for info in msgspec.structs.fields(kind)}
    for key in table:
        if key not in fields:
            raise ConfigError(where, f"unknown key `{key}`{meant(key, {*fields, *(also or ())})}")
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


def check_url(value: str | None, where: str, *, secret: bool = False) -> None:
    """Refuse a URL nothing can be asked at; a ``secret`` one is not shown. Raises ConfigError."""
    if value is None:
        return
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        usable = usable and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        shown = "this" if secret else repr(without_user(value))
        raise ConfigError(where, f"{shown} is not a usable URL", "it must begin with https://")


def seconds(value: Any, where: str) -> Any:
    """Seconds of a text such as ``36h``; what is no text is left as it is. Raises ConfigError."""
    if not isinstance(value, str):
        return value
    try:
        return durations.read(value)
    except ValueError as error:
        raise ConfigError(where, str(error), 'write seconds, "36h" or "7d"') from None


def host_of(address: str, where: str) -> str:
    """The host of ``HOST:PORT``. Raises ConfigError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65_535:
        raise ConfigError(where, f"{address!r} is not HOST:PORT")
    return host


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on ``host``."""
    name = host.strip("[]").lower()
    try:
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def meant(key: str, known: set[str]) -> str:
    """The end of a sentence on an unknown key: which one was meant, or which there are."""
    close = difflib.get_close_matches(key, sorted(known), n=1)
    if close:
        return f", did you mean `{close[0]}`?"
    return f" (known are {', '.join(sorted(known))})"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
