"""Matrix on the real shell, against a real homeserver."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from holdfast.adapters.matrix import Matrix
from holdfast.lab.synapse import Synapse, find_synapse
from holdfast.messages import Attachment, MediaKind, Outbound
from holdfast.supervision import Kind, Published
from holdfast.testing import MemoryStore
from tests.harness import Running, running

PYTHON = find_synapse()

pytestmark = [
    pytest.mark.real,
    pytest.mark.real_time,
    pytest.mark.slow,
    pytest.mark.timeout(180),
    pytest.mark.skipif(
        PYTHON is None,
        reason="no Synapse: see holdfast/lab/synapse.py for how to install it",
    ),
]

PATIENCE = 30.0
"""Seconds for anything that should happen at once; test machines are busy."""


@dataclass
class Person:
    """Somebody with the plainest possible client."""

    http: aiohttp.ClientSession
    url: str
    token: str
    count: int = 0

    async def call(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Authorization": f"Bearer {self.token}"}
        url = f"{self.url}/_matrix/client/v3{path}"
        async with self.http.request(method, url, json=body, headers=headers) as answer:
            parsed = await answer.json()
            assert answer.status == 200, parsed
            return parsed

    async def invite(self, *users: str, direct: bool) -> str:
        body = {"invite": list(users), "is_direct": direct, "preset": "private_chat"}
        return str((await self.call("POST", "/createRoom", body))["room_id"])

    async def say(self, room: str, text: str, **content: Any) -> str:
        self.count += 1
        path = f"/rooms/{quote(room)}/send/m.room.message/t{self.count}"
        body = {"msgtype": "m.text", "body": text, **content}
        return str((await self.call("PUT", path, body))["event_id"])

    async def event(self, room: str, event: str) -> Any:
        return await self.call("GET", f"/rooms/{quote(room)}/event/{quote(event)}")


@dataclass
class World:
    """A homeserver with a bot and two people."""

    server: Synapse
    bot: str
    account: dict[str, Any]
    alice: Person
    carol: Person
    carol_id: str


@contextlib.asynccontextmanager
async def world(directory: Path) -> AsyncIterator[World]:
    assert PYTHON is not None
    async with Synapse(directory, PYTHON) as server, aiohttp.ClientSession() as http:
        ids = {n: await server.register(n, f"{n}-pw") for n in ("bot", "alice", "carol")}
        tokens = {n: await server.login(n, f"{n}-pw") for n in ids}
        account = {"platform": "matrix", "homeserver": server.url, "user_id": ids["bot"]}
        yield World(
            server=server,
            bot=ids["bot"],
            account=account | {"access_token": tokens["bot"], "sync_timeout": 5.0},
            alice=Person(http, server.url, tokens["alice"]),
            carol=Person(http, server.url, tokens["carol"]),
            carol_id=ids["carol"],
        )


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - a real server tells nobody
            await asyncio.sleep(0.05)


def texts(store: MemoryStore) -> list[str]:
    return [row.message.text for row in store.inbox.values()]


async def connected(seen: Running) -> None:
    async with asyncio.timeout(PATIENCE):
        await seen.connected()


async def test_private_and_group_chat_over_a_restart(tmp_path: Path) -> None:
    store = MemoryStore()
    async with world(tmp_path) as w:
        room = await w.alice.invite(w.bot, direct=True)
        await w.alice.say(room, "before you came")
        async with running(Matrix, w.account, store=store) as seen:
            await connected(seen)
            await until(lambda: texts(store) == ["before you came"])

            asked = await w.alice.say(room, "hello")
            await until(lambda: len(texts(store)) == 2)
            message = seen.messages[-1]
            assert (message.id, message.chat, message.private) == (asked, room, True)
            answer = Outbound(key="k-1", chat=room, text="hi", reply_to=asked)
            receipts = {(await seen.adapter.send(answer)).id for _ in range(2)}
            (event_id,) = receipts
            content = (await w.alice.event(room, event_id))["content"]
            assert (content["body"], content["msgtype"]) == ("hi", "m.notice")
            assert content["m.relates_to"] == {"m.in_reply_to": {"event_id": asked}}
            await seen.adapter.send(Outbound(key="k-2", chat=room, text="hi!", edit_of=event_id))
            await seen.adapter.typing(room)
            picture = Attachment(kind=MediaKind.IMAGE, name="a.png", mime="image/png", data=b"png")
            shown = await seen.adapter.send(Outbound(key="k-3", chat=room, attachments=(picture,)))
            content = (await w.alice.event(room, shown.id))["content"]
            await w.alice.say(room, "a.png", msgtype="m.image", url=content["url"])
            await until(lambda: len(texts(store)) == 3)
            (sent_back,) = seen.messages[-1].attachments
            assert await seen.adapter.fetch(sent_back) == b"png"

            team = await w.alice.invite(w.bot, w.carol_id, direct=False)
            await w.carol.call("POST", f"/rooms/{quote(team)}/join", {})
            await w.carol.say(team, "bot: status?", **{"m.mentions": {"user_ids": [w.bot]}})
            await w.carol.say(team, "lunch?")
            await until(lambda: len(texts(store)) == 5)
            asked_in_team, lunch = seen.messages[-2:]
            assert (asked_in_team.private, asked_in_team.mentioned) == (False, True)
            assert (lunch.private, lunch.mentioned, lunch.sender_name) == (False, False, "carol")

        # More than one answer's worth of messages while the process is down.
        for n in range(70):
            await w.alice.say(room, f"missed {n}")
        async with running(Matrix, w.account, store=store) as seen:
            await connected(seen)
            await until(lambda: len(texts(store)) == 75)
            await w.server.kill()
            await asyncio.sleep(0.5)
            await w.server.start()
            await w.alice.say(room, "after the crash")
            await until(lambda: len(texts(store)) == 76)
        assert texts(store)[5:] == [f"missed {n}" for n in range(70)] + ["after the crash"]
        assert store.duplicates == 0
        assert await store.gaps("bot") == []


async def test_the_past_of_the_first_rooms_is_history_and_a_long_welcome_is_not(
    tmp_path: Path,
) -> None:
    store = MemoryStore()
    async with world(tmp_path) as w:
        known = await w.alice.invite(w.bot, direct=True)
        by_hand = Person(w.alice.http, w.server.url, w.account["access_token"])
        await by_hand.call("POST", f"/rooms/{quote(known)}/join", {})
        await w.alice.say(known, "long ago")
        new = await w.alice.invite(w.bot, direct=True)
        for n in range(60):
            await w.alice.say(new, f"welcome {n}")
        async with running(Matrix, w.account, store=store) as seen:
            await connected(seen)
            await until(lambda: len(texts(store)) == 60)
            await w.alice.say(known, "today")
            await until(lambda: "today" in texts(store))
        assert texts(store) == [f"welcome {n}" for n in range(60)] + ["today"]


async def test_an_unknown_place_in_the_stream_is_a_gap_and_no_end(tmp_path: Path) -> None:
    store = MemoryStore()
    await store.receive("bot", (), {"since": "nonsense"})
    async with world(tmp_path) as w, running(Matrix, w.account, store=store) as seen:
        await connected(seen)
        codes = [r.view.cause.code for r in seen.reports if r.view.cause is not None]
        assert "matrix_bad_since" in codes
        room = await w.alice.invite(w.bot, direct=True)
        await w.alice.say(room, "hello")
        await until(lambda: texts(store) == ["hello"])


async def test_a_revoked_token_is_fatal_and_a_password_mends_it(tmp_path: Path) -> None:
    async with world(tmp_path) as w:
        with_password = w.account | {"password": "bot-pw"}
        async with running(Matrix, w.account) as seen, running(Matrix, with_password) as other:
            await connected(seen)
            await connected(other)
            await w.server.revoke(w.bot)
            async with asyncio.timeout(PATIENCE):
                view = await seen.account.until(lambda v: v.published is Published.FATAL)
                await other.account.until(lambda v: v.generation > 1)
            assert view.cause is not None
            assert (view.cause.kind, view.cause.code) == (Kind.CREDENTIALS, "matrix_unknown_token")
            await connected(other)
            assert Published.FATAL not in other.states()
            assert (await other.adapter.check()).identity == w.bot
