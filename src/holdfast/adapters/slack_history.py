"""What the stream did not tell: Slack has no resume, but channels and threads have histories.

Sources: https://docs.slack.dev/reference/methods (users.conversations, conversations.history,
conversations.replies). The link's cursor holds

``mark``, ``floor``: the newest ``ts`` taken in, and the ``ts`` of the moment the account came up;
``unlisted``: the mark at the last start, until it is known which chats are to be read from there;
``behind``: those, each with a mark of its own, its kind, empty if that is not known, and the Unix
time at which it was noted;
``chats``, ``threads``: where people wrote last, the newest at the end;
``overhears``: the channels, by their kind, of which events came that need not name us; in
an old journal only true.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from holdfast.adapter import BadFrame, Link, SendFailed, decode
from holdfast.adapters.slack_api import Api, Bot
from holdfast.adapters.slack_wire import Message, inbound, names
from holdfast.messages import Inbound
from holdfast.supervision import Kind

OVERLAP: Final = 600.0
"""Seconds before the mark that are read again: events overtake each other, and the last of
Slack's own retries comes 6 minutes after the event. What is known is dropped by the journal."""

CHATS, THREADS = 100, 20
"""Chats and threads remembered."""

TYPES: Final = {
    "channels": "public_channel",
    "groups": "private_channel",
    "mpim": "mpim",
    "im": "im",
}
"""Scopes and types of chats; ``X:history`` reads messages and ``X:read`` lists the chats."""

OVERHEARD: Final = ("channel", "group", "mpim")
"""Kinds of chats whose messages an app is told only if it asks for all of them, kind by kind."""

LOOKS: Final = 5
"""Chats and threads looked at while the stream is quiet."""


class Page(msgspec.Struct):
    """conversations.history (newest first) and conversations.replies (oldest first)."""

    messages: list[msgspec.Raw]
    response_metadata: dict[str, Any] | None = None

    @property
    def cursor(self) -> str:
        """Of the next page; empty on the last one."""
        return str((self.response_metadata or {}).get("next_cursor") or "")


# -- our place --------------------------------------------------------------------------------


def begin(link: Link) -> None:
    """The account comes up for the first time: what was said before is not for us."""
    link.cursor["mark"] = link.cursor["floor"] = f"{link.clock():.6f}"


def passed(cursor: dict[str, Any], message: Message) -> None:
    """A message of the stream or a history is behind us."""
    cursor["mark"] = max(cursor.get("mark", ""), message.ts, key=seconds)


def remember(cursor: dict[str, Any], message: Message, channel: str) -> None:
    """A message of the stream or a history is being taken in."""
    passed(cursor, message)
    cursor["chats"] = _recent(cursor.get("chats", ()), channel, CHATS)
    if message.thread_ts is not None:
        thread = f"{channel}:{message.thread_ts}"
        cursor["threads"] = _recent(cursor.get("threads", ()), thread, THREADS)


def overhear(cursor: dict[str, Any], message: Message, channel: str) -> None:
    """An event of the stream came. One that is no ``app_mention`` shows what we subscribed to."""
    if message.type == "message" and message.channel_type in OVERHEARD:
        known = overheard_in(cursor)
        recent = _recent(known.get(message.channel_type, ()), channel, CHATS)
        cursor["overhears"] = {**known, message.channel_type: recent}


def overheard_in(cursor: Mapping[str, Any]) -> dict[str, list[str]]:
    known = cursor.get("overhears")
    return known if isinstance(known, dict) else {}


def _recent(known: Sequence[str], item: str, most: int) -> list[str]:
    return [*(other for other in known if other != item), item][-most:]


def seconds(ts: str) -> float:
    return float(ts or 0)


def readable(bot: Bot) -> bool:
    """Whether any history may be read."""
    return bot.scopes is None or any(f"{scope}:history" in bot.scopes for scope in TYPES)


# -- looking ----------------------------------------------------------------------------------


async def untold(api: Api, link: Link, me: Bot) -> str | None:
    """A message for us beyond our place, where people wrote last. Raises AdapterError."""
    if "unlisted" in link.cursor:
        return None  # nothing has been caught up yet
    mark, chats = link.cursor["mark"], link.cursor.get("chats", ())[-LOOKS:]
    threads = [key.split(":") for key in link.cursor.get("threads", ())[-LOOKS:]]
    behind = link.cursor.get("behind", {})
    places = [
        *(("conversations.history", {"channel": chat}) for chat in chats),
        *(("conversations.replies", {"channel": chat, "ts": ts}) for chat, ts in threads),
    ]
    for method, place in places:
        if place["channel"] in behind:
            continue  # it is still to be caught up
        params = place | {"oldest": mark, "limit": "15"}  # all that any app may ask for
        try:
            page = await api.call(link.http, method, Page, params)
        except SendFailed as refused:
            if refused.cause.kind is not Kind.REFUSED:
                raise
            continue  # a chat that is no longer ours, or not for us to read
        for raw in page.messages:
            with contextlib.suppress(BadFrame):
                message = decode(Message, bytes(raw))
                if seconds(message.ts) > seconds(mark):
                    channel = place["channel"]
                    overheard = any(
                        channel in known for known in overheard_in(link.cursor).values()
                    )
                    taken = told(message, channel, me, overheard=overheard)
                    if taken is not None:
                        return f"message {taken.id}"
    return None


def told(message: Message, chat: str, me: Bot, *, overheard: bool) -> Inbound | None:
    """What the stream would have brought of a message in a history.

    Where we are told of mentions alone, an answer to what we said is none: Slack makes an
    ``app_mention`` of nothing but our name.
    """
    taken = inbound(message, chat, me)
    if taken is None or taken.private or overheard or names(message, me):
        return taken
    return None
