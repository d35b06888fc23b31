"""The proof that the Matrix simulator is honest: matrix-nio runs on it unmodified."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nio
import pytest

from holdfast.lab.simulators.matrix import MatrixSimulator

pytestmark = pytest.mark.sdk


@asynccontextmanager
async def client(sim: MatrixSimulator) -> AsyncIterator[nio.AsyncClient]:
    bot = nio.AsyncClient(sim.url, sim.user_id, device_id=sim.device_id)
    bot.access_token, bot.user_id = sim.token, sim.user_id
    try:
        yield bot
    finally:
        await bot.close()


async def test_an_echo_bot_on_sync_forever() -> None:
    async with MatrixSimulator() as sim, client(sim) as bot:

        async def accept(room: nio.MatrixRoom, event: nio.InviteMemberEvent) -> None:
            if event.membership == "invite" and event.state_key == bot.user_id:
                await bot.join(room.room_id)

        async def echo(room: nio.MatrixRoom, event: nio.RoomMessageText) -> None:
            if event.sender != bot.user_id:
                content = {"msgtype": "m.text", "body": f"echo: {event.body}"}
                await bot.room_send(room.room_id, "m.room.message", content, event.event_id)

        bot.add_event_callback(accept, nio.InviteMemberEvent)
        bot.add_event_callback(echo, nio.RoomMessageText)
        running = asyncio.create_task(bot.sync_forever(timeout=30_000))
        try:
            await sim.until(sim.listening)
            sim.say("private")
            await sim.until(lambda: len(sim.heard) == 1)
            sim.say("for all", chat="team", group=True)
            await sim.until(lambda: len(sim.heard) == 2)
            assert sim.listening()
        finally:
            running.cancel()
            await asyncio.wait([running])
        assert [(h.chat, h.text) for h in sim.heard] == [
            ("alice", "echo: private"),
            ("team", "echo: for all"),
        ]
        private, group = (bot.rooms[sim.room_id(chat)] for chat in ("alice", "team"))
        assert (private.member_count, group.member_count) == (2, 3)
        assert group.name == "team"


async def test_login_whoami_logout() -> None:
    async with MatrixSimulator() as sim:
        bot = nio.AsyncClient(sim.url, "bot", device_id="GW1")
        try:
            assert isinstance(await bot.login("wrong"), nio.LoginError)
            assert isinstance(await bot.login(sim.password), nio.LoginResponse)
            who = await bot.whoami()
            assert isinstance(who, nio.WhoamiResponse)
            assert (who.user_id, who.device_id) == (sim.user_id, "GW1")
            assert isinstance(await bot.logout(), nio.LogoutResponse)
        finally:
            await bot.close()


async def test_a_lost_answer_is_repeated_by_the_client_and_told_once() -> None:
    async with MatrixSimulator() as sim, client(sim) as bot:
        sim.say("hello")
        await bot.join(sim.room_id("alice"))
        sim.faults.arm("send_answer_lost")
        content = {"msgtype": "m.text", "body": "once"}
        sent = await bot.room_send(sim.room_id("alice"), "m.room.message", content, "tx1")
        assert isinstance(sent, nio.RoomSendResponse)
        assert [(h.id, h.text) for h in sim.heard] == [(sent.event_id, "once")]
        assert sim.faults.played["send_answer_lost"] == 1


async def test_a_rate_limit_is_waited_out() -> None:
    async with MatrixSimulator() as sim, client(sim) as bot:
        sim.say("hello")
        await bot.join(sim.room_id("alice"))
        sim.faults.arm("send_429", retry_after_ms=7000)
        start = sim.now()
        content = {"msgtype": "m.text", "body": "patience"}
        sent = await bot.room_send(sim.room_id("alice"), "m.room.message", content)
        assert isinstance(sent, nio.RoomSendResponse)
        assert sim.now() - start >= 7


async def test_an_invalid_token_is_an_error_answer() -> None:
    async with MatrixSimulator() as sim, client(sim) as bot:
        sim.revoke()
        answer = await bot.sync(timeout=0)
        assert isinstance(answer, nio.SyncError)
        assert answer.status_code == "M_UNKNOWN_TOKEN"
        assert answer.soft_logout is False


async def test_backfill_members_redaction_typing_and_direct_rooms() -> None:
    async with MatrixSimulator() as sim, client(sim) as bot:
        sim.say("first")
        room = sim.room_id("alice")
        await bot.join(room)
        await bot.sync(timeout=0)
        for n in range(30):
            sim.say(f"m{n}")
        answer = await bot.sync(timeout=0)
        timeline = answer.rooms.join[room].timeline
        assert timeline.limited is True
        page = await bot.room_messages(room, timeline.prev_batch, limit=100)
        assert isinstance(page, nio.RoomMessagesResponse)
        texts = [event.body for event in page.chunk if isinstance(event, nio.RoomMessageText)]
        assert texts == [f"m{n}" for n in reversed(range(20))] + ["first"]

        members = await bot.joined_members(room)
        assert {member.user_id for member in members.members} == {sim.user_id, "@alice:sim.local"}
        sent = await bot.room_send(room, "m.room.message", {"msgtype": "m.text", "body": "x"})
        assert isinstance(await bot.room_redact(room, sent.event_id), nio.RoomRedactResponse)
        assert isinstance(await bot.room_typing(room, True), nio.RoomTypingResponse)
        made = await bot.room_create(invite=["@bob:sim.local"], is_direct=True)
        assert isinstance(made, nio.RoomCreateResponse)
        assert sim.room_id("bob") == made.room_id
        profile = await bot.get_profile("@bob:sim.local")
        assert isinstance(profile, nio.ProfileGetResponse)
        assert profile.displayname == "bob"
        assert isinstance(await bot.room_leave(room), nio.RoomLeaveResponse)


async def test_files() -> None:
    async with MatrixSimulator() as sim, client(sim) as bot:
        sim.say("look", image=b"png bytes")
        room = sim.room_id("alice")
        await bot.join(room)
        answer = await bot.sync(timeout=0)
        events = answer.rooms.join[room].timeline.events
        [image] = [event for event in events if isinstance(event, nio.RoomMessageImage)]
        got = await bot.download(image.url)
        assert isinstance(got, nio.DiskDownloadResponse | nio.MemoryDownloadResponse)
        assert got.body == b"png bytes"

        data = b"a report"
        uploaded, _ = await bot.upload(
            lambda *_: io.BytesIO(data), "text/plain", "report.txt", filesize=len(data)
        )
        assert isinstance(uploaded, nio.UploadResponse)
        content = {"msgtype": "m.file", "body": "report.txt", "url": uploaded.content_uri}
        await bot.room_send(room, "m.room.message", content)
        assert (sim.heard[0].media, sim.heard[0].data) == ("report.txt", data)
