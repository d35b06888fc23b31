"""What Slack's sockets and histories say, and the messages it means.

Sources: https://docs.slack.dev/apis/events-api/using-socket-mode (frames),
/reference/events/message (messages), /messaging/formatting-message-text (text).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from holdfast.adapter import BadFrame, Whole, decode
from holdfast.adapters.slack_api import Bot
from holdfast.messages import Attachment, Inbound, MediaKind
from holdfast.supervision import Cause, Kind

Ts = Annotated[str, msgspec.Meta(pattern=r"^\d{1,11}\.\d{6}\Z")]
"""Unix seconds with six decimals: a message's id within its channel."""

SLACKBOT: Final = "USLACKBOT"
"""The one bot that posts without a ``bot_id``."""

SPOKEN: Final = frozenset({None, "file_share", "thread_broadcast", "me_message"})
"""Subtypes in which a person says something; the others tell of joins, pins, deletions."""

ENDS: Final = frozenset({"tokens_revoked", "app_uninstalled"})
"""Events after which a token may be dead while the socket lives on."""

_FORM_HINT = (
    "Switch Socket Mode on at https://api.slack.com/apps: your app > Socket Mode, then run "
    "`holdfast kick ACCOUNT`."
)
_SOCKETS_HINT = (
    "Stop the other programs that use this app's token (each takes a part of the messages), or "
    "give each an app of its own. Sockets that died are counted by Slack for a while."
)


class Reason(StrEnum):
    """``reason`` of a disconnect frame."""

    WARNING = "warning"
    REFRESH = "refresh_requested"
    DISABLED = "link_disabled"
    TOO_MANY = "too_many_websockets"


class Frame(msgspec.Struct):
    """Any frame of a socket; what has an ``envelope_id`` wants to be acknowledged."""

    type: str = ""
    envelope_id: str = ""
    reason: str = ""
    num_connections: int = 0
    payload: msgspec.Raw = msgspec.Raw(b"{}")


class Payload(msgspec.Struct):
    """``payload`` of an ``events_api`` envelope."""

    event: msgspec.Raw = msgspec.Raw(b"{}")


class Event(msgspec.Struct):
    """Any event."""

    type: str = ""


class File(msgspec.Struct):
    """A file shared with a message."""

    id: str
    name: str | None = None
    mimetype: str | None = None
    size: Whole | None = None
    url_private: str | None = None
    url_private_download: str | None = None
    file_access: str | None = None


class Edited(msgspec.Struct):
    """When a text was last changed."""

    ts: str


class Message(msgspec.Struct):
    """A ``message`` or ``app_mention`` event, or a message in a history (without channel)."""

    ts: Ts
    type: str = ""
    channel: str = ""
    channel_type: str = ""
    """Of ``message`` events alone: im, channel, group or mpim."""
    subtype: str | None = None
    user: str | None = None
    bot_id: str | None = None
    text: str | None = None
    thread_ts: Ts | None = None
    parent_user_id: str | None = None
    latest_reply: Ts | None = None
    files: list[File] | None = None
    edited: Edited | None = None
    message: Message | None = None
    """The new form, of ``message_changed``."""


def goodbye(reason: str) -> Cause:
    """What a disconnect frame means; an unknown reason is a planned end like most."""
    match reason:
        case Reason.DISABLED:
            text = "Socket Mode is switched off for this app, or the app was removed"
            return Cause(Kind.REFUSED, "slack_link_disabled", text, _FORM_HINT)
        case Reason.TOO_MANY:
            text = "the app has more sockets than Slack allows (10)"
            return Cause(Kind.REPLACED, "slack_too_many_websockets", text, _SOCKETS_HINT)
        case Reason.WARNING | Reason.REFRESH:
            text = f"Slack renews this connection ({reason})"
            return Cause(Kind.RECYCLED, f"slack_{reason}", text)
        case _:
            text = f"Slack ends this connection ({reason[:60] or 'no reason given'})"
            return Cause(Kind.RECYCLED, "slack_disconnect", text)


# -- messages ---------------------------------------------------------------------------------


def heard(event: bytes | msgspec.Raw) -> Message | None:
    """The message of an event, None if it is none. Raises BadFrame."""
    kind = decode(Event, bytes(event)).type
    if kind not in ("message", "app_mention"):
        return None
    message = decode(Message, bytes(event))
    if not message.channel:
        raise BadFrame("a message without a channel")
    return message


def inbound(message: Message, channel: str, me: Bot) -> Inbound | None:
    """What a person said to us, if this is it: not our own echo, no bot, no notice."""
    shown, edit_of = message, None
    key = f"{channel}:{message.ts}"
    if message.subtype == "message_changed":
        if message.message is None or message.message.edited is None:
            return None  # Slack itself changed it, for example to show what a link leads to
        shown = message.message
        edit_of = f"{channel}:{shown.ts}"
        key = f"{edit_of}#{shown.edited.ts}" if shown.edited else edit_of
    if shown.bot_id or not shown.user or shown.user in (me.user_id, SLACKBOT):
        return None
    if shown.subtype not in SPOKEN:
        return None
    text = shown.text or ""
    threaded = shown.thread_ts is not None and shown.thread_ts != shown.ts
    return Inbound(
        id=key,
        chat=channel,
        sender=shown.user,
        text=unescape(re.sub(rf"\A\s*{_called(me)}[\s,:]*", "", text)),
        at=float(message.ts),
        private=is_private(channel),
        mentioned=message.type == "app_mention"
        or names(message, me)
        or (threaded and shown.parent_user_id == me.user_id),
        thread=shown.thread_ts if threaded else None,
        reply_to=f"{channel}:{shown.thread_ts}" if threaded else None,
        edit_of=edit_of,
        attachments=tuple(_attachment(file) for file in shown.files or () if _reachable(file)),
    )


def names(message: Message, me: Bot) -> bool:
    """Whether a text calls us by name; so does an edit whose new text does."""
    shown = message.message or message
    return re.search(_called(me), shown.text or "") is not None


def is_private(channel: str) -> bool:
    """Whether a chat is with one person (``channel_type`` im); app_mention events lack the type."""
    return channel.startswith("D")


def ts_of(key: str) -> str:
    """The ``ts`` in a message id of ours, which is ``CHANNEL:TS`` and ``#`` with an edit's time."""
    return key.rpartition(":")[2].partition("#")[0]


def escape(text: str) -> str:
    """A plain text as Slack wants it; nobody is called and no link is made by ``<...>`` in it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def unescape(text: str) -> str:
    """Undo Slack's three escapes."""
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _called(me: Bot) -> str:
    return rf"<@{re.escape(me.user_id)}(?:\|[^>]*)?>"


def _reachable(file: File) -> bool:
    addressed = file.url_private or file.url_private_download
    return bool(addressed or file.file_access == "check_file_info")


def _attachment(file: File) -> Attachment:
    mime = file.mimetype or ""
    major = mime.partition("/")[0]
    return Attachment(
        kind=MediaKind(major) if major in ("image", "audio", "video") else MediaKind.FILE,
        name=file.name or "",
        mime=mime,
        size=file.size,
        ref=file.url_private_download or file.url_private or file.id,
    )
