"""Forgetting what is settled, and giving the room back, in steps that hold nobody up."""

from __future__ import annotations

import sqlite3

from holdfast.store.mending import ENDED
from holdfast.store.protocol import Box
from holdfast.store.writer import Operation

PRUNE_ROWS = 500
"""Rows removed in one commit, so that intake waits milliseconds and not seconds."""

FREE_PAGES = 1024
"""Free pages (4 MiB) a file may always keep: what the next messages will take anyway."""

FREE_SHARE = 4
"""A file may keep a quarter of its pages free: between two prunings they fill again, and giving
pages back means moving others."""

GIVE_BACK_PAGES = 500
"""Pages given back to the disk in one commit."""


def remove(box: Box, before: float, rows: int) -> Operation[int]:
    """Remove the rows settled longest ago, ``rows`` at most, if before ``before`` (Unix s)."""
    statement = (
        f"DELETE FROM {box} WHERE id IN (SELECT id FROM {box} WHERE {ENDED[box]}"
        " AND settled_at < ? ORDER BY settled_at LIMIT ?)"
    )
    return lambda db: db.execute(statement, (before, rows)).rowcount


def give_back(pages: int) -> Operation[int]:
    """Shrink the file by ``pages`` at most when too much of it is free; by how many it was.

    A file that could not be vacuumed when an older version's schema was brought up to date keeps
    its size and fills its free pages again.
    """

    def operation(db: sqlite3.Connection) -> int:
        (whole,) = db.execute("PRAGMA page_count").fetchone()
        (free,) = db.execute("PRAGMA freelist_count").fetchone()
        spare = free - max(FREE_PAGES, whole // FREE_SHARE)
        if spare <= 0:
            return 0
        # SQLite frees a page for each row that is fetched of this statement.
        db.execute(f"PRAGMA incremental_vacuum({min(spare, pages)})").fetchall()
        (left,) = db.execute("PRAGMA page_count").fetchone()
        return int(whole - left)

    return operation
