"""The words of Feishu events: envelopes, and messages as `Inbound`. No I/O, no state.

Sources: https://open.feishu.cn/document (im-v1/message/events/receive, im-v1/message/events/
message_content, event-subscription-guide/overview).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from holdfast.adapter import BadFrame, decode
from holdfast.messages import Attachment, Inbound, MediaKind

MESSAGE = "im.message.receive_v1"

CHALLENGE = "url_verification"

AT_ALL = "@_all"

MOMENT = re.compile(r"[0-9]{1,15}")
"""Unix milliseconds."""


class Header(msgspec.Struct):
    """What every event of schema 2.0 begins with."""

    event_id: str = ""
    event_type: str = ""
    app_id: str = ""
    token: str = ""
    """The Verification Token; empty on a long connection."""


class Envelope(msgspec.Struct):
    """An event, or the question whether a web hook address is ours."""

    header: Header = msgspec.field(default_factory=Header)
    event: msgspec.Raw = msgspec.Raw(b"null")
    type: str = ""
    """`CHALLENGE`, or "event_callback" in schema 1.0, in which no messages come."""
    challenge: str = ""
    token: str = ""


class Ids(msgspec.Struct):
    """Names of a person or bot; an open_id is the person's name for one app."""

    open_id: str | None = None


class Sender(msgspec.Struct):
    """Who wrote; ``sender_type`` is "user" for people."""

    sender_id: Ids | None = None
    sender_type: str = ""


class Mention(msgspec.Struct):
    """Whom a placeholder such as ``@_user_1`` in a text stands for."""

    key: str = ""
    name: str = ""
    id: Ids = msgspec.field(default_factory=Ids)


class Message(msgspec.Struct):
    """A message; ``content`` is JSON whose form depends on ``message_type``."""

    message_id: str
    chat_id: str
    chat_type: str = ""
    message_type: str = ""
    content: str = ""
    create_time: str = ""
    parent_id: str | None = None
    thread_id: str | None = None
    mentions: list[Mention] | None = None


class Received(msgspec.Struct):
    """``event`` of `MESSAGE`."""

    sender: Sender
    message: Message


class Content(msgspec.Struct):
    """``content`` of everything but a post."""

    text: str = ""
    image_key: str = ""
    file_key: str = ""
    file_name: str = ""


class Segment(msgspec.Struct):
    """A piece of a line of a post."""

    tag: str = ""
    text: str = ""
    href: str = ""
    user_id: str = ""
    user_name: str = ""
    image_key: str = ""
    file_key: str = ""


class Post(msgspec.Struct):
    """``content`` of a post: lines of segments."""

    title: str = ""
    content: list[list[Segment]] = []


class _Body(NamedTuple):
    text: str
    attachments: tuple[Attachment, ...] = ()


_FILES = {"file": MediaKind.FILE, "audio": MediaKind.AUDIO, "media": MediaKind.VIDEO}
"""``message_type`` -> what its ``file_key`` leads to."""


def inbound(event: msgspec.Raw, own_id: str) -> Inbound | None:
    """A message event as a message; None for the bot's own and other bots'. Raises BadFrame.

    ``own_id`` is the bot's open_id.
    """
    received = decode(Received, bytes(event))
    message, sender = received.message, received.sender
    who = (sender.sender_id.open_id if sender.sender_id else None) or ""
    if sender.sender_type != "user" or who == own_id:
        return None
    if not (message.message_id and message.chat_id and who):
        raise BadFrame("a message without id, chat or sender")
    body = _body(message, _namer(message.mentions or [], own_id))
    return Inbound(
        id=message.message_id,
        chat=message.chat_id,
        sender=who,
        text=body.text,
        at=int(message.create_time) / 1000 if MOMENT.fullmatch(message.create_time) else None,
        private=message.chat_type == "p2p",
        mentioned=any(mention.id.open_id == own_id for mention in message.mentions or ()),
        thread=message.thread_id or None,
        reply_to=message.parent_id or None,
        attachments=body.attachments,
        context={"message": message.message_id},
    )


def _namer(mentions: list[Mention], own_id: str) -> Callable[[str], str]:
    """Turns the placeholders of a text into names; the bot's own goes without a trace."""
    names = {
        mention.key: "" if mention.id.open_id == own_id else f"@{mention.name}"
        for mention in mentions
    }
    names.setdefault(AT_ALL, "@all")

    def name(text: str) -> str:
        named = re.sub(r"@_(?:user_\d+|all)", lambda m: names.get(m[0], m[0]), text)
        return named.strip()

    return name


def _body(message: Message, name: Callable[[str], str]) -> _Body:
    """What a message says. Raises BadFrame."""
    kind, key = message.message_type, message.message_id
    if kind == "post":
        return _post(message, name)
    if kind not in ("text", "image", *_FILES):
        return _Body(f"[{kind}]")  # a sticker, a place, a card: worth an answer, if only that
    content = decode(Content, message.content)
    if kind == "text":
        return _Body(name(content.text))
    if kind == "image":
        return _Body("", (_image(key, content.image_key),))
    return _Body("", (_file(key, content.file_key, _FILES[kind], content.file_name),))


def _post(message: Message, name: Callable[[str], str]) -> _Body:
    post, lines = decode(Post, message.content), []
    attachments: list[Attachment] = []
    for line in post.content:
        lines.append("".join(_segment(segment) for segment in line))
        for segment in line:
            if segment.image_key and segment.tag == "img":
                attachments.append(_image(message.message_id, segment.image_key))
            elif segment.file_key:
                attachments.append(_file(message.message_id, segment.file_key, MediaKind.VIDEO))
    return _Body(name("\n".join([post.title, *lines])), tuple(attachments))


def _segment(segment: Segment) -> str:
    match segment.tag:
        case "a":
            return f"{segment.text} ({segment.href})" if segment.href else segment.text
        case "at":
            known = segment.user_id.startswith("@_")  # a placeholder, as in a text
            return segment.user_id if known else f"@{segment.user_name}"
        case _:
            return segment.text


def _image(message: str, key: str) -> Attachment:
    return Attachment(kind=MediaKind.IMAGE, ref=reference(message, "image", key))


def _file(message: str, key: str, kind: MediaKind, name: str = "") -> Attachment:
    return Attachment(kind=kind, name=name, ref=reference(message, "file", key))


def reference(message: str, kind: str, key: str) -> str:
    """`Attachment.ref`: files are fetched by message. Raises BadFrame without a key."""
    if not key:
        raise BadFrame(f"an attachment without its {kind}_key")
    return f"{message}/{kind}/{key}"
