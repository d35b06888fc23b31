"""The Matrix simulator, spoken to over raw HTTP: each rule of the API that we rely on."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from holdfast.lab.simulators.matrix import LINGER, TIMELINE_LIMIT, MatrixSimulator
from holdfast.lab.simulators.matrix_calls import MAX_EVENT, MAX_UPLOAD
from holdfast.lab.simulators.matrix_sessions import TOKEN_LIFETIME

V3 = "/_matrix/client/v3"
Json = dict[str, Any]


class Bot:
    """The plainest possible client."""

    def __init__(self, sim: MatrixSimulator, http: aiohttp.ClientSession) -> None:
        self.sim, self.http, self.token = sim, http, sim.token
        self.since: str | None = None

    async def raw(
        self, method: str, path: str, body: Any = None, /, *, token: str | None = None, **query: Any
    ) -> tuple[int, Json, aiohttp.ClientResponse]:
        bearer = self.token if token is None else token
        headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        url = self.sim.url + (path if path.startswith("/_") else V3 + path)
        async with self.http.request(
            method, url, json=body, params=query, headers=headers
        ) as response:
            return response.status, await response.json(), response

    async def call(self, method: str, path: str, body: Any = None, /, **query: Any) -> Json:
        status, answer, _ = await self.raw(method, path, body, **query)
        assert status == 200, answer
        return answer

    async def refused(self, method: str, path: str, body: Any = None, /, **query: Any) -> str:
        """Status and errcode of an error answer."""
        status, answer, _ = await self.raw(method, path, body, **query)
        assert answer["error"]
        return f"{status} {answer['errcode']}"

    async def sync(self, timeout: int = 0, **query: Any) -> Json:
        """One step along the stream; keeps the place."""
        since = {} if self.since is None else {"since": self.since}
        answer = await self.call("GET", "/sync", timeout=str(timeout), **since, **query)
        self.since = answer["next_batch"]
        return answer

    async def join(self, chat: str = "alice") -> None:
        await self.call("POST", f"{self.room(chat)}/join", {})

    async def send(
        self, text: str, txn: str, *, chat: str = "alice", more: Json | None = None
    ) -> str:
        body = {"msgtype": "m.text", "body": text, **(more or {})}
        answer = await self.call("PUT", f"{self.room(chat)}/send/m.room.message/{txn}", body)
        return str(answer["event_id"])

    def room(self, chat: str = "alice") -> str:
        return f"/rooms/{quote(self.sim.room_id(chat), safe='')}"


@asynccontextmanager
async def simulated() -> AsyncIterator[tuple[MatrixSimulator, Bot]]:
    async with MatrixSimulator() as sim, aiohttp.ClientSession() as http:
        yield sim, Bot(sim, http)


@asynccontextmanager
async def conversing() -> AsyncIterator[tuple[MatrixSimulator, Bot]]:
    """A bot that has joined alice's room and has seen all there is."""
    async with simulated() as (sim, bot):
        sim.say("hello")
        await bot.join()
        await bot.sync()
        await bot.sync()
        assert sim.pending() == 0
        yield sim, bot


def bodies(answer: Json, room_id: str) -> list[str]:
    """Texts of the messages that an answer to /sync has for a room."""
    room = answer.get("rooms", {}).get("join", {}).get(room_id)
    events = [] if room is None else room["timeline"]["events"]
    return [event["content"]["body"] for event in events if event["type"] == "m.room.message"]


# -- rooms and history -----------------------------------------------------------------------------


async def test_first_words_come_with_the_invitation_and_are_seen_after_the_join() -> None:
    async with simulated() as (sim, bot):
        await bot.sync()
        event_id = sim.say("first words")
        room_id = sim.room_id("alice")
        invited = await bot.sync(timeout=5000)
        stripped = invited["rooms"]["invite"][room_id]["invite_state"]["events"]
        mine = [e for e in stripped if e.get("state_key") == sim.user_id]
        assert mine[0]["content"]["membership"] == "invite"
        assert mine[0]["content"]["is_direct"] is True
        assert ":" not in room_id
        assert "join" not in invited["rooms"]

        await bot.join()
        joined = await bot.sync(timeout=5000)
        timeline = joined["rooms"]["join"][room_id]["timeline"]
        assert event_id in [event["event_id"] for event in timeline["events"]]
        assert timeline["limited"] is True
        assert bodies(joined, room_id) == ["first words"]


async def test_an_invitation_is_shown_once() -> None:
    async with simulated() as (sim, bot):
        sim.say("hello")
        assert "invite" in (await bot.sync())["rooms"]
        assert "rooms" not in await bot.sync()


async def test_in_a_group_the_bot_is_mentioned_and_there_are_more_than_two_members() -> None:
    async with simulated() as (sim, bot):
        sim.say("hello bot", chat="team", sender="ann", group=True)
        await bot.join("team")
        timeline = (await bot.sync())["rooms"]["join"][sim.room_id("team")]["timeline"]
        said = timeline["events"][-2]
        assert said["sender"] == "@ann:sim.local"
        assert said["content"]["m.mentions"] == {"user_ids": [sim.user_id]}
        members = await bot.call("GET", f"{bot.room('team')}/joined_members")
        assert len(members["joined"]) > 2


async def test_a_room_needs_an_invitation() -> None:
    async with conversing() as (sim, bot):
        await bot.call("POST", f"{bot.room()}/leave", {})
        left = await bot.sync()
        assert sim.room_id("alice") in left["rooms"]["leave"]
        assert await bot.refused("POST", f"{bot.room()}/join", {}) == "403 M_FORBIDDEN"
        assert await bot.refused("POST", "/join/!nowhere", {}) == "404 M_UNKNOWN"
        sim.say("come back")
        assert sim.room_id("alice") in (await bot.sync())["rooms"]["invite"]
        await bot.join()
        assert "come back" in bodies(await bot.sync(), sim.room_id("alice"))


async def test_a_kicked_bot_cannot_speak() -> None:
    async with conversing() as (sim, bot):
        sim.kick("alice")
        path = f"{bot.room()}/send/m.room.message/t"
        assert await bot.refused("PUT", path, {"msgtype": "m.text", "body": "x"}) == (
            "403 M_FORBIDDEN"
        )
        assert sim.heard == []


async def test_a_room_of_the_bots_own_is_a_chat_with_whom_it_invited() -> None:
    async with simulated() as (sim, bot):
        made = await bot.call(
            "POST", "/createRoom", {"invite": ["@bob:sim.local"], "is_direct": True}
        )
        assert made["room_id"] == sim.room_id("bob")
        await bot.send("hello bob", "t1", chat="bob")
        assert [(h.chat, h.text) for h in sim.heard] == [("bob", "hello bob")]
        assert (await bot.call("GET", "/joined_rooms"))["joined_rooms"] == [made["room_id"]]


# -- the stream ------------------------------------------------------------------------------------


async def test_a_parked_poll_is_woken_by_a_message() -> None:
    async with conversing() as (sim, bot):
        poll = asyncio.create_task(bot.sync(timeout=30_000))
        await sim.until(lambda: sim.count("sync") == 3)
        start = sim.now()
        sim.say("wake up")
        assert bodies(await poll, sim.room_id("alice")) == ["wake up"]
        assert sim.now() - start < 1


async def test_a_poll_without_news_ends_after_its_timeout_at_the_same_place() -> None:
    async with conversing() as (sim, bot):
        start, place = sim.now(), bot.since
        answer = await bot.sync(timeout=30_000)
        assert sim.now() - start == pytest.approx(30, abs=1)
        assert answer["next_batch"] == place
        assert "rooms" not in answer


async def test_no_message_falls_between_two_polls() -> None:
    async with simulated() as (sim, bot):
        first = asyncio.create_task(bot.sync())
        # The answer is being made: what comes now must be in it, or after its next_batch.
        await sim.until(sim.listening)
        sim.say("hello")
        shown = [await first, await bot.sync(timeout=1000)]
        assert [answer for answer in shown if "invite" in answer.get("rooms", {})]


async def test_an_old_place_repeats_the_same_events_even_after_a_restart() -> None:
    async with conversing() as (sim, bot):
        place = bot.since
        sim.say("one")
        first = await bot.sync()
        await sim.stop()
        await sim.start()
        bot.since = place
        again = await bot.sync()
        assert again["next_batch"] == first["next_batch"]
        assert bodies(again, sim.room_id("alice")) == ["one"]


async def test_pending_counts_what_the_bot_has_not_come_back_for() -> None:
    async with conversing() as (sim, bot):
        sim.say("one")
        assert sim.pending() == 1
        await bot.sync()
        assert sim.pending() == 1
        await bot.sync()
        assert sim.pending() == 0


async def test_the_own_echo_shows_the_transaction_to_the_device_that_sent_it() -> None:
    async with conversing() as (sim, bot):
        place = bot.since
        event_id = await bot.send("hi", "tx1")
        [event] = (await bot.sync())["rooms"]["join"][sim.room_id("alice")]["timeline"]["events"]
        assert (event["event_id"], event["unsigned"]["transaction_id"]) == (event_id, "tx1")

        other = Bot(sim, bot.http)
        other.token = (await login(bot, device_id="OTHER"))["access_token"]
        other.since = place
        [event] = (await other.sync())["rooms"]["join"][sim.room_id("alice")]["timeline"]["events"]
        assert "transaction_id" not in event["unsigned"]


async def test_more_events_than_the_limit_leave_a_gap_that_messages_fills() -> None:
    async with conversing() as (sim, bot):
        for n in range(TIMELINE_LIMIT + 5):
            sim.say(f"m{n}")
        answer = await bot.sync()
        room_id = sim.room_id("alice")
        timeline = answer["rooms"]["join"][room_id]["timeline"]
        assert timeline["limited"] is True
        assert bodies(answer, room_id) == [f"m{n}" for n in range(5, 15)]

        page = await bot.call(
            "GET", f"{bot.room()}/messages", dir="b", limit="3", **{"from": timeline["prev_batch"]}
        )
        assert [e["content"]["body"] for e in page["chunk"]] == ["m4", "m3", "m2"]
        assert page["chunk"][0]["room_id"] == room_id
        rest = await bot.call(
            "GET", f"{bot.room()}/messages", dir="b", limit="99", **{"from": page["end"]}
        )
        texts = [e["content"]["body"] for e in rest["chunk"] if e["type"] == "m.room.message"]
        assert texts == ["m1", "m0", "hello"]
        assert "end" not in rest
        await bot.sync()
        assert sim.pending() == 0


async def test_the_filter_chooses_the_limit() -> None:
    async with conversing() as (sim, bot):
        for n in range(4):
            sim.say(f"m{n}")
        chosen = {"room": {"timeline": {"limit": 2}}}
        user = quote(sim.user_id)
        made = await bot.call("POST", f"/user/{user}/filter", chosen)
        place, room_id = bot.since, sim.room_id("alice")
        assert bodies(await bot.sync(filter=made["filter_id"]), room_id) == ["m2", "m3"]
        bot.since = place
        assert bodies(await bot.sync(filter=json.dumps(chosen)), room_id) == ["m2", "m3"]
        assert await bot.refused("GET", "/sync", filter="99") == "400 M_INVALID_PARAM"
        assert await bot.refused("GET", "/sync", filter="{bad") == "400 M_NOT_JSON"


async def test_account_data_is_kept_and_told() -> None:
    async with conversing() as (sim, bot):
        path = f"/user/{quote(sim.user_id)}/account_data/m.direct"
        assert await bot.refused("GET", path) == "404 M_NOT_FOUND"
        direct = {"@alice:sim.local": [sim.room_id("alice")]}
        await bot.call("PUT", path, direct)
        assert await bot.call("GET", path) == direct
        told = (await bot.sync())["account_data"]["events"]
        assert told == [{"type": "m.direct", "content": direct}]
        foreign = f"/user/{quote('@alice:sim.local')}/account_data/m.direct"
        assert await bot.refused("PUT", foreign, {}) == "403 M_FORBIDDEN"


@pytest.mark.parametrize("since", ["garbage", "s999999_1_0_1"])
async def test_an_unknown_place_is_refused(since: str) -> None:
    async with simulated() as (_, bot):
        assert await bot.refused("GET", "/sync", since=since) == "400 M_UNKNOWN"


# -- sending ---------------------------------------------------------------------------------------


async def test_a_transaction_is_idempotent_on_its_device() -> None:
    async with conversing() as (sim, bot):
        first = await bot.send("once", "tx-1_")
        again = await bot.send("other text", "tx-1_")
        assert again == first
        assert [h.text for h in sim.heard] == ["once"]
        assert await bot.send("next", "tx-2") != first

        bot.token = (await login(bot, device_id="OTHER"))["access_token"]
        assert await bot.send("other device", "tx-1_") != first


async def test_relations_reach_the_user() -> None:
    async with conversing() as (sim, bot):
        asked = sim.said[0].id
        reply = {"m.in_reply_to": {"event_id": asked}}
        original = await bot.send("draft", "1", more={"m.relates_to": reply})
        edit = {
            "m.new_content": {"msgtype": "m.text", "body": "final"},
            "m.relates_to": {"rel_type": "m.replace", "event_id": original},
        }
        await bot.send("* final", "2", more=edit)
        draft, final = sim.heard
        assert (draft.text, draft.reply_to, draft.edit_of) == ("draft", asked, None)
        assert (final.text, final.reply_to, final.edit_of) == ("final", None, original)


async def test_what_users_say_has_relations_too() -> None:
    async with conversing() as (sim, bot):
        root = sim.said[0].id
        sim.say("an answer", reply_to=root)
        sim.say("corrected", edit_of=root)
        sim.say("aside", thread=root)
        events = (await bot.sync())["rooms"]["join"][sim.room_id("alice")]["timeline"]["events"]
        answer, edited, aside = (event["content"] for event in events)
        assert answer["m.relates_to"] == {"m.in_reply_to": {"event_id": root}}
        assert edited["m.new_content"] == {"msgtype": "m.text", "body": "corrected"}
        assert edited["m.relates_to"] == {"rel_type": "m.replace", "event_id": root}
        assert aside["m.relates_to"]["rel_type"] == "m.thread"


async def test_a_redacted_message_loses_its_content() -> None:
    async with conversing() as (sim, bot):
        event_id = await bot.send("oops", "1")
        path = f"{bot.room()}/redact/{quote(event_id)}/2"
        redaction = await bot.call("PUT", path, {"reason": "typo"})
        assert await bot.call("PUT", path, {}) == redaction
        found = await bot.call("GET", f"{bot.room()}/event/{quote(event_id)}")
        assert found["content"] == {}
        assert sim.count("redacted") == 1
        assert await bot.refused("GET", f"{bot.room()}/event/$none") == "404 M_NOT_FOUND"


async def test_an_event_has_a_size_limit() -> None:
    async with conversing() as (sim, bot):
        body = {"msgtype": "m.text", "body": "ü" * (MAX_EVENT // 2)}
        path = f"{bot.room()}/send/m.room.message/big"
        assert await bot.refused("PUT", path, body) == "413 M_TOO_LARGE"
        assert sim.heard == []


async def test_typing_receipts_and_other_events_are_witnessed() -> None:
    async with conversing() as (sim, bot):
        await bot.call("PUT", f"{bot.room()}/typing/{quote(sim.user_id)}", {"typing": True})
        await bot.call("POST", f"{bot.room()}/receipt/m.read/{quote(sim.said[0].id)}", {})
        await bot.call("PUT", f"{bot.room()}/send/m.reaction/r1", {"m.relates_to": {}})
        other = f"{bot.room()}/typing/{quote('@alice:sim.local')}"
        assert await bot.refused("PUT", other, {"typing": True}) == "400 M_FORBIDDEN"
        kinds = [(r.what, r.detail["chat"]) for r in sim.log[-3:]]
        assert kinds == [("typing", "alice"), ("receipt", "alice"), ("event", "alice")]


async def test_a_user_can_send_any_event() -> None:
    async with conversing() as (sim, bot):
        sim.emit("m.room.encrypted", {"algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "x"})
        [event] = (await bot.sync())["rooms"]["join"][sim.room_id("alice")]["timeline"]["events"]
        assert event["type"] == "m.room.encrypted"


# -- files -----------------------------------------------------------------------------------------


async def test_files_travel_both_ways() -> None:
    async with conversing() as (sim, bot):
        sim.say("look", image=b"png bytes")
        sim.say("", file=("notes.txt", b"text"))
        events = (await bot.sync())["rooms"]["join"][sim.room_id("alice")]["timeline"]["events"]
        image, file = (event["content"] for event in events)
        assert (image["msgtype"], image["body"], image["filename"]) == (
            "m.image",
            "look",
            "image.png",
        )
        assert (file["msgtype"], file["body"]) == ("m.file", "notes.txt")
        url = f"{sim.url}/_matrix/client/v1/media/download/{image['url'][len('mxc://') :]}"
        headers = {"Authorization": f"Bearer {bot.token}"}
        async with bot.http.get(url, headers=headers) as answer:
            assert (answer.content_type, await answer.read()) == ("image/png", b"png bytes")
        async with bot.http.get(url) as answer:
            assert answer.status == 401

        upload = f"{sim.url}/_matrix/media/v3/upload"
        async with bot.http.post(
            upload, params={"filename": "a.png"}, data=b"abc", headers=headers
        ) as answer:
            uri = (await answer.json())["content_uri"]
        await bot.send("a.png", "1", more={"msgtype": "m.image", "url": uri})
        assert (sim.heard[0].media, sim.heard[0].data) == ("a.png", b"abc")


async def test_the_upload_limit_is_told_and_old_paths_are_gone() -> None:
    async with simulated() as (_, bot):
        config = await bot.call("GET", "/_matrix/client/v1/media/config")
        assert config == {"m.upload.size": MAX_UPLOAD}
        old = "/_matrix/media/v3/download/sim.local/x"
        assert await bot.refused("GET", old) == "404 M_UNRECOGNIZED"
        gone = "/_matrix/client/v1/media/download/sim.local/x"
        assert await bot.refused("GET", gone) == "404 M_NOT_FOUND"


# -- sessions --------------------------------------------------------------------------------------


async def login(bot: Bot, password: str = MatrixSimulator.password, **more: Any) -> Json:
    body = {
        "type": "m.login.password",
        "identifier": {"type": "m.id.user", "user": "bot"},
        "password": password,
        **more,
    }
    _, answer, _ = await bot.raw("POST", "/login", body, token="")
    return answer


async def test_login_replaces_the_token_of_its_device() -> None:
    async with simulated() as (sim, bot):
        first = await login(bot, device_id="D1")
        second = await login(bot, device_id="D1")
        assert (second["user_id"], second["device_id"]) == (sim.user_id, "D1")
        whoami = ("GET", "/account/whoami")
        assert await bot.refused(*whoami, token=first["access_token"]) == "401 M_UNKNOWN_TOKEN"
        _, who, _ = await bot.raw(*whoami, token=second["access_token"])
        assert who == {"user_id": sim.user_id, "device_id": "D1", "is_guest": False}
        assert (await login(bot, "wrong"))["errcode"] == "M_FORBIDDEN"
        assert await bot.refused("POST", "/login", {"type": "other"}) == "400 M_INVALID_PARAM"
        flows = await bot.call("GET", "/login")
        assert {"type": "m.login.password"} in flows["flows"]


async def test_a_refreshable_token_expires_softly_and_is_refreshed() -> None:
    async with simulated() as (_, bot):
        granted = await login(bot, refresh_token=True)
        assert granted["expires_in_ms"] == TOKEN_LIFETIME * 1000
        bot.token = granted["access_token"]
        await bot.sync()
        await asyncio.sleep(TOKEN_LIFETIME + 1)
        status, answer, _ = await bot.raw("GET", "/sync")
        assert (status, answer["errcode"], answer["soft_logout"]) == (401, "M_UNKNOWN_TOKEN", True)

        old = {"refresh_token": granted["refresh_token"]}
        lost = await bot.call("POST", "/refresh", old)
        # The answer above may get lost: until it is used the old refresh token works.
        fresh = await bot.call("POST", "/refresh", old)
        assert lost["access_token"] != fresh["access_token"]
        bot.token = fresh["access_token"]
        await bot.sync()
        assert await bot.refused("POST", "/refresh", old) == "401 M_UNKNOWN_TOKEN"


async def test_revoked_and_restored() -> None:
    async with conversing() as (sim, bot):
        sim.revoke()
        status, answer, _ = await bot.raw("GET", "/sync")
        assert (status, answer["soft_logout"]) == (401, False)
        assert sim.restore() == bot.token
        await bot.sync()
        sim.revoke()
        bot.token = sim.restore("a new token")
        await bot.sync()
        assert sim.account()["access_token"] == "a new token"


async def test_a_poll_that_spans_the_end_of_its_token_still_ends_well() -> None:
    async with conversing() as (sim, bot):
        poll = asyncio.create_task(bot.sync(timeout=10_000))
        await sim.until(lambda: sim.count("sync") == 3)
        sim.expire()
        assert "next_batch" in await poll
        assert await bot.refused("GET", "/sync") == "401 M_UNKNOWN_TOKEN"


async def test_logout_ends_the_token() -> None:
    async with simulated() as (_, bot):
        assert await bot.refused("GET", "/account/whoami", token="") == "401 M_MISSING_TOKEN"
        await bot.call("POST", "/logout", {})
        assert await bot.refused("GET", "/account/whoami") == "401 M_UNKNOWN_TOKEN"


async def test_the_rest_of_the_surface() -> None:
    async with simulated() as (sim, bot):
        assert "v1.11" in (await bot.call("GET", "/_matrix/client/versions", token=""))["versions"]
        profile = await bot.call("GET", "/profile/@alice:sim.local")
        assert profile == {"displayname": "alice"}
        keys = await bot.call("POST", "/keys/upload", {})
        assert keys == {"one_time_key_counts": {"signed_curve25519": 0}}
        assert await bot.refused("GET", "/nothing") == "404 M_UNRECOGNIZED"
        assert await bot.refused("DELETE", "/sync") == "405 M_UNRECOGNIZED"
        assert await bot.refused("GET", "/sync", since="s0_1_0_1", timeout="x") == (
            "400 M_INVALID_PARAM"
        )
        assert await bot.refused("POST", "/createRoom", [1]) == "400 M_BAD_JSON"
        headers = {"Authorization": f"Bearer {bot.token}"}
        url = f"{sim.url}{V3}/createRoom"
        async with bot.http.post(url, data=b"{bad", headers=headers) as answer:
            assert (await answer.json())["errcode"] == "M_NOT_JSON"


# -- the truth -------------------------------------------------------------------------------------


async def test_listening_is_a_parked_poll_or_one_just_answered() -> None:
    async with conversing() as (sim, bot):
        await asyncio.sleep(LINGER * 2)
        assert not sim.listening()
        assert (sim.count("link-open"), sim.count("link-lost")) == (1, 1)
        poll = asyncio.create_task(bot.sync(timeout=10_000))
        await sim.until(lambda: sim.count("sync") == 3)
        await asyncio.sleep(5)
        assert sim.listening()
        await poll
        assert sim.listening()
        await sim.until(lambda: sim.count("link-lost") == 2)
        assert not sim.listening()


async def test_a_client_that_goes_away_is_missed_at_once() -> None:
    async with conversing() as (sim, bot):
        poll = asyncio.create_task(bot.sync(timeout=30_000))
        await sim.until(lambda: sim.count("sync") == 3)
        start = sim.now()
        poll.cancel()
        await sim.until(lambda: sim.count("link-lost") == 1)
        assert not sim.listening()
        assert sim.now() - start < LINGER


async def test_a_server_that_stops_cuts_its_polls() -> None:
    async with conversing() as (sim, bot):
        poll = asyncio.create_task(bot.sync(timeout=30_000))
        await sim.until(lambda: sim.count("sync") == 3)
        await sim.stop()
        with pytest.raises(aiohttp.ClientConnectionError):
            await poll
        assert not sim.listening()


@pytest.mark.real_time
@pytest.mark.slow
async def test_runs_as_a_process() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "holdfast.lab.simulators.matrix"),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        ready = json.loads(await process.stdout.readline())
        async with aiohttp.ClientSession() as http:
            async with http.get(f"{ready['url']}/_matrix/client/versions") as answer:
                assert answer.status == 200
            said = {"text": "hi", "chat": "team", "group": True}
            async with http.post(f"{ready['url']}/_lab/say", json=said) as answer:
                assert (await answer.json())["id"].startswith("$")
    finally:
        process.terminate()
        assert await process.wait() == 0


async def test_a_slow_sync_is_taken_up_late() -> None:
    async with simulated() as (sim, bot):
        sim.faults.arm("sync_slow", delay=30)
        began = sim.now()
        await bot.sync()
        assert sim.now() - began >= 30
