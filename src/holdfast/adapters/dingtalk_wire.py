"""The words of DingTalk's Stream mode: frames, answers to them, messages. No I/O, no state.

Source: https://open.dingtalk.com/document/development ("Stream 模式 协议描述" and "接收消息").
"""

from __future__ import annotations

from enum import IntEnum, StrEnum

import msgspec

from holdfast.adapter import BadFrame, Whole, decode
from holdfast.messages import Attachment, Inbound, MediaKind
from holdfast.supervision import Cause, Kind

BOT_TOPIC = "/v1.0/im/bot/messages/get"
"""Callback topic of messages to the robot."""


class Type(StrEnum):
    """``type`` of a frame (协议描述)."""

    SYSTEM = "SYSTEM"
    EVENT = "EVENT"
    CALLBACK = "CALLBACK"


class Code(IntEnum):
    """``code`` of the answer to a frame (协议描述)."""

    OK = 200
    BAD_REQUEST = 400
    NO_HANDLER = 404


class Headers(msgspec.Struct, rename="camel"):
    """``messageId`` names this push, not the message in it; SYSTEM disconnect has none."""

    topic: str
    message_id: str = ""


class Frame(msgspec.Struct):
    """The envelope of every frame from the server."""

    type: str
    headers: Headers
    data: str = "{}"
    """JSON in a string."""


class Goodbye(msgspec.Struct):
    """``data`` of SYSTEM disconnect."""

    reason: str = ""


def answer(frame: Frame, code: Code, data: str) -> str:
    """The response frame that acknowledges ``frame``; ``data`` is JSON in a string."""
    body = {
        "code": int(code),
        "headers": {"contentType": "application/json", "messageId": frame.headers.message_id},
        "message": code.name,
        "data": data,
    }
    return msgspec.json.encode(body).decode()


def farewell(frame: Frame) -> str:
    """Why the server will close the connection. Never raises: the fact alone is enough."""
    try:
        return decode(Goodbye, frame.data).reason or "no reason given"
    except BadFrame:
        return "no reason given"


def close_cause(code: int, reason: str) -> Cause:
    """What a close code means. DingTalk has none of its own, and uses 1000 and 1001 on deploys."""
    kind = Kind.RECYCLED if code in (1000, 1001) else Kind.LOST
    text = f"the stream was closed with {code}" + (f" ({reason})" if reason else "")
    return Cause(kind, f"dingtalk_close_{code}", text)


# -- messages ---------------------------------------------------------------------------------


class Text(msgspec.Struct):
    """``text`` of a text message."""

    content: str = ""


class Piece(msgspec.Struct, rename="camel"):
    """A piece of a rich text: words or a picture."""

    text: str | None = None
    download_code: str | None = None


class Content(msgspec.Struct, rename="camel"):
    """``content`` of every other message; which fields are set depends on ``msgtype``."""

    download_code: str | None = None
    file_name: str | None = None
    recognition: str | None = None
    """What DingTalk understood of a voice message."""
    rich_text: list[Piece] | None = None


class Message(msgspec.Struct, rename="camel"):
    """``data`` of a message to the robot (接收消息)."""

    msg_id: str
    msgtype: str
    conversation_id: str
    sender_id: str
    conversation_type: str = "1"
    """``"1"`` private, ``"2"`` group."""
    sender_staff_id: str | None = None
    """Missing for people outside the organisation."""
    sender_nick: str | None = None
    chatbot_user_id: str | None = None
    create_at: float | None = None
    """Milliseconds."""
    text: Text | None = None
    content: Content | None = None
    session_webhook: str | None = None
    session_webhook_expired_time: Whole | None = None
    """Milliseconds."""


MEDIA = {
    "picture": MediaKind.IMAGE,
    "audio": MediaKind.AUDIO,
    "video": MediaKind.VIDEO,
    "file": MediaKind.FILE,
}
"""``msgtype`` -> what its ``downloadCode`` stands for."""


def inbound(data: str) -> Inbound | None:
    """A message as the gateway knows it; None for the robot's own. Raises BadFrame.

    ``context`` holds what an answer needs: ``webhook`` and ``until`` (Unix seconds), and in a group
    ``staff``, whom to mention.
    """
    message = decode(Message, data)
    if message.sender_id == message.chatbot_user_id:
        return None
    sender = message.sender_staff_id or message.sender_id
    group = message.conversation_type == "2"
    place = message.conversation_id if group else sender
    if not (message.msg_id and place and sender):
        raise BadFrame("a message without id, conversation or sender")
    text, attachments = _content(message)
    context = {}
    if message.session_webhook:
        until = (message.session_webhook_expired_time or 0) // 1000
        context = {"webhook": message.session_webhook, "until": str(until)}
    if group and message.sender_staff_id:
        context["staff"] = message.sender_staff_id
    return Inbound(
        id=message.msg_id,
        chat=f"group:{place}" if group else f"user:{place}",
        sender=sender,
        sender_name=message.sender_nick or "",
        # The mention is taken out of a group's text and leaves a blank.
        text=text.strip(),
        at=None if message.create_at is None else message.create_at / 1000,
        private=not group,
        # In groups only messages that mention the robot arrive.
        mentioned=group,
        attachments=attachments,
        context=context,
    )


def _content(message: Message) -> tuple[str, tuple[Attachment, ...]]:
    content = message.content or Content()
    match message.msgtype:
        case "text" if message.text is not None:
            return message.text.content, ()
        case "richText" if content.rich_text is not None:
            pictures = (p.download_code for p in content.rich_text if p.download_code)
            images = tuple(Attachment(kind=MediaKind.IMAGE, ref=code) for code in pictures)
            return "".join(piece.text or "" for piece in content.rich_text), images
        case kind if kind in MEDIA and content.download_code:
            name = content.file_name or ""
            media = Attachment(kind=MEDIA[kind], name=name, ref=content.download_code)
            return content.recognition or "", (media,)
        case kind:
            raise BadFrame(f"a message of type {kind!r} that can not be read")
