"""The frames between the chat page and the gateway: JSON texts on one WebSocket, told by ``op``.

The page opens with ``hello``; the answer is ``welcome``, or ``refused`` and a close. From then on
the page sends ``say`` until a ``stored`` with the same id answers it, and the gateway sends
``message`` until a ``seen`` does, both over reconnects: each side drops ids it knows. A ``ping`` of
the page is answered at once by ``pong``. What the gateway will not take is answered by ``error``.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import mimetypes
import re
from enum import StrEnum
from typing import Annotated, cast

import msgspec

from holdfast.adapter import BadFrame, Outcome, SendFailed, decode
from holdfast.messages import Attachment, Inbound, MediaKind, Outbound
from holdfast.supervision import Cause, Kind

MAX_TEXT = 20_000
"""Characters of one message, in either direction."""

MAX_IN = 2_500_000
"""Bytes of all files of one message to the bot: in base64 they fit the 4 MiB of one frame."""

MAX_OUT = 10_000_000
"""Bytes of all files of one message to the page; a browser has to hold them in memory."""

MAX_FILES = 10
"""Files of one message."""

KNOWN = 100
"""Ids of the latest messages a page may name as seen."""

Id = Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9-]{1,64}$")]
"""A message's id, made by whoever sends it; `Outbound.key` has this form."""

_MIME = re.compile(r"[\w.+-]{1,60}/[\w.+-]{1,60}", re.ASCII)


class Refusal(StrEnum):
    """Why a page is sent away; the last word before the close."""

    HELLO = "hello"
    """It did not begin with a proper ``hello``: a page of another version."""
    TOKEN = "token"
    """It does not know the token."""
    TABS = "tabs"
    """Its visitor has too many pages open."""
    FLOOD = "flood"
    """It sends more than one visitor may."""


class Problem(StrEnum):
    """Why one frame is not taken; the page stays."""

    FRAME = "bad_frame"
    EMPTY = "empty"
    TEXT = "text_too_long"
    FILES = "files_too_large"


class File(msgspec.Struct, frozen=True):
    """A file with its content, which JSON carries in base64."""

    name: Annotated[str, msgspec.Meta(max_length=255)]
    mime: str
    data: bytes


class _FromPage(msgspec.Struct, frozen=True, tag_field="op", tag=str.lower):
    """A frame of the page."""


class Hello(_FromPage, frozen=True):
    """The first frame: who is there."""

    visitor: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    """128 random bits that the page keeps for good. Whoever knows them is this visitor."""
    token: Annotated[str, msgspec.Meta(max_length=512)] = ""
    seen: Annotated[tuple[Id, ...], msgspec.Meta(max_length=KNOWN)] = ()
    """The latest messages it holds, so that a lost ``seen`` doubles nothing."""


class Say(_FromPage, frozen=True):
    """The visitor says something."""

    id: Id
    text: str = ""
    files: Annotated[tuple[File, ...], msgspec.Meta(max_length=MAX_FILES)] = ()
    reply_to: Id | None = None
    age: Annotated[float, msgspec.Meta(ge=0, le=1e11)] = 0.0
    """Seconds since it was written, as it is sent: no date, for a browser's clock may be wrong."""


class Seen(_FromPage, frozen=True):
    """A message is in the page's transcript."""

    id: Id


class Ping(_FromPage, frozen=True):
    """The page asks whether the gateway is there."""


FromPage = Hello | Say | Seen | Ping


class ToPage(msgspec.Struct, frozen=True, tag_field="op", tag=str.lower, omit_defaults=True):
    """A frame of the gateway."""


class Welcome(ToPage, frozen=True):
    """The page is let in."""

    title: str
    bot: str
    max_text: int
    max_files: int
    """Bytes."""


class Refused(ToPage, frozen=True):
    """The page is sent away."""

    what: Refusal


class Stored(ToPage, frozen=True):
    """What the visitor said is safe."""

    id: str


class Error(ToPage, frozen=True):
    """A frame was not taken, and would not be if it came again."""

    what: Problem
    id: str | None = None


class Message(ToPage, frozen=True):
    """The bot says something, or replaces what it said."""

    id: str
    text: str = ""
    files: tuple[File, ...] = ()
    reply_to: str | None = None
    edit_of: str | None = None


class Typing(ToPage, frozen=True):
    """The bot is writing."""


class Pong(ToPage, frozen=True):
    """The gateway is there."""


def parse(raw: str | bytes) -> FromPage:
    """A frame of the page. Raises BadFrame."""
    if isinstance(raw, bytes):
        raise BadFrame("a binary frame")
    return decode(cast("type[FromPage]", FromPage), raw)


def encode(frame: ToPage) -> str:
    """A frame as it goes out."""
    return msgspec.json.encode(frame).decode()


def chat_of(visitor: str) -> str:
    """The chat of a visitor: from it, as it appears in logs, nobody can become the visitor."""
    return hashlib.blake2b(visitor.encode(), digest_size=12).hexdigest()


def problem(say: Say) -> Problem | None:
    """Why a message is not taken; None if it is."""
    if len(say.text) > MAX_TEXT:
        return Problem.TEXT
    if sum(len(file.data) for file in say.files) > MAX_IN:
        return Problem.FILES
    return None if say.text.strip() or say.files else Problem.EMPTY


def inbound(chat: str, say: Say, now: float) -> Inbound:
    """What a visitor said. Ids are kept apart by chat, for a page makes them up.

    ``now`` is when it came in, in Unix seconds.
    """
    return Inbound(
        id=f"{chat}-{say.id}",
        chat=chat,
        sender=chat,
        text=say.text,
        at=max(0.0, now - say.age),
        reply_to=say.reply_to,
        attachments=tuple(_attachment(file) for file in say.files),
    )


def message(out: Outbound) -> Message:
    """What the bot says. Raises SendFailed for files no page takes."""
    size = sum(len(attachment.data) for attachment in out.attachments)
    if size > MAX_OUT:
        text = f"files of {size} bytes; a chat page takes {MAX_OUT} in one message"
        cause = Cause(Kind.REFUSED, "webchat_files_too_large", text)
        raise SendFailed(Outcome.REFUSED, cause)
    return Message(
        id=out.key,
        text=out.text,
        files=tuple(_file(attachment) for attachment in out.attachments),
        # The page knows its own messages by the ids it gave them.
        reply_to=out.reply_to and out.reply_to.removeprefix(f"{out.chat}-"),
        edit_of=out.edit_of,
    )


def content(attachment: Attachment) -> bytes:
    """The content of an inbound attachment. Raises BadFrame for a reference of another kind."""
    head, comma, body = attachment.ref.partition(";base64,")
    if not (head.startswith("data:") and comma):
        raise BadFrame("the reference is none of a chat page's files")
    try:
        return base64.b64decode(body, validate=True)
    except binascii.Error as error:
        raise BadFrame(f"the reference is damaged: {error}") from error


def _attachment(file: File) -> Attachment:
    """A file that carries its content in its reference: no server holds it for us (RFC 2397)."""
    mime = file.mime if _MIME.fullmatch(file.mime) else "application/octet-stream"
    return Attachment(
        kind=_KINDS.get(mime.partition("/")[0], MediaKind.FILE),
        name=file.name,
        mime=mime,
        size=len(file.data),
        ref=f"data:{mime};base64,{base64.b64encode(file.data).decode()}",
    )


def _file(attachment: Attachment) -> File:
    mime = attachment.mime or mimetypes.guess_type(attachment.name)[0]
    name = attachment.name or attachment.kind.value
    return File(name, mime or "application/octet-stream", attachment.data)


_KINDS = {
    "image": MediaKind.IMAGE,
    "audio": MediaKind.AUDIO,
    "video": MediaKind.VIDEO,
}
