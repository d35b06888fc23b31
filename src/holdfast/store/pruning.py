"""Forgetting what is settled, and giving the room back, in steps that hold nobody up."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping
from itertools import chain

from holdfast.store.known import BORN
from holdfast.store.mending import ENDED
from holdfast.store.protocol import Box
from holdfast.store.writer import Operation

PRUNE_ROWS = 500
"""Rows looked at and removed in one commit, so that intake waits milliseconds and not seconds."""

FREE_PAGES = 1024
"""Free pages (4 MiB) a file may always keep: what the next messages will take anyway."""

FREE_SHARE = 4
"""A file may keep a quarter of its pages free: between two prunings they fill again, and giving
pages back means moving others."""

GIVE_BACK_PAGES = 500
"""Pages given back to the disk in one commit."""


def remove(
    box: Box, after: int, before: float, now: float, exempt: Mapping[str, float]
) -> Operation[tuple[int, int | None]]:
    """Of the next `PRUNE_ROWS` rows above ``after``, remove what was settled ``before`` (Unix s).

    Accounts in ``exempt`` have a time of their own. How many it removed, and after which row to go
    on: None when younger rows begin. An index of what is settled would do it in fewer looks, and
    cost two of its pages for each message. Rows dated after ``now``, by a clock that has been put
    right since, are no sign of younger ones.
    """
    look = f"SELECT id, {BORN[box]} FROM {box} WHERE id > ? ORDER BY id LIMIT {PRUNE_ROWS}"
    limits = "".join(" WHEN ? THEN ?" for _ in exempt)
    limit = f"CASE account{limits} ELSE ? END" if exempt else "?"
    times = (*chain.from_iterable(exempt.items()), before)
    delete = f"DELETE FROM {box} WHERE id > ? AND id <= ? AND {ENDED[box]} AND settled_at < {limit}"

    def operation(db: sqlite3.Connection) -> tuple[int, int | None]:
        rows = db.execute(look, (after,)).fetchall()
        if not rows:
            return 0, None
        upto = rows[-1][0]
        removed = db.execute(delete, (after, upto, *times)).rowcount
        young = any(before <= born <= now for _, born in rows)
        return removed, None if young else upto

    return operation


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
