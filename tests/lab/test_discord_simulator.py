"""The Discord simulator, spoken to frame by frame and call by call."""

from __future__ import annotations

import asyncio
import contextlib
import json
import zlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from holdfast.lab.simulators.discord import DiscordSimulator

INTENTS = 37377
PNG = b"\x89PNG\r\n\x1a\n" + bytes(16)


class Socket:
    """One gateway socket of a client without any manners of its own."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse, raw: Raw) -> None:
        self.ws, self.raw, self.session, self.resume_url = ws, raw, "", ""

    async def put(self, op: int, d: Any = None) -> None:
        await self.ws.send_json({"op": op, "d": d})

    async def identify(self, **changed: Any) -> None:
        await self.put(2, {"token": self.raw.sim.token, "intents": INTENTS} | changed)

    async def next(self, timeout: float = 5.0) -> Any:
        """The next frame, or a close code as a number; TimeoutError when nothing comes."""
        message = await self.ws.receive(timeout=timeout)
        return json.loads(message.data) if message.type is aiohttp.WSMsgType.TEXT else message.data

    async def event(self, kind: str = "MESSAGE_CREATE") -> Any:
        """The next dispatch of a kind; the others are passed over."""
        while (frame := await self.next())["t"] != kind:
            pass
        return frame


class Raw:
    """REST and sockets, without limits, retries or resumes."""

    def __init__(self, sim: DiscordSimulator, http: aiohttp.ClientSession) -> None:
        self.sim, self.http = sim, http
        self.headers: dict[str, str] = {}

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        """Status, and the body: JSON where it is JSON."""
        headers = {"Authorization": f"Bot {self.sim.token}"}
        url = self.sim.account()["api_url"] + path
        async with self.http.request(method, url, json=body, headers=headers, **more) as response:
            self.headers, text = dict(response.headers), await response.text()
        with contextlib.suppress(ValueError):
            return response.status, json.loads(text)
        return response.status, text

    async def send(self, chat: str = "alice", **body: Any) -> tuple[int, Any]:
        path = f"/channels/{self.sim.channel_id(chat)}/messages"
        return await self.call("POST", path, {"content": "hi"} | body)

    async def connect(self, path: str = "/gw", query: str = "?v=10") -> Socket:
        """A socket that nothing was sent on."""
        return Socket(await self.http.ws_connect(self.sim.url + path + query), self)

    async def live(self, **changed: Any) -> Socket:
        """A socket that has been identified."""
        link = await self.connect()
        assert (await link.next())["op"] == 10
        await link.identify(**changed)
        ready = await link.next()
        assert ready["t"] == "READY", ready
        link.session, link.resume_url = ready["d"]["session_id"], ready["d"]["resume_gateway_url"]
        return link

    async def resume(self, session: str, seq: int) -> tuple[Socket, list[Any]]:
        """A new socket, and what it got up to RESUMED, op 9 or a close code."""
        link = await self.connect("/gw-resume")
        await link.next()
        await link.put(6, {"token": self.sim.token, "session_id": session, "seq": seq})
        frames = [await link.next()]
        while isinstance(frames[-1], dict) and frames[-1]["t"] not in ("RESUMED", None):
            frames.append(await link.next())
        return link, frames


@contextlib.asynccontextmanager
async def platform() -> AsyncIterator[tuple[DiscordSimulator, Raw]]:
    async with aiohttp.ClientSession() as http, DiscordSimulator() as sim:
        yield sim, Raw(sim, http)


def facts(sim: DiscordSimulator, what: str, key: str = "id") -> list[Any]:
    return [record.detail[key] for record in sim.log if record.what == what]


async def test_login_beats_and_truth() -> None:
    async with platform() as (sim, raw):
        link = await raw.connect()
        assert (await link.next())["d"] == {"heartbeat_interval": 41250}
        await link.put(1)
        assert await link.next() == {"op": 11}
        assert not sim.listening()
        await link.identify()
        assert ((await link.next())["t"], (await link.next())["t"]) == ("READY", "GUILD_CREATE")
        assert sim.listening()
        key = sim.say("hello")
        frame = await link.next()
        assert (frame["s"], frame["d"]["id"], frame["d"]["content"]) == (3, key, "hello")
        sim.faults.arm("no_ack")
        sim.faults.arm("ack_late", delay=7)
        before = sim.now()
        for _ in range(2):
            await link.put(1, 3)
        assert await link.next(timeout=20) == {"op": 11}
        assert sim.now() - before >= 7
        assert facts(sim, "ack") == [key]
        opening = ["ws-open", "identify", "login", "ready", "link-open"]
        assert [r.what for r in sim.log if r.what in opening] == opening
        assert await link.next(timeout=200) == 4009
        assert (sim.count("link-lost"), sim.listening()) == (1, False)


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{broken", 4002),
        ('{"op": 2}', 4002),
        ('{"op": 1, "d": "' + "x" * 4096 + '"}', 4002),
        ('{"op": 99}', 4001),
        ('{"op": 3, "d": {}}', 4003),
        ('{"op": 2, "d": {"token": "wrong"}}', 4004),
        ('{"op": 2, "d": {"token": "TOKEN", "shard": [1, 1]}}', 4010),
        ('{"op": 2, "d": {"token": "TOKEN", "intents": 1099511627776}}', 4013),
        ('{"op": 2, "d": {"token": "TOKEN", "intents": 37377}}', 4014),
    ],
)
async def test_wrong_frames_get_their_close_code(frame: str, code: int) -> None:
    async with platform() as (sim, raw):
        sim.allowed_intents = 0
        link = await raw.connect()
        await link.next()
        await link.ws.send_str(frame.replace("TOKEN", sim.token))
        assert await link.next() == code


async def test_old_version_second_identify_and_haste() -> None:
    async with platform() as (sim, raw):
        assert await (await raw.connect(query="?v=6")).next() == 4012
        twice = await raw.live()
        await twice.next()
        await twice.identify()
        assert await twice.next() == 4005
        fast = await raw.connect()
        for _ in range(121):
            await fast.put(1)
        assert [await fast.next() for _ in range(122)][-1] == 4008
        soon = await raw.connect()
        await soon.next()
        await soon.identify()
        assert await soon.next() == {"op": 9, "d": False}
        links = []
        for _ in range(2):
            await asyncio.sleep(5)
            links.append(await raw.live())
        # Two sockets with one token: both get the event.
        key = sim.say("both")
        assert [(await link.event())["d"]["id"] for link in links] == [key, key]


async def test_identify_beyond_the_limit_resets_the_token() -> None:
    async with platform() as (sim, raw):
        live = await raw.live()
        await live.next()
        sim.faults.arm("no_sessions_left", reset_after=60)
        _, body = await raw.call("GET", "/gateway/bot")
        assert body["url"] == sim.url.replace("http", "ws") + "/gw"
        left = body["session_start_limit"]
        assert (left["total"], left["remaining"], left["reset_after"]) == (1000, 0, 60_000)
        await asyncio.sleep(5)
        link = await raw.connect()
        await link.next()
        await link.identify()
        assert [await link.next(), await live.next()] == [4004, 4004]
        refusal = {"message": "401: Unauthorized", "code": 0}
        assert await raw.call("GET", "/users/@me") == (401, refusal)
        sim.set_token("new")
        assert (await raw.call("GET", "/users/@me"))[0] == 200


@pytest.mark.parametrize("pieces", [1, 3, 9])
async def test_zlib_stream_in_whole_and_split_payloads(pieces: int) -> None:
    async with platform() as (sim, raw):
        link, inflate = await raw.connect(query="?v=10&compress=zlib-stream"), zlib.decompressobj()

        async def payload() -> tuple[int, Any]:
            parts = [(await link.ws.receive_bytes(timeout=5))]
            while not parts[-1].endswith(b"\x00\x00\xff\xff"):
                parts.append(await link.ws.receive_bytes(timeout=5))
            return len(parts), json.loads(inflate.decompress(b"".join(parts)))

        assert (await payload())[1]["op"] == 10
        await link.identify()
        assert [(await payload())[1]["t"] for _ in range(2)] == ["READY", "GUILD_CREATE"]
        sim.faults.arm("split_frame", pieces=pieces)
        sim.say("squeezed")
        count, frame = await payload()
        assert (count, frame["d"]["content"]) == (pieces, "squeezed")


async def test_resume_replays_with_the_same_numbers() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        assert link.resume_url.endswith("/gw-resume")
        first = sim.say("carried")
        assert (await link.event())["s"] == 3
        sim.drop_all()
        assert not sim.listening()
        second = sim.say("missed")
        _, frames = await raw.resume(link.session, 2)
        assert [(f["s"], f["d"].get("id")) for f in frames] == [(3, first), (4, second), (5, None)]
        assert sim.listening()
        sim.drop_all()
        _, frames = await raw.resume(link.session, 5)
        assert [f["t"] for f in frames] == ["RESUMED"]
        assert (facts(sim, "ack"), sim.count("lost")) == ([first, second], 0)


async def test_resume_window_wrong_seq_and_lost_events() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.drop_all()
        assert (await raw.resume(link.session, 99))[1] == [4007]
        key = sim.say("nobody comes")
        await asyncio.sleep(sim.resume_window + 1)
        assert facts(sim, "lost") == [key]
        assert (await raw.resume(link.session, 2))[1][0]["op"] == 9
        other = sim.say("no session")
        assert facts(sim, "lost") == [key, other]


@pytest.mark.parametrize(("code", "resumable"), [(1000, False), (1001, False), (4000, True)])
async def test_client_that_closes_normally_gives_up_its_session(code: int, resumable: bool) -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        await link.ws.close(code=code)
        await sim.until(lambda: sim.count("ws-closed") == 1)
        _, frames = await raw.resume(link.session, 2)
        assert (frames[-1]["t"] == "RESUMED") is resumable
        assert (frames[-1]["op"] == 9) is not resumable


async def test_goodbye_invalidate_and_close() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        session = link.session
        await link.next()
        await sim.goodbye()
        assert (await link.next())["op"] == 7
        assert sim.listening()
        await sim.invalidate(resumable=True)
        assert (await link.next())["d"] is True
        link, frames = await raw.resume(session, 2)
        assert frames[-1]["t"] == "RESUMED"
        await sim.close_all(4009)
        assert await link.next() == 4009
        link, _ = await raw.resume(session, 2)
        await sim.invalidate()
        assert (await link.next())["d"] is False
        assert (await raw.resume(session, 2))[1][0]["op"] == 9


@pytest.mark.parametrize(
    ("fault", "params", "got"),
    [
        ("close_after_accept", {"code": 1000}, [1000]),
        ("close_after_identify", {"code": 4011}, [10, 4011]),
        ("close_after_identify", {"ready": True}, [10, 0, 0, 4000]),
        ("invalid_session", {}, [10, 9]),
        ("disallowed_intents", {}, [10, 4014]),
        ("server_beat", {}, [10, 0, 0, 1]),
        ("goodbye", {"code": 4009}, [10, 0, 0, 7, 4009]),
    ],
)
async def test_opening_faults(fault: str, params: dict[str, Any], got: list[int]) -> None:
    async with platform() as (sim, raw):
        sim.faults.arm(fault, **params)
        link = await raw.connect()
        seen: list[int] = []
        while len(seen) < len(got):
            frame = await link.next()
            seen.append(frame["op"] if isinstance(frame, dict) else frame)
            if seen == [10]:
                await link.identify()
        assert seen == got


@pytest.mark.parametrize(("fault", "frames"), [("no_hello", 0), ("no_ready", 1), ("half_open", 3)])
async def test_silent_faults(fault: str, frames: int) -> None:
    async with platform() as (sim, raw):
        sim.faults.arm(fault)
        link = await raw.connect()
        if frames:
            await link.identify()
        for _ in range(frames):
            await link.next()
        sim.say("unheard")
        with pytest.raises(TimeoutError):
            await link.next(timeout=30)
        assert not sim.listening()


async def test_resume_faults() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        key = sim.say("once")
        await link.event()
        sim.drop_all()
        sim.faults.arm("close_on_resume", code=4007)
        assert (await raw.resume(link.session, 3))[1] == [4007]
        sim.faults.arm("abort_on_resume")
        _, frames = await raw.resume(link.session, 3)
        assert not isinstance(frames[0], dict)
        sim.faults.arm("dup_after_resume")
        _, frames = await raw.resume(link.session, 3)
        assert [f["d"].get("id") for f in frames] == [key, None]
        sim.drop_all()
        lost = sim.say("dies with the session")
        sim.faults.arm("refuse_resume")
        assert (await raw.resume(link.session, 4))[1][0]["op"] == 9
        assert facts(sim, "lost") == [lost]


async def test_event_faults() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        await link.next()
        for fault in ("unknown_event", "unknown_op", "dup_event", "link_unfurl"):
            sim.faults.arm(fault)
        sim.faults.arm("split_frame", pieces=4)
        sim.say("x" * 300)
        frames = [await link.next() for _ in range(5)]
        kinds = [None, "SOMETHING_NEW", "MESSAGE_CREATE", "MESSAGE_CREATE", "MESSAGE_UPDATE"]
        assert [f.get("t") for f in frames] == kinds
        assert [f.get("s") for f in frames] == [None, 4, 3, 5, 6]
        assert frames[2]["d"]["content"] == "x" * 300
        assert frames[4]["d"]["edited_timestamp"] is None
        sim.faults.arm("out_of_order")
        keys = [sim.say("overtaken"), sim.say("overtaking")]
        assert [(await link.next())["d"]["id"] for _ in keys] == keys[::-1]
        sim.faults.arm("bad_frame")
        sim.say("after nonsense")
        with pytest.raises(ValueError, match="property name"):
            await link.next()
        assert (await link.next())["d"]["content"] == "after nonsense"


async def test_content_is_empty_without_its_intent_unless_the_bot_is_mentioned() -> None:
    async with platform() as (sim, raw):
        link = await raw.live(intents=INTENTS & ~(1 << 15))
        sim.say("secret", chat="team", group=True, mention=False, image=PNG)
        sim.say("for you", chat="team", group=True)
        data = [(await link.event())["d"] for _ in range(2)]
        assert [(d["content"], d["attachments"]) for d in data] == [
            ("", []),
            (f"<@{data[1]['mentions'][0]['id']}> for you", []),
        ]
        assert all(d["guild_id"] and d["member"] for d in data)


@pytest.mark.slow
async def test_reply_edit_thread_and_delete_of_users() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        key = sim.say("first", chat="team", group=True, image=PNG)
        sim.say("second", chat="team", group=True, reply_to=key)
        sim.say("in it", chat="team", group=True, thread="topic")
        sim.say("changed", edit_of=key)
        sim.delete(key)
        url = (await link.event())["d"]["attachments"][0]["url"]
        reply = (await link.event())["d"]
        assert (reply["type"], reply["referenced_message"]["id"]) == (19, key)
        thread = (await link.event("THREAD_CREATE"))["d"]
        inside = (await link.event())["d"]
        assert (inside["channel_id"], sim.said[2].chat) == (thread["id"], "team/topic")
        update = (await link.event("MESSAGE_UPDATE"))["d"]
        assert (update["id"], update["content"], sim.said[3].id) == (key, "changed", key)
        assert (await link.event("MESSAGE_DELETE"))["d"]["id"] == key
        for data, age in ((PNG, 86_401), (b"This content is no longer available.", 0)):
            async with raw.http.get(url) as response:
                assert await response.read() == data
            await asyncio.sleep(age)


async def test_channel_bucket_and_global_limit() -> None:
    async with platform() as (_, raw):
        for left in "43210":
            assert (await raw.send())[0] == 200
            assert raw.headers["X-RateLimit-Remaining"] == left
        status, body = await raw.send()
        assert (status, body["global"], raw.headers["X-RateLimit-Scope"]) == (429, False, "user")
        assert (await raw.send("bob"))[0] == 200
        await asyncio.sleep(body["retry_after"])
        assert (await raw.send())[0] == 200
        answers = [await raw.call("GET", "/gateway") for _ in range(51)]
        assert (answers[-1][0], answers[-1][1]["global"]) == (429, True)
        assert raw.headers["X-RateLimit-Global"] == "true"


@pytest.mark.parametrize(
    ("fault", "params", "status", "text"),
    [
        ("api_500", {"status": 503}, 503, "Internal"),
        ("api_html", {}, 502, "<html>"),
        ("api_200_html", {}, 200, "<html>"),
        ("api_malformed", {}, 200, '{"id":"1'),
        ("api_401", {}, 401, "Unauthorized"),
        ("api_429", {"retry_after": 0.65}, 429, "0.65"),
        ("api_429_bare", {}, 429, "rate limited"),
        ("cloudflare_ban", {}, 429, "<html>"),
        ("send_429", {"global": True}, 429, "'global': True"),
        ("send_error", {"code": 50007}, 403, "50007"),
    ],
)
async def test_refused_calls(fault: str, params: Any, status: int, text: str) -> None:
    async with platform() as (sim, raw):
        sim.faults.arm(fault, **params)
        got, body = await raw.send()
        assert (got, sim.heard) == (status, [])
        assert text in str(body)
        assert ("Via" in raw.headers) is (status == 429 and fault != "cloudflare_ban")
        assert ("Retry-After" in raw.headers) is (fault in ("api_429", "send_429"))
        assert (await raw.send())[0] == 200


async def test_delivered_sends_whose_answer_is_late_or_lost_are_safe_to_repeat() -> None:
    async with platform() as (sim, raw):
        once: dict[str, Any] = {"nonce": "one", "enforce_nonce": True}
        sim.faults.arm("send_answer_lost")
        with pytest.raises(aiohttp.ClientConnectionError):
            await raw.send(**once)
        sim.faults.arm("send_slow", delay=8)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(raw.send(**once), 5)
        assert (await raw.send(**once))[1]["id"] == sim.heard[0].id
        assert len(sim.heard) == 1
        sim.faults.arm("send_swallowed")
        assert (await raw.send())[0] == 200
        assert len(sim.heard) == 1
        await raw.send(nonce="one")
        assert len(sim.heard) == 2
        await asyncio.sleep(301)
        assert (await raw.send(**once))[1]["id"] == sim.heard[2].id


@pytest.mark.parametrize("fault", ["drop_on_event", "close_on_event", "mute"])
async def test_event_that_is_not_carried_waits_for_the_resume(fault: str) -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        await link.next()
        sim.faults.arm(fault, times=None)
        key = sim.say("at the wrong moment")
        if fault == "mute":
            await link.put(1, 2)
            assert await link.next() == {"op": 11}
        else:
            assert not isinstance(await link.next(), dict)
        assert not sim.listening()
        sim.faults.clear(fault)
        assert (await raw.resume(link.session, 2))[1][0]["d"]["id"] == key


async def test_slow_hanging_refused_and_wrong_calls() -> None:
    async with platform() as (sim, raw):
        for fault in ("api_hang", "api_slow"):
            sim.faults.arm(fault)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(raw.send(), 7)
        reference = {"message_reference": {"message_id": "1"}}
        wrong: list[dict[str, Any]] = [
            {"content": " "},
            {"content": "x" * 2001},
            {"nonce": "n" * 26},
        ]
        codes = [(await raw.send(**body))[1]["code"] for body in (*wrong, reference)]
        assert codes == [50006, 50035, 50035, 50035]
        assert (await raw.call("POST", "/channels/1/messages", {}))[1]["code"] == 10003
        assert sim.heard == []
        sim.faults.arm("upgrade_refused", status=503)
        with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
            await raw.connect()
        sim.faults.arm("huge_ready")
        link = await raw.connect()
        await link.identify()
        await link.next()
        assert (await link.ws.receive(timeout=5)).type is aiohttp.WSMsgType.ERROR


async def test_hello_is_late_and_a_live_link_is_closed_at_once() -> None:
    async with platform() as (sim, raw):
        sim.faults.arm("slow_hello", delay=3)
        sim.faults.arm("close_when_live", code=1011)
        began = sim.now()
        link = await raw.live()
        assert sim.now() - began >= 3
        while (last := await link.next()) != 1011:
            assert last["t"] == "GUILD_CREATE"
        assert not sim.listening()


async def test_a_goodbye_with_silence_leaves_nothing_but_heartbeats() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        await sim.goodbye(silence=10.0)
        frames = [await link.next()]
        while frames[-1]["op"] != 7:
            frames.append(await link.next())
        assert not sim.listening()
        sim.say("while it leaves")
        await link.put(1, frames[-1].get("s"))
        assert (await link.next())["op"] == 11
        began = sim.now()
        assert isinstance(await link.next(15.0), int)
        assert 8 <= sim.now() - began <= 10
        _, frames = await raw.resume(link.session, 2)
        assert "while it leaves" in str(frames)


async def test_a_huge_frame_precedes_the_event() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("huge_frame", size=100_000)
        sim.say("after it")
        while (frame := await link.next())["t"] != "SOMETHING_NEW":
            pass
        assert len(frame["d"]["id"]) == 100_000
        assert "after it" in str(await link.next())
