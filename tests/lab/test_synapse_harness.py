"""A real homeserver: a private and a group exchange over raw HTTP, crashes, and what we rely on.

The same rules are kept by the simulator; here the real server shows that they are its rules too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from holdfast.lab.synapse import Synapse, SynapseError, find_synapse

PYTHON = find_synapse()

pytestmark = [
    pytest.mark.real,
    pytest.mark.real_time,
    pytest.mark.slow,
    # Three starts of a server on a busy machine; each alone may take a minute.
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        PYTHON is None, reason="no Synapse: see holdfast/lab/synapse.py for how to install it"
    ),
]

Json = dict[str, Any]


class User:
    """A signed-in person or bot."""

    def __init__(self, server: Synapse, http: aiohttp.ClientSession, id: str, token: str) -> None:
        self.server, self.http, self.id, self.token = server, http, id, token
        self.since: str | None = None

    async def raw(self, method: str, path: str, body: Json | None = None) -> tuple[int, Json]:
        url = f"{self.server.url}/_matrix/client/v3{path}"
        headers = {"Authorization": f"Bearer {self.token}"}
        async with self.http.request(method, url, json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def call(self, method: str, path: str, body: Json | None = None) -> Json:
        status, answer = await self.raw(method, path, body)
        assert status == 200, answer
        return answer

    async def sync(self, timeout: int = 20_000) -> Json:
        since = f"&since={self.since}" if self.since else ""
        answer = await self.call("GET", f"/sync?timeout={timeout}{since}")
        self.since = answer["next_batch"]
        return answer

    async def send(self, room: str, text: str, txn: str) -> str:
        body = {"msgtype": "m.text", "body": text}
        path = f"/rooms/{quote(room, safe='')}/send/m.room.message/{txn}"
        return str((await self.call("PUT", path, body))["event_id"])

    async def accept(self) -> list[str]:
        """Wait for invitations and accept them."""
        while not (invited := (await self.sync()).get("rooms", {}).get("invite")):
            pass
        for room in invited:
            await self.call("POST", f"/rooms/{quote(room, safe='')}/join", {})
        return list(invited)

    async def read(self, count: int) -> list[tuple[str, str]]:
        """Room and text of the next ``count`` messages of others."""
        found: list[tuple[str, str]] = []
        while len(found) < count:
            rooms = (await self.sync()).get("rooms", {}).get("join", {})
            found += [
                (room, event["content"]["body"])
                for room, news in rooms.items()
                for event in news["timeline"]["events"]
                if event["type"] == "m.room.message" and event["sender"] != self.id
            ]
        return found


@asynccontextmanager
async def homeserver(directory: Path, **options: Any) -> AsyncIterator[tuple[Synapse, User, User]]:
    """A server with a bot and alice."""
    assert PYTHON is not None
    async with Synapse(directory, PYTHON, **options) as server, aiohttp.ClientSession() as http:
        users = []
        for name in ("bot", "alice"):
            id_ = await server.register(name, f"{name}-password")
            token = await server.login(name, f"{name}-password", device_id=f"{name}-device")
            users.append(User(server, http, id_, token))
        yield server, users[0], users[1]


async def test_private_and_group_chat_survive_a_crash(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async with homeserver(tmp_path / "synapse") as (server, bot, alice):
        await bot.sync(timeout=0)
        private = await alice.call(
            "POST",
            "/createRoom",
            {"preset": "trusted_private_chat", "invite": [bot.id], "is_direct": True},
        )
        group = await alice.call("POST", "/createRoom", {"name": "team", "invite": [bot.id]})
        rooms = [private["room_id"], group["room_id"]]
        for n, room in enumerate(rooms):
            await alice.send(room, f"hello {n}", f"a{n}")
        accepted: list[str] = []
        while len(accepted) < 2:
            accepted += await bot.accept()
        assert sorted(accepted) == sorted(rooms)
        # Said before the join, and yet seen: the history of such rooms is shared.
        assert sorted(await bot.read(2)) == sorted(
            [(room, f"hello {n}") for n, room in enumerate(rooms)]
        )
        sent = [await bot.send(room, f"answer {n}", f"b{n}") for n, room in enumerate(rooms)]
        assert sorted(await alice.read(2)) == sorted(
            [(room, f"answer {n}") for n, room in enumerate(rooms)]
        )

        address = server.url
        poll = asyncio.create_task(bot.sync())
        await asyncio.sleep(0)
        await server.kill()
        with pytest.raises(aiohttp.ClientConnectionError):
            await poll
        await server.start()
        assert server.url == address
        # A transaction id is remembered over the crash, and the place in the stream is valid.
        assert await bot.send(rooms[0], "answer 0", "b0") == sent[0]
        await alice.send(rooms[0], "still there?", "a2")
        assert await bot.read(1) == [(rooms[0], "still there?")]
    assert capfd.readouterr().out == ""


async def test_a_frozen_server_accepts_and_is_silent_until_it_thaws(tmp_path: Path) -> None:
    async with homeserver(tmp_path) as (server, bot, _):
        await bot.sync(timeout=0)
        server.freeze()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.5):
                await bot.call("GET", "/account/whoami")
        _, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
        writer.close()
        server.thaw()
        assert (await bot.call("GET", "/account/whoami"))["user_id"] == bot.id
        server.freeze()
        # Leaving the block must not wait for a frozen process to obey.


async def test_revoked_tokens_and_real_rate_limits(tmp_path: Path) -> None:
    limits = "rc_message: {per_second: 0.5, burst_count: 3}\n"
    async with homeserver(tmp_path, extra_config=limits) as (server, bot, alice):
        room = (await alice.call("POST", "/createRoom", {}))["room_id"]
        path = f"/rooms/{quote(room, safe='')}/send/m.room.message/"
        body = {"msgtype": "m.text", "body": "x"}
        answers = [await alice.raw("PUT", f"{path}{n}", body) for n in range(6)]
        refused = [answer for status, answer in answers if status == 429]
        assert refused
        assert refused[0]["errcode"] == "M_LIMIT_EXCEEDED"
        assert refused[0]["retry_after_ms"] > 0

        await server.revoke(bot.id)
        status, answer = await bot.raw("GET", "/account/whoami")
        assert (status, answer["errcode"], answer["soft_logout"]) == (401, "M_UNKNOWN_TOKEN", False)
        bot.token = await server.login("bot", "bot-password", device_id="bot-device")
        await bot.sync(timeout=0)
        await server.revoke(bot.id)
        assert (await bot.raw("GET", "/account/whoami"))[0] == 401


async def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    assert PYTHON is not None
    with pytest.raises(SynapseError, match="database"):
        async with Synapse(tmp_path, PYTHON, extra_config="database: {name: none}\n"):
            pass
    stopped = Synapse(tmp_path, PYTHON)
    await stopped.stop()
    with pytest.raises(SynapseError, match="not running"):
        stopped.freeze()


def test_the_environment_names_the_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_SYNAPSE_PYTHON", "/opt/synapse/bin/python")
    assert find_synapse() == Path("/opt/synapse/bin/python")
    monkeypatch.delenv("HOLDFAST_SYNAPSE_PYTHON")
    assert find_synapse() in (
        None,
        Path(__file__).parents[2] / ".venv-synapse" / "bin" / "python",
    )
