"""The QQ bot simulator, spoken to frame by frame: events, sending, media."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import aiohttp
import pytest

from holdfast.lab.simulators.qqbot_rules import Intent
from tests.lab.qqbot_client import PNG, facts, platform, resumed

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
        await link.identify(intents=int(Intent.GUILDS))
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
