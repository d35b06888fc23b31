"""What is in a journal's file, and how a file of an older version becomes one of this version."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from holdfast.errors import StoreError
from holdfast.store import known

APPLICATION_ID = 0x486C6466
"""``PRAGMA application_id``, "Hldf": tells a journal from any other SQLite database."""

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

_SECOND = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID;
INSERT INTO settings VALUES ('known_key', randomblob(16)), ('known_upto', 0);
CREATE TABLE known (
    hash INTEGER NOT NULL,
    id INTEGER NOT NULL,
    PRIMARY KEY (hash, id)
) WITHOUT ROWID;
CREATE TABLE inbox_2 (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    account TEXT NOT NULL,
    message TEXT NOT NULL,
    chat TEXT NOT NULL,
    payload BLOB NOT NULL,
    state TEXT NOT NULL DEFAULT 'received',
    attempts INTEGER NOT NULL DEFAULT 0,
    received_at REAL NOT NULL,
    settled_at REAL,
    reason TEXT NOT NULL DEFAULT '',
    turn INTEGER
);
INSERT INTO inbox_2 (id, account, message, chat, payload, state, attempts, received_at,
    settled_at, reason)
    SELECT id, account, message, chat, payload, state, attempts, received_at, settled_at, reason
    FROM inbox ORDER BY id;
DROP TABLE inbox;
ALTER TABLE inbox_2 RENAME TO inbox;
CREATE INDEX inbox_open ON inbox (account, id, state) WHERE state NOT IN ('done', 'dropped');
CREATE INDEX inbox_settled ON inbox (settled_at) WHERE state IN ('done', 'dropped');
ALTER TABLE outbox ADD COLUMN turn INTEGER;
DROP INDEX outbox_open;
DROP INDEX outbox_sent;
CREATE INDEX outbox_open ON outbox (account, id, state) WHERE state NOT IN ('sent', 'dropped');
CREATE INDEX outbox_settled ON outbox (settled_at) WHERE state IN ('sent', 'dropped');
ALTER TABLE gaps ADD COLUMN dismissed_at REAL;
"""
# The numbers of a box are never used twice: people name rows by them. `turn` is the newest number
# there was when a row was retried, behind which it has its place.

_THIRD = """
DROP TABLE known;
DELETE FROM settings WHERE name = 'known_upto';
CREATE TABLE known (
    id INTEGER PRIMARY KEY,
    box TEXT NOT NULL,
    upto INTEGER NOT NULL,
    hashes BLOB NOT NULL,
    rows BLOB NOT NULL,
    UNIQUE (box, upto)
);
CREATE TABLE outbox_3 (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
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
    turn INTEGER
);
INSERT INTO outbox_3 SELECT id, account, key, chat, payload, state, attempts, not_before,
    created_at, settled_at, maybe_doubled, reason, receipt, turn FROM outbox ORDER BY id;
DROP TABLE outbox;
ALTER TABLE outbox_3 RENAME TO outbox;
CREATE INDEX outbox_open ON outbox (account, id, state) WHERE state NOT IN ('sent', 'dropped');
CREATE INDEX outbox_settled ON outbox (settled_at) WHERE state IN ('sent', 'dropped');
"""
# Known ids of both boxes are found by hash and kept in runs: see `holdfast.store.known`. Only a new
# table lets go of its own index of them.

_FOURTH = """
DROP INDEX inbox_settled;
DROP INDEX outbox_settled;
"""
# Two pages of an index for each message, to find what may be pruned: see `pruning.remove`.

Step = Callable[[sqlite3.Connection], None]
"""What a script can not do; it runs in the same transaction, after the script."""

MIGRATIONS: tuple[tuple[str, Step | None], ...] = (
    (_FIRST, None),
    (_SECOND, None),
    (_THIRD, known.learn),
    (_FOURTH, None),
)
"""Scripts, oldest first. ``PRAGMA user_version`` says how many of them a file has been through."""

SCHEMA_VERSION = len(MIGRATIONS)


def inspect(connection: sqlite3.Connection, path: Path) -> int:
    """The schema version of a file that is a journal we may change, or is empty.

    Raises StoreError `store_foreign` or `store_newer`.
    """
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


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring a file of schema ``version`` up to date. Raises sqlite3.Error.

    Each step is one transaction, the version number in it: a file whose migration was killed or
    failed is a whole file of the version before.
    """
    for number, (script, step) in enumerate(MIGRATIONS[version:], version + 1):
        connection.executescript(
            f"BEGIN IMMEDIATE; {script}; PRAGMA application_id = {APPLICATION_ID};"
            f" PRAGMA user_version = {number};"
        )
        if step is not None:
            step(connection)
        connection.execute("COMMIT")
