"""A copy of the journal as it was at one moment, while everything goes on."""

from __future__ import annotations

import os
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path

from holdfast.errors import StoreError
from holdfast.store.opening import Place, connect
from holdfast.store.troubles import trouble

PARTIAL = ".partial"
"""Suffix of a copy that is not complete."""


class Copy:
    """One copy under way, in a thread of its own.

    SQLite reads one snapshot throughout; writers are not held up, only the write-ahead log grows
    meanwhile. `VACUUM INTO` walks all tables, so damage fails the copy instead of being copied.
    """

    def __init__(self, place: Place, target: Path) -> None:
        self._place, self._target = place, target
        self._guard = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._given_up = False

    def give_up(self) -> None:
        """Let `make` fail soon, from any thread."""
        with self._guard:
            self._given_up = True
            if self._connection is not None:
                self._connection.interrupt()

    def make(self) -> int:
        """Write the copy; its size in bytes. Raises StoreError; then there is none."""
        partial = self._target.with_name(self._target.name + PARTIAL)
        try:
            if self._target.exists():
                raise FileExistsError
            os.close(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError as error:
            found = partial if partial.exists() else self._target
            raise _exists(found) from error
        except OSError as error:
            raise StoreError(
                trouble(error, self._target).code,
                f"copy to {self._target}: {error.strerror}",
                "choose a directory that the gateway's user can write to",
            ) from error
        try:
            self._write(partial)
            size = partial.stat().st_size
            # Unlike a rename, a link never replaces a file that came into being meanwhile.
            self._target.hardlink_to(partial)
            _sync(self._target.parent)
        except FileExistsError as error:
            raise _exists(self._target) from error
        except (sqlite3.Error, OSError) as error:
            raise self._failed(error) from error
        finally:
            with suppress(OSError):
                partial.unlink()
        return size

    def _write(self, partial: Path) -> None:
        connection = connect(self._place)
        try:
            with self._guard:
                if self._given_up:
                    raise sqlite3.OperationalError("interrupted")
                self._connection = connection
            connection.execute("VACUUM INTO ?", (str(partial),))
        finally:
            with self._guard:
                self._connection = None
            connection.close()
        _sync(partial)

    def _failed(self, error: Exception) -> StoreError:
        if self._given_up:
            return StoreError(
                "store_closed", f"the copy {self._target} was given up", "the gateway is stopping"
            )
        found = trouble(error, self._place.path)
        return StoreError(found.code, f"copy to {self._target}: {found.problem}", found.hint)


def _exists(path: Path) -> StoreError:
    return StoreError("store_exists", f"{path} exists already", "choose another name or remove it")


def _sync(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)
