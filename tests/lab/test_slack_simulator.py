"""The Slack simulator, spoken to frame by frame: opening, envelopes, retries, faults, calls."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from holdfast.lab.simulators.slack import SlackSimulator
from holdfast.lab.simulators.slack_rules import BOT_USER, ApiError
from holdfast.lab.simulators.slack_world import SUBSCRIPTIONS

PNG = b"\x89PNG\r\n\x1a\n" + bytes(8)


class Raw:
    """A client without any manners of its own."""

    def __init__(self, sim: SlackSimulator, http: aiohttp.ClientSession) -> None:
        self.sim, self.http = sim, http
        self.sockets: list[Socket] = []

    async def call(
        self, method: str, token: str | None = None, host: str | None = None, **params: Any
    ) -> tuple[int, Any]:
        """A JSON call; the status and the body, or the text where it is not JSON."""
        headers = {"Authorization": f"Bearer {token or self.sim.bot_token}"}
        headers |= {"Host": host} if host else {}
        url = f"{self.sim.account()['api_url']}{method}"
        async with self.http.post(url, json=params, headers=headers) as response:
            text = await response.text()
            self.headers = response.headers
            try:
                return response.status, json.loads(text)
            except ValueError:
                return response.status, text

    async def ticket(self, host: str | None = None) -> str:
        _, body = await self.call("apps.connections.open", self.sim.app_token, host)
        assert body["ok"], body
        return str(body["url"])

    async def connect(self, url: str | None = None, host: str | None = None) -> Socket:
        """A socket on which nothing was read yet."""
        url = url or await self.ticket()
        headers = {"Host": host} if host else None
        ws = await self.http.ws_connect(url, headers=headers, autoping=False)
        self.sockets.append(Socket(ws))
        return self.sockets[-1]

    async def live(self, host: str | None = None) -> Socket:
        """A socket after hello."""
        link = await self.connect(host=host)
        assert (await link.next())["type"] == "hello"
        return link


class Socket:
    """One socket of the raw client; it answers the server's pings while it waits."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws
        self.pongs: list[bytes] = []

    async def next(self, timeout: float = 10.0) -> Any:
        """The next frame, or a close code as a number; TimeoutError when nothing comes."""
        async with asyncio.timeout(timeout):
            while True:
                message = await self.ws.receive()
                if message.type is aiohttp.WSMsgType.PING:
                    await self.ws.pong(message.data)
                elif message.type is aiohttp.WSMsgType.PONG:
                    self.pongs.append(message.data)
                elif message.type is aiohttp.WSMsgType.TEXT:
                    is_json = message.data.startswith('{"')
                    return json.loads(message.data) if is_json else message.data
                else:
                    return message.data

    async def event(self, timeout: float = 10.0) -> tuple[dict[str, Any], dict[str, Any]]:
        """The next envelope and its event."""
        frame = await self.next(timeout)
        return frame, frame["payload"]["event"]

    async def ack(self, frame: dict[str, Any]) -> None:
        await self.ws.send_json({"envelope_id": frame["envelope_id"]})

    async def silent(self, seconds: float) -> None:
        """Nothing but pings comes for so long."""
        with pytest.raises(TimeoutError):
            await self.next(seconds)


@contextlib.asynccontextmanager
async def platform() -> AsyncIterator[tuple[SlackSimulator, Raw]]:
    async with aiohttp.ClientSession() as http:
        async with SlackSimulator() as sim:
            raw = Raw(sim, http)
            yield sim, raw
        for link in raw.sockets:
            await link.ws.close()


def facts(sim: SlackSimulator, what: str, key: str = "id") -> list[Any]:
    return [record.detail[key] for record in sim.log if record.what == what]


# -- opening ------------------------------------------------------------------------------------


async def test_hello_beats_and_truth() -> None:
    async with platform() as (sim, raw):
        link = await raw.connect()
        hello = await link.next()
        assert (hello["num_connections"], sim.listening()) == (1, True)
        await link.ws.ping(b"sdk-ping-pong:1")
        await link.silent(12)
        assert link.pongs == [b"sdk-ping-pong:1"]
        assert (sim.count("beat"), sim.count("pong")) == (1, 2)
        await link.ws.close()
        await sim.until(lambda: sim.count("link-lost") == 1)
        assert not sim.listening()
        story = ["login", "ws-open", "ready", "link-open", "link-lost"]
        assert [r.what for r in sim.log if r.what in story] == story


async def test_a_ticket_is_good_once_and_for_a_short_time() -> None:
    async with platform() as (sim, raw):
        url = await raw.ticket()
        await raw.connect(url)
        for bad in (url, await raw.ticket()):
            await asyncio.sleep(31)
            with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
                await raw.connect(bad)
        assert sim.count("bad-ticket") == 2


async def test_addresses_follow_the_host_header() -> None:
    async with platform() as (sim, raw):
        assert (await raw.ticket("relay.test:9")).startswith("ws://relay.test:9/link/?ticket=")
        link = await raw.live(host="relay.test:9")
        sim.say("look", image=PNG)
        _, event = await link.event()
        assert event["files"][0]["url_private"].startswith("http://relay.test:9/files-pri/")


@pytest.mark.parametrize(
    ("method", "token", "error"),
    [
        ("auth.test", "xoxb-wrong", "invalid_auth"),
        ("auth.test", "xapp-1-A0HOLD-1-holdfast", "not_allowed_token_type"),
        ("apps.connections.open", "xoxb-1-holdfast", "not_allowed_token_type"),
        ("no.such", "xoxb-1-holdfast", "unknown_method"),
    ],
)
async def test_bad_tokens_are_refused_inside_http_200(method: str, token: str, error: str) -> None:
    async with platform() as (_, raw):
        assert await raw.call(method, token) == (200, {"ok": False, "error": error})


@pytest.mark.parametrize("status", [403, 408, 409, 500])
async def test_refused_handshake_uses_up_the_ticket(status: int) -> None:
    async with platform() as (sim, raw):
        sim.faults.arm("handshake_refused", status=status)
        url = await raw.ticket()
        with pytest.raises(aiohttp.WSServerHandshakeError, match=str(status)):
            await raw.connect(url)
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await raw.connect(url)


async def test_hanging_openings() -> None:
    async with platform() as (sim, raw):
        sim.faults.arm("open_hangs")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(raw.ticket(), 60)
        sim.faults.arm("handshake_hangs")
        url = await raw.ticket()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(raw.connect(url), 60)
        sim.faults.arm("no_hello")
        link = await raw.connect()
        await link.silent(60)
        assert not sim.listening()


@pytest.mark.parametrize("code", [1000, 1001, 1011])
@pytest.mark.parametrize("fault", ["close_after_accept", "close_after_hello"])
async def test_close_codes_at_opening(fault: str, code: int) -> None:
    async with platform() as (sim, raw):
        sim.faults.arm(fault, code=code)
        link = await raw.connect()
        if fault == "close_after_hello":
            assert (await link.next())["type"] == "hello"
        assert await link.next() == code
        assert not sim.listening()


async def test_the_eleventh_socket_is_one_too_many() -> None:
    async with platform() as (sim, raw):
        for _ in range(10):
            await raw.live()
        link = await raw.connect()
        assert (await link.next())["reason"] == "too_many_websockets"
        assert await link.next() == 1000
        assert sim.connections() == 10


async def test_link_disabled_until_enabled_and_closed_with_a_code() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        await sim.disable()
        assert (await link.next())["reason"] == "link_disabled"
        again = await raw.connect()
        assert (await again.next())["reason"] == "link_disabled"
        sim.enable()
        link = await raw.live()
        await sim.close_all(1011)
        assert await link.next() == 1011


# -- life ---------------------------------------------------------------------------------------


async def test_a_warning_leaves_ten_seconds() -> None:
    async with platform() as (sim, raw):
        sim.faults.arm("goodbye", reason="warning", after=2)
        link, began = await raw.live(), sim.now()
        assert (await link.next())["reason"] == "warning"
        assert sim.listening()
        assert await link.next(20) == 1000
        assert sim.now() - began == pytest.approx(12, abs=0.5)


@pytest.mark.parametrize("reason", ["refresh_requested", "too_many_websockets", "link_disabled"])
async def test_other_goodbyes_close_at_once(reason: str) -> None:
    async with platform() as (sim, raw):
        link, began = await raw.live(), sim.now()
        await sim.goodbye(reason)
        assert not sim.listening()
        assert (await link.next())["reason"] == reason
        assert await link.next() == 1000
        sim.faults.arm("disconnect_for_hello", reason=reason)
        assert (await (await raw.connect()).next())["reason"] == reason
        assert sim.now() - began < 1


async def test_debug_reconnects_end_after_six_minutes() -> None:
    async with platform() as (sim, raw):
        link = await raw.connect(await raw.ticket() + "&debug_reconnects=true")
        hello = await link.next()
        assert hello["debug_info"]["approximate_connection_time"] == 360
        assert (await link.next(400))["reason"] == "warning"
        assert sim.now() == pytest.approx(1350, abs=1)


async def test_half_open_and_pingless_links() -> None:
    async with platform() as (sim, raw):
        sim.faults.arm("no_ping", times=None)
        sim.faults.arm("no_pong")
        link = await raw.live()
        await link.ws.ping(b"x")
        await link.silent(20)
        assert (link.pongs, sim.count("pong"), sim.listening()) == ([], 0, True)
        sim.faults.arm("half_open")
        frozen = await raw.live()
        await link.ws.close()
        await sim.until(lambda: sim.connections() == 1)
        assert not sim.listening()
        await frozen.ws.ping(b"x")
        await frozen.silent(100)
        assert (frozen.pongs, sim.connections()) == ([], 0)


async def test_a_silent_client_is_forgotten() -> None:
    async with platform() as (sim, raw):
        await raw.live()
        await sim.until(lambda: sim.count("link-lost") == 1, timeout=60)
        assert sim.now() == pytest.approx(1035, abs=1)


# -- events -------------------------------------------------------------------------------------


async def test_direct_message_mention_and_thread() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        key = sim.say("a < b")
        frame, event = await link.event()
        assert (event["text"], event["channel_type"], event["ts"]) == ("a &lt; b", "im", key)
        assert (frame["retry_attempt"], frame["accepts_response_payload"]) == (0, False)
        root = sim.say("status?", chat="ops", group=True)
        one, mention = await link.event()
        two, twin = await link.event()
        assert (mention["type"], twin["type"]) == ("app_mention", "message")
        assert mention["ts"] == twin["ts"] == root
        assert mention["text"] == f"<@{BOT_USER}> status?"
        assert one["payload"]["event_id"] != two["payload"]["event_id"]
        sim.say("and now?", chat="ops", group=True, mention=False, reply_to=root)
        _, reply = await link.event()
        assert (reply["type"], reply["thread_ts"]) == ("message", root)


@pytest.mark.parametrize(
    ("kind", "types"),
    [("channel", "public_channel"), ("group", "private_channel"), ("mpim", "mpim")],
)
async def test_each_kind_of_chat_has_its_own_event_and_list(kind: str, types: str) -> None:
    async with platform() as (sim, raw):
        sim.subscriptions = {SUBSCRIPTIONS[kind]}
        link = await raw.live()
        for other in SUBSCRIPTIONS:
            sim.channel_id(other, group=other != "im", kind=other)
            sim.say(other, chat=other, group=other != "im", mention=False)
        frame, event = await link.event()
        await link.ack(frame)
        assert (event["text"], event["channel_type"]) == (kind, kind)
        await link.silent(2)
        answer = (await raw.call("users.conversations", sim.bot_token, types=types))[1]
        (shown,) = answer["channels"]
        assert shown["id"] == event["channel"]
        assert [shown["is_mpim"], shown["is_private"]] == [kind == "mpim", kind != "channel"]


async def test_edits_deletions_and_files() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        key = sim.say("see", file=("a.txt", b"text"))
        _, event = await link.event()
        assert (event["subtype"], event["files"][0]["size"]) == ("file_share", 4)
        url = event["files"][0]["url_private_download"]
        good = {"Authorization": f"Bearer {sim.bot_token}"}
        async with raw.http.get(url, headers=good) as response:
            assert await response.read() == b"text"
        async with raw.http.get(url) as response:
            assert response.content_type == "text/html"
        sim.faults.arm("file_login_page")
        async with raw.http.get(url, headers=good) as response:
            assert (response.status, response.content_type) == (200, "text/html")
        sim.say("saw", edit_of=key)
        _, edit = await link.event()
        assert (edit["subtype"], edit["message"]["text"]) == ("message_changed", "saw")
        assert edit["message"]["ts"] == key
        sim.delete(key)
        _, gone = await link.event()
        assert (gone["subtype"], gone["deleted_ts"]) == ("message_deleted", key)
        with pytest.raises(ApiError, match="message_not_found"):
            sim.say("too late", edit_of=key)


async def test_unacked_event_comes_again_in_new_envelopes_until_it_is_lost() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        key, frames, times = sim.say("anyone?"), [], []
        for _ in range(4):
            frames.append(await link.next(400))
            times.append(round(sim.now() - 1000))
        assert times == [0, 3, 66, 369]
        assert [f["retry_attempt"] for f in frames] == [0, 1, 2, 3]
        assert [f["retry_reason"] for f in frames] == ["", "timeout", "timeout", "timeout"]
        assert len({f["envelope_id"] for f in frames}) == 4
        assert len({f["payload"]["event_id"] for f in frames}) == 1
        await link.silent(400)
        assert facts(sim, "lost") == [key]


async def test_an_ack_counts_on_its_own_socket_in_time_and_once() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        key = sim.say("hello")
        frame = await link.next()
        other = await raw.live()
        await other.ack(frame)
        await sim.until(lambda: sim.count("ack-stray") == 1)
        await link.ack(frame)
        await link.ack(frame)
        await sim.until(lambda: sim.count("ack-stray") == 2)
        assert (facts(sim, "ack"), facts(sim, "ack", "attempt")) == ([key], [0])
        await link.silent(500)
        assert sim.count("lost") == 0


async def test_envelopes_are_spread_over_sockets() -> None:
    async with platform() as (sim, raw):
        links = [await raw.live() for _ in range(2)]
        for number in range(20):
            sim.say(str(number))
        counts = [0, 0]
        for number, link in enumerate(links):
            with contextlib.suppress(TimeoutError):
                while await link.next(1):
                    counts[number] += 1
        assert sum(counts) == 20
        assert min(counts) > 2


async def test_without_a_socket_an_event_is_lost_but_a_retry_waits() -> None:
    async with platform() as (sim, raw):
        gone = sim.say("nobody is there", chat="ops", group=True)
        link = await raw.live()
        kept = sim.say("half way")
        await link.next()
        sim.drop_all()
        await asyncio.sleep(5)
        again = await raw.live()
        frame, event = await again.event(70)
        assert (event["ts"], frame["retry_attempt"]) == (kept, 2)
        assert facts(sim, "lost") == [gone]


async def test_event_faults() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("bad_frame")
        sim.faults.arm("unknown_frame")
        sim.faults.arm("split_frame", parts=7)
        sim.say("x" * 3000)
        assert await link.next() == "{not json"
        assert (await link.next())["type"] == "something_new"
        assert (await link.event())[1]["text"] == "x" * 3000
        sim.faults.arm("out_of_order")
        sim.say("first")
        sim.say("second")
        assert [(await link.event())[1]["text"] for _ in range(2)] == ["second", "first"]
        sim.faults.arm("dup_event")
        sim.say("double")
        one, two = await link.next(), await link.next()
        assert one["payload"] == two["payload"]
        assert one["envelope_id"] != two["envelope_id"]


async def test_late_twin_lost_event_and_lost_ack() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.subscriptions = {"app_mention", "message.im"}
        sim.faults.arm("mention_twin", delay=1.5)
        sim.say("status?", chat="ops", group=True)
        frame, event = await link.event()
        began = sim.now()
        await link.ack(frame)
        frame, twin = await link.event()
        await link.ack(frame)
        assert (event["type"], twin["type"]) == ("app_mention", "message")
        assert sim.now() - began == pytest.approx(1.5, abs=0.2)
        sim.faults.arm("event_lost")
        gone = sim.say("never sent")
        assert facts(sim, "lost") == [gone]
        sim.faults.arm("ack_lost")
        sim.say("again")
        frame, _ = await link.event()
        await link.ack(frame)
        assert (await link.next())["retry_attempt"] == 1


async def test_abort_on_event_and_the_retry_after_it() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("abort_on_event")
        key = sim.say("cut off")
        assert (await link.event())[1]["ts"] == key
        await sim.until(lambda: sim.count("link-lost") == 1)
        again = await raw.live()
        assert (await again.event())[0]["retry_attempt"] == 1


async def test_mute_link_is_a_zombie_that_pongs() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("mute", times=None)
        assert not sim.listening()
        key = sim.say("hello?")
        await link.ws.ping(b"x")
        await link.silent(30)
        assert link.pongs == [b"x"]
        sim.faults.clear("mute")
        assert sim.listening()
        assert (await link.event(60))[1]["ts"] == key


# -- calls --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "params", "status", "answer"),
    [
        ("api_error", {"error": "missing_scope", "needed": "x"}, 200, "missing_scope"),
        ("api_500", {"status": 503}, 503, None),
        ("api_html", {}, 200, None),
        ("malformed_json", {}, 200, None),
        ("api_429", {"retry_after": 7}, 429, "ratelimited"),
        ("auth_error", {}, 200, "invalid_auth"),
        ("open_error", {"error": "forbidden_team"}, 200, "forbidden_team"),
        ("open_500", {}, 500, None),
        ("open_429", {"retry_after": None}, 429, "ratelimited"),
        ("send_error", {"error": "is_archived"}, 200, "is_archived"),
        ("send_500", {}, 500, None),
        ("send_429", {}, 429, "ratelimited"),
    ],
)
async def test_refusing_faults(
    fault: str, params: dict[str, Any], status: int, answer: str | None
) -> None:
    async with platform() as (sim, raw):
        sim.faults.arm(fault, **params)
        method, token = "auth.test", sim.bot_token
        if fault.startswith("open"):
            method, token = "apps.connections.open", sim.app_token
        if fault.startswith("send"):
            method = "chat.postMessage"
        channel = sim.channel_id("alice")
        got, body = await raw.call(method, token, channel=channel, text="hi")
        assert got == status
        assert (body["error"] if answer else isinstance(body, str)) == (answer or True)
        if status == 429:
            wanted = {"api_429": "7", "open_429": None, "send_429": "1"}[fault]
            assert raw.headers.get("Retry-After") == wanted
        assert (await raw.call(method, token, channel=channel, text="hi"))[1]["ok"]


async def test_a_late_pong_and_a_huge_frame() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("pong_late", delay=4)
        sim.faults.arm("huge_frame", size=100_000)
        await link.ws.ping(b"there?")
        await link.silent(3)
        assert link.pongs == []
        sim.say("after it")
        assert len((await link.next())["debug_info"]) == 100_000
        _, event = await link.event()
        assert event["text"] == "after it"
        await link.silent(2)
        assert link.pongs == [b"there?"]


async def test_a_second_client_is_told_of_and_takes_every_other_event() -> None:
    async with platform() as (sim, raw):
        sim.faults.arm("split", times=None)
        link = await raw.connect()
        assert (await link.next())["num_connections"] == 2
        for number in range(4):
            sim.say(f"text {number}")
        texts = []
        for _ in range(2):
            frame, event = await link.event()
            await link.ack(frame)
            texts.append(event["text"])
        assert texts == ["text 1", "text 3"]
        await link.silent(5)
