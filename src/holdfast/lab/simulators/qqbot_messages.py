"""Chats of the QQ bot platform without I/O: reply windows, drafts of the bot, media, users' events.

Nothing here reads a clock; ``now`` is always an argument, in seconds of the simulator's loop.
Numbers come from the official documentation unless a comment names another source.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from holdfast.lab.simulators.qqbot_rules import Refusal, wrong_request

# -- replies ----------------------------------------------------------------------------------


REPLIES_PER_MESSAGE = 5
C2C_WINDOW = 3600.0
GROUP_WINDOW = 300.0
ACTIVE_PER_MINUTE = 20
"""Third-party notes of 2026; the official page of 2025-04 says active messages have ended."""


@dataclass(slots=True)
class _Context:
    chat: str
    opened: float
    window: float
    used: set[int] = field(default_factory=set)
    replies: int = 0


class ReplyBook:
    """Who may be answered, until when, and which ``msg_seq`` were used.

    ``window_scale`` multiplies the reply windows, so that a test on a real clock can outlive one.
    """

    def __init__(self) -> None:
        self.window_scale = 1.0
        self.active_per_minute = ACTIVE_PER_MINUTE
        self._contexts: dict[str, _Context] = {}
        self._active: dict[str, deque[float]] = {}

    def open(self, key: str, chat: str, now: float, *, group: bool) -> None:
        """A user's message (or an event that allows answers) opens a reply window."""
        self._contexts[key] = _Context(chat, now, GROUP_WINDOW if group else C2C_WINDOW)

    def admit_reply(self, key: str, chat: str, seq: int, now: float, *, counts: bool) -> None:
        """Use ``seq`` for one answer to ``key``. Raises Refusal; then nothing was used up.

        A typing notice takes its number but is not counted as an answer (undocumented, our
        choice): ``counts`` is False for it.
        """
        context = self._contexts.get(key)
        if context is None or context.chat != chat:
            raise Refusal(40034024, "msg_id 无效")
        if now - context.opened > context.window * self.window_scale:
            raise Refusal(40034005, "回复消息超时")
        if seq in context.used:
            raise Refusal(40054005, "消息被去重，请检查请求msgseq")
        if counts and context.replies >= REPLIES_PER_MESSAGE:
            raise Refusal(40034128, "被动回复超过次数限制")
        context.used.add(seq)
        context.replies += counts

    def admit_active(self, chat: str, now: float) -> None:
        """Count one message without reply context. Raises Refusal when too many."""
        recent = self._active.setdefault(chat, deque())
        while recent and now - recent[0] >= 60.0:
            recent.popleft()
        if len(recent) >= self.active_per_minute:
            raise Refusal(40034100, "主动消息超过频率限制")
        recent.append(now)


# -- messages and media -----------------------------------------------------------------------


class MessageType(IntEnum):
    """``msg_type`` of the v2 message calls; 6 is known from third parties."""

    TEXT = 0
    MARKDOWN = 2
    ARK = 3
    EMBED = 4
    TYPING = 6
    MEDIA = 7


FILE_KINDS = {1: "image", 2: "video", 3: "voice", 4: "file"}
MAX_FILE_DATA = 10 * 2**20
"""Bytes in ``file_data``; third parties say about 10 MB."""
FILE_INFO_TTL = 3600
URL_PATTERN = re.compile(r"https?://\S+", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A bot's message as it was posted, checked for form only."""

    type: MessageType
    text: str
    reply_to: str | None
    seq: int
    file_info: str | None


def read_draft(body: Mapping[str, Any], *, group: bool) -> Draft:
    """Check the form of a message. Raises Refusal."""
    try:
        kind = MessageType(body.get("msg_type") or 0)
        seq = int(body.get("msg_seq") or 1)
    except (TypeError, ValueError):
        raise wrong_request("msg_type or msg_seq invalid") from None
    text, info = _text_of(kind, body), None
    if not text and kind is not MessageType.TYPING:
        raise wrong_request("content is empty")
    if kind is MessageType.MEDIA:
        media = body.get("media")
        info = media.get("file_info") if isinstance(media, dict) else None
        if not isinstance(info, str):
            raise wrong_request("media.file_info missing")
    if kind is MessageType.TYPING and (group or not body.get("input_notify")):
        raise wrong_request("input_notify is for private chats")
    key = body.get("msg_id") or body.get("event_id")
    return Draft(type=kind, text=text, reply_to=key and str(key), seq=seq, file_info=info)


def _text_of(kind: MessageType, body: Mapping[str, Any]) -> str:
    match kind:
        case MessageType.MARKDOWN:
            markdown = body.get("markdown")
            markdown = markdown if isinstance(markdown, dict) else {}
            template = {k: v for k, v in markdown.items() if k != "content" and v}
            return str(markdown.get("content") or (json.dumps(template) if template else ""))
        case MessageType.ARK | MessageType.EMBED:
            card = body.get(kind.name.lower())
            return json.dumps(card, ensure_ascii=False) if card else ""
        case _:
            return str(body.get("content") or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """An uploaded file, usable in chats of its own kind (private or group) until it expires."""

    name: str
    data: bytes
    group: bool
    expires: float


def read_file_data(value: object) -> bytes:
    """The bytes of ``file_data``. Raises Refusal."""
    try:
        data = base64.b64decode(str(value), validate=True)
    except binascii.Error:
        raise wrong_request("file_data is not base64") from None
    if not data or len(data) > MAX_FILE_DATA:
        raise wrong_request("file_data is empty or too large")
    return data


_MAGIC = ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg"), (b"GIF8", "image/gif"))


def attachment(name: str, data: bytes, path: str, *, image: bool) -> dict[str, Any]:
    """One entry of ``attachments`` in a user's message; ``url`` is a path until it is sent."""
    entry: dict[str, Any] = {"filename": name, "size": len(data), "url": path}
    if not image:
        return {"content_type": "file"} | entry
    kind = next((kind for magic, kind in _MAGIC if data.startswith(magic)), "image/png")
    if kind == "image/png" and len(data) >= 24:
        entry |= {
            "width": int.from_bytes(data[16:20], "big"),
            "height": int.from_bytes(data[20:24], "big"),
        }
    return {"content_type": kind} | entry


# -- what users do ---------------------------------------------------------------------------


def openid_of(*names: str) -> str:
    """A stable 32-digit openid."""
    return hashlib.md5("/".join(names).encode(), usedforsecurity=False).hexdigest().upper()


def user_message(
    key: str, openid: str, sender: str, text: str, at: str, *, group: bool
) -> dict[str, Any]:
    """``d`` of a user's message; a member of a group has another openid in each group."""
    head = {"id": key, "timestamp": at, "message_type": 0}
    if group:
        author = {"member_openid": openid_of(openid, sender)}
        # The mention is cut out of the text and the blank behind it stays.
        return head | {"author": author, "group_openid": openid, "content": f" {text}"}
    author = {"user_openid": openid, "id": openid, "union_openid": ""}
    return head | {"author": author, "content": text}


def quotation(key: str, text: str) -> dict[str, Any]:
    """What a message gains when it quotes another one (known from third parties)."""
    return {
        "message_type": 103,
        "msg_elements": [{"content": text, "attachments": []}],
        "message_scene": {"source": "default", "ext": [f"ref_msg_idx={key}"]},
    }


def interaction(key: str, openid: str, button: str, at: str, *, group: bool) -> dict[str, Any]:
    """``d`` of a pressed message button."""
    scene: dict[str, Any] = {"scene": "c2c", "chat_type": 2, "user_openid": openid}
    if group:
        scene = {"scene": "group", "chat_type": 1, "group_openid": openid}
    resolved = {"button_id": "1", "button_data": button, "user_id": ""}
    data = {"type": 11, "resolved": resolved}
    return {"id": key, "type": 11, "version": 1, "timestamp": at, "data": data} | scene
