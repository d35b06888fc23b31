"""The Feishu simulator, spoken to frame by frame; calls and web hooks have a file of their own."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from yarl import URL

from holdfast.lab.simulators.feishu_frames import Frame, control, event_frames
from holdfast.lab.simulators.feishu_rules import ENDPOINT_CODES
from tests.lab.feishu_client import facts, platform

# -- frames -------------------------------------------------------------------------------------


def test_frames_are_those_of_the_sdk() -> None:
    ping = control("ping", 33554678).encode().hex()
    assert ping == "0800100018f681801020002a0c0a0474797065120470696e67"
    names = (
        ("type", "event"),
        ("message_id", "m1"),
        ("sum", "1"),
        ("seq", "0"),
        ("trace_id", "t1"),
    )
    data = Frame(method=1, service=33554678, headers=names, payload=b"{}", seq_id=7, log_id=9)
    assert data.encode().hex() == (
        "0807100918f681801020012a0d0a047479706512056576656e742a100a0a6d6573736167655f69641202"
        "6d312a080a0373756d1201312a080a037365711201302a0e0a0874726163655f69641202743142027b7d"
    )
    assert Frame.decode(data.encode()) == data


@pytest.mark.parametrize("raw", ["ff", "0800", "0800100018f6818010"])
def test_broken_frames_are_refused(raw: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        Frame.decode(bytes.fromhex(raw))


def test_parts_join_to_the_payload() -> None:
    frames = event_frames(b"0123456", message_id="m", service=1, number=1, moment="0", parts=3)
    assert b"".join(f.payload or b"" for f in frames) == b"0123456"
    assert [(f.header("sum"), f.header("seq")) for f in frames] == [
        ("3", "0"),
        ("3", "1"),
        ("3", "2"),
    ]


# -- endpoint and upgrade -----------------------------------------------------------------------


async def test_endpoint_names_a_socket_behind_the_relay() -> None:
    async with platform() as (_, raw):
        status, answer = await raw.endpoint(headers={"Host": "relay.test:99"})
        url = URL(answer["data"]["URL"])
        assert (status, answer["code"], url.authority) == (200, 0, "relay.test:99")
        assert {"device_id", "service_id"} <= set(url.query)
        assert answer["data"]["ClientConfig"] == {
            "ReconnectCount": -1,
            "ReconnectInterval": 120,
            "ReconnectNonce": 30,
            "PingInterval": 120,
        }


@pytest.mark.parametrize(("name", "code"), [(n, c) for n, (c, _) in ENDPOINT_CODES.items()])
async def test_endpoint_codes(name: str, code: int) -> None:
    async with platform() as (sim, raw):
        sim.faults.arm(name)
        status, answer = await raw.endpoint()
        assert (status, answer["code"], answer["data"]["URL"]) == (200, code, "")
        assert (await raw.endpoint())[1]["code"] == 0


async def test_endpoint_spoilt_otherwise() -> None:
    async with platform() as (sim, raw):
        sim.faults.arm("endpoint_http", status=403)
        assert (await raw.endpoint())[0] == 403
        sim.faults.arm("endpoint_429", reset=30)
        assert (await raw.endpoint())[0] == 429
        assert raw.headers["x-ogw-ratelimit-reset"] == "30"
        sim.faults.arm("endpoint_garbage")
        assert b"<html>" in (await raw.endpoint())[1]
        sim.faults.arm("endpoint_no_data")
        assert "data" not in (await raw.endpoint())[1]
        sim.faults.arm("endpoint_no_config")
        assert "ClientConfig" not in (await raw.endpoint())[1]["data"]
        sim.faults.arm("endpoint_partial_config")
        assert (await raw.endpoint())[1]["data"]["ClientConfig"] == {"PingInterval": 120}
        sim.faults.arm("endpoint_no_ids")
        assert "service_id" not in (await raw.endpoint())[1]["data"]["URL"]
        sim.faults.arm("endpoint_slow", delay=50)
        began = sim.now()
        assert (await raw.endpoint())[0] == 200
        assert sim.now() - began >= 50
        sim.faults.arm("endpoint_hang")
        with pytest.raises(TimeoutError):
            await raw.endpoint(timeout=aiohttp.ClientTimeout(total=100))
        sim.revoke()
        assert (await raw.endpoint())[1]["code"] == 1000040345


@pytest.mark.parametrize(
    ("fault", "handshake"),
    [
        ("upgrade_rejected", (None, None)),
        ("upgrade_busy", ("500", None)),
        ("upgrade_forbidden", ("403", None)),
        ("upgrade_auth_failed", ("514", "1000040343")),
        ("upgrade_too_many", ("514", "1000040350")),
    ],
)
async def test_upgrades_are_rejected(fault: str, handshake: tuple[str | None, ...]) -> None:
    async with platform() as (sim, raw):
        sim.faults.arm(fault)
        with pytest.raises(aiohttp.WSServerHandshakeError) as caught:
            await raw.live()
        headers: Any = caught.value.headers or {}
        assert handshake == tuple(
            headers.get(f"Handshake-{name}") for name in ("Status", "Autherrcode")
        )
        await raw.live()


async def test_an_address_is_good_once_and_connections_are_limited() -> None:
    async with platform() as (sim, raw):
        sim.max_links = 1
        url = (await raw.endpoint())[1]["data"]["URL"]
        async with raw.http.ws_connect(url):
            await sim.until(sim.listening)
            assert (await raw.endpoint())[1]["code"] == 1000040350
        await sim.until(lambda: not sim.listening())
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await raw.http.ws_connect(url)


# -- connection ---------------------------------------------------------------------------------


async def test_pings_are_answered_with_the_config() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.ping_interval = 60
        for fault, seen in (("", 4), ("pong_partial", 1), ("pong_empty", 0), ("pong_late", 4)):
            if fault:
                sim.faults.arm(fault)
            await link.put(control("ping", link.service))
            pong = await link.next(timeout=10)
            assert pong.header("type") == "pong"
            assert len(pong.json() if pong.payload else {}) == seen
        sim.faults.arm("no_pong")
        await link.put(control("ping", link.service))
        with pytest.raises(TimeoutError):
            await link.next()
        assert facts(sim, "beat", "kind") == ["frame"] * 5


async def test_web_socket_pings_are_answered_unless_told_otherwise() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        await link.ws.ping(b"x")
        assert (await link.ws.receive()).type is aiohttp.WSMsgType.PONG
        sim.faults.arm("no_ws_pong")
        await link.ws.ping(b"y")
        with pytest.raises(TimeoutError):
            await link.ws.receive(timeout=5)
        assert facts(sim, "beat", "kind") == ["ws", "ws"]


async def test_a_silent_client_is_dropped() -> None:
    async with platform() as (sim, raw):
        began, link = sim.now(), await raw.live()
        await asyncio.sleep(100)
        await link.put(control("ping", link.service))
        await sim.until(lambda: sim.count("idle") == 1, timeout=None)
        assert sim.now() - began == pytest.approx(460, abs=1)
        assert not sim.listening()


async def test_a_half_open_link_is_deaf_both_ways() -> None:
    async with platform() as (sim, raw):
        sim.faults.arm("half_open")
        link = await raw.live()
        assert not sim.listening()
        await link.put(control("ping", link.service))
        sim.say("into the void")
        with pytest.raises(TimeoutError):
            await link.next(timeout=30)
        assert sim.count("beat") == 0


async def test_ends_of_a_connection() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        await sim.close_all(1011)
        assert (await link.next(), link.ws.close_code) == (1011, 1011)
        sim.faults.arm("close_after_accept", code=1001)
        url = (await raw.endpoint())[1]["data"]["URL"]
        async with raw.http.ws_connect(url) as ws:
            assert (await ws.receive()).data == 1001
        sim.faults.arm("reset_after_accept")
        url = (await raw.endpoint())[1]["data"]["URL"]
        async with raw.http.ws_connect(url) as ws:
            assert (await ws.receive()).type in (
                aiohttp.WSMsgType.ERROR,
                aiohttp.WSMsgType.CLOSED,
            )
        link = await raw.live()
        sim.drop_all()
        assert (await link.ws.receive()).type in (
            aiohttp.WSMsgType.ERROR,
            aiohttp.WSMsgType.CLOSED,
        )
        assert (sim.count("link-open"), sim.count("link-lost")) == (2, 2)


# -- events -------------------------------------------------------------------------------------


async def test_an_event_is_pushed_acknowledged_and_not_repeated() -> None:
    async with platform() as (sim, raw):
        link, key = await raw.live(), sim.say("hello")
        frame = await link.next()
        body = frame.json()
        assert body["header"]["event_type"] == "im.message.receive_v1"
        message = body["event"]["message"]
        assert (message["message_id"], message["chat_type"]) == (key, "p2p")
        assert json.loads(message["content"]) == {"text": "hello"}
        await link.ack(frame)
        await sim.until(lambda: facts(sim, "ack") == [key])
        await asyncio.sleep(100_000)
        assert facts(sim, "pushed") == [key]


async def test_a_group_message_mentions_the_bot_and_a_reply_names_its_parent() -> None:
    async with platform() as (sim, raw):
        link, first = await raw.live(), sim.say("one", chat="team", group=True)
        message = (await link.event())["event"]["message"]
        assert json.loads(message["content"])["text"] == "@_user_1 one"
        await raw.login()
        _, info = await raw.call("/open-apis/bot/v3/info", method="GET")
        assert message["mentions"][0]["id"]["open_id"] == info["bot"]["open_id"]
        sim.say("two", chat="team", group=True, reply_to=first)
        message = (await link.event())["event"]["message"]
        assert (message["parent_id"], message["root_id"]) == (first, first)


async def test_an_event_is_repeated_as_documented_then_lost() -> None:
    async with platform() as (sim, raw):
        sim.idle_intervals = 1e6
        link, key, began = await raw.live(), sim.say("hello"), sim.now()
        ids, times = set(), []
        for _ in range(5):
            frame = await link.next(timeout=30_000)
            ids.add(frame.json()["header"]["event_id"])
            times.append(sim.now() - began)
            await link.ack(frame, code=500)
        assert times == pytest.approx([0, 15, 315, 3915, 25515], abs=1)
        await sim.until(lambda: facts(sim, "lost") == [key])
        assert (len(ids), facts(sim, "nack", "reason")) == (1, [500] * 5)


async def test_what_does_not_count_as_an_acknowledgement() -> None:
    async with platform() as (sim, raw):
        link, _ = await raw.live(), sim.say("hello")
        frame = await link.next()
        await link.ack(frame, seq_id=frame.seq_id + 1)
        await link.ack(frame, headers=frame.headers[:-1])
        await sim.until(lambda: sim.count("bad-frame") == 2)
        await asyncio.sleep(4)
        await link.ack(frame)
        await sim.until(lambda: facts(sim, "nack", "reason") == ["late"])
        await link.ack(await link.next(timeout=20))
        await sim.until(lambda: sim.count("ack") == 1)


async def test_a_missed_event_reaches_the_next_connection() -> None:
    async with platform() as (sim, raw):
        key = sim.say("anyone?")
        assert facts(sim, "undelivered", "reason") == ["no connection"]
        link = await raw.live()
        frame = await link.next(timeout=20)
        await link.ack(frame)
        await sim.until(lambda: facts(sim, "ack") == [key])


async def test_each_event_goes_to_one_of_several_connections() -> None:
    async with platform() as (sim, raw):
        links = [await raw.live(), await raw.live()]
        for _ in range(20):
            sim.say("hello")
        assert not any(link.ws.closed for link in links)
        assert set(facts(sim, "pushed", "n")) == {1, 2}
        assert sim.count("pushed") == 20


async def test_mute_is_a_zombie_that_pongs() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("mute", times=None)
        sim.say("hello")
        await link.put(control("ping", link.service))
        assert (await link.next()).header("type") == "pong"
        assert not sim.listening()


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("dup_event", ["m", "m"]),
        ("dup_message", ["m", "m"]),
        ("unknown_event", ["im.hologram.projected_v1", "m"]),
        ("server_ping", ["ping", "m"]),
        ("future_frame", ["future", "m"]),
        ("card_frame", ["card", "m"]),
        ("text_frame", ["{}", "m"]),
        ("big_event", ["m"]),
        ("out_of_order", ["m"]),
        ("unknown_message", ["m"]),
        ("no_user_id", ["m"]),
    ],
)
async def test_odd_pushes(fault: str, expected: list[str]) -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm(fault)
        key = sim.say("hello")
        got = []
        for _ in expected:
            frame = await link.next()
            if isinstance(frame, str) or frame.header("type") != "event":
                got.append(frame if isinstance(frame, str) else frame.header("type"))
                continue
            body = frame.json()
            found = body["event"].get("message", {}).get("message_id") == key
            got.append("m" if found else body["header"]["event_type"])
        assert got == expected
        assert sim.faults.played[fault] == 1


async def test_split_events_and_lost_parts_and_missing_headers() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("split_event", parts=3, order=[2, 0, 1])
        sim.say("hello")
        frames = [await link.next() for _ in range(3)]
        assert [f.header("seq") for f in frames] == ["2", "0", "1"]
        whole = b"".join(f.payload for f in sorted(frames, key=lambda f: f.header("seq")))
        assert b"hello" in whole
        await link.ack(frames[-1])
        await sim.until(lambda: sim.count("ack") == 1)
        sim.faults.arm("part_lost")
        sim.faults.arm("bad_frame")
        sim.faults.arm("header_missing", header="sum")
        sim.say("half")
        assert (await link.ws.receive()).data == b"\xff"
        part = await link.next()
        assert (part.header("seq"), part.header("sum")) == ("0", "")
        with pytest.raises(TimeoutError):
            await link.next()


async def test_an_acknowledged_event_may_come_again() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("dup_after_ack")
        sim.say("hello")
        frame = await link.next()
        await link.ack(frame)
        assert (await link.event())["header"] == frame.json()["header"]


async def test_a_button_is_answered_once_or_never() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        await raw.login()
        key = (await raw.send())[1]["data"]["message_id"]
        pressed = sim.press(key, {"decision": "yes"})
        frame = await link.next()
        assert frame.json()["event"]["action"]["value"] == {"decision": "yes"}
        await link.ack(frame, data={"toast": {"content": "ok"}})
        await sim.until(lambda: facts(sim, "ack") == [pressed])
        assert facts(sim, "card-answer", "answer") == [{"toast": {"content": "ok"}}]
        again = sim.press(key, {})
        await sim.until(lambda: facts(sim, "lost") == [again])


async def test_an_acknowledgement_is_overlooked_or_followed_by_a_late_double() -> None:
    async with platform() as (sim, raw):
        sim.redelivery = (20.0,)
        link = await raw.live()
        sim.faults.arm("ack_lost")
        sim.say("hello")
        await link.ack(await link.next())
        began = sim.now()
        again = await link.next(30.0)
        assert sim.now() - began > 19
        sim.faults.arm("dup_after_ack", delay=5.0)
        await link.ack(again)
        assert (await link.next(10.0)).json()["header"] == again.json()["header"]
        assert sim.now() - began > 24


async def test_a_second_client_takes_every_other_event() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("split", times=None)
        keys = [sim.say(f"text {number}") for number in range(4)]
        for _ in range(2):
            await link.ack(await link.next())
        await sim.until(lambda: sim.count("ack") == 4)
        assert facts(sim, "pushed") == keys[1::2]


async def test_a_link_is_closed_right_after_its_pong() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.faults.arm("close_when_live")
        await link.put(control("ping", link.service))
        assert (await link.next()).header("type") == "pong"
        assert await link.next() == 1000
        assert not sim.listening()
