"""The DingTalk adapter's frames one by one, and what it reads in messages."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

import pytest

from holdfast.adapter import (
    AdapterError,
    Continuity,
    HttpReply,
    Link,
    Secret,
    WebSocketClosed,
)
from holdfast.adapters.dingtalk import FAREWELL, FLIGHT, DingTalk, DingTalkSettings
from holdfast.adapters.dingtalk_wire import inbound
from holdfast.gateway.account import AccountTools
from holdfast.messages import Inbound, MediaKind
from holdfast.supervision import Kind


class Socket:
    """A WebSocket that plays frames; at their end it closes or, without a code, falls mute."""

    def __init__(self, *frames: str, code: int | None = 1006) -> None:
        self.frames, self.code = list(frames), code
        self.sent: list[dict[str, Any]] = []

    async def __aiter__(self) -> AsyncIterator[str]:
        while self.frames:
            yield self.frames.pop(0)
        if self.code is None:
            await asyncio.Event().wait()
        raise WebSocketClosed(self.code or 1006)

    async def send(self, data: str) -> None:
        """See `holdfast.adapter.WebSocket`."""
        self.sent.append(json.loads(data))


class Registry:
    """An HTTP client that registers every stream."""

    async def request(self, method: str, url: str, **options: Any) -> HttpReply:
        """See `holdfast.adapter.Http`."""
        return HttpReply(200, {}, b'{"endpoint": "wss://stream/connect", "ticket": "a/b+c="}')


class FakeLink:
    """A link on one socket, with what the adapter said to it, in order."""

    def __init__(self, socket: Socket) -> None:
        self.http, self.socket, self.clock = Registry(), socket, time.time
        self.said: list[Any] = []

    def step(self, name: str, limit: float | None = None) -> None:
        """See `holdfast.adapter.Link`."""
        self.said.append(name)

    def ready(self, continuity: Continuity, **limits: Any) -> None:
        """See `holdfast.adapter.Link`."""
        self.said.append(continuity)

    async def websocket(self, url: str) -> Socket:
        """See `holdfast.adapter.Link`."""
        self.said.append(url)
        return self.socket

    async def take(
        self, message: Inbound | None, then: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """See `holdfast.adapter.Link.take`."""
        if message is not None:
            await self.deliver(message)
        if then is not None:
            await then()

    async def deliver(self, *messages: Inbound) -> None:
        """See `holdfast.adapter.Link`."""
        self.said.append([message.text for message in messages])
        assert not self.socket.sent

    def gap(self, reason: str, since: float | None = None) -> None:
        """See `holdfast.adapter.Link`."""
        self.said.append(("gap", since))

    def going_away(self, reason: str) -> None:
        """See `holdfast.adapter.Link`."""
        self.said.append(reason)


def frame(kind: str, topic: str, data: str, message_id: str = "m-1") -> str:
    """A frame of the server."""
    headers = {"topic": topic, "messageId": message_id}
    return json.dumps({"type": kind, "headers": headers, "data": data})


def payload(**fields: Any) -> str:
    """``data`` of a message."""
    message: dict[str, Any] = {
        "msgId": "msg1==",
        "msgtype": "text",
        "conversationType": "1",
        "conversationId": "cid1==",
        "senderId": "$:LWCP_v1:$user==",
        "senderStaffId": "staff1",
        "chatbotUserId": "$:LWCP_v1:$bot==",
    }
    if "msgtype" not in fields:
        message["text"] = {"content": "hi"}
    return json.dumps(message | fields)


GOODBYE = frame("SYSTEM", "disconnect", '{"reason": "connection is expired"}', "")


def robot() -> DingTalk:
    """An adapter that any stream takes."""
    settings = DingTalkSettings(client_id="id", client_secret=Secret("s3cret"))
    return DingTalk(settings, AccountTools(Registry()))


async def play(socket: Socket, adapter: DingTalk | None = None) -> tuple[list[Any], AdapterError]:
    """What the adapter said to its link on this socket, and how it ended."""
    link = FakeLink(socket)
    with pytest.raises(AdapterError) as caught:
        await (adapter or robot()).run(cast(Link, link))
    return link.said, caught.value


OPENING = ["register", "connect", "wss://stream/connect?ticket=a%2Fb%2Bc%3D", Continuity.FRESH]


async def test_a_farewell_is_told_once_and_the_connection_goes_on_until_it_is_closed() -> None:
    late = frame("CALLBACK", "/v1.0/im/bot/messages/get", payload())
    socket = Socket(GOODBYE, late, GOODBYE, frame("SYSTEM", "ping", '{"opaque": "x"}', "p-1"))
    said, end = await play(socket)
    assert said == [*OPENING, "connection is expired", ["hi"]]
    assert [answer["headers"]["messageId"] for answer in socket.sent] == ["m-1", "p-1"]
    assert (end.cause.kind, end.cause.code) == (Kind.RECYCLED, "dingtalk_disconnect_requested")


@pytest.mark.parametrize("data", ["", "[]", '{"reason": null}', '{"reason": ""}'])
async def test_a_farewell_needs_no_reason(data: str) -> None:
    said, end = await play(Socket(frame("SYSTEM", "disconnect", data)))
    assert said == [*OPENING, "no reason given"]
    assert end.cause.kind is Kind.RECYCLED


async def test_a_server_that_says_farewell_and_stays_is_left() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    _, end = await play(Socket(GOODBYE, code=None))
    assert end.cause.code == "dingtalk_disconnect_requested"
    assert loop.time() - start == pytest.approx(FAREWELL, abs=0.5)


async def test_what_was_said_since_a_farewell_is_a_gap_once() -> None:
    adapter = robot()
    before = time.time()
    await play(Socket(GOODBYE), adapter)
    said, _ = await play(Socket(), adapter)
    (told,) = [what for what in said if isinstance(what, tuple)]
    assert before <= told[1] + FLIGHT <= time.time(), "from when it may have been on its way"
    assert (await play(Socket(), adapter))[0] == OPENING


async def test_a_close_without_farewell_is_no_plan() -> None:
    _, end = await play(Socket(code=1006))
    assert isinstance(end, WebSocketClosed)


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        (frame("SYSTEM", "ping", '{"opaque": "b3-77"}'), (200, '{"opaque": "b3-77"}')),
        (frame("CALLBACK", "/v1.0/card/instances/callback", "{}"), (404, "{}")),
        (frame("EVENT", "*", "{}"), (404, "{}")),
        (frame("CALLBACK", "/v1.0/im/bot/messages/get", payload()), (200, '{"response": null}')),
    ],
)
async def test_every_frame_has_its_answer(asked: str, answer: tuple[int, str]) -> None:
    socket = Socket(asked, frame("SYSTEM", "KEEPALIVE", ""))
    await play(socket)
    (sent,) = socket.sent
    assert (sent["code"], sent["data"]) == answer
    assert sent["headers"] == {"contentType": "application/json", "messageId": "m-1"}


# -- what a message says ----------------------------------------------------------------------


async def test_the_robots_own_words_are_acknowledged_and_dropped() -> None:
    own = payload(senderId="$:LWCP_v1:$bot==", senderStaffId=None)
    socket = Socket(frame("CALLBACK", "/v1.0/im/bot/messages/get", own))
    said, _ = await play(socket)
    assert said == OPENING
    assert socket.sent[0]["code"] == 200


def test_voice_comes_with_what_was_understood_of_it() -> None:
    content = {"duration": 4000, "downloadCode": "a1", "recognition": "call me"}
    message = inbound(payload(msgtype="audio", content=content))
    assert message is not None
    assert message.text == "call me"
    assert [(a.kind, a.ref) for a in message.attachments] == [(MediaKind.AUDIO, "a1")]


def test_a_video_says_its_length_in_a_string() -> None:
    content = {"duration": "12", "videoType": "mp4", "downloadCode": "v1"}
    message = inbound(payload(msgtype="video", content=content))
    assert message is not None
    assert [(a.kind, a.ref) for a in message.attachments] == [(MediaKind.VIDEO, "v1")]


def test_rich_text_keeps_words_and_pictures_in_order() -> None:
    picture = {"type": "picture", "downloadCode": "p", "pictureDownloadCode": "q"}
    pieces = [{"text": "look "}, picture, {"text": "ok?"}, picture | {"downloadCode": "p2"}]
    message = inbound(payload(msgtype="richText", content={"richText": pieces}))
    assert message is not None
    assert message.text == "look ok?"
    assert [a.ref for a in message.attachments] == ["p", "p2"]


def test_the_documented_group_message_is_read() -> None:
    data = payload(
        text={"content": " what is the weather"},
        createAt=1763600000123,
        conversationType="2",
        senderNick="Li Lei",
        atUsers=[{"dingtalkId": "$:LWCP_v1:$bot=="}],
        sessionWebhook="https://oapi.dingtalk.com/robot/sendBySession?session=0f3a",
        sessionWebhookExpiredTime=1763605400223,
    )
    message = inbound(data)
    assert message is not None
    assert (message.text, message.at) == ("what is the weather", 1763600000.123)
    assert message.chat == "group:cid1=="
    assert message.context == {
        "webhook": "https://oapi.dingtalk.com/robot/sendBySession?session=0f3a",
        "until": "1763605400",
        "staff": "staff1",
    }
