"""The least that carries a message down the whole road: the floor of `bench.road`.

    python -m bench.floor URL JOURNAL

Frame in on an aiohttp WebSocket, typed decode, committed to the inbox, handler, committed to the
outbox with the inbox done, HTTP POST by aiohttp, marked as sent. Commits are shared (group commit,
WAL, FULL). No class of the product, no supervision, no order, no second try: what is left is what
no gateway that loses nothing can do without. Prints a line when connected; then answers each line
on standard input with ``{"commits": so many}``.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from yarl import URL

from bench.road_platform import loop_factory

POOL = 16
"""Connections for posts: as many as the gateway's own client has."""

SCHEMA = """
CREATE TABLE inbox (id INTEGER PRIMARY KEY, message TEXT UNIQUE, payload BLOB, state TEXT,
    received_at REAL);
CREATE TABLE outbox (id INTEGER PRIMARY KEY, key TEXT UNIQUE, payload BLOB, state TEXT,
    receipt TEXT);
"""
RECEIVE = "INSERT INTO inbox VALUES (NULL, ?, ?, 'received', ?)"
DONE = "UPDATE inbox SET state = 'done' WHERE id = ?"
OWE = "INSERT INTO outbox VALUES (NULL, ?, ?, 'owed', '')"
SENT = "UPDATE outbox SET state = 'sent', receipt = ? WHERE id = ?"

Statements = list[tuple[str, tuple[Any, ...]]]
Job = tuple[Statements, asyncio.Future[int]]


class Frame(msgspec.Struct):
    """An event; anything else has no name."""

    event: str = ""
    data: msgspec.Raw = msgspec.Raw(b"{}")


class Posted(msgspec.Struct):
    """The data of an event ``posted``: JSON inside of JSON."""

    post: str


class Post(msgspec.Struct):
    """A message."""

    id: str
    channel_id: str
    message: str


class Accepted(msgspec.Struct):
    """The answer to a post of ours."""

    id: str


class Journal:
    """Group commit: a list, a thread, a transaction for all that has arrived meanwhile."""

    def __init__(self, path: Path) -> None:
        self.commits = 0
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.executescript(SCHEMA)
        self._thread = ThreadPoolExecutor(1)
        self._pending: list[Job] = []
        self._busy = False

    def write(self, *statements: tuple[str, tuple[Any, ...]]) -> asyncio.Future[int]:
        """The row number of the last statement's insert, once it is durable."""
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._pending.append((list(statements), done))
        if not self._busy:
            self._begin()
        return done

    def _begin(self) -> None:
        jobs, self._pending = self._pending, []
        self._busy = bool(jobs)
        if jobs:
            commit = asyncio.get_running_loop().run_in_executor(self._thread, self._commit, jobs)
            commit.add_done_callback(lambda commit: self._settle(jobs, commit.result()))

    def _commit(self, jobs: list[Job]) -> list[int]:
        self._db.execute("BEGIN IMMEDIATE")
        rows = []
        for statements, _ in jobs:
            for statement, values in statements:
                cursor = self._db.execute(statement, values)
            rows.append(cursor.lastrowid or 0)
        self._db.execute("COMMIT")
        self.commits += 1
        return rows

    def _settle(self, jobs: list[Job], rows: list[int]) -> None:
        self._begin()
        for (_, done), row in zip(jobs, rows, strict=True):
            if not done.cancelled():
                done.set_result(row)


async def handler(text: str) -> str:
    """The agent."""
    return text


class Road:
    """From the frame to the record of the answer, each message a task."""

    def __init__(self, session: aiohttp.ClientSession, url: str, journal: Journal) -> None:
        self._session, self._journal = session, journal
        self._posts = URL(f"{url}/api/v4/posts", encoded=True)
        self._tasks: set[asyncio.Task[None]] = set()

    async def read(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        """Take in frames until the end."""
        frame_of = msgspec.json.Decoder(Frame).decode
        posted_of = msgspec.json.Decoder(Posted).decode
        post_of = msgspec.json.Decoder(Post).decode
        async for message in ws:
            frame = frame_of(message.data)
            if frame.event == "posted":
                post = post_of(posted_of(frame.data).post)
                task = asyncio.create_task(self._carry(post))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _carry(self, post: Post) -> None:
        packed = msgspec.msgpack.encode(post)
        row = await self._journal.write((RECEIVE, (post.id, packed, time.time())))
        text = await handler(post.message)
        body = msgspec.json.encode(
            {"channel_id": post.channel_id, "message": text, "pending_post_id": post.id}
        )
        owed = await self._journal.write((DONE, (row,)), (OWE, (post.id, body)))
        async with self._session.post(self._posts, data=body) as reply:
            accepted = msgspec.json.decode(await reply.read(), type=Accepted)
        # Nothing waits for it: it shares the commit of whoever comes next.
        await self._journal.write((SENT, (accepted.id, owed)))


def on_line(answer: Callable[[], object]) -> Awaitable[None]:
    """Answer each line on standard input with a line of JSON; done when it ends."""
    loop = asyncio.get_running_loop()

    def listen() -> None:
        for _ in sys.stdin:
            loop.call_soon_threadsafe(lambda: print(json.dumps(answer()), flush=True))

    return loop.run_in_executor(None, listen)


async def serve(url: str, path: Path) -> None:
    """Carry messages until standard input ends."""
    journal = Journal(path)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=POOL),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"Content-Type": "application/json"},
        timeout=aiohttp.ClientTimeout(total=15.0),
    ) as session:
        ws = await session.ws_connect(f"{url}/api/v4/websocket", headers={"Authorization": "x"})
        reading = asyncio.create_task(Road(session, url, journal).read(ws))
        print(json.dumps({"ready": True}), flush=True)
        await on_line(lambda: {"commits": journal.commits})
        reading.cancel()
        await asyncio.wait([reading])


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(serve(sys.argv[1], Path(sys.argv[2])))
