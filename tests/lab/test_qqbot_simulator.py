"""The QQ bot simulator, spoken to frame by frame."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import inspect
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from holdfast.lab.simulators import qqbot
from holdfast.lab.simulators import qqbot_rules as rules
from holdfast.lab.simulators.qqbot import QQBotSimulator, WebhookRefused

INTENTS = int(rules.Intent.GROUP_AND_C2C | rules.Intent.INTERACTION)
PNG = b"\x89PNG\r\n\x1a\n" + bytes(8) + (3).to_bytes(4, "big") + (2).to_bytes(4, "big")


class Raw:
    """A client without any manners of its own."""

    def __init__(self, sim: QQBotSimulator, http: aiohttp.ClientSession) -> None:
        self.sim, self.http, self.token = sim, http, ""
        self.sockets: list[Socket] = []

    async def fetch_token(self, secret: str | None = None, app: str | None = None) -> Any:
        body = {"appId": app or self.sim.app_id, "clientSecret": secret or self.sim.secret}
        async with self.http.post(self.sim.account()["token_url"], json=body) as response:
            answer = await response.json() if response.status == 200 else response.status
        if isinstance(answer, dict):
            self.token = answer.get("access_token", self.token)
        return answer

    async def call(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Authorization": f"QQBot {self.token}"}
        url = self.sim.url + path
        async with self.http.request(method, url, json=body, headers=headers) as response:
            if response.status == 204:
                return 204, None
            assert response.headers["Content-Type"] == "application/json"
            return response.status, await response.json()

    async def send(self, openid: str, group: bool = False, **body: Any) -> tuple[int, Any]:
        scene = "groups" if group else "users"
        path = f"/v2/{scene}/{openid}/messages"
        status, answer = await self.call("POST", path, {"msg_type": 0, "content": "hi"} | body)
        return status, answer.get("code", answer)

    async def connect(self) -> Socket:
        self.sockets.append(Socket(await self.http.ws_connect(self.sim.url + "/websocket"), self))
        return self.sockets[-1]

    async def live(self) -> Socket:
        """A socket that has been identified."""
        if not self.token:
            await self.fetch_token()
        link = await self.connect()
        assert (await link.next())["op"] == 10
        await link.identify()
        ready = await link.next()
        assert ready["t"] == "READY", ready
        link.session = ready["d"]["session_id"]
        return link


class Socket:
    """One gateway socket of the raw client."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse, raw: Raw) -> None:
        self.ws, self.raw, self.session = ws, raw, ""

    async def put(self, op: int, d: Any = None) -> None:
        await self.ws.send_json({"op": op, "d": d})

    async def identify(self, **changed: Any) -> None:
        d = {"token": f"QQBot {self.raw.token}", "intents": INTENTS, "shard": [0, 1]}
        await self.put(2, d | changed)

    async def resume(self, session: str, seq: int) -> None:
        d = {"token": f"QQBot {self.raw.token}", "session_id": session, "seq": seq}
        await self.put(6, d)

    async def next(self, timeout: float = 5.0) -> Any:
        """The next frame, or ``close code`` as a number; TimeoutError when nothing comes."""
        message = await self.ws.receive(timeout=timeout)
        return json.loads(message.data) if message.type is aiohttp.WSMsgType.TEXT else message.data

    async def until_resumed(self) -> list[Any]:
        frames = [await self.next()]
        while frames[-1]["t"] != "RESUMED":
            frames.append(await self.next())
        return frames


@contextlib.asynccontextmanager
async def platform() -> AsyncIterator[tuple[QQBotSimulator, Raw]]:
    async with aiohttp.ClientSession() as http:
        async with QQBotSimulator() as sim:
            raw = Raw(sim, http)
            yield sim, raw
        for link in raw.sockets:
            await link.ws.close()


async def resumed(raw: Raw, session: str, seq: int) -> tuple[Socket, list[Any]]:
    link = await raw.connect()
    await link.next()
    await link.resume(session, seq)
    return link, await link.until_resumed()


def facts(sim: QQBotSimulator, what: str, key: str = "id") -> list[Any]:
    return [record.detail[key] for record in sim.log if record.what == what]


# -- token and gateway call ---------------------------------------------------------------------


async def test_token_is_the_same_until_its_last_minute_and_then_overlaps() -> None:
    async with platform() as (sim, raw):
        sim.tokens.lifetime = 100
        first = await raw.fetch_token()
        assert first["expires_in"] == "100"
        await asyncio.sleep(30)
        assert (await raw.fetch_token())["access_token"] == first["access_token"]
        await asyncio.sleep(15)
        second = await raw.fetch_token()
        assert second["access_token"] != first["access_token"]
        raw.token = first["access_token"]
        assert (await raw.call("GET", "/users/@me"))[0] == 200
        await asyncio.sleep(56)
        status, body = await raw.call("GET", "/users/@me")
        assert (status, body["code"], body["err_code"]) == (401, 11244, 11244)
        raw.token = second["access_token"]
        assert (await raw.call("GET", "/users/@me"))[0] == 200


async def test_token_call_refuses_bad_credentials_with_status_200() -> None:
    async with platform() as (sim, raw):
        assert (await raw.fetch_token(secret="no"))["code"] == 100016
        assert (await raw.fetch_token(app="no"))["code"] == 100007
        sim.set_secret("new")
        assert "access_token" in await raw.fetch_token(secret="new")
        sim.revoke()
        assert (await raw.fetch_token(secret="new"))["code"] == 100016
        assert (await raw.call("GET", "/users/@me"))[1]["code"] == 11244


async def test_token_faults() -> None:
    async with platform() as (sim, raw):
        sim.faults.arm("token_error", code=100001)
        assert (await raw.fetch_token())["code"] == 100001
        sim.faults.arm("token_500")
        assert await raw.fetch_token() == 500
        sim.faults.arm("expires_in_number")
        assert (await raw.fetch_token())["expires_in"] == 7200
        sim.faults.arm("token_hang")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(raw.fetch_token(), 60)


async def test_api_tells_missing_wrong_and_expired_tokens_apart() -> None:
    async with platform() as (sim, raw):
        assert (await raw.call("GET", "/users/@me"))[1]["code"] == 11241
        raw.token = "made-up"
        assert (await raw.call("GET", "/users/@me"))[1]["code"] == 11243
        await raw.fetch_token()
        assert (await raw.call("GET", "/users/@me"))[1]["id"].isdigit()
        sim.ban()
        assert (await raw.call("GET", "/users/@me"))[1]["code"] == 11265
        sim.unban()
        assert (await raw.call("GET", "/users/@me"))[0] == 200


@pytest.mark.parametrize(
    ("fault", "params", "status", "code"),
    [
        ("api_500", {}, 500, 500),
        ("api_401", {"code": 11251}, 401, 11251),
        ("gateway_401", {}, 401, 11244),
        ("gateway_429", {}, 429, 429),
    ],
)
async def test_api_and_gateway_faults(
    fault: str, params: dict[str, Any], status: int, code: int
) -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        sim.faults.arm(fault, **params)
        got, body = await raw.call("GET", "/gateway/bot")
        assert (got, body["code"]) == (status, code)
        assert (await raw.call("GET", "/gateway/bot"))[0] == 200


async def test_api_html_is_no_json() -> None:
    async with platform() as (sim, raw):
        sim.faults.arm("api_html")
        async with raw.http.get(sim.url + "/users/@me") as response:
            assert (response.status, response.content_type) == (502, "text/html")


async def test_gateway_counts_sessions_and_limits_its_own_calls() -> None:
    async with platform() as (sim, raw):
        await raw.live()
        _, body = await raw.call("GET", "/gateway/bot")
        assert body["url"] == sim.url.replace("http", "ws") + "/websocket"
        limit = body["session_start_limit"]
        assert (limit["total"], limit["remaining"], limit["max_concurrency"]) == (1000, 999, 1)
        statuses = [(await raw.call("GET", "/gateway"))[0] for _ in range(10)]
        assert statuses == [200] * 9 + [429]
        await asyncio.sleep(31)
        assert (await raw.call("GET", "/gateway"))[0] == 200


async def test_no_sessions_left_until_the_reset() -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        sim.faults.arm("no_sessions_left", reset_after=600)
        _, body = await raw.call("GET", "/gateway/bot")
        assert body["session_start_limit"] | {"total": 0} == {
            "total": 0,
            "remaining": 0,
            "reset_after": 600_000,
            "max_concurrency": 1,
        }
        link = await raw.connect()
        await link.next()
        await link.identify()
        assert [await link.next(), await link.next()] == [{"op": 9, "d": False}, 4903]
        await asyncio.sleep(600)
        assert (await raw.live()).session


# -- opening ------------------------------------------------------------------------------------


async def test_login_beats_and_truth() -> None:
    async with platform() as (sim, raw):
        assert not sim.listening()
        link = await raw.live()
        assert sim.listening()
        await link.put(1, 1)
        assert await link.next() == {"op": 11}
        assert facts(sim, "beat", "s") == [1]
        opening = ["ws-open", "identify", "login", "ready", "link-open"]
        assert [r.what for r in sim.log if r.what in opening] == opening
        await link.ws.close()
        await sim.until(lambda: sim.count("link-lost") == 1)
        assert not sim.listening()


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        ("{broken", 4002),
        ("[]", 4002),
        ('{"op": 2}', 4002),
        ('{"op": 99}', 4001),
        ('{"op": 1, "d": null}', 4003),
        ('{"op": 2, "d": {"token": "QQBot wrong"}}', 4004),
    ],
)
async def test_wrong_frames_get_their_close_code(frame: str, code: int) -> None:
    async with platform() as (_, raw):
        link = await raw.connect()
        await link.next()
        await link.ws.send_str(frame)
        assert await link.next() == code


@pytest.mark.parametrize(
    ("changed", "answers"),
    [
        ({"shard": [1, 1]}, [4010]),
        ({"intents": 1 << 5}, [{"op": 9, "d": False}, 4013]),
        ({"intents": INTENTS | 1 << 28}, [{"op": 9, "d": False}, 4014]),
    ],
)
async def test_wrong_identify(changed: dict[str, Any], answers: list[Any]) -> None:
    async with platform() as (_, raw):
        await raw.fetch_token()
        link = await raw.connect()
        await link.next()
        await link.identify(**changed)
        assert [await link.next() for _ in answers] == answers


async def test_identify_twice_and_too_often() -> None:
    async with platform() as (_, raw):
        link = await raw.live()
        await link.identify()
        assert await link.next() == 4005
        link = await raw.connect()
        await link.next()
        await link.identify()
        assert await link.next() == 4008
        await asyncio.sleep(5)
        assert (await raw.live()).session


async def test_unauthorized_intents_let_a_degraded_identify_pass() -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        extra = int(rules.Intent.INTERACTION)
        sim.faults.arm("unauthorized_intents", times=None, bits=extra)
        link = await raw.connect()
        await link.next()
        await link.identify()
        assert [await link.next(), await link.next()] == [{"op": 9, "d": False}, 4014]
        link = await raw.connect()
        await link.next()
        await link.identify(intents=INTENTS & ~extra)
        assert (await link.next())["t"] == "READY"


@pytest.mark.parametrize("code", [c.value for c in rules.Close])
async def test_every_close_code_after_accept_after_identify_and_on_resume(code: int) -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("close_after_accept", code=code)
        assert await (await raw.connect()).next() == code
        await link.ws.close()
        sim.faults.arm("close_on_resume", code=code)
        again = await raw.connect()
        await again.next()
        await again.resume(link.session, 1)
        assert await again.next() == code
        await asyncio.sleep(5)
        sim.faults.arm("close_after_identify", code=code, ready=True)
        last = await raw.live()
        assert await last.next() == code
        assert not sim.listening()


async def test_close_after_identify_without_ready() -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        sim.faults.arm("close_after_identify")
        link = await raw.connect()
        await link.next()
        await link.identify()
        assert await link.next() == 4900
        assert sim.count("ready") == 0


@pytest.mark.parametrize("fault", ["no_hello", "no_ready"])
async def test_silent_openings(fault: str) -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        sim.faults.arm(fault)
        link = await raw.connect()
        if fault == "no_ready":
            await link.next()
            await link.identify()
        with pytest.raises(TimeoutError):
            await link.next(timeout=60)
        assert not sim.listening()


@pytest.mark.parametrize("resumable", [True, False])
@pytest.mark.parametrize("close", [True, False])
async def test_invalid_session_fault(resumable: bool, close: bool) -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        sim.faults.arm("invalid_session", resumable=resumable, close=close)
        link = await raw.connect()
        await link.next()
        await link.identify()
        assert await link.next() == {"op": 9, "d": resumable}
        if close:
            assert await link.next() == 4903
        else:
            await asyncio.sleep(5)
            await link.identify()
            assert (await link.next())["t"] == "READY"


# -- life ---------------------------------------------------------------------------------------


async def test_silence_is_closed_by_the_server() -> None:
    async with platform() as (sim, raw):
        sim.heartbeat_interval = 10
        link = await raw.live()
        began = sim.now()
        assert await link.next(timeout=60) == 4009
        assert sim.now() - began == pytest.approx(25, abs=1)


async def test_heartbeat_faults() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("no_ack", times=None)
        await link.put(1, 1)
        with pytest.raises(TimeoutError):
            await link.next(timeout=30)
        assert sim.listening()
        sim.faults.clear("no_ack")
        sim.faults.arm("ack_once_late", delay=7)
        began = sim.now()
        await link.put(1, 1)
        assert await link.next(timeout=30) == {"op": 11}
        assert sim.now() - began == pytest.approx(7, abs=0.5)


async def test_server_beat_follows_ready() -> None:
    async with platform() as (sim, raw):
        sim.faults.arm("server_beat")
        link = await raw.live()
        assert await link.next() == {"op": 1, "d": 1}


async def test_mute_link_is_a_zombie_that_acknowledges_beats() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("mute", times=None)
        assert not sim.listening()
        key = sim.say("nobody hears this yet")
        await link.put(1, 1)
        assert await link.next() == {"op": 11}
        sim.faults.clear("mute")
        assert sim.listening()
        sim.drop_all()
        _, frames = await resumed(raw, link.session, 1)
        assert frames[0]["d"]["id"] == key


@pytest.mark.parametrize("how", ["fault", "method"])
async def test_half_open_link_is_silent_and_stays(how: str) -> None:
    async with platform() as (sim, raw):
        if how == "fault":
            sim.faults.arm("half_open")
        link = await raw.live()
        if how == "method":
            sim.half_open()
        assert not sim.listening()
        sim.say("into the void")
        await link.put(1, 1)
        await link.ws.ping()
        with pytest.raises(TimeoutError):
            await link.next(timeout=60)
        assert not link.ws.closed
        _, frames = await resumed(raw, link.session, 1)
        assert [frame["d"]["content"] for frame in frames[:-1]] == ["into the void"]
        assert sim.listening()


# -- resume -------------------------------------------------------------------------------------


async def test_resume_replays_what_was_missed_then_says_resumed() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.say("seen")
        assert (await link.next())["s"] == 2
        sim.drop_all()
        ids = [sim.say("one"), sim.say("two", chat="team", group=True)]
        _, frames = await resumed(raw, link.session, 2)
        assert [(f["s"], f["t"]) for f in frames] == [
            (3, "C2C_MESSAGE_CREATE"),
            (4, "GROUP_AT_MESSAGE_CREATE"),
            (5, "RESUMED"),
        ]
        assert [f["d"]["id"] for f in frames[:-1]] == ids
        assert sim.count("lost") == sim.count("unproven") == 0


async def test_resume_replays_what_was_written_but_not_received() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        key = sim.say("written to a dying socket")
        sim.drop_all()
        _, frames = await resumed(raw, link.session, 1)
        assert [f["d"]["id"] for f in frames[:-1]] == [key]


async def test_resume_accepts_the_bare_token() -> None:
    async with platform() as (_, raw):
        link = await raw.live()
        await link.ws.close()
        again = await raw.connect()
        await again.next()
        await again.put(6, {"token": raw.token, "session_id": link.session, "seq": 1})
        assert (await again.next())["t"] == "RESUMED"


async def test_fresh_identify_loses_what_waited_and_reports_what_is_unproven() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        proven, unproven = sim.say("proven"), sim.say("unproven")
        await link.put(1, 2)
        await sim.until(lambda: sim.count("beat") == 1)
        sim.drop_all()
        lost = sim.say("lost")
        await asyncio.sleep(5)
        await raw.live()
        assert (facts(sim, "lost"), facts(sim, "unproven")) == ([lost], [unproven])
        assert proven not in facts(sim, "lost")


async def test_two_live_sessions_get_every_event_and_one_end_loses_nothing() -> None:
    async with platform() as (sim, raw):
        first = await raw.live()
        await asyncio.sleep(5)
        second = await raw.live()
        key = sim.say("to both")
        assert (await first.next())["d"]["id"] == (await second.next())["d"]["id"] == key
        await first.ws.close()
        await sim.until(lambda: sim.count("link-lost") == 1)
        assert sim.listening()
        await asyncio.sleep(sim.resume_window + 1)
        assert sim.count("lost") == sim.count("unproven") == 0


async def test_session_ends_with_the_resume_window() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.drop_all()
        lost = sim.say("waits in vain")
        await asyncio.sleep(sim.resume_window + 1)
        assert facts(sim, "lost") == [lost]
        again = await raw.connect()
        await again.next()
        await again.resume(link.session, 1)
        assert [await again.next(), await again.next()] == [{"op": 9, "d": False}, 4006]


async def test_event_without_any_session_is_lost_at_once() -> None:
    async with platform() as (sim, _):
        key = sim.say("hello?")
        assert facts(sim, "lost") == [key]


async def test_resume_with_a_seq_from_the_future() -> None:
    async with platform() as (_, raw):
        link = await raw.live()
        await link.ws.close()
        again = await raw.connect()
        await again.next()
        await again.resume(link.session, 99)
        assert await again.next() == 4007


@pytest.mark.parametrize(
    ("params", "answers"),
    [
        ({}, [{"op": 9, "d": False}, 4006]),
        ({"op9": False}, [4006]),
        ({"code": 0}, [{"op": 9, "d": False}]),
    ],
)
async def test_refuse_resume_forgets_the_session(
    params: dict[str, Any], answers: list[Any]
) -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        await sim.close_all(4009)
        assert await link.next() == 4009
        lost = sim.say("gone")
        sim.faults.arm("refuse_resume", **params)
        again = await raw.connect()
        await again.next()
        await again.resume(link.session, 1)
        assert [await again.next() for _ in answers] == answers
        assert facts(sim, "lost") == [lost]


async def test_sessions_survive_a_restart_of_the_server() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        await sim.stop()
        key = sim.say("while down")
        await sim.start()
        _, frames = await resumed(raw, link.session, 1)
        assert frames[0]["d"]["id"] == key


@pytest.mark.parametrize("close", [True, False])
async def test_goodbye(close: bool) -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        await sim.goodbye(close)
        assert await link.next() == {"op": 7}
        assert sim.listening() is not close
        if close:
            assert await link.next() == 4009


@pytest.mark.parametrize("resumable", [True, False])
async def test_invalidate_leaves_the_socket_open(resumable: bool) -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        await sim.invalidate(resumable)
        assert await link.next() == {"op": 9, "d": resumable}
        assert not sim.listening()
        await link.resume(link.session, 1)
        answer = await link.next()
        assert answer.get("t") == ("RESUMED" if resumable else None)


async def test_drop_all_resets_the_connection() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.drop_all()
        message = await link.ws.receive(timeout=5)
        assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.ERROR)
        assert link.ws.close_code == 1006


@pytest.mark.parametrize(("verb", "code"), [("ban", 4915), ("revoke", 4004)])
async def test_ban_and_revoke_close_and_refuse_the_next_login(verb: str, code: int) -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        getattr(sim, verb)()
        assert await link.next() == code
        again = await raw.connect()
        await again.next()
        await again.identify()
        assert await again.next() == code


# -- events -------------------------------------------------------------------------------------


async def test_messages_look_like_the_platforms() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        first = sim.say("hello", image=PNG, file=("a b.pdf", b"%PDF"))
        frame = await link.next()
        assert frame["id"].startswith("C2C_MESSAGE_CREATE:")
        data = frame["d"]
        assert data["author"]["user_openid"] == sim.openid("alice")
        picture, paper = data["attachments"]
        assert (picture["content_type"], picture["width"], picture["height"]) == ("image/png", 3, 2)
        assert (paper["content_type"], paper["filename"], paper["size"]) == ("file", "a b.pdf", 4)
        for entry, content in ((picture, PNG), (paper, b"%PDF")):
            async with raw.http.get(entry["url"]) as response:
                assert await response.read() == content
        sim.say("quoted", reply_to=first, chat="team", sender="bob", group=True)
        data = (await link.next())["d"]
        assert data["content"] == " quoted"
        assert data["group_openid"] == sim.openid("team", group=True)
        assert data["message_type"] == 103
        assert data["msg_elements"][0]["content"] == "hello"


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("dup_event", [(2, "one"), (3, "one"), (4, "two")]),
        ("unknown_event", [(2, None), (3, "one"), (4, "two")]),
        ("out_of_order", [(3, "two"), (2, "one")]),
    ],
)
async def test_event_faults(fault: str, expected: list[tuple[int, str | None]]) -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm(fault)
        sim.say("one")
        sim.say("two")
        frames = [await link.next() for _ in expected]
        assert [(f["s"], f["d"].get("content")) for f in frames] == expected


async def test_bad_frame_precedes_the_event() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("bad_frame", raw="<xml/>")
        sim.say("one")
        assert (await link.ws.receive(timeout=5)).data == "<xml/>"
        assert (await link.next())["d"]["content"] == "one"


async def test_duplicate_after_resume_has_a_new_number() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        key = sim.say("one")
        assert (await link.next())["s"] == 2
        sim.drop_all()
        sim.faults.arm("dup_after_resume")
        _, frames = await resumed(raw, link.session, 2)
        assert [(f["s"], f["t"]) for f in frames] == [(3, "C2C_MESSAGE_CREATE"), (4, "RESUMED")]
        assert frames[0]["d"]["id"] == key


async def test_event_outside_the_intents_is_lost() -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        link = await raw.connect()
        await link.next()
        await link.identify(intents=int(rules.Intent.GUILDS))
        assert (await link.next())["t"] == "READY"
        assert [sim.say("unheard")] == facts(sim, "lost")


async def test_interaction_is_answered_once() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        key = sim.press("approve:42")
        frame = await link.next()
        assert frame["d"]["data"]["resolved"]["button_data"] == "approve:42"
        assert (await raw.call("PUT", f"/interactions/{key}", {"code": 0}))[0] == 204
        assert (await raw.call("PUT", f"/interactions/{key}", {"code": 0}))[0] == 404
        assert facts(sim, "interaction-done", "code") == [0]
        status, _ = await raw.send(sim.openid("alice"), event_id=frame["id"])
        assert status == 200


# -- sending ------------------------------------------------------------------------------------


async def test_reply_reaches_the_chat_by_its_name() -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        key = sim.say("hi", chat="team", group=True)
        status, body = await raw.send(sim.openid("team", group=True), True, msg_id=key)
        assert status == 200
        [heard] = sim.heard
        assert (heard.id, heard.chat, heard.text, heard.reply_to) == (body["id"], "team", "hi", key)


async def test_reply_numbers_are_unique_and_five() -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        key, alice = sim.say("hi"), sim.openid("alice")
        assert (await raw.send(alice, msg_id=key, msg_seq=1))[0] == 200
        assert await raw.send(alice, msg_id=key) == (400, 40054005)
        codes = [(await raw.send(alice, msg_id=key, msg_seq=n))[0] for n in range(2, 6)]
        assert codes == [200] * 4
        assert await raw.send(alice, msg_id=key, msg_seq=6) == (400, 40034128)
        assert len(sim.heard) == 5


@pytest.mark.parametrize(("group", "window"), [(False, 3600), (True, 300)])
@pytest.mark.parametrize("scale", [1.0, 0.1])
async def test_reply_windows(group: bool, window: float, scale: float) -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        sim.replies.window_scale = scale
        key, openid = sim.say("hi", group=group), sim.openid("alice", group=group)
        await asyncio.sleep(window * scale - 1)
        assert (await raw.send(openid, group, msg_id=key))[0] == 200
        await asyncio.sleep(2)
        assert await raw.send(openid, group, msg_id=key, msg_seq=2) == (400, 40034005)
        assert (await raw.send(openid, group))[0] == 200


async def test_wrong_targets_and_contexts() -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        key, alice = sim.say("hi"), sim.openid("alice")
        bob, team = sim.openid("bob"), sim.openid("team", group=True)
        assert await raw.send("0" * 32) == (400, 40054004)
        assert await raw.send(alice, True) == (400, 40054003)
        assert await raw.send(bob, msg_id=key) == (400, 40034024)
        assert await raw.send(team, True, msg_type=6, input_notify={"input_type": 1}) == (
            400,
            12002,
        )
        assert await raw.send(alice, content="") == (400, 12002)
        assert await raw.send(alice, msg_type=99) == (400, 12002)
        assert sim.heard == []


async def test_active_messages_are_limited_per_minute() -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        sim.replies.active_per_minute = 2
        alice = sim.openid("alice")
        assert [(await raw.send(alice))[0] for _ in range(3)] == [200, 200, 400]
        await asyncio.sleep(60)
        assert (await raw.send(alice))[0] == 200


async def test_typing_takes_a_number_but_no_answer() -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        key, alice = sim.say("hi"), sim.openid("alice")
        notice = {"input_type": 1, "input_second": 60}
        typing: dict[str, Any] = {"msg_type": 6, "input_notify": notice, "msg_id": key}
        assert (await raw.send(alice, **typing, msg_seq=1))[0] == 200
        assert facts(sim, "typing", "chat") == ["alice"]
        assert await raw.send(alice, msg_id=key, msg_seq=1) == (400, 40054005)
        codes = [(await raw.send(alice, msg_id=key, msg_seq=n))[0] for n in range(2, 7)]
        assert codes == [200] * 5


async def test_markdown_and_its_missing_right() -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        alice = sim.openid("alice")
        markdown: dict[str, Any] = {
            "msg_type": 2,
            "content": None,
            "markdown": {"content": "# Title"},
        }
        assert (await raw.send(alice, **markdown))[0] == 200
        assert sim.heard[0].text == "# Title"
        sim.faults.arm("markdown_refused")
        assert await raw.send(alice, **markdown) == (400, 50056)
        sim.markdown_allowed = False
        assert await raw.send(alice, **markdown) == (400, 50056)
        assert (await raw.send(alice))[0] == 200


@pytest.mark.parametrize(
    ("fault", "params", "body", "answer"),
    [
        ("send_error", {"code": 40054002}, {}, (400, 40054002)),
        ("send_22009", {}, {}, (429, 22009)),
        ("url_refused", {}, {"content": "see https://example.org"}, (400, 304003)),
        ("too_long", {"limit": 3}, {"content": "four"}, (400, 40054007)),
    ],
)
async def test_refused_sends_use_up_no_reply(
    fault: str, params: dict[str, Any], body: dict[str, Any], answer: tuple[int, int]
) -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        key, alice = sim.say("hi"), sim.openid("alice")
        sim.faults.arm(fault, **params)
        assert await raw.send(alice, msg_id=key, **body) == answer
        assert sim.heard == []
        assert (await raw.send(alice, msg_id=key, **body))[0] == 200


async def test_content_limits_of_the_console() -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        alice = sim.openid("alice")
        assert await raw.send(alice, content="x" * 4001) == (400, 40054007)
        sim.allowed_urls = ("https://ok.example/",)
        assert await raw.send(alice, content="at https://no.example/") == (400, 304003)
        assert (await raw.send(alice, content="at https://ok.example/a"))[0] == 200


async def test_pending_send_is_delivered() -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        sim.faults.arm("send_202_pending")
        assert await raw.send(sim.openid("alice")) == (202, 304023)
        assert len(sim.heard) == 1


async def test_slow_send_is_delivered_before_it_is_answered() -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        key, alice = sim.say("hi"), sim.openid("alice")
        sim.faults.arm("send_slow_but_delivered", delay=8)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(raw.send(alice, msg_id=key), 5)
        assert len(sim.heard) == 1
        assert await raw.send(alice, msg_id=key) == (400, 40054005)


async def test_lost_answer_was_delivered_and_swallowed_send_was_not() -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        key, alice = sim.say("hi"), sim.openid("alice")
        sim.faults.arm("send_answer_lost")
        with pytest.raises(aiohttp.ClientConnectionError):
            await raw.send(alice, msg_id=key)
        assert len(sim.heard) == 1
        assert await raw.send(alice, msg_id=key) == (400, 40054005)
        sim.faults.arm("send_swallowed")
        assert (await raw.send(alice, msg_id=key, msg_seq=2))[0] == 200
        assert len(sim.heard) == len(sim.accepted) == 1


async def test_recall_within_two_minutes() -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        alice = sim.openid("alice")
        ids = [(await raw.send(alice))[1]["id"] for _ in range(2)]
        path = f"/v2/users/{alice}/messages/"
        assert (await raw.call("DELETE", path + ids[0]))[0] == 200
        assert facts(sim, "recalled") == [ids[0]]
        assert (await raw.call("DELETE", path + ids[0]))[0] == 404
        await asyncio.sleep(121)
        assert (await raw.call("DELETE", path + ids[1]))[1]["code"] == 306011


# -- media --------------------------------------------------------------------------------------


async def test_media_by_data_is_sent_in_its_own_scene_until_it_expires() -> None:
    async with platform() as (sim, raw):
        await raw.fetch_token()
        alice, team = sim.openid("alice"), sim.openid("team", group=True)
        upload = {
            "file_type": 4,
            "file_name": "r.pdf",
            "file_data": base64.b64encode(b"x").decode(),
        }
        status, media = await raw.call("POST", f"/v2/users/{alice}/files", upload)
        assert (status, media["ttl"]) == (200, 3600)
        body: dict[str, Any] = {"msg_type": 7, "content": " ", "media": media}
        assert (await raw.send(alice, **body))[0] == 200
        assert (sim.heard[0].media, sim.heard[0].data, sim.heard[0].text) == ("r.pdf", b"x", "")
        assert await raw.send(team, True, **body) == (400, 40034004)
        await asyncio.sleep(3601)
        assert await raw.send(alice, **body) == (400, 40034004)


async def test_media_by_url_and_direct_sending() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.say("picture", image=PNG)
        url = (await link.next())["d"]["attachments"][0]["url"]
        path = f"/v2/users/{sim.openid('alice')}/files"
        body = {"file_type": 1, "url": url, "srv_send_msg": True}
        assert "id" in (await raw.call("POST", path, body))[1]
        assert sim.heard[0].data == PNG
        missing = {"file_type": 1, "url": sim.url + "/_files/none/a.png"}
        assert (await raw.call("POST", path, missing))[1]["code"] == 304082
        sim.faults.arm("media_failed")
        assert (await raw.call("POST", path, body))[1]["code"] == 304082
        assert (await raw.call("POST", path, {"file_type": 9}))[1]["code"] == 12002
        bad = {"file_type": 1, "file_data": "%%%"}
        assert (await raw.call("POST", path, bad))[1]["code"] == 12002


# -- callbacks ----------------------------------------------------------------------------------


class Callback:
    """A bot behind a callback address, verifying as the documentation says."""

    def __init__(self, secret: str) -> None:
        self.key = rules.signing_key(secret)
        self.got: list[dict[str, Any]] = []
        self.rejected = 0
        self.fail = 0

    async def handle(self, request: web.Request) -> web.Response:
        body, moment = await request.read(), request.headers["X-Signature-Timestamp"]
        expected = self.key.sign(moment.encode() + body).hex()
        if request.headers["X-Signature-Ed25519"] != expected:
            self.rejected += 1
            return web.Response(status=401)
        payload = json.loads(body)
        if payload["op"] == 13:
            plain, at = payload["d"]["plain_token"], payload["d"]["event_ts"]
            signed = self.key.sign((at + plain).encode()).hex()
            return web.json_response({"plain_token": plain, "signature": signed})
        if self.fail:
            self.fail -= 1
            return web.Response(status=500)
        self.got.append(payload)
        return web.json_response({"op": 12})


@contextlib.asynccontextmanager
async def callback(secret: str) -> AsyncIterator[tuple[Callback, str]]:
    bot, app = Callback(secret), web.Application()
    app.router.add_post("/qq", bot.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield bot, f"http://127.0.0.1:{runner.addresses[0][1]}/qq"
    finally:
        await runner.cleanup()


def test_signature_matches_the_official_value() -> None:
    signed = rules.signature("DG5g3B4j9X2KOErG", "1725442341", b"Arq0D5A61EgUu4OxUvOp")
    assert signed.startswith("87befc99c42c651b")


async def test_webhook_is_validated_then_gets_events_with_redelivery() -> None:
    async with platform() as (sim, _), callback(sim.secret) as (bot, url):
        await sim.set_webhook(url)
        assert sim.listening()
        bot.fail = 2
        key = sim.say("hello")
        await sim.until(lambda: facts(sim, "callback", "status") == [500, 500, 200])
        [payload] = bot.got
        assert (payload["op"], payload["t"], payload["d"]["id"]) == (0, "C2C_MESSAGE_CREATE", key)
        sim.faults.arm("webhook_forged")
        sim.faults.arm("dup_event")
        sim.say("again")
        await sim.until(lambda: len(bot.got) == 3)
        assert (bot.rejected, facts(sim, "forged", "accepted")) == (1, [False])
        bot.fail = 99
        lost = sim.say("never")
        await sim.until(lambda: facts(sim, "lost") == [lost], timeout=120)
        await sim.set_webhook(None)
        assert not sim.listening()


async def test_webhook_with_the_wrong_secret_fails_validation() -> None:
    async with platform() as (sim, _), callback("another secret") as (_, url):
        with pytest.raises(WebhookRefused, match="answered the validation with 401"):
            await sim.set_webhook(url)
        assert not sim.listening()


# -- the book of faults ---------------------------------------------------------------------------


def test_every_fault_is_asked_for_by_the_protocol_code() -> None:
    source = inspect.getsource(qqbot)
    assert [name for name in QQBotSimulator.FAULTS if f'"{name}"' not in source] == []
