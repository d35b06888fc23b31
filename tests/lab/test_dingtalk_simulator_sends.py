"""The DingTalk simulator, call by call: sends, files, cards."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from tests.lab.test_dingtalk_simulator import facts, platform, text

GROUP_SEND, USER_SEND = "/v1.0/robot/groupMessages/send", "/v1.0/robot/oToMessages/batchSend"
CARDS, STREAM = "/v1.0/card/instances", "/v1.0/card/streaming"


async def test_sends_that_are_lost_slow_or_swallowed() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        sim.say("hello")
        webhook = (await link.next())["data"]["sessionWebhook"]
        sim.faults.arm("send_429", retry_after=3)
        sim.faults.arm("send_500")
        assert [(await raw.post(webhook, text("no")))[0] for _ in "12"] == [429, 500]
        sim.faults.arm("send_swallowed")
        assert (await raw.post(webhook, text("gone")))[1]["errcode"] == 0
        assert sim.heard == []
        sim.faults.arm("send_answer_lost")
        with pytest.raises(aiohttp.ClientError):
            await raw.post(webhook, text("lost answer"))
        sim.faults.arm("send_slow_but_delivered")
        started = sim.now()
        await raw.post(webhook, text("slow"))
        assert sim.now() - started >= 8
        assert [h.text for h in sim.heard] == ["lost answer", "slow"]


async def test_openapi_sends() -> None:
    async with platform() as (sim, raw):
        room = sim.know("room", group=True)
        sim.know("alice")
        body = {"robotCode": sim.client_id, "msgKey": "sampleText"}
        body["msgParam"] = json.dumps({"content": "hi"})
        group = body | {"openConversationId": room.id}
        assert (await raw.post(GROUP_SEND, group))[0] == 401
        await raw.login()
        status, sent = await raw.post(GROUP_SEND, group)
        assert (status, sim.heard[0].id) == (200, sent["processQueryKey"])
        users = body | {"userIds": ["staff-alice", "staff-nobody"]}
        assert (await raw.post(USER_SEND, users))[1]["invalidStaffIdList"] == ["staff-nobody"]
        sim.faults.arm("send_flow_controlled")
        answer = (await raw.post(USER_SEND, users))[1]
        assert answer["flowControlledStaffIdList"] == users["userIds"]
        assert [(h.chat, h.text) for h in sim.heard] == [("room", "hi"), ("alice", "hi")]
        sim.faults.arm("send_refused", code="bot.stopped")
        assert (await raw.post(GROUP_SEND, group))[1]["code"] == "bot.stopped"
        recall = group | {"processQueryKeys": [sent["processQueryKey"]]}
        answer = (await raw.post("/v1.0/robot/groupMessages/recall", recall))[1]
        assert answer["successResult"] == facts(sim, "recalled")


async def test_wrong_openapi_sends() -> None:
    async with platform() as (sim, raw):
        await raw.login()
        body = {"robotCode": sim.client_id, "msgKey": "sampleText", "msgParam": '{"content": "hi"}'}
        body["openConversationId"] = sim.know("room", group=True).id
        for key, value, code in (
            ("robotCode", "other", "invalidParameter.robotCode.auth"),
            ("openConversationId", "cid?", "invalid.openConversationId"),
            ("msgKey", "odd", "invalidParameter.msgKey.invalid"),
            ("msgKey", "sampleMarkdown", "invalidParameter.msgParam.invalid"),
            (
                "msgParam",
                json.dumps({"content": "x" * 15_000}),
                "invalidParameter.msgParam.tooLong",
            ),
        ):
            status, answer = await raw.post(GROUP_SEND, body | {key: value})
            assert (status, answer["code"]) == (400, code)
        assert sim.heard == []


async def test_files_both_ways() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        await raw.login()
        sim.say("", image=b"png")
        sim.say("look", image=b"png")
        sim.say("", file=("a.txt", b"data"))
        picture, rich, file = [(await link.next())["data"] for _ in range(3)]
        assert [d["msgtype"] for d in (picture, rich, file)] == ["picture", "richText", "file"]
        assert rich["content"]["richText"][0] == {"text": "look"}
        code = file["content"]["downloadCode"]
        body = {"robotCode": sim.client_id, "downloadCode": code}
        url = (await raw.post("/v1.0/robot/messageFiles/download", body))[1]["downloadUrl"]
        async with raw.http.get(url) as response:
            assert await response.read() == b"data"
        upload = f"{sim.url}/media/upload?access_token={raw.token}&type=file"
        sim.faults.arm("upload_error")
        for errcode in (-1, 0):
            form = aiohttp.FormData()
            form.add_field("media", b"bytes", filename="b.txt")
            async with raw.http.post(upload, data=form) as response:
                answer = await response.json()
                assert answer["errcode"] == errcode
        param = {"mediaId": answer["media_id"], "fileName": "b.txt", "fileType": "txt"}
        body = {"robotCode": sim.client_id, "userIds": ["staff-alice"], "msgKey": "sampleFile"}
        assert (await raw.post(USER_SEND, body | {"msgParam": json.dumps(param)}))[0] == 200
        assert (sim.heard[0].media, sim.heard[0].data) == ("b.txt", b"bytes")


async def test_a_card_is_streamed_and_pressed() -> None:
    async with platform() as (sim, raw):
        link = await raw.live()
        await raw.login()
        space = f"dtv1.card//IM_GROUP.{sim.know('room', group=True).id}"
        card: dict[str, Any] = {"cardTemplateId": "t.schema", "outTrackId": "c1"}
        card |= {"cardData": {"cardParamMap": {"content": ""}}, "openSpaceId": space}
        sim.faults.arm("card_template_missing")
        answers = [(await raw.post(CARDS, card))[1].get("code") for _ in range(3)]
        assert answers == ["param.templateNotExist", None, "param.cardAlreadyExist"]
        assert (await raw.post(CARDS + "/deliver", card))[0] == 200
        step = {"outTrackId": "c1", "guid": "g1", "key": "content", "content": "so", "isFull": True}
        for _ in range(2):
            assert (await raw.post(STREAM, step, method="PUT"))[1]["success"] is True
        for fault, code in (
            ("card_missing", "param.stream.outTrackId"),
            ("card_too_large", "param.stream.content"),
            ("card_busy", "system.busy"),
        ):
            sim.faults.arm(fault)
            assert (await raw.post(STREAM, step, method="PUT"))[1]["code"] == code
        sim.press("c1", "approve", decision="yes")
        frame = await link.next()
        assert json.loads(frame["data"]["content"])["cardPrivateData"]["actionIds"] == ["approve"]
        await link.ack(frame, data={"response": {"cardData": {"cardParamMap": {"content": "ok"}}}})
        await sim.until(lambda: len(sim.heard) == 3)
        heard = [(h.chat, h.text, h.edit_of) for h in sim.heard]
        assert heard == [("room", "", None), ("room", "so", "c1"), ("room", "ok", "c1")]
