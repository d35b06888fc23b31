"""The words of the QQ gateway: frames, close codes, messages, signatures. No I/O, no state.

Sources: https://bot.q.qq.com/wiki (api-v2, pages named per table).
"""

from __future__ import annotations

from datetime import datetime
from enum import IntEnum, IntFlag
from typing import Annotated, Protocol

import msgspec

from holdfast import opcode_gateway
from holdfast.adapter import BadFrame, Whole, decode
from holdfast.forgery import is_ours
from holdfast.messages import Attachment, Inbound, MediaKind
from holdfast.opcode_gateway import StartLimit
from holdfast.supervision import Cause, Kind

CONSOLE = "in the console (https://q.qq.com, your bot)"


class Callback(IntEnum):
    """Operation codes of callbacks alone (api-v2/dev-prepare/interface-framework/event-emit)."""

    ACK = 12
    CHECK = 13


class Intent(IntFlag):
    """Events to ask for (the same page). GUILD_MESSAGES is for private-domain bots only."""

    GUILD_MESSAGES = 1 << 9
    DIRECT_MESSAGE = 1 << 12
    GROUP_AND_C2C = 1 << 25
    PUBLIC_GUILD_MESSAGES = 1 << 30


ESSENTIAL = Intent.GROUP_AND_C2C | Intent.PUBLIC_GUILD_MESSAGES
"""What the degraded try still asks for."""


# -- why QQ closes ----------------------------------------------------------------------------


class Close(IntEnum):
    """Close codes (api-v2/dev-prepare/error-trace/websocket; 4003 to 4005: botgo's source)."""

    BAD_OPCODE = 4001
    BAD_PAYLOAD = 4002
    NOT_AUTHENTICATED = 4003
    BAD_TOKEN = 4004
    TWICE = 4005
    BAD_SESSION = 4006
    BAD_SEQ = 4007
    TOO_FAST = 4008
    EXPIRED = 4009
    BAD_SHARD = 4010
    TOO_MANY_GUILDS = 4011
    BAD_VERSION = 4012
    BAD_INTENT = 4013
    INTENT_DENIED = 4014
    OFFLINE = 4914
    BANNED = 4915


INTERNAL = range(4900, 4914)
"""Internal errors of the gateway: identify anew."""

_REPORT = "QQ did not understand Holdfast: please report this."

_CLOSES: dict[int, tuple[Kind, str, str]] = {
    Close.BAD_OPCODE: (Kind.REFUSED, "invalid opcode", _REPORT),
    Close.BAD_PAYLOAD: (Kind.REFUSED, "invalid payload", _REPORT),
    Close.NOT_AUTHENTICATED: (Kind.SESSION, "not authenticated", ""),
    # The token service has the last word on credentials: it is asked next.
    Close.BAD_TOKEN: (Kind.LOST, "the access token was refused; a new one is fetched", ""),
    Close.TWICE: (Kind.SESSION, "already authenticated", ""),
    Close.BAD_SESSION: (Kind.SESSION, "the session is not known any more", ""),
    Close.BAD_SEQ: (Kind.SESSION, "the sequence number is wrong", ""),
    Close.TOO_FAST: (Kind.THROTTLED, "sending or identifying too fast", ""),
    Close.EXPIRED: (Kind.RECYCLED, "the connection expired (normal, about every 30 min)", ""),
    Close.BAD_SHARD: (Kind.REFUSED, "invalid shard", _REPORT),
    Close.TOO_MANY_GUILDS: (
        Kind.REFUSED,
        "too many guilds for one shard",
        f"Remove the bot from some guilds {CONSOLE}: Holdfast uses one shard.",
    ),
    Close.BAD_VERSION: (Kind.REFUSED, "invalid protocol version", "Update Holdfast."),
    Close.BAD_INTENT: (Kind.REFUSED, "invalid intents", "Correct `intents` in the configuration."),
    Close.INTENT_DENIED: (
        Kind.REFUSED,
        "the bot may not receive these events",
        f"Grant the events of `intents` {CONSOLE}, or ask for fewer, then run `holdfast kick`.",
    ),
    Close.OFFLINE: (
        Kind.REFUSED,
        "the bot is offline and may only use the sandbox",
        f"Publish the bot {CONSOLE}, or set `api_url` to the sandbox.",
    ),
    Close.BANNED: (
        Kind.REFUSED,
        "the bot is banned",
        f"Read the notices and appeal {CONSOLE}.",
    ),
    **dict.fromkeys(INTERNAL, (Kind.SESSION, "internal error of the gateway", "")),
}


def close_cause(code: int, reason: str = "") -> Cause:
    """What a close code means; codes that are not documented are a loss like any other."""
    return opcode_gateway.close_cause("QQ", _CLOSES, code, reason)


# -- frames and answers -----------------------------------------------------------------------


class Gateway(msgspec.Struct):
    """Where to connect."""

    url: str
    session_start_limit: StartLimit | None = None


class User(msgspec.Struct):
    """An author or a bot; private and group chats have openids only."""

    id: str = ""
    username: str = ""
    user_openid: str = ""
    member_openid: str = ""
    bot: bool = False


class Ready(msgspec.Struct):
    """The proof of a fresh login."""

    session_id: str
    user: User


class Check(msgspec.Struct):
    """The question of a callback validation. A text of this form can never be an event's body."""

    plain_token: Annotated[str, msgspec.Meta(pattern=r"^[\w-]{1,128}$")]
    event_ts: Annotated[str, msgspec.Meta(pattern=r"^\d{1,20}$")]


# -- messages ---------------------------------------------------------------------------------


class File(msgspec.Struct):
    """An attachment; ``voice_wav_url`` is the playable form of a voice message."""

    content_type: str = ""
    filename: str = ""
    size: Whole | None = None
    url: str = ""
    voice_wav_url: str = ""


class Scene(msgspec.Struct):
    """Holds ``ref_msg_idx=...`` when another message is quoted."""

    ext: list[str] = []


class Reference(msgspec.Struct):
    """The quoted message of a guild."""

    message_id: str | None = None


class Message(msgspec.Struct):
    """``d`` of every message event; which of the fields are set tells the scene."""

    id: str
    author: User
    content: str | None = None
    timestamp: str = ""
    group_openid: str = ""
    channel_id: str = ""
    guild_id: str = ""
    attachments: list[File] | None = None
    mentions: list[User] | None = None
    message_scene: Scene | None = None
    message_reference: Reference | None = None


PATHS = {"c2c": "/v2/users/", "group": "/v2/groups/", "channel": "/channels/", "dms": "/dms/"}
"""First part of a chat's name -> where its messages are posted."""

SCENES = {
    "C2C_MESSAGE_CREATE": "c2c",
    "GROUP_AT_MESSAGE_CREATE": "group",
    "GROUP_MESSAGE_CREATE": "group",
    "AT_MESSAGE_CREATE": "channel",
    "MESSAGE_CREATE": "channel",
    "DIRECT_MESSAGE_CREATE": "dms",
}
"""Message events -> first part of the chat's name."""


def inbound(event: str, data: msgspec.Raw, own_id: str) -> Inbound | None:
    """A message event as a message; None for the bot's own and other bots'. Raises BadFrame."""
    message, scene = decode(Message, bytes(data)), SCENES[event]
    author = message.author
    sender = author.member_openid or author.user_openid or author.id
    place = {
        "c2c": author.user_openid or author.id,
        "group": message.group_openid,
        "channel": message.channel_id,
        "dms": message.guild_id,
    }[scene]
    if author.bot or (own_id and author.id == own_id):
        return None
    if not (message.id and place and sender):
        raise BadFrame(f"{event} without id, chat or sender")
    return Inbound(
        id=message.id,
        chat=f"{scene}:{place}",
        sender=sender,
        sender_name=author.username,
        # In guilds the mention stays in the text, in groups a blank is left of it.
        text=(message.content or "").replace(f"<@!{own_id}>", "").strip(),
        at=_unix(message.timestamp),
        private=scene in ("c2c", "dms"),
        mentioned="_AT_" in f"_{event}" or any(u.id == own_id for u in message.mentions or ()),
        reply_to=_quoted(message),
        attachments=tuple(map(_attachment, message.attachments or ())),
        context={"msg_id": message.id},
    )


def _unix(timestamp: str) -> float | None:
    try:
        return datetime.fromisoformat(timestamp).timestamp()
    except ValueError:
        return None


def _quoted(message: Message) -> str | None:
    if message.message_reference is not None:
        return message.message_reference.message_id
    marks = message.message_scene.ext if message.message_scene else ()
    return next((m.partition("=")[2] for m in marks if m.startswith("ref_msg_idx=")), None)


def _attachment(file: File) -> Attachment:
    kind, _, _ = file.content_type.partition("/")
    url, mime = file.url, file.content_type if "/" in file.content_type else ""
    if file.voice_wav_url:  # what `url` holds is SILK, which few programs read
        url, mime = file.voice_wav_url, "audio/wav"
    if "://" not in url:
        url = "https://" + url.removeprefix("//")
    kinds = {"image": MediaKind.IMAGE, "video": MediaKind.VIDEO, "voice": MediaKind.AUDIO}
    return Attachment(
        kind=kinds.get(kind, MediaKind.FILE), name=file.filename, mime=mime, size=file.size, ref=url
    )


# -- signatures of callbacks ------------------------------------------------------------------


class Key(Protocol):
    """The part of a ``cryptography`` Ed25519 private key that is used."""

    def sign(self, data: bytes, /) -> bytes:
        """The signature of the data; Ed25519 gives the same one every time."""


def signing_key(secret: str) -> Key:
    """The key both sides share: the secret repeated and cut to 32 bytes is the Ed25519 seed.

    Raises ImportError without the ``cryptography`` package.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    return Ed25519PrivateKey.from_private_bytes((secret.encode() * 32)[:32])


def signed(key: Key, signature: str, content: bytes) -> bool:
    """Whether the hexadecimal signature is the one of ``timestamp + body``."""
    # Compared as text, since both sides hold the key and Ed25519 is deterministic.
    return is_ours(signature.lower(), key.sign(content).hex())


def check_answer(key: Key, question: msgspec.Raw) -> dict[str, str]:
    """The answer to a callback validation. Raises BadFrame.

    Validations come unsigned, so anybody can ask. `Check` allows no text that could be a timestamp
    followed by an event, and what is signed here can not be used to forge one.
    """
    check = decode(Check, bytes(question))
    signature = key.sign(f"{check.event_ts}{check.plain_token}".encode()).hex()
    return {"plain_token": check.plain_token, "signature": signature}
