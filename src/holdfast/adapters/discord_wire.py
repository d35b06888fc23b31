"""The words of Discord's Gateway v10: frames, close codes, messages. No I/O, no state.

Sources: https://discord.com/developers/docs (pages named per table).
"""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum, IntFlag

import msgspec

from holdfast import opcode_gateway
from holdfast.adapter import BadFrame, Whole, decode
from holdfast.messages import Attachment, Inbound, MediaKind
from holdfast.opcode_gateway import StartLimit
from holdfast.supervision import Cause, Kind

PORTAL = "in the developer portal (https://discord.com/developers/applications, your application)"


class Intent(IntFlag):
    """Events to ask for (events/gateway#list-of-intents). MESSAGE_CONTENT is privileged."""

    GUILDS = 1 << 0
    GUILD_MESSAGES = 1 << 9
    DIRECT_MESSAGES = 1 << 12
    MESSAGE_CONTENT = 1 << 15


DEFAULT_INTENTS = (
    Intent.GUILDS | Intent.GUILD_MESSAGES | Intent.DIRECT_MESSAGES | Intent.MESSAGE_CONTENT
)


# -- why Discord closes -----------------------------------------------------------------------


class Close(IntEnum):
    """Close codes (topics/opcodes-and-status-codes#gateway-gateway-close-event-codes)."""

    UNKNOWN_ERROR = 4000
    UNKNOWN_OPCODE = 4001
    DECODE_ERROR = 4002
    NOT_AUTHENTICATED = 4003
    AUTHENTICATION_FAILED = 4004
    ALREADY_AUTHENTICATED = 4005
    INVALID_SEQ = 4007
    RATE_LIMITED = 4008
    SESSION_TIMED_OUT = 4009
    INVALID_SHARD = 4010
    SHARDING_REQUIRED = 4011
    INVALID_VERSION = 4012
    INVALID_INTENTS = 4013
    DISALLOWED_INTENTS = 4014


TOKEN_HINT = f"Reset the token {PORTAL}: Bot, put it into the configuration, `holdfast reload`."
CONTENT_HINT = (
    f"Switch on Message Content Intent (and any other privileged one in `intents`) {PORTAL}: Bot, "
    "Privileged Gateway Intents; then run `holdfast kick`."
)
_REPORT = "Discord did not understand Holdfast: please report this."

_CLOSES: dict[int, tuple[Kind, str, str]] = {
    Close.UNKNOWN_ERROR: (Kind.LOST, "an unknown error", ""),
    Close.UNKNOWN_OPCODE: (Kind.PROTOCOL, "unknown opcode", _REPORT),
    Close.DECODE_ERROR: (Kind.PROTOCOL, "invalid payload", _REPORT),
    Close.NOT_AUTHENTICATED: (Kind.SESSION, "not authenticated", ""),
    Close.AUTHENTICATION_FAILED: (Kind.CREDENTIALS, "the token was refused", TOKEN_HINT),
    Close.ALREADY_AUTHENTICATED: (Kind.LOST, "already authenticated", ""),
    Close.INVALID_SEQ: (Kind.SESSION, "the sequence number is wrong", ""),
    Close.RATE_LIMITED: (Kind.THROTTLED, "too many frames", ""),
    # A session that is really gone answers the Resume with op 9; often it is not.
    Close.SESSION_TIMED_OUT: (Kind.LOST, "the session timed out", ""),
    Close.INVALID_SHARD: (Kind.REFUSED, "invalid shard", _REPORT),
    Close.SHARDING_REQUIRED: (
        Kind.REFUSED,
        "the bot is in too many servers for one connection",
        "Remove the bot from some servers: Holdfast uses one shard, for up to 2500 of them.",
    ),
    Close.INVALID_VERSION: (Kind.REFUSED, "invalid protocol version", "Update Holdfast."),
    Close.INVALID_INTENTS: (
        Kind.REFUSED,
        "invalid intents",
        "Correct `intents` in the configuration.",
    ),
    Close.DISALLOWED_INTENTS: (Kind.REFUSED, "the bot lacks a privileged intent", CONTENT_HINT),
}


def close_cause(code: int, reason: str = "") -> Cause:
    """What a close code means; codes that are not documented are a loss like any other."""
    return opcode_gateway.close_cause("Discord", _CLOSES, code, reason)


# -- frames and answers -----------------------------------------------------------------------


class Gateway(msgspec.Struct):
    """Where to connect (GET /gateway/bot)."""

    url: str
    session_start_limit: StartLimit = msgspec.field(default_factory=StartLimit)


class User(msgspec.Struct):
    """A person or a bot; ``global_name`` is what people are shown."""

    id: str
    username: str = ""
    global_name: str | None = None
    bot: bool = False


class Ready(msgspec.Struct):
    """The proof of a fresh login."""

    session_id: str
    resume_gateway_url: str
    user: User


# -- messages ---------------------------------------------------------------------------------

MESSAGE_EVENTS = frozenset({"MESSAGE_CREATE", "MESSAGE_UPDATE"})

DM = 1
"""Channel type of a private chat (resources/channel#channel-object-channel-types)."""

SAID = frozenset({0, 19})
"""Message types that a person wrote: DEFAULT and REPLY (resources/message); the others are
notices of the system."""


class File(msgspec.Struct):
    """An attachment; its signed address expires after about a day."""

    url: str
    filename: str = ""
    content_type: str | None = None
    size: Whole | None = None


class Reference(msgspec.Struct):
    """The message that a reply answers."""

    message_id: str | None = None


class Quoted(msgspec.Struct):
    """The answered message itself."""

    author: User | None = None


class Copy(msgspec.Struct):
    """What a forwarded message said (resources/message#message-snapshot-object)."""

    content: str = ""
    attachments: list[File] = []


class Snapshot(msgspec.Struct):
    """A forwarded message."""

    message: Copy


class Message(msgspec.Struct):
    """``d`` of a message event."""

    id: str
    channel_id: str
    author: User | None = None
    content: str = ""
    timestamp: str = ""
    edited_timestamp: str | None = None
    type: int = 0
    guild_id: str | None = None
    webhook_id: str | None = None
    mentions: list[User] = []
    attachments: list[File] = []
    message_reference: Reference | None = None
    referenced_message: Quoted | None = None
    message_snapshots: list[Snapshot] = []


def message_of(event: str, data: msgspec.Raw, own_id: str) -> Message | None:
    """What a person wrote or edited; None for ourselves, other bots and notices.

    Raises BadFrame.
    """
    message = decode(Message, bytes(data))
    if event == "MESSAGE_UPDATE" and message.edited_timestamp is None:
        return None  # Discord itself has added the preview of a link
    if message.author is None:
        raise BadFrame(f"{event} without author")
    return message if is_a_persons(message, own_id) else None


def is_a_persons(message: Message, own_id: str) -> bool:
    """Whether a person wrote it: not we, nor another bot, nor the system."""
    author = message.author
    if author is None or author.bot or author.id == own_id:
        return False
    return message.webhook_id is None and message.type in SAID


def says_something(message: Inbound) -> bool:
    """Whether there is anything to answer: no sticker, and nothing we may not read."""
    return bool(message.text or message.attachments or message.mentioned)


def inbound(message: Message, own_id: str) -> Inbound:
    """A message for the gateway. A thread is a channel of its own, with its own id."""
    assert message.author is not None
    edited, quoted = _unix(message.edited_timestamp), message.referenced_message
    to_us = quoted is not None and quoted.author is not None and quoted.author.id == own_id
    reference = message.message_reference if message.type == 19 else None
    # A forward says nothing itself.
    parts: list[Message | Copy] = [
        message,
        *(snapshot.message for snapshot in message.message_snapshots),
    ]
    text = "\n".join(part.content for part in parts if part.content)
    return Inbound(
        id=f"{message.id}e{round(edited * 1000)}" if edited is not None else message.id,
        chat=message.channel_id,
        sender=message.author.id,
        sender_name=message.author.global_name or message.author.username,
        text=_without(text, own_id),
        at=edited if edited is not None else _unix(message.timestamp),
        private=message.guild_id is None,
        mentioned=to_us or any(user.id == own_id for user in message.mentions),
        reply_to=None if reference is None else reference.message_id,
        edit_of=message.id if edited is not None else None,
        attachments=tuple(_attachment(file) for part in parts for file in part.attachments),
    )


def message_id(ours: str) -> str:
    """Discord's id of a message; ours differs for edits."""
    return ours.partition("e")[0]


def _without(text: str, own_id: str) -> str:
    for mention in (f"<@{own_id}>", f"<@!{own_id}>"):  # the latter is deprecated, and still sent
        text = text.replace(mention, "")
    return text.strip()


def _unix(timestamp: str | None) -> float | None:
    try:
        return datetime.fromisoformat(timestamp or "").timestamp()
    except ValueError:
        return None


def _attachment(file: File) -> Attachment:
    kinds = {"image": MediaKind.IMAGE, "video": MediaKind.VIDEO, "audio": MediaKind.AUDIO}
    mime = file.content_type or ""
    return Attachment(
        kind=kinds.get(mime.partition("/")[0], MediaKind.FILE),
        name=file.filename,
        mime=mime,
        size=file.size,
        ref=file.url,
    )
