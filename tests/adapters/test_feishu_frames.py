"""Feishu's frames and events by themselves: test vectors, split events, what messages say."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from holdfast.adapter import BadFrame, Disconnect
from holdfast.adapters import feishu_frames as frames
from holdfast.adapters import feishu_wire as wire
from holdfast.adapters.feishu_api import ClientConfig
from holdfast.adapters.feishu_frames import PARTS, PENDING_BYTES, PENDING_LIFE, Frame, Parts
from holdfast.adapters.feishu_stream import LONGEST, SHORTEST, _interval
from holdfast.messages import Inbound, MediaKind
from holdfast.supervision import Kind

PING = "0800100018f681801020002a0c0a0474797065120470696e67"
DATA = (
    "0807100918f681801020012a0d0a047479706512056576656e742a100a0a6d6573736167655f696412026d312a080a"
    "0373756d1201312a080a037365711201302a0e0a0874726163655f69641202743142027b7d"
)
"""Made by the classes of the official Python SDK 1.7.5."""

ACK = DATA[:-8] + "2a0b0a0662697a5f7274120132420c7b22636f6465223a3230307d"
"""The same with ``biz_rt`` 2 and the payload of a success."""

OWN = "ou_bot"


# -- frames -----------------------------------------------------------------------------------


def test_the_heartbeat_is_that_of_the_official_sdk() -> None:
    assert frames.codec().ping(33554678).hex() == PING


def test_a_service_beyond_int32_is_a_documented_error() -> None:
    with pytest.raises(BadFrame):
        frames.codec().ping(2**31)


def test_a_data_frame_of_the_official_sdk_is_read() -> None:
    frame = frames.codec().decode(bytes.fromhex(DATA))
    assert (frame.method, frame.type, frame.payload) == (1, "event", b"{}")
    assert frame.headers["trace_id"] == "t1"


def test_an_acknowledgement_is_the_frame_given_back() -> None:
    codec = frames.codec()
    assert codec.acknowledgement(codec.decode(bytes.fromhex(DATA)), 2).hex() == ACK


def test_fields_of_the_future_come_back_in_the_acknowledgement() -> None:
    codec, extra = frames.codec(), bytes.fromhex("9a06026869")  # field 99, "hi"
    answer = codec.acknowledgement(codec.decode(bytes.fromhex(DATA) + extra), 2)
    assert extra in answer


@pytest.mark.parametrize("raw", ["a text", b"\xff", b"", bytes.fromhex("08071009")])
def test_what_is_no_frame_is_a_documented_error(raw: str | bytes) -> None:
    with pytest.raises(BadFrame):
        frames.codec().decode(raw)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    frames._codec.cache_clear()
    monkeypatch.setitem(sys.modules, "google.protobuf.message_factory", None)
    with pytest.raises(Disconnect) as caught:
        frames.codec()
    assert caught.value.cause.code == "feishu_no_protobuf"
    assert caught.value.cause.kind is Kind.LOCAL
    assert "pip install protobuf" in caught.value.cause.hint


@pytest.mark.parametrize(
    ("said", "believed"),
    [(None, 120), (0, 120), (-1, 120), (30, 30), (0.001, SHORTEST), (1e9, LONGEST)],
)
def test_a_ping_interval_is_believed_within_reason(said: float | None, believed: float) -> None:
    assert _interval(ClientConfig(said), 120) == believed
    assert _interval(None, 120) == 120


# -- split events -----------------------------------------------------------------------------


def part(payload: bytes, place: int | str, total: int | str, key: str = "m") -> Frame:
    headers = {"type": "event", "message_id": key, "sum": str(total), "seq": str(place)}
    return Frame(1, headers, payload, None)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 1, 2, 0)])
def test_parts_come_in_any_order(order: tuple[int, ...]) -> None:
    parts, pieces = Parts(), (b"a", b"b", b"c")
    found = [parts.add(part(pieces[place], place, 3), 0.0) for place in order]
    assert found[-1] == b"abc"
    assert set(found[:-1]) == {None}


def test_whole_events_need_no_number() -> None:
    assert Parts().add(Frame(1, {}, b"whole", None), 0.0) == b"whole"


def test_two_split_events_do_not_mix() -> None:
    parts = Parts()
    assert parts.add(part(b"a", 0, 2, "one"), 0.0) is None
    assert parts.add(part(b"x", 0, 2, "two"), 0.0) is None
    assert parts.add(part(b"b", 1, 2, "one"), 0.0) == b"ab"
    assert parts.add(part(b"y", 1, 2, "two"), 0.0) == b"xy"


def test_a_completed_event_is_forgotten() -> None:
    parts = Parts()
    parts.add(part(b"a", 0, 2), 0.0)
    parts.add(part(b"b", 1, 2), 0.0)
    assert parts.add(part(b"b", 1, 2), 0.0) is None


@pytest.mark.parametrize(
    ("place", "total"),
    [(2, 2), (0, PARTS + 1), ("-1", 2), ("x", 2), (0, "0"), (0, "9" * 10), (0, "²")],
)
def test_numbers_that_make_no_sense_are_a_documented_error(
    place: int | str, total: int | str
) -> None:
    with pytest.raises(BadFrame):
        Parts().add(part(b"a", place, total), 0.0)


def test_parts_that_contradict_each_other_are_dropped() -> None:
    parts = Parts()
    parts.add(part(b"a", 0, 2), 0.0)
    with pytest.raises(BadFrame):
        parts.add(part(b"b", 1, 3), 0.0)
    assert parts.overdue(PENDING_LIFE) == []


def test_parts_without_the_others_are_given_up_in_time() -> None:
    parts = Parts()
    parts.add(part(b"a", 0, 2), 0.0)
    assert parts.overdue(PENDING_LIFE - 1) == []
    assert parts.overdue(PENDING_LIFE) == ["m"]
    assert parts.add(part(b"b", 1, 2), 0.0) is None


def test_parts_take_no_more_room_than_they_may() -> None:
    parts, half = Parts(), bytes(PENDING_BYTES // 2 + 1)
    parts.add(part(half, 0, 2, "old"), 0.0)
    parts.add(part(half, 0, 2, "old"), 0.0)  # the same once more takes no room
    assert parts.overdue(0.0) == []
    parts.add(part(half, 0, 2, "new"), 0.0)
    assert parts.overdue(0.0) == ["old"]
    assert parts.add(part(b"!", 1, 2, "new"), 0.0) == half + b"!"


# -- messages ---------------------------------------------------------------------------------


def heard(
    kind: str, content: object, *, sender: Mapping[str, Any] | None = None, **more: Any
) -> Inbound | None:
    """A message event as the adapter reads it."""
    message = {
        "message_id": "om_1",
        "chat_id": "oc_1",
        "chat_type": "group",
        "message_type": kind,
        "content": json.dumps(content),
        "create_time": "1763600001500",
        **more,
    }
    who = sender or {"sender_id": {"open_id": "ou_1"}, "sender_type": "user"}
    event = {"sender": who, "message": message}
    return wire.inbound(msgspec.Raw(msgspec.json.encode(event)), OWN)


def said(kind: str, content: object, **more: Any) -> Inbound:
    """The same for a message that counts."""
    message = heard(kind, content, **more)
    assert message is not None
    return message


def mention(key: str, name: str, open_id: str) -> dict[str, Any]:
    return {"key": key, "name": name, "id": {"open_id": open_id, "user_id": ""}}


def test_placeholders_become_names_and_the_bots_own_goes() -> None:
    mentions = [mention("@_user_1", "Bot", OWN), mention("@_user_10", "Han Mei", "ou_hm")]
    text = {"text": "@_user_1 ask @_user_10 and @_all, not @_user_2"}
    message = said("text", text, mentions=mentions)
    assert message.text == "ask @Han Mei and @all, not @_user_2"
    assert message.mentioned


def test_everyone_is_not_the_bot() -> None:
    assert not said("text", {"text": "@_all hi"}).mentioned


def test_threads_and_replies_are_told() -> None:
    message = said("text", {"text": "hi"}, thread_id="omt_1", parent_id="om_0", root_id="om_0")
    assert (message.thread, message.reply_to, message.at) == ("omt_1", "om_0", 1763600001.5)
    assert (message.private, message.context) == (False, {"message": "om_1"})


@pytest.mark.parametrize("date", ["", "soon", "-1", "²", "9" * 400, "9" * 5000])
def test_a_date_that_is_none_is_no_harm(date: str) -> None:
    assert said("text", {"text": "hi"}, create_time=date).at is None


def test_a_post_is_read_line_by_line() -> None:
    post = {
        "title": "News",
        "content": [
            [{"tag": "text", "text": "see "}, {"tag": "a", "text": "it", "href": "https://x.y"}],
            [
                {"tag": "at", "user_id": "@_user_1"},
                {"tag": "at", "user_id": "all", "user_name": "All"},
            ],
            [{"tag": "img", "image_key": "img_1"}, {"tag": "media", "file_key": "file_1"}],
        ],
    }
    message = said("post", post, mentions=[mention("@_user_1", "Bot", OWN)])
    assert message.text == "News\nsee it (https://x.y)\n@All"
    assert message.mentioned
    assert [file.kind for file in message.attachments] == [MediaKind.IMAGE, MediaKind.VIDEO]
    assert message.attachments[0].ref == "om_1/image/img_1"


@pytest.mark.parametrize(
    ("kind", "media"),
    [("file", MediaKind.FILE), ("audio", MediaKind.AUDIO), ("media", MediaKind.VIDEO)],
)
def test_files_are_told_by_their_kind(kind: str, media: MediaKind) -> None:
    (file,) = said(kind, {"file_key": "file_1", "file_name": "a.b"}).attachments
    assert (file.kind, file.name, file.ref) == (media, "a.b", "om_1/file/file_1")


@pytest.mark.parametrize("kind", ["sticker", "location", "interactive", "hologram"])
def test_what_has_no_text_is_named(kind: str) -> None:
    assert said(kind, {"file_key": "x"}).text == f"[{kind}]"


@pytest.mark.parametrize(
    "sender",
    [
        {"sender_id": {"open_id": "ou_2"}, "sender_type": "app"},
        {"sender_id": None, "sender_type": "bot"},
        {"sender_id": {"open_id": OWN}, "sender_type": "user"},
    ],
)
def test_bots_are_not_listened_to(sender: dict[str, Any]) -> None:
    assert heard("text", {"text": "hi"}, sender=sender) is None


@pytest.mark.parametrize(
    ("kind", "content", "more"),
    [
        ("text", [], {}),
        ("text", {"text": 1}, {}),
        ("image", {}, {}),
        ("post", {"content": "x"}, {}),
        ("text", {"text": "hi"}, {"message_id": ""}),
        ("text", {"text": "hi"}, {"chat_id": None}),
        ("text", {"text": "hi"}, {"sender": {"sender_id": None, "sender_type": "user"}}),
    ],
)
def test_what_can_not_be_read_is_a_documented_error(
    kind: str, content: object, more: dict[str, Any]
) -> None:
    with pytest.raises(BadFrame):
        heard(kind, content, **more)
