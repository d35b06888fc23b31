"""What the stream did not tell: Slack has no resume, but channels and threads have histories.

Sources: https://docs.slack.dev/reference/methods (users.conversations, conversations.history,
conversations.replies). The link's cursor holds

``mark``, ``floor``: the newest ``ts`` taken in, and the ``ts`` of the moment the account came up;
``chats``, ``threads``: where people wrote last, the newest at the end;
``overhears``: the channels, by their kind, of which events came that need not name us; in
an old journal only true.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from holdfast.adapter import AdapterError, BadFrame, Link, SendFailed, decode
from holdfast.adapters.slack_api import Api, Bot
from holdfast.adapters.slack_wire import Message, inbound, names
from holdfast.messages import Inbound
from holdfast.supervision import Kind

LIMIT: Final = 10.0
"""Seconds for everything. Meanwhile live events wait in the socket so that each chat keeps its
order; an ack later than 3 s only makes Slack send again, but its pings must not wait for long."""

OVERLAP: Final = 600.0
"""Seconds before the mark that are read again: events overtake each other, and the last of
Slack's own retries comes 6 minutes after the event. What is known is dropped by the journal."""

OVERLAP_UNTIL: Final = 12 * 3600.0
"""Age of a mark, in seconds, from which nothing is read twice: the journal knows ids for a day."""

THREAD_AGE: Final = 86_400.0
"""Seconds before the mark in which a root message is looked at for new replies."""

CHATS, THREADS, ASKED = 100, 20, 100
"""Chats and threads remembered, and chats asked for at once (Tier 3: 50 calls a minute and a
burst)."""

PAGES, PAGE = 5, 200
"""Most requests for one chat or thread, and the messages in each."""

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

GONE: Final = frozenset(
    f"slack_{error}"
    for error in ("channel_not_found", "not_in_channel", "is_archived", "thread_not_found")
)
"""Refusals of chats and threads that are no longer ours."""


class Page(msgspec.Struct):
    """conversations.history (newest first) and conversations.replies (oldest first)."""

    messages: list[msgspec.Raw]
    response_metadata: dict[str, Any] | None = None

    @property
    def cursor(self) -> str:
        """Of the next page; empty on the last one."""
        return str((self.response_metadata or {}).get("next_cursor") or "")


class Chat(msgspec.Struct):
    """A chat we are in."""

    id: str
    is_im: bool = False
    is_mpim: bool = False
    is_private: bool = False

    @property
    def kind(self) -> str:
        """As events have it in ``channel_type``."""
        if self.is_im or self.is_mpim:
            return "im" if self.is_im else "mpim"
        return "group" if self.is_private else "channel"


class Chats(msgspec.Struct):
    """users.conversations."""

    channels: list[Chat]
    response_metadata: dict[str, Any] | None = None


# -- our place --------------------------------------------------------------------------------


def begin(link: Link) -> None:
    """The account comes up for the first time: what was said before is not for us."""
    link.cursor["mark"] = link.cursor["floor"] = f"{link.clock():.6f}"


def remember(cursor: dict[str, Any], message: Message, channel: str) -> None:
    """A message of the stream or a history is being taken in."""
    cursor["mark"] = max(cursor.get("mark", ""), message.ts, key=_seconds)
    cursor["chats"] = _recent(cursor.get("chats", ()), channel, CHATS)
    if message.thread_ts is not None:
        thread = f"{channel}:{message.thread_ts}"
        cursor["threads"] = _recent(cursor.get("threads", ()), thread, THREADS)


def overhear(cursor: dict[str, Any], message: Message, channel: str) -> None:
    """An event of the stream came. One that is no ``app_mention`` shows what we subscribed to."""
    if message.type == "message" and message.channel_type in OVERHEARD:
        known = _overheard(cursor)
        recent = _recent(known.get(message.channel_type, ()), channel, CHATS)
        cursor["overhears"] = {**known, message.channel_type: recent}


def _overheard(cursor: Mapping[str, Any]) -> dict[str, list[str]]:
    known = cursor.get("overhears")
    return known if isinstance(known, dict) else {}


def _recent(known: Sequence[str], item: str, most: int) -> list[str]:
    return [*(other for other in known if other != item), item][-most:]


def _seconds(ts: str) -> float:
    return float(ts or 0)


def readable(bot: Bot) -> bool:
    """Whether any history may be read."""
    return bot.scopes is None or any(f"{scope}:history" in bot.scopes for scope in TYPES)


# -- looking ----------------------------------------------------------------------------------


async def untold(api: Api, link: Link, me: Bot) -> str | None:
    """A message for us beyond our place, where people wrote last. Raises AdapterError."""
    mark, chats = link.cursor["mark"], link.cursor.get("chats", ())[-LOOKS:]
    threads = [key.split(":") for key in link.cursor.get("threads", ())[-LOOKS:]]
    places = [
        *(("conversations.history", {"channel": chat}) for chat in chats),
        *(("conversations.replies", {"channel": chat, "ts": ts}) for chat, ts in threads),
    ]
    for method, place in places:
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
                if _seconds(message.ts) > _seconds(mark):
                    channel = place["channel"]
                    overheard = any(channel in known for known in _overheard(link.cursor).values())
                    taken = _told(message, channel, me, overheard=overheard)
                    if taken is not None:
                        return f"message {taken.id}"
    return None


# -- catching up ------------------------------------------------------------------------------


class CatchUp:
    """Delivers what was said since the cursor's mark, chat by chat.

    What can not be read is reported as a gap, with the reason. Not found are replies in a thread
    that is neither among the remembered ones nor begun in the last day nor among the newest
    messages read.
    """

    def __init__(self, api: Api, link: Link, me: Bot) -> None:
        self._api, self._link, self._me = api, link, me
        mark = _seconds(link.cursor["mark"])
        overlap = OVERLAP if link.clock() - mark < OVERLAP_UNTIL else 0.0
        self._since = max(mark - overlap, _seconds(link.cursor.get("floor", "")))
        self._newest: list[tuple[Message, str]] = []
        self._kinds: dict[str, str] = {}
        self._trouble: dict[str, str] = {}

    async def run(self) -> None:
        """Raises StoreError; then the mark is where it was. Cancelling is safe."""
        try:
            async with asyncio.timeout(LIMIT):
                await self._all()
        except TimeoutError:
            self._trouble["timeout"] = f"reading the histories took more than {LIMIT:.0f} s"
        except AdapterError as error:
            self._trouble[error.cause.code] = f"{error}"
        for message, channel in self._newest:
            remember(self._link.cursor, message, channel)
        if self._newest:
            await self._link.commit()
        if self._trouble:
            self._link.gap("Slack does not replay, and: " + "; ".join(self._trouble.values()))

    async def _all(self) -> None:
        chats = await self._chats()
        if len(chats) > ASKED:
            self._trouble["chats"] = f"only {ASKED} of {len(chats)} chats were asked"
        for chat in chats[:ASKED]:
            found = await self._said_in(chat)
            overheard = self._overhears(chat)
            messages = [_told(m, chat, self._me, overheard=overheard) for m in found]
            new = [message for message in messages if message is not None]
            if new:
                await self._link.deliver(*new)
            self._newest += [(message, chat) for message in found[-1:]]

    async def _chats(self) -> list[str]:
        """Where to look, the most recently used first."""
        known = list(reversed(self._link.cursor.get("chats", ())))
        scopes = self._me.scopes
        types = [kind for scope, kind in TYPES.items() if _may(scopes, scope, "history", "read")]
        deaf = [s for s in TYPES if _may(scopes, s, "history") and not _may(scopes, s, "read")]
        if deaf:
            missing = ", ".join(f"{scope}:read" for scope in deaf)
            self._trouble["read"] = f"without {missing} chats not yet known can not be found"
        if not types:
            return known
        params = {"types": ",".join(types), "exclude_archived": "true", "limit": "999"}
        try:
            page = await self._ask("users.conversations", Chats, params)
        except SendFailed as refused:
            if refused.cause.kind is not Kind.REFUSED:
                raise
            self._trouble[refused.cause.code] = f"{refused.cause.message}"
            return known
        if (page.response_metadata or {}).get("next_cursor"):
            self._trouble["chats"] = f"only {ASKED} of more than {len(page.channels)} chats"
        self._kinds = {chat.id: chat.kind for chat in page.channels}
        return list(dict.fromkeys([*known, *self._kinds]))

    def _overhears(self, chat: str) -> bool:
        """Whether the stream brings what does not name us, too, by what it has brought."""
        if self._link.cursor.get("overhears") is True:
            return True  # told without the kind: nothing may be lost for that
        known = _overheard(self._link.cursor)
        return self._kinds.get(chat) in known or any(chat in chats for chats in known.values())

    async def _said_in(self, chat: str) -> list[Message]:
        """What is new in a chat and its threads, oldest first."""
        seen = await self._history(chat, None)
        threads = [m.ts for m in seen if _seconds(m.latest_reply or "") > self._since]
        for key in self._link.cursor.get("threads", ()):
            place, _, thread = key.partition(":")
            if place == chat and thread not in threads:
                threads.append(thread)
        for thread in threads:
            seen += await self._history(chat, thread)
        new = {m.ts: m for m in seen if _seconds(m.ts) > self._since}
        return [new[ts] for ts in sorted(new, key=_seconds)]

    async def _history(self, chat: str, thread: str | None) -> list[Message]:
        """Messages of a chat from the newest on, or of a thread, back to our place."""
        params = {"channel": chat, "limit": str(PAGE)}
        if thread is None:
            method, oldest = "conversations.history", self._since - THREAD_AGE
        else:
            method, oldest = "conversations.replies", self._since
            params["ts"] = thread
        params["oldest"] = f"{oldest:.6f}"
        seen: list[Message] = []
        for _ in range(PAGES):
            try:
                page = await self._ask(method, Page, params)
            except SendFailed as refused:
                self._refused(refused)
                return seen
            shown = self._decoded(page.messages)
            seen += shown
            reached = thread is None and shown and _seconds(shown[-1].ts) <= self._since
            if reached or not page.cursor:
                return seen
            params["cursor"] = page.cursor
        self._trouble["pages"] = f"more than {PAGES} pages of messages in one chat"
        return seen

    def _refused(self, refused: SendFailed) -> None:
        """One chat's refusal; what concerns all of them is raised."""
        cause = refused.cause
        if cause.kind is not Kind.REFUSED:
            raise refused
        if cause.code not in GONE:
            self._trouble[cause.code] = cause.message

    async def _ask(self, method: str, kind: type[Any], params: dict[str, str]) -> Any:
        return await self._api.call(self._link.http, method, kind, params)

    def _decoded(self, raws: list[msgspec.Raw]) -> list[Message]:
        messages: list[Message] = []
        for raw in raws:
            try:
                messages.append(decode(Message, bytes(raw)))
            except BadFrame as error:
                self._link.skip(str(error), bytes(raw))
        return messages


def _told(message: Message, chat: str, me: Bot, *, overheard: bool) -> Inbound | None:
    """What the stream would have brought of a message in a history.

    Where we are told of mentions alone, an answer to what we said is none: Slack makes an
    ``app_mention`` of nothing but our name.
    """
    taken = inbound(message, chat, me)
    if taken is None or taken.private or overheard or names(message, me):
        return taken
    return None


def _may(scopes: frozenset[str] | None, scope: str, *rights: str) -> bool:
    return scopes is None or all(f"{scope}:{right}" in scopes for right in rights)
