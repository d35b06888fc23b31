"""Secrets: where they come from, and what keeps them out of everything that is shown.

A secret is read once, when the configuration is, into a `Secret`, which never shows itself. What a
platform, a library or an agent's author says may hold it all the same: an error that quotes the
URL, a server that echoes the token it refuses. So whatever leaves the process as text passes a
`Redaction`.
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import TimeoutError as NoAnswer
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from weakref import WeakKeyDictionary

import msgspec

from holdfast.adapter import Secret
from holdfast.errors import ConfigError
from holdfast.legible import legible
from holdfast.threads import DAEMONS

HIDDEN = "***"

FORMS = '{ env = "NAME" }, { file = "PATH" }, { keyring = "SERVICE/NAME" } or a string'
"""How a secret can be written in the configuration."""

KEYRING_LIMIT = 10.0
"""Seconds for the keyring, which on a desktop may wait for a person to unlock it."""

LARGEST = 65_536
"""Bytes of a secret's file: more than any key has."""

ALONE = "it should hold the secret and nothing else, in one line"

SHORTEST = 4
"""Characters of a secret that is hidden: to blot out shorter ones wherever they occur would shred
every text and show what they are. No platform gives out any."""

TELLING = 16
"""Characters of a secret URL's path that is hidden without its host, too: ``/hook`` stands in too
many texts, and the shortest path of a well-known service with its key in it has 30."""

DEEPEST = 6
"""Levels of nested values that are searched for secrets; a configuration has four."""


# -- where they come from -------------------------------------------------------------------------

Keyring = Callable[[str, str], str | None]
"""Asks the system keyring for the password of a service and a name; None when it has none."""


class KeyringLocked(Exception):
    """Nobody has unlocked the system keyring."""


def resolve(
    value: Any,
    where: str,
    base: Path,
    *,
    environ: Mapping[str, str] = os.environ,
    keyring: Keyring | None = None,
) -> Secret:
    """The secret that an entry of the configuration names, or is. Raises ConfigError.

    A relative path counts from ``base``, the configuration's directory: a service manager starts
    the gateway anywhere. ``keyring`` stands in for the system's own.
    """
    match value:
        case str():
            secret, source = value, "the file"
        case {"env": str(name), **rest} if not rest:
            if name not in environ:
                problem = f"environment variable {name} is not set"
                hint = "set it for the process that runs Holdfast"
                raise ConfigError(where, problem, hint)
            secret, source = environ[name], f"environment variable {name}"
        case {"file": str(name), **rest} if not rest:
            secret, source = _from_file(base / Path(name).expanduser(), where, name), f"file {name}"
        case {"keyring": str(name), **rest} if not rest:
            secret = _from_keyring(name, where, keyring or _system_keyring)
            source = f"keyring entry {name}"
        case _:
            raise ConfigError(where, "must be a secret", f"write {FORMS}")
    if not secret:
        raise ConfigError(where, f"the secret is empty: {source}", f"set {source}")
    if legible(secret) != secret:
        raise ConfigError(where, f"the secret is no UTF-8 text: {source}", f"set {source} anew")
    return Secret(secret)


def named(document: Any, form: str) -> list[str]:
    """What the entries of one form name, as ``{ file = "NAME" }`` does, in order; reads none."""
    return list(dict.fromkeys(_named(document, form)))


def _named(value: Any, form: str) -> Iterator[str]:
    match value:
        case dict() if value.keys() == {form}:
            yield str(value[form])
        case dict():
            for part in value.values():
                yield from _named(part, form)
        case list():
            for part in value:
                yield from _named(part, form)


def _from_file(path: Path, where: str, name: str) -> str:
    """The one line of a file, however many links lead to it. Never waits for anybody."""
    what = f"the secret's file {name}"
    try:
        # A pipe or a device may have no end, or none yet, and a reload finds it empty.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(where, f"{what} is no regular file", "put the secret into a file")
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except FileNotFoundError as error:
        raise ConfigError(where, f"{what} can not be read: {error.strerror}", "create it") from None
    except (OSError, ValueError) as error:  # ValueError: no file has such a name
        problem = f"{what} can not be read: {getattr(error, 'strerror', error)}"
        raise ConfigError(where, problem, "let the user who runs Holdfast read it") from None
    if len(content) > LARGEST:
        raise ConfigError(where, f"{what} is larger than {LARGEST // 1024} KiB", ALONE)
    try:
        secret = content.decode("utf-8-sig").strip()
    except UnicodeError:
        raise ConfigError(where, f"{what} is not UTF-8 text", "save it as UTF-8") from None
    if len(secret.splitlines()) > 1:
        raise ConfigError(where, f"{what} has several lines", ALONE)
    return secret


def _from_keyring(entry: str, where: str, ask: Keyring) -> str:
    service, slash, name = entry.rpartition("/")
    if not (service and slash and name):
        raise ConfigError(
            where, f"{entry!r} names no keyring entry", 'write { keyring = "SERVICE/NAME" }'
        )
    elsewhere = "a service has no desktop keyring: use { file = ... } or { env = ... } there"
    try:
        found = DAEMONS.submit(ask, service, name).result(KEYRING_LIMIT)
    except ImportError:
        raise ConfigError(
            where, "the keyring library is not installed", "run: pip install 'holdfast[keyring]'"
        ) from None
    except NoAnswer:
        problem = f"the system keyring did not answer within {KEYRING_LIMIT:g} s"
        raise ConfigError(where, problem, f"unlock it; {elsewhere}") from None
    except KeyringLocked:
        problem = "the system keyring is locked"
        raise ConfigError(where, problem, f"unlock it; {elsewhere}") from None
    except Exception as error:
        # The library's own errors are known only where it is installed.
        problem = f"the system keyring can not be read: {type(error).__name__}"
        raise ConfigError(where, problem, elsewhere) from None
    if found is None:
        problem = f"the system keyring has no entry {entry}"
        raise ConfigError(where, problem, f"run: keyring set {service} {name}")
    return found


def _system_keyring(service: str, name: str) -> str | None:
    import keyring
    import keyring.errors

    try:
        return keyring.get_password(service, name)
    except keyring.errors.KeyringLocked as error:
        raise KeyringLocked from error


# -- what hides them ------------------------------------------------------------------------------


class Redaction:
    """Hides secrets in texts, also as JSON, as a Python literal and in a URL.

    It only ever learns: a secret that was replaced stays hidden, as older lines may still name it.
    """

    def __init__(self, *holders: object) -> None:
        self._texts: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        for holder in holders:
            self.hide(holder)

    def hide(self, holder: object) -> None:
        """From now on hide every `Secret` in a configuration or settings too, and the passwords
        in its URLs."""
        for plain in _plain(holder, DEEPEST):
            if len(plain) >= SHORTEST:
                self._texts |= set(_spellings(plain))
        if self._texts:
            # The longest first: one secret may begin like another.
            longest_first = sorted(self._texts, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def clean(self, text: str) -> str:
        """The text as it may leave the process: without secrets, and `legible`."""
        return legible(text if self._pattern is None else self._pattern.sub(HIDDEN, text))


def without_user(url: str) -> str:
    """A URL that may not even be one, for an error about it: what stands before an ``@`` is hidden.

    Where a scheme is missing, or a password holds a slash, a parser takes the password for
    something else.
    """
    return _USER.sub(rf"\1{HIDDEN}@", url)


_USER = re.compile(r"^([a-z][a-z0-9+.-]*://)?.*@", re.IGNORECASE | re.DOTALL)

_of_owners: WeakKeyDictionary[object, Redaction] = WeakKeyDictionary()


def redaction_of(owner: object) -> Redaction:
    """What hides the secrets that an object, such as an adapter, holds in its attributes."""
    known = _of_owners.get(owner)
    if known is None:
        known = _of_owners[owner] = Redaction(getattr(owner, "__dict__", {}))
    return known


def _plain(value: object, depth: int) -> Iterator[str]:
    """Every secret in a value, in clear."""
    inside: list[object] = []
    match value:
        case Secret():
            if value:
                yield value.reveal()
                yield from _of_url(value.reveal())
        case str():
            yield from _passwords(value)
        case Mapping():
            inside += value.values()
        case list() | tuple() | set() | frozenset():
            inside += value
        case msgspec.Struct():
            inside += (getattr(value, name) for name in value.__struct_fields__)
        case _ if is_dataclass(value) and not isinstance(value, type):
            inside += (getattr(value, field.name) for field in fields(value))
    if depth:
        for part in inside:
            yield from _plain(part, depth - 1)


def _of_url(text: str) -> Iterator[str]:
    """The parts of a secret URL that tell as much as the whole: programs name it without the user,
    or only what they ask the host for."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return
    if parts.scheme and parts.hostname:
        yield from _passwords(text)
        yield parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        asked = parts._replace(scheme="", netloc="", fragment="").geturl()
        yield from (part for part in (asked, parts.path) if len(part) >= TELLING)


def _passwords(text: str) -> Iterator[str]:
    """The password of a URL, such as a proxy's."""
    if "@" in text and "://" in text:
        try:
            password = urlsplit(text).password
        except ValueError:
            return
        if password:
            yield from {password, unquote(password)}


def _spellings(plain: str) -> Iterator[str]:
    yield plain
    yield quote(plain, safe="")
    yield repr(plain)[1:-1]
    for ascii_only in (False, True):
        yield json.dumps(plain, ensure_ascii=ascii_only)[1:-1]
