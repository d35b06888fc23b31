"""The DingTalk simulator, spoken to frame by frame and call by call."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from holdfast.lab.simulators.dingtalk import DingTalkSimulator
from holdfast.lab.simulators.dingtalk_rules import BOT_TOPIC, CARD_TOPIC

SUBSCRIPTIONS = [
    {"type": "EVENT", "topic": "*"},
    {"type": "CALLBACK", "topic": BOT_TOPIC},
    {"type": "CALLBACK", "topic": CARD_TOPIC},
]
GROUP_SEND = "/v1.0/robot/groupMessages/send"


class Raw:
    """A client without any manners of its own."""

    def __init__(self, sim: DingTalkSimulator, http: aiohttp.ClientSession) -> None:
        self.sim, self.http, self.token = sim, http, ""
        self.sockets: list[Socket] = []

    async def post(self, url: str, body: Any = None, **options: Any) -> tuple[int, Any]:
        method = options.pop("method", "POST")
        address = url if url.startswith("http") else self.sim.url + url
        headers = {"x-acs-dingtalk-access-token": self.token} | options.pop("headers", {})
        async with self.http.request(
            method, address, json=body, headers=headers, **options
        ) as response:
            kind = response.content_type
            return response.status, await response.json() if "json" in kind else kind

    async def login(self) -> None:
        body = {"appKey": self.sim.client_id, "appSecret": self.sim.client_secret}
        status, answer = await self.post("/v1.0/oauth2/accessToken", body)
        assert (status, answer["expireIn"]) == (200, 7200)
        self.token = answer["accessToken"]

    async def open(self, **changed: Any) -> tuple[int, Any]:
        headers = {"Host": changed.pop("host")} if "host" in changed else {}
        body = {
            "clientId": self.sim.client_id,
            "clientSecret": self.sim.client_secret,
            "subscriptions": SUBSCRIPTIONS,
        }
        path = "/v1.0/gateway/connections/open"
        return await self.post(path, body | changed, headers=headers)

    async def ticket(self) -> str:
        status, answer = await self.open()
        assert status == 200
        return str(answer["ticket"])

    async def connect(self, ticket: str | None = None, host: str | None = None) -> Socket:
        params = {"ticket": ticket or await self.ticket()}
        headers = {"Host": host} if host else None
        ws = await self.http.ws_connect(
            self.sim.url + "/connect", params=params, headers=headers, autoping=False
        )
        self.sockets.append(Socket(ws))
        return self.sockets[-1]

    async def live(self, **options: Any) -> Socket:
        known = self.sim.count("ready")
        link = await self.connect(**options)
        await self.sim.until(lambda: self.sim.count("ready") > known)
        return link


class Socket:
    """One stream connection of the raw client."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def next(self, timeout: float = 5.0) -> Any:
        """The next frame with decoded data, a text that is no JSON, or the close code."""
        message = await self.ws.receive(timeout=timeout)
        if message.type is not aiohttp.WSMsgType.TEXT:
            return message.data
        try:
            frame = json.loads(message.data)
        except ValueError:
            return message.data
        return frame | {"data": json.loads(frame["data"])}

    async def ack(self, frame: Any, code: int = 200, data: Any = None) -> None:
        headers = {"messageId": frame["headers"]["messageId"], "contentType": "application/json"}
        await self.ws.send_json(
            {"code": code, "headers": headers, "message": "OK", "data": json.dumps(data)}
        )


@contextlib.asynccontextmanager
async def platform() -> AsyncIterator[tuple[DingTalkSimulator, Raw]]:
    async with aiohttp.ClientSession() as http:
        async with DingTalkSimulator() as sim:
            sim.ping_interval = None
            raw = Raw(sim, http)
            yield sim, raw
        for link in raw.sockets:
            await link.ws.close()


def facts(sim: DingTalkSimulator, what: str, key: str = "id") -> list[Any]:
    return [record.detail[key] for record in sim.log if record.what == what]


def text(content: str) -> dict[str, Any]:
    return {"msgtype": "text", "text": {"content": content}}


async def test_opening_and_truth() -> None:
    async with platform() as (sim, raw):
        assert not sim.listening()
        assert sim.account()["platform"] == "dingtalk"
        link = await raw.live()
        assert sim.listening()
        opening = ["open", "login", "ws-open", "ready", "link-open"]
        assert [r.what for r in sim.log if r.what in opening] == opening
        await link.ws.close()
        await sim.until(lambda: sim.count("link-lost") == 1)
        assert not sim.listening()


async def test_wrong_credentials_and_wrong_bodies() -> None:
    async with platform() as (sim, raw):
        status, answer = await raw.open(clientSecret="wrong")
        assert (status, answer["code"]) == (401, "authFailed")
        assert (await raw.open(subscriptions=[]))[0] == 400
        assert (await raw.open(subscriptions=[{"type": "OTHER", "topic": "*"}]))[0] == 400
        sim.revoke()
        assert (await raw.open())[0] == 401
        sim.set_secret("new")
        assert (await raw.open())[0] == 200


async def test_open_is_refused_once() -> None:
    async with platform() as (sim, raw):
        url = sim.url + "/v1.0/gateway/connections/open"
        for fault, params, status, code, wait in (
            ("open_401", {}, 401, "authFailed", None),
            ("open_403", {}, 403, "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi", None),
            ("open_429", {}, 429, "Throttling", None),
            ("open_429", {"retry_after": 17}, 429, "Throttling", "17"),
            ("open_503", {}, 503, "ServiceUnavailable", None),
        ):
            sim.faults.arm(fault, **params)
            async with raw.http.post(url, json={}) as response:
                assert (response.status, (await response.json())["code"]) == (status, code)
                assert response.headers.get("Retry-After") == wait
        assert (await raw.open())[0] == 200


async def test_open_answers_that_are_none() -> None:
    async with platform() as (sim, raw):
        for fault in ("open_html", "open_fields_missing", "ip_banned"):
            sim.faults.arm(fault)
        assert await raw.open() == (200, "text/html")
        assert await raw.open() == (200, {})
        assert (await raw.open())[1]["status"] == 1111
        sim.faults.arm("open_slow", delay=7)
        before = sim.now()
        assert (await raw.open())[0] == 200
        assert sim.now() - before >= 7
        sim.faults.arm("open_hang")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await raw.open()


async def test_a_ticket_works_once_and_for_ninety_seconds() -> None:
    async with platform() as (sim, raw):
        used, old = await raw.ticket(), await raw.ticket()
        await raw.connect(used)
        await asyncio.sleep(90)
        sim.faults.arm("ticket_expired")
        for ticket in (used, old, await raw.ticket(), "unknown"):
            with pytest.raises(aiohttp.WSServerHandshakeError, match="401"):
                await raw.connect(ticket)
        sim.faults.arm("upgrade_rejected")
        with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
            await raw.connect()


async def test_addresses_follow_the_host_header() -> None:
    async with platform() as (sim, raw):
        _, answer = await raw.open(host="relay.test:81")
        assert answer["endpoint"] == "ws://relay.test:81/connect"
        link = await raw.live(host="relay.test:81")
        sim.say("hello")
        frame = await link.next()
        assert frame["data"]["sessionWebhook"].startswith("http://relay.test:81/robot/")


async def test_close_codes_and_resets() -> None:
    async with platform() as (sim, raw):
        sim.faults.arm("close_after_accept", times=2)
        assert await (await raw.connect()).next() == 1000
        sim.faults.clear()
        sim.faults.arm("close_after_accept", code=1011)
        assert await (await raw.connect()).next() == 1011
        assert sim.count("link-open") == 0
        link = await raw.live()
        await sim.close_all(1001, "deploy")
        assert await link.next() == 1001
        link = await raw.live()
        sim.drop_all()
        assert (await link.ws.receive(5)).type is not aiohttp.WSMsgType.TEXT
        assert sim.count("link-open") == sim.count("link-lost") == 2


async def test_reset_right_after_the_upgrade() -> None:
    async with platform() as (sim, raw):
        sim.faults.arm("reset_after_accept")
        with contextlib.suppress(aiohttp.ClientError):
            link = await raw.connect()
            assert (await link.ws.receive(5)).type is not aiohttp.WSMsgType.TEXT
        await sim.until(lambda: sim.count("ws-closed") == 1)
        assert sim.count("link-open") == 0


async def test_disconnect_then_silence_then_the_end_of_tcp() -> None:
    async with platform() as (sim, raw):
        old = await raw.live()
        sim.say("before")
        first = await old.next()
        await sim.goodbye()
        goodbye = await old.next()
        assert (goodbye["type"], goodbye["headers"]["topic"]) == ("SYSTEM", "disconnect")
        assert goodbye["data"] == {"reason": "connection is expired"}
        assert "messageId" not in goodbye["headers"]
        assert not sim.listening()
        new = await raw.live()
        sim.say("after")
        assert (await new.next())["data"]["text"] == {"content": "after"}
        # A draining connection still takes acknowledgements.
        await old.ack(first)
        await sim.until(lambda: sim.count("ack") == 1)
        started = sim.now()
        assert await old.next(timeout=20) in (None, 1006)
        assert sim.now() - started == pytest.approx(10, abs=0.5)


async def test_disconnect_as_a_fault_and_by_age() -> None:
    async with platform() as (sim, raw):
        sim.faults.arm("disconnect", reason="persistent connection is timeout")
        link = await raw.connect()
        assert (await link.next())["data"] == {"reason": "persistent connection is timeout"}
        sim.lifetime = 3600.0
        link = await raw.live()
        assert (await link.next(timeout=4000))["headers"]["topic"] == "disconnect"


async def test_both_heartbeats() -> None:
    async with platform() as (sim, raw):
        sim.ping_interval = 20.0
        link = await raw.live()
        for _ in range(2):
            ping = await link.next(timeout=25)
            assert ping["headers"]["topic"] == "ping"
            await link.ack(ping, data=ping["data"])
        await link.ws.ping(b"x")
        assert (await link.ws.receive(5)).type is aiohttp.WSMsgType.PONG
        assert facts(sim, "beat", "kind") == ["system", "system", "ws"]
        sim.faults.arm("no_pong")
        await link.ws.ping(b"y")
        with pytest.raises(TimeoutError):
            await link.ws.receive(5)
        assert sim.listening()


async def test_half_open_answers_nothing() -> None:
    async with platform() as (sim, raw):
        sim.faults.arm("half_open")
        link = await raw.live()
        assert not sim.listening()
        key = sim.say("into the void")
        await link.ws.ping(b"x")
        with pytest.raises(TimeoutError):
            await link.next(timeout=100)
        assert facts(sim, "lost") == [key]
        fresh = await raw.live()
        sim.say("heard")
        assert (await fresh.next())["data"]["text"] == {"content": "heard"}
        sim.half_open()
        assert not sim.listening()


async def test_a_connection_that_leaves_a_ping_unanswered_gets_nothing_while_another_is_there() -> (
    None
):
    async with platform() as (sim, raw):
        sim.ping_interval = 20.0
        silent, link = await raw.live(), await raw.live()
        for n in range(3):  # the silent one's first is answered, its second is overdue by the third
            ping = await link.next(timeout=25)
            await link.ack(ping, data=ping["data"])
            if n == 0:
                ping = await silent.next()
                await silent.ack(ping, data=ping["data"])
        for n in range(20):
            sim.say(str(n))
        assert facts(sim, "pushed", "n") == [2] * 20
        pings = [await silent.next(), await silent.next()]
        await silent.ack(pings[-1], data=pings[-1]["data"])
        await sim.until(lambda: sim.count("beat") == 5)
        for n in range(20):
            sim.say(str(n))
        assert set(facts(sim, "pushed", "n")[20:]) == {1, 2}


async def test_mute_is_a_zombie_that_pongs() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("mute", times=None)
        assert not sim.listening()
        key = sim.say("withheld")
        await link.ws.ping(b"x")
        assert (await link.ws.receive(5)).type is aiohttp.WSMsgType.PONG
        sim.faults.clear()
        sim.say("again")
        assert (await link.next())["data"]["text"] == {"content": "again"}
        assert facts(sim, "lost") == [key]


async def test_private_and_group_messages() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        key = sim.say("hello")
        frame = await link.next()
        assert (frame["type"], frame["headers"]["topic"]) == ("CALLBACK", BOT_TOPIC)
        data = frame["data"]
        assert (data["msgId"], data["conversationType"]) == (key, "1")
        assert data["sessionWebhookExpiredTime"] - data["createAt"] == 5_400_100
        assert "conversationTitle" not in data
        sim.say("hi all", chat="room", sender="bob", group=True)
        data = (await link.next())["data"]
        assert data["text"] == {"content": " hi all"}
        assert (data["conversationType"], data["isInAtList"]) == ("2", True)
        assert data["atUsers"] == [{"dingtalkId": data["chatbotUserId"]}]
        assert data["conversationId"] != data["senderStaffId"]


async def test_acks_and_what_is_unproven() -> None:
    async with platform() as (sim, raw):
        lost = sim.say("nobody is there")
        link = await raw.live()
        first, second, third = (sim.say(str(n)) for n in range(3))
        await link.ack(await link.next(), data={"response": None})
        await link.ack(await link.next(), code=500)
        await link.ws.send_str("{not json")
        await sim.until(lambda: sim.count("bad-frame") == 1)
        await link.ws.close()
        await sim.until(lambda: sim.count("ws-closed") == 1)
        assert facts(sim, "lost") == [lost]
        assert (facts(sim, "ack"), facts(sim, "nack")) == ([first], [second])
        assert facts(sim, "unproven") == [second, third]


async def test_no_redelivery_unless_the_fault_plays() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.say("once")
        await link.next()
        with pytest.raises(TimeoutError):
            await link.next(timeout=300)
        sim.faults.arm("redeliver")
        key = sim.say("twice")
        pushed = [await link.next()]
        pushed.append(await link.next(timeout=61))
        assert [frame["data"]["msgId"] for frame in pushed] == [key, key]
        assert pushed[0]["headers"]["messageId"] != pushed[1]["headers"]["messageId"]
        sim.faults.arm("redeliver", after=5)
        sim.say("acknowledged")
        await link.ack(await link.next())
        with pytest.raises(TimeoutError):
            await link.next(timeout=300)


async def test_odd_frames_before_a_push() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        for fault in ("bad_frame", "no_headers", "unknown_topic", "big_frame"):
            sim.faults.arm(fault)
        sim.say("large")
        assert await link.next() == "{not json"
        assert "headers" not in await link.next()
        assert (await link.next())["headers"]["topic"] == "/v1.0/new"
        frame = await link.next()
        assert frame["data"]["text"] == {"content": "large"}
        assert len(json.dumps(frame)) > 300 * 1024
        sim.faults.arm("no_staff_id")
        sim.say("stranger")
        assert "senderStaffId" not in (await link.next())["data"]


@pytest.mark.parametrize("size", [0, 1000, 100_000])
async def test_a_frame_in_fragments_is_one_message(size: int) -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("split_frame", parts=4, delay=1)
        started = sim.now()
        sim.say("é" * size)
        sim.say("next")
        assert (await link.next())["data"]["text"] == {"content": "é" * size}
        assert sim.now() - started >= 3
        assert (await link.next())["data"]["text"] == {"content": "next"}


async def test_duplicates_and_overtaking() -> None:
    async with platform() as (sim, raw):
        one = await raw.live()
        sim.faults.arm("dup_event")
        sim.say("double")
        first, second = await one.next(), await one.next()
        assert first["data"] == second["data"]
        assert first["headers"]["messageId"] != second["headers"]["messageId"]
        sim.faults.arm("out_of_order")
        sim.say("slow")
        sim.say("fast")
        assert [(await one.next())["data"]["text"]["content"] for _ in "12"] == ["fast", "slow"]
        two = await raw.live()
        sim.faults.arm("dup_elsewhere")
        key = sim.say("both")
        assert (await one.next())["data"]["msgId"] == (await two.next())["data"]["msgId"] == key


async def test_two_connections_share_a_burst() -> None:
    async with platform() as (sim, raw):
        links = [await raw.live(), await raw.live()]
        for n in range(200):
            sim.say(str(n))
        shares = [facts(sim, "pushed", "n").count(n) for n in (1, 2)]
        assert sum(shares) == 200
        assert min(shares) > 60
        got = [
            await link.next()
            for link, share in zip(links, shares, strict=True)
            for _ in range(share)
        ]
        assert {frame["data"]["text"]["content"] for frame in got} == set(map(str, range(200)))


async def test_events_are_pushed_until_acknowledged() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        key = sim.happen("user_add_org", {"userId": ["staff-zoe"]})
        await link.ack(await link.next(), data={"status": "LATER"})
        frame = await link.next(timeout=11)
        assert (frame["headers"]["eventId"], frame["headers"]["eventType"]) == (key, "user_add_org")
        await link.ack(frame, data={"status": "SUCCESS"})
        with pytest.raises(TimeoutError):
            await link.next(timeout=100)
        assert (facts(sim, "nack"), facts(sim, "ack")) == ([key], [key])


async def test_webhook_replies_and_their_complaints() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.say("hello")
        webhook = (await link.next())["data"]["sessionWebhook"]
        assert await raw.post(webhook, text("hi")) == (200, {"errcode": 0, "errmsg": "ok"})
        markdown = {"msgtype": "markdown", "markdown": {"title": "t", "text": "# x"}}
        assert (await raw.post(webhook, markdown))[1]["errcode"] == 0
        assert [(h.chat, h.text) for h in sim.heard] == [("alice", "hi"), ("alice", "# x")]
        assert (await raw.post(webhook, text("x" * 20_001)))[1]["errcode"] == 460101
        assert (await raw.post(webhook, {"msgtype": "odd"}))[1]["errcode"] == 40035
        for fault, code in (("webhook_too_fast", 130101), ("webhook_gone", 300001)):
            sim.faults.arm(fault)
            status, answer = await raw.post(webhook, text("no"))
            assert (status, answer["errcode"]) == (200, code)
        sim.faults.arm("webhook_error", errcode=310000)
        assert (await raw.post(webhook, text("no")))[1]["errcode"] == 310000
        await asyncio.sleep(5401)
        assert (await raw.post(webhook, text("late")))[1]["errcode"] == 300001
        sim.faults.arm("webhook_expired")
        sim.say("hello again")
        webhook = (await link.next())["data"]["sessionWebhook"]
        assert (await raw.post(webhook, text("no")))[1]["errcode"] == 300001
        assert len(sim.heard) == 2


async def test_tokens_and_faults_of_any_call() -> None:
    async with platform() as (sim, raw):
        for fault, status in (("token_400", 400), ("token_500", 500)):
            sim.faults.arm(fault)
            assert (await raw.post("/v1.0/oauth2/accessToken", {}))[0] == status
        answer = await raw.post("/v1.0/oauth2/accessToken", {"appKey": "x", "appSecret": "y"})
        assert answer[1]["code"] == "invalidClientIdOrSecret"
        await raw.login()
        first = raw.token
        faults = {"api_401": 401, "api_403": 403, "api_429": 429, "api_qps": 403, "api_500": 500}
        for fault, status in (faults | {"api_html": 502}).items():
            sim.faults.arm(fault)
            assert (await raw.post(GROUP_SEND, {}))[0] == status
        assert (await raw.post(GROUP_SEND, {}))[0] == 400
        sim.expire_tokens()
        assert (await raw.post(GROUP_SEND, {}))[1]["code"] == "InvalidAuthentication"
        await raw.login()
        assert raw.token != first
        sim.faults.arm("token_hang")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await raw.login()


async def test_heartbeats_are_late_or_left_out() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("pong_late", delay=4)
        began = sim.now()
        await link.ws.ping(b"there?")
        assert await link.next(10.0) == b"there?"
        assert sim.now() - began >= 4
        sim.faults.arm("no_ping")
        sim.ping_all()
        with pytest.raises(TimeoutError):
            await link.next()


async def test_a_second_client_takes_every_other_message() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("split", times=None)
        for number in range(4):
            sim.say(f"text {number}")
        frames = [await link.next() for _ in range(2)]
        assert [f["data"]["text"]["content"] for f in frames] == ["text 1", "text 3"]
        assert sim.count("elsewhere") == 2
