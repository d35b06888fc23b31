"""Single values of a configuration: what is wrong with one, where it is, and how to mend it."""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any, Literal, TypeVar, get_args, get_origin
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
    for key in _endless(table):
        raise ConfigError(f"{where} {key}", "must be a finite number")
    try:
        return msgspec.convert(table, kind, dec_hook=_secret_hook)
    except msgspec.ValidationError as error:
        problem, _, place = str(error).partition(" - at `$")
        key = place.strip("`.").removeprefix(".")
        field = fields.get(re.split(r"\W", key, maxsplit=1)[0])
        annotation = None if field is None else field.type
        raise ConfigError(f"{where} {key}".strip(), *_in_words(problem, annotation)) from None


def _endless(value: Any, place: str = "") -> Iterator[str]:
    """The places of numbers that TOML knows and no setting can be: no limit of one compares."""
    match value:
        case float() if not math.isfinite(value):
            yield place
        case dict():
            for key, part in value.items():
                yield from _endless(part, f"{place}.{key}".strip("."))
        case list():
            for i, part in enumerate(value):
                yield from _endless(part, f"{place}[{i}]")


_EXPECTED = re.compile(
    r"Expected `(?P<kind>\w+)[^`]*`(?:, got `(?P<got>\w+)`| (?P<end><=|>=|<|>) (?P<limit>\S+)"
    r"|(?P<form> matching regex) .*)"
)
"""What msgspec says of a value."""

_KINDS = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false",
          "array": "a list", "object": "a table"}  # fmt: skip

_ENDS = {"<=": "at most", ">=": "at least", "<": "below", ">": "above"}


def _in_words(problem: str, annotation: Any) -> tuple[str, str]:
    """What is wrong with a value, and how to mend it.

    The description of a field's `msgspec.Meta` tells what else is asked of a right kind of value.
    """
    notes = (note for note in get_args(annotation) if isinstance(note, msgspec.Meta))
    hint = next((note.description or "" for note in notes), "")
    if problem.startswith("Invalid enum value "):
        value = problem.removeprefix("Invalid enum value ")
        return f"{value} is none of {', '.join(_allowed(annotation))}", hint
    said = _EXPECTED.fullmatch(problem)
    if said is None:
        return _lower(problem), hint
    if said["form"]:
        return "can not be used", hint
    if said["end"]:
        return f"must be {_ENDS[said['end']]} {float(said['limit']):.15g}", hint
    kind, got = said["kind"], said["got"]
    if kind == "str" and got in ("int", "float"):
        hint = "put it in quotes"
    elif kind in ("int", "float", "bool") and got == "str":
        hint = "write it without quotes"
    wrong = "" if (kind, got) == ("int", "float") else f", not {_KINDS.get(got, got)}"
    return f"must be {_KINDS.get(kind, kind)}{wrong}", hint


def _allowed(annotation: Any) -> Iterator[str]:
    """The values of a Literal or an Enum, wherever it stands in an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        yield from (str(member.value) for member in annotation)
    elif get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    else:
        for part in get_args(annotation):
            yield from _allowed(part)


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
        hint = "write it like https://HOST/PATH or http://HOST:PORT"
        raise ConfigError(where, f"{shown} is not a usable URL", hint)


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


def collide(one: str, other: str) -> bool:
    """Whether two ``HOST:PORT`` can not both be listened on; port 0 is always a free one."""
    hosts = [address.rpartition(":")[0].lower().replace("localhost", "127.0.0.1")
             for address in (one, other)]  # fmt: skip
    ports = [int(address.rpartition(":")[2]) for address in (one, other)]
    if ports[0] != ports[1] or not ports[0]:
        return False
    return hosts[0] == hosts[1] or not {"0.0.0.0", "[::]", "::"}.isdisjoint(hosts)


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
