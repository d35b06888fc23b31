"""What travels through the gateway: pure values, the same for every platform."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec


class MediaKind(StrEnum):
    """How a platform shows an attachment."""

    IMAGE = "image"
    AUDIO = "audio"
    VIDEO = "video"
    FILE = "file"


class Attachment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A picture, recording or file, inbound by reference, outbound by content."""

    kind: MediaKind
    name: str = ""
    mime: str = ""
    size: int | None = None
    """Bytes, where the platform tells."""
    ref: str = ""
    """The platform's own handle (file id, URL); only its adapter can fetch it."""
    data: bytes = b""
    """The content of an outbound attachment."""


class Inbound(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message from a person, exactly as far as the platform said it."""

    id: str
    """The platform's message id: within one account no other message ever has it."""
    chat: str
    """Where it was said; answers go there. Its messages are handled strictly in order."""
    sender: str
    text: str
    at: float | None = None
    """Unix seconds by the platform's clock; None when it does not say."""
    sender_name: str = ""
    private: bool = True
    """A chat with one person, as opposed to a group or channel."""
    mentioned: bool = False
    """The bot was addressed by name, by command, or by a reply to it."""
    thread: str | None = None
    reply_to: str | None = None
    """Id of the message this one answers."""
    edit_of: str | None = None
    """Id of the message this one replaces."""
    attachments: tuple[Attachment, ...] = ()
    context: Mapping[str, str] = {}
    """What the adapter needs to answer this message; handed back in `Outbound.context`."""


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an agent answers to one message; a plain string is the short form."""

    text: str = ""
    attachments: tuple[Attachment, ...] = ()
    quote: bool | None = None
    """Whether the answer refers to the message; None means in groups only."""


class Outbound(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One message to a chat: an obligation until the platform has accepted it."""

    key: str
    """Idempotency key, the same on every try: letters, digits and dashes, at most 64."""
    chat: str
    text: str = ""
    attachments: tuple[Attachment, ...] = ()
    thread: str | None = None
    reply_to: str | None = None
    edit_of: str | None = None
    """Id of an own message whose text this one replaces."""
    seq: int = 1
    """Position among all messages that answer the same inbound message, from 1."""
    context: Mapping[str, str] = {}
    """`Inbound.context` of the message this one answers."""


class Receipt(msgspec.Struct, frozen=True, omit_defaults=True):
    """The platform accepted a message."""

    id: str
    """The platform's id of it."""


class Gap(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A stretch of time in which messages may have been missed and can not be fetched."""

    since: float
    """Unix seconds of the last proof of life before it."""
    until: float
    reason: str
