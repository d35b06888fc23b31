"""What the troubles of a journal's file are called, and how each is mended."""

from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

from holdfast.errors import StoreError

_ROOM = "free some space on its disk; the store recovers by itself"
_RIGHTS = "make the file and its directory writable for this user; the store recovers by itself"
_ASIDE = (
    "the gateway looks through the file, sets it aside if it is damaged, and goes on with a new"
    " one; at a stop, a backup can be put in its place"
)
_OTHER = "close the other program that holds it open; the store recovers by itself"
_GONE = "put it back, or restart the gateway to begin a new one"
_DISK = "look at the system log for disk errors; the store recovers by itself once writes work"
_BUSY_DISK = (
    "messages wait unacknowledged for as long: look at what else is writing to the disk, and at the"
    " system log; the store recovers by itself"
)

_TROUBLES = {
    sqlite3.SQLITE_FULL: ("store_full", "there is no room left", _ROOM),
    sqlite3.SQLITE_READONLY: ("store_readonly", "it can not be written", _RIGHTS),
    sqlite3.SQLITE_PERM: ("store_readonly", "access to it is denied", _RIGHTS),
    sqlite3.SQLITE_CORRUPT: ("store_damaged", "the file is damaged", _ASIDE),
    sqlite3.SQLITE_NOTADB: ("store_damaged", "the file is not a journal", _ASIDE),
    sqlite3.SQLITE_BUSY: ("store_locked", "another program keeps it locked", _OTHER),
    sqlite3.SQLITE_LOCKED: ("store_locked", "another program keeps it locked", _OTHER),
    sqlite3.SQLITE_PROTOCOL: ("store_locked", "another program keeps it locked", _OTHER),
    sqlite3.SQLITE_IOERR: ("store_io", "reading or writing it failed", _DISK),
    sqlite3.SQLITE_CANTOPEN: ("store_io", "it can not be opened", _RIGHTS),
    sqlite3.SQLITE_NOMEM: ("store_io", "there is no memory left", "free some memory"),
}

_ERRNO = {
    errno.ENOSPC: sqlite3.SQLITE_FULL,
    errno.EDQUOT: sqlite3.SQLITE_FULL,
    errno.EROFS: sqlite3.SQLITE_READONLY,
    errno.EACCES: sqlite3.SQLITE_PERM,
    errno.EPERM: sqlite3.SQLITE_PERM,
    errno.EIO: sqlite3.SQLITE_IOERR,
}


def _primary(error: BaseException) -> int | None:
    """SQLite's primary result code: the low byte of the extended one."""
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else code & 0xFF


def is_trouble(error: BaseException) -> bool:
    """Whether the error says something about the file, and not about the one operation."""
    return _primary(error) in _TROUBLES


def is_damage(error: BaseException) -> bool:
    """Whether the error says that the content of the file is not what SQLite wrote."""
    return _primary(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def trouble(error: Exception, path: Path) -> StoreError:
    """The error for people: a code of the store, the place, the reason and the remedy."""
    if isinstance(error, StoreError):
        return StoreError(error.code, error.problem, error.hint)
    code, what, hint = _meaning(error)
    return StoreError(code, f"journal {path}: {what}: {error}", hint)


def slow(path: Path, seconds: float) -> StoreError:
    """What people are told while writes take long. Nothing is acknowledged before its write."""
    return StoreError(
        "store_slow", f"journal {path}: its disk takes {seconds:.0f} s per write", _BUSY_DISK
    )


def damage(path: Path, found: str) -> StoreError:
    """The error for damage that was found by looking for it."""
    code, what, hint = _TROUBLES[sqlite3.SQLITE_CORRUPT]
    return StoreError(code, f"journal {path}: {what}: {found}", hint)


def _meaning(error: Exception) -> tuple[str, str, str]:
    primary = sqlite3.SQLITE_NOMEM if isinstance(error, MemoryError) else _primary(error)
    if isinstance(error, FileNotFoundError):
        return "store_io", "the file is gone", _GONE
    if isinstance(error, OSError):
        primary = _ERRNO.get(error.errno or 0, sqlite3.SQLITE_CANTOPEN)
    if primary in _TROUBLES:
        return _TROUBLES[primary]
    return "store_refused", "the operation was refused", "this is a mistake in the program"
