"""Opening a journal: who may, whether the file is whole, and with which settings.

The file is private (mode 0600) and belongs to one process at a time, proven by an advisory lock
on ``<path>.lock`` that the kernel drops when its holder dies, however it dies. In the same file
the holder notes what a later start must know and the journal itself can not tell.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from holdfast.errors import StoreError
from holdfast.store.schema import SCHEMA_VERSION, inspect, migrate
from holdfast.store.troubles import damage, is_trouble, trouble

PAGE_SIZE = 4096
"""Bytes; SQLite's default since 3.12."""

CHECKPOINT_PAGES = 4000
"""Pages of the write-ahead log (16 MiB) at which a commit also checkpoints. Four times SQLite's
default: a page that many commits touch is then written back once instead of four times."""

LOG_LIMIT = 64 * 2**20
"""Bytes the write-ahead log may keep on disk after a burst made it grow."""

CACHE_KIB = 16 * 1024
"""Page cache of a connection: holds the upper levels of every index at 1,000,000 rows."""

GIVE_BACK = "PRAGMA auto_vacuum = INCREMENTAL"
"""Lets free pages be given back when asked to; only an empty file takes the setting at once."""

CHECK_SECONDS = 0.5
"""Longest time a start spends on looking for damage; about 300 MB of a file in the page cache. A
file in which a former run met damage is looked through as a whole."""

CHECK_STEPS = 10_000
"""Instructions of SQLite between two looks at the clock while a file is checked."""


COMPANIONS = ("-wal", "-shm")
"""Suffixes of the files SQLite keeps beside an open database."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the journal is and how it is opened."""

    path: Path
    busy_timeout: float = 5.0
    """Seconds a write waits for another program that holds SQLite's own lock."""
    max_bytes: int | None = None
    """Size the database may grow to; None leaves it to the disk."""

    @property
    def log(self) -> Path:
        """SQLite's write-ahead log. It exists while, and after a crash since, the file was open."""
        return self.path.with_name(self.path.name + "-wal")


# -- the lock -------------------------------------------------------------------------------------


class Note(StrEnum):
    """What one holder of the lock tells the next."""

    MADE = "made"
    """There is a journal: if its file is gone or empty, somebody or something took it."""
    OPEN = "open"
    """It has not been closed: commits may be in its write-ahead log only."""
    DAMAGED = "damaged"
    """A call met damage in the file."""


class Lock:
    """The right to use a journal, held from construction to `release`.

    The lock file itself is never removed: whoever locked a removed file would hold nothing.
    Raises StoreError `store_in_use`, naming the holder, and OSError.
    """

    def __init__(self, path: Path) -> None:
        name = path.with_name(path.name + ".lock")
        self.loss = ""
        """What of an older journal turned out to be missing, in words; empty when nothing."""
        self.last_used = name.stat().st_mtime if name.exists() else 0.0
        """Unix seconds at which an older holder took the lock or noted something; 0 for never."""
        self._file = os.open(name, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = (self._lines() or ["unknown"])[0]
            os.close(self._file)
            raise StoreError(
                "store_in_use",
                f"journal {path} is in use by process {holder}",
                "stop that process, or give this gateway a journal of its own",
            ) from None
        self._notes = {note for note in Note if note in self._lines()[1:]}
        try:
            self._write()
        except BaseException:
            self.release()
            raise

    def has(self, note: Note) -> bool:
        """Whether this or a former holder noted it and nobody took it back."""
        return note in self._notes

    def note(self, note: Note) -> None:
        """Tell later holders."""
        if note not in self._notes:
            self._notes.add(note)
            self._write()

    def forget(self, *notes: Note) -> None:
        """Take notes back."""
        if self._notes & set(notes):
            self._notes -= set(notes)
            self._write()

    def release(self) -> None:
        """Let others in. Idempotent."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _lines(self) -> list[str]:
        return os.pread(self._file, 256, 0).decode("ascii", "replace").split()

    def _write(self) -> None:
        text = "".join(f"{line}\n" for line in (os.getpid(), *sorted(self._notes))).encode()
        # In this order it works on a full disk: the file keeps its block.
        os.pwrite(self._file, text, 0)
        os.ftruncate(self._file, len(text))


# -- opening --------------------------------------------------------------------------------------


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
        lock.loss = loss_of(place, lock)
        os.close(os.open(place.path, os.O_RDWR | os.O_CREAT, 0o600))
        _prepare_file(place, lock)
        lock.note(Note.MADE)
        lock.forget(Note.DAMAGED)
    except BaseException as error:
        lock.release()
        if isinstance(error, OSError | sqlite3.Error):
            raise trouble(error, place.path) from error
        raise
    return lock


def create(place: Place, lock: Lock) -> None:
    """Make a journal where there is none. Raises StoreError, sqlite3.Error and OSError."""
    os.close(os.open(place.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    _prepare_file(place, lock)


def loss_of(place: Place, lock: Lock) -> str:
    """What is missing of a journal that was there before. Must be asked before it is opened."""
    if not place.path.exists():
        return f"journal {place.path} is gone" if lock.has(Note.MADE) else ""
    if place.path.stat().st_size == 0 and not _holds(place.log):
        return f"journal {place.path} is empty" if lock.has(Note.MADE) else ""
    if lock.has(Note.OPEN) and not place.log.exists():
        return f"the write-ahead log of journal {place.path} is gone"
    return ""


def _holds(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _prepare_file(place: Place, lock: Lock) -> None:
    connection = _open(place)
    try:
        limit = None if lock.has(Note.DAMAGED) else CHECK_SECONDS
        version = _examine(connection, place, lock, limit)
        # SQLite gives its companion files (-wal, -shm) the mode of the main file.
        place.path.chmod(0o600)
        if version == 0 and place.path.stat().st_size == 0:
            connection.execute(GIVE_BACK)
        _configure(connection, place)
        _migrate(connection, version, place)
    finally:
        connection.close()


def examine(place: Place, lock: Lock) -> None:
    """Look through a whole journal that is not in use. Raises StoreError and sqlite3.Error.

    Opening and closing it moves what its log holds into the file, as the next start would.
    """
    missing = loss_of(place, lock)
    connection = _open(place)
    try:
        _examine(connection, place, lock, None)
    finally:
        connection.close()
    if not missing and not place.log.exists():
        lock.forget(Note.OPEN)


def _examine(connection: sqlite3.Connection, place: Place, lock: Lock, limit: float | None) -> int:
    """The schema version of a file that is a whole journal, or is empty."""
    try:
        version = inspect(connection, place.path)
        check(connection, place, limit)
    except StoreError as error:
        if error.code == "store_foreign" and lock.has(Note.MADE):
            raise damage(place.path, "its header names another program") from error
        raise
    except sqlite3.Error as error:
        if is_trouble(error):
            raise
        # Nothing but looking was asked for: what SQLite can not make sense of is the file.
        raise damage(place.path, str(error)) from error
    if version < 0:
        raise damage(place.path, f"its header has schema {version}")
    return version


def _migrate(connection: sqlite3.Connection, version: int, place: Place) -> None:
    try:
        migrate(connection, version)
    except sqlite3.OperationalError as error:
        if is_trouble(error):
            raise
        raise StoreError(
            "store_migration",
            f"journal {place.path}: schema {version} can not be brought up to date: {error}",
            "the file is as it was: run the version of Holdfast that wrote it, or set it aside",
        ) from error
    if 0 < version < SCHEMA_VERSION:
        # In an older file the setting takes effect with this, which also gives back what the
        # migration freed. Without the room for that it stays as large as it is.
        with suppress(sqlite3.OperationalError):
            connection.execute(GIVE_BACK)
            connection.execute("VACUUM")


def check(connection: sqlite3.Connection, place: Place, limit: float | None) -> None:
    """Look for damage for ``limit`` seconds at most, or through the whole file and its indices.

    Raises StoreError `store_damaged`. What is looked at is the structure: SQLite keeps no sums of
    the content.
    """
    look = "integrity_check" if limit is None else "quick_check"
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    size = place.path.stat().st_size
    if not _holds(place.log) and size < pages * PAGE_SIZE:
        raise damage(place.path, f"it has {size} bytes and should have {pages * PAGE_SIZE}")
    until = float("inf") if limit is None else time.monotonic() + limit
    connection.set_progress_handler(lambda: time.monotonic() > until, CHECK_STEPS)
    try:
        (found,) = connection.execute(f"PRAGMA {look}(1)").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
            raise
    else:
        if found != "ok":
            raise damage(place.path, " ".join(found.split()))
    finally:
        connection.set_progress_handler(None, 0)


def connect(place: Place, *, read_only: bool = False) -> sqlite3.Connection:
    """Open a prepared file for the calling thread. Raises sqlite3.Error."""
    connection = _open(place)
    try:
        _configure(connection, place)
        connection.execute(f"PRAGMA query_only = {int(read_only)}")
        # One damaged text must not hide all that is found with it.
        connection.text_factory = lambda raw: raw.decode(errors="replace")
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
