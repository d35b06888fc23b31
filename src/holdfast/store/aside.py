"""What is done about a damaged journal: it is set aside and pointed at until somebody takes it.

A damaged file is renamed only when it can not be used, and never deleted or overwritten. Its name
begins with the journal's, so that it is found beside it.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from holdfast.errors import StoreError
from holdfast.store.opening import COMPANIONS, Lock, Note, Place, examine, loss_of
from holdfast.store.troubles import trouble

MARK = ".damaged-"
"""Between the name of a journal and the time (UTC) at which it was set aside."""


def set_aside(path: Path, now: float) -> Path:
    """Rename a damaged journal and its companion files so that a new one can begin.

    Returns the new name, ``<path>.damaged-<time>``; ``now`` is in Unix seconds. Raises StoreError
    when the journal is in use, OSError when it can not be renamed.
    """
    lock = Lock(path)
    try:
        return rename(path, now, lock)
    finally:
        lock.release()


def rename(path: Path, now: float, lock: Lock) -> Path:
    """`set_aside` for the holder of the lock."""
    stamp = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
    target, number = path.with_name(f"{path.name}{MARK}{stamp}"), 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}{MARK}{stamp}-{number}")
    # The journal itself comes last: a new one must never meet the log of an old one.
    for suffix in (*COMPANIONS, ""):
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            companion.rename(target.with_name(target.name + suffix))
    lock.forget(*Note)
    return target


class Watch:
    """The `notice` of a journal in use, looked for by its own threads only: a directory that
    hangs must not hold up the event loop.
    """

    def __init__(self, path: Path) -> None:
        self.notice = ""
        self._path = path
        self._seen = 0

    def look(self) -> None:
        """Look again if files came or went."""
        changed = self._path.parent.stat().st_mtime_ns
        if changed != self._seen:
            self.notice, self._seen = notice(self._path), changed


def asides(path: Path) -> list[Path]:
    """The damaged journals beside this one, oldest first."""
    found = path.parent.glob(f"{path.name}{MARK}*")
    return sorted(file for file in found if not file.name.endswith(COMPANIONS))


def notice(path: Path) -> str:
    """What people must know of damaged journals as long as they lie there; empty when none do."""
    found = asides(path)
    if not found:
        return ""
    names = ", ".join(file.name for file in found)
    return (
        f"a damaged journal was set aside: messages in it may be unanswered"
        f" (look at {names} in {path.parent}, then move it away)"
    )


def waiting_since(aside: Path) -> float:
    """Unix seconds from which on messages in a damaged journal may be unanswered.

    The oldest unanswered message that can still be read; else the last write to the file.
    """
    written = aside.stat().st_mtime
    try:
        with closing(sqlite3.connect(f"{aside.absolute().as_uri()}?mode=ro", uri=True)) as db:
            # The first row that is found, not a minimum, which would read every damaged page.
            oldest = db.execute(
                "SELECT received_at FROM inbox WHERE state IN ('received', 'handling')"
                " ORDER BY id LIMIT 1"
            ).fetchone()
    except sqlite3.Error:
        return written
    found = written if oldest is None else oldest[0]
    return min(float(found), written) if isinstance(found, int | float) else written


def diagnose(path: Path) -> list[str]:
    """What is wrong with the journal at ``path``, in words for people; empty when nothing is.

    A journal that is in use is not touched: its gateway says how it is. Any other is looked
    through as a whole, which takes seconds for a large one. Works where there is none, too.
    """
    found = [said] if (said := notice(path)) else []
    if not path.parent.exists():
        return found
    place = Place(path=path)
    try:
        lock = Lock(path)
    except StoreError:
        return found
    except OSError as error:
        return [*found, str(trouble(error, path))]
    try:
        if missing := loss_of(place, lock):
            found.append(missing)
        if path.exists():
            examine(place, lock)
    except (StoreError, OSError, sqlite3.Error) as error:
        found.append(str(trouble(error, path)))
    finally:
        lock.release()
    return found
