"""The journal's file: who may open it, what is in it, and what its troubles are called.

The file is private (mode 0600) and belongs to one process at a time, proven by an advisory lock
on ``<path>.lock`` that the kernel drops when its holder dies, however it dies.
"""

from __future__ import annotations

import errno
import fcntl
import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from holdfast.errors import StoreError

APPLICATION_ID = 0x486C6466
"""``PRAGMA application_id``, "Hldf": tells a journal from any other SQLite database."""

PAGE_SIZE = 4096
"""Bytes; SQLite's default since 3.12."""

CHECKPOINT_PAGES = 4000
"""Pages of the write-ahead log (16 MiB) at which a commit also checkpoints. Four times SQLite's
default: a page that many commits touch is then written back once instead of four times."""

LOG_LIMIT = 64 * 2**20
"""Bytes the write-ahead log may keep on disk after a burst made it grow."""

CACHE_KIB = 16 * 1024
"""Page cache of a connection: holds the upper levels of every index at 1,000,000 rows."""

_FIRST = """
CREATE TABLE inbox (
    id INTEGER PRIMARY KEY,
    account TEXT NOT NULL,
    message TEXT NOT NULL,
    chat TEXT NOT NULL,
    payload BLOB NOT NULL,
    state TEXT NOT NULL DEFAULT 'received',
    attempts INTEGER NOT NULL DEFAULT 0,
    received_at REAL NOT NULL,
    settled_at REAL,
    reason TEXT NOT NULL DEFAULT '',
    UNIQUE (account, message)
);
CREATE INDEX inbox_open ON inbox (account, id, state) WHERE state <> 'done';
CREATE INDEX inbox_done ON inbox (settled_at) WHERE state = 'done';
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY,
    account TEXT NOT NULL,
    key TEXT NOT NULL,
    chat TEXT NOT NULL,
    payload BLOB NOT NULL,
    state TEXT NOT NULL DEFAULT 'owed',
    attempts INTEGER NOT NULL DEFAULT 0,
    not_before REAL NOT NULL DEFAULT 0,
    created_at REAL NOT NULL,
    settled_at REAL,
    maybe_doubled INTEGER NOT NULL DEFAULT 0,
    reason TEXT NOT NULL DEFAULT '',
    receipt TEXT NOT NULL DEFAULT '',
    UNIQUE (account, key)
);
CREATE INDEX outbox_open ON outbox (account, id, state) WHERE state <> 'sent';
CREATE INDEX outbox_sent ON outbox (settled_at) WHERE state = 'sent';
CREATE TABLE cursors (account TEXT PRIMARY KEY, payload BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE memory (
    account TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (account, key)
) WITHOUT ROWID;
CREATE TABLE history (
    id INTEGER PRIMARY KEY,
    account TEXT NOT NULL,
    number INTEGER NOT NULL,
    payload BLOB NOT NULL,
    UNIQUE (account, number)
);
CREATE TABLE gaps (
    id INTEGER PRIMARY KEY,
    account TEXT NOT NULL,
    number INTEGER NOT NULL,
    payload BLOB NOT NULL,
    UNIQUE (account, number)
);
"""

MIGRATIONS = (_FIRST,)
"""Scripts, oldest first. ``PRAGMA user_version`` says how many of them a file has been through."""

SCHEMA_VERSION = len(MIGRATIONS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the journal is and how it is opened."""

    path: Path
    busy_timeout: float = 5.0
    """Seconds a write waits for another program that holds SQLite's own lock."""
    max_bytes: int | None = None
    """Size the database may grow to; None leaves it to the disk."""


# -- troubles -------------------------------------------------------------------------------------

_ROOM = "free some space on its disk; the store recovers by itself"
_RIGHTS = "make the file and its directory writable for this user; the store recovers by itself"
_ASIDE = "stop the gateway, keep a copy of the file, and set it aside or restore a backup"
_OTHER = "close the other program that holds it open; the store recovers by itself"
_GONE = "put it back, or restart the gateway to begin a new one"
_DISK = "look at the system log for disk errors; the store recovers by itself once writes work"

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


def trouble(error: Exception, path: Path) -> StoreError:
    """The error for people: a code of the store, the place, the reason and the remedy."""
    if isinstance(error, StoreError):
        return StoreError(error.code, error.problem, error.hint)
    code, what, hint = _meaning(error)
    return StoreError(code, f"journal {path}: {what}: {error}", hint)


def _meaning(error: Exception) -> tuple[str, str, str]:
    primary = _primary(error)
    if isinstance(error, FileNotFoundError):
        return "store_io", "the file is gone", _GONE
    if isinstance(error, OSError):
        primary = _ERRNO.get(error.errno or 0, sqlite3.SQLITE_CANTOPEN)
    if primary in _TROUBLES:
        return _TROUBLES[primary]
    return "store_refused", "the operation was refused", "this is a mistake in the program"


# -- opening --------------------------------------------------------------------------------------


class Lock:
    """The right to use a journal, held from construction to `release`.

    The lock file itself is never removed: whoever locked a removed file would hold nothing.
    Raises StoreError `store_in_use`, naming the holder.
    """

    def __init__(self, path: Path) -> None:
        name = path.with_name(path.name + ".lock")
        self._file = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._file, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._file)
            raise StoreError(
                "store_in_use",
                f"journal {path} is in use by process {holder}",
                "stop that process, or give this gateway a journal of its own",
            ) from None
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let others in. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def prepare(place: Place) -> Lock:
    """Take the lock, create the file when there is none, bring its schema up to date.

    Raises StoreError; then the lock is free again and an existing file is as it was.
    """
    try:
        place.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = Lock(place.path)
    except OSError as error:
        raise trouble(error, place.path) from error
    try:
        os.close(os.open(place.path, os.O_RDWR | os.O_CREAT, 0o600))
        connection = _open(place)
        try:
            version = _inspect(connection, place.path)
            # SQLite gives its companion files (-wal, -shm) the mode of the main file.
            place.path.chmod(0o600)
            _configure(connection, place)
            _migrate(connection, version)
        finally:
            connection.close()
    except BaseException as error:
        lock.release()
        if isinstance(error, OSError | sqlite3.Error):
            raise trouble(error, place.path) from error
        raise
    return lock


def connect(place: Place, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a prepared file for the calling thread. Raises sqlite3.Error."""
    connection = _open(place)
    try:
        _configure(connection, place)
        connection.execute(f"PRAGMA query_only = {int(read_only)}")
    except BaseException:
        connection.close()
        raise
    return connection


def _open(place: Place) -> sqlite3.Connection:
    # The mode rw never creates: a journal removed while in use must not come back empty.
    return sqlite3.connect(
        place.path.absolute().as_uri() + "?mode=rw",
        uri=True,
        isolation_level=None,
        timeout=place.busy_timeout,
    )


def _configure(connection: sqlite3.Connection, place: Place) -> None:
    for setting in (
        f"page_size = {PAGE_SIZE}",
        f"cache_size = {-CACHE_KIB}",
        "journal_mode = WAL",
        "synchronous = FULL",
        f"wal_autocheckpoint = {CHECKPOINT_PAGES}",
        f"journal_size_limit = {LOG_LIMIT}",
    ):
        connection.execute(f"PRAGMA {setting}")
    if place.max_bytes is not None:
        connection.execute(f"PRAGMA max_page_count = {place.max_bytes // PAGE_SIZE}")


def _inspect(connection: sqlite3.Connection, path: Path) -> int:
    """The schema version of a file that is a journal we may change, or is empty."""
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if tables and application != APPLICATION_ID:
        raise StoreError(
            "store_foreign",
            f"{path} is a database of another program",
            "choose another path for the journal",
        )
    if version > SCHEMA_VERSION:
        raise StoreError(
            "store_newer",
            f"journal {path} has schema {version}, this version knows up to {SCHEMA_VERSION}",
            "run the newer version of Holdfast that wrote it, or restore an older backup",
        )
    return int(version)


def _migrate(connection: sqlite3.Connection, version: int) -> None:
    for number, script in enumerate(MIGRATIONS[version:], version + 1):
        # DDL and both header fields are transactional: a migration happens wholly or not at all.
        connection.executescript(
            f"BEGIN IMMEDIATE; {script}; PRAGMA application_id = {APPLICATION_ID};"
            f" PRAGMA user_version = {number}; COMMIT;"
        )


def set_aside(path: Path) -> Path:
    """Rename a damaged journal and its companion files so that a new one can begin.

    Returns the new name, ``<path>.damaged-<number>``; nothing is ever deleted or overwritten.
    Raises StoreError when the journal is in use, OSError when it can not be renamed.
    """
    lock = Lock(path)
    try:
        number = 1
        while (target := path.with_name(f"{path.name}.damaged-{number}")).exists():
            number += 1
        for suffix in ("-wal", "-shm", ""):
            companion = path.with_name(path.name + suffix)
            if companion.exists():
                companion.rename(target.with_name(target.name + suffix))
        return target
    finally:
        lock.release()
