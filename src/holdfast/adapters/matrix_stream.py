"""One connection's share of a Matrix account's stream: what /sync says, made into messages."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import unquote

import msgspec
from msgspec import Raw

from holdfast.adapter import BadFrame, Disconnect, HttpFailed, HttpReply, Link, decode
from holdfast.adapters.matrix_api import (
    V3,
    Batch,
    Content,
    Event,
    Joined,
    MatrixApi,
    Page,
    Room,
    entrance,
    error_of,
    member_of,
    path_part,
)
from holdfast.messages import Attachment, Inbound, MediaKind
from holdfast.supervision import Cause, Kind

FIRST_SYNC: Final = 30.0
"""Seconds for the first /sync: without a place in the stream the server must read every room."""

ANSWER_SLACK: Final = 10.0
"""Seconds an answer may come after its poll's end; a proxy and a busy server need some."""

JOIN_LIMIT: Final = 10.0
"""Seconds for all joins between two polls; those not done are tried again after the next."""

HISTORY: Final = 10
"""Events per room in the first answer of all: only enough to recognise what is history."""

TIMELINE: Final = 50
"""Events per room in every other answer; what is beyond is fetched page by page."""

PAGES, PAGE = 10, 100
"""Most requests to fill one room's gap, and the events in each."""

MEDIA: Final = {f"m.{kind.value}": kind for kind in MediaKind}

UNHEARD: Final = frozenset({"", "m.notice", "m.server_notice", "m.key.verification.request"})
"""Not answered: redacted messages have no type left, and notices come from bots ("m.notice")."""

QUOTE: Final = re.compile(r"\A(?:>.*\n)+\n")
"""What older clients put before the text of a reply ("Fallbacks for rich replies")."""


class Intake:
    """Reads the stream from the link's cursor on.

    The cursor holds ``since``, our place; ``invites``, rooms still to be joined; and, only between
    the first answer of all and the second, ``history``, the ids of what was said before us.
    """

    def __init__(
        self, api: MatrixApi, link: Link, *, me: str, name: str, encrypted: set[str]
    ) -> None:
        self._api, self._link, self._me = api, link, me
        self._encrypted = encrypted
        names = (me, me[1:].partition(":")[0], name)
        words = "|".join(re.escape(word) for word in names if word)
        self._called = re.compile(rf"(?<!\w)(?:{words})(?!\w)", re.IGNORECASE)
        self._members: dict[str, dict[str, str]] = {}
        """Joined users and their names, by room: asked for once, then kept up to date."""
        self._since_at: float | None = None
        """When this connection took its place in the stream (Unix seconds): where a gap begins."""

    async def poll(self, hold: float) -> Batch:
        """One completed /sync. Raises Disconnect; an unknown place is given up and is a gap."""
        since = self._link.cursor.get("since")
        query = {"timeout": str(int(hold * 1000)), "set_presence": "offline"}
        query["filter"] = _filter(HISTORY if since is None else TIMELINE)
        query |= {"since": since} if since else {}
        limit = hold + ANSWER_SLACK if hold else FIRST_SYNC
        reply = await self._get("/sync", query, limit)
        if since and reply.status == 400 and "stream token" in error_of(reply).error.lower():
            del self._link.cursor["since"]
            await self._link.commit()
            reason = f"the server no longer knows our place in the stream ({reply.summary})"
            self._link.gap(reason, self._since_at)
            raise Disconnect(Cause(Kind.SESSION, "matrix_bad_since", reason))
        batch = self._api.read(reply, Batch)
        self._link.alive()
        return batch

    async def take(self, batch: Batch) -> None:
        """Store what is new with our new place, in one transaction."""
        cursor, rooms = self._link.cursor, batch.rooms
        since = cursor.get("since")
        if batch.next_batch == since and not rooms.join:
            self._since_at = self._link.clock()
            return
        history = set(cursor.pop("history", ()))
        messages: list[Inbound] = []
        for room, change in rooms.join.items():
            events = await self._events(room, change, since)
            if since is None:
                history.update(event.event_id for event in events)
                continue
            for event in events:
                if event.event_id not in history:
                    messages += await self._messages(room, event)
        if since is None:
            # The first place of all may be older than its answer (Synapse repeats a cached one).
            cursor["history"] = sorted(history)
        for room in rooms.leave:
            self._members.pop(room, None)
        waiting = {*cursor.get("invites", ()), *rooms.invite} - {*rooms.leave, *rooms.join}
        cursor["invites"] = sorted(waiting)
        cursor["since"] = batch.next_batch
        await self._link.deliver(*messages)
        self._since_at = self._link.clock()

    async def accept_invitations(self) -> None:
        """Join where we are invited. They are stored by now, so a crash in between loses none."""
        if not self._api.settings.auto_join:
            return
        # What has no answer stays for the next time; whether the server is there, /sync tells.
        with contextlib.suppress(TimeoutError, HttpFailed):
            async with asyncio.timeout(JOIN_LIMIT):
                for room in self._link.cursor.get("invites", ()):
                    await self._join(room)

    async def _join(self, room: str) -> None:
        path = f"{V3}/rooms/{path_part(room)}/join"
        reply = await self._api.call(self._link.http, "POST", path, json={})
        if reply.status >= 500 or reply.status in (401, 429):
            return
        waiting = self._link.cursor["invites"]
        self._link.cursor["invites"] = [other for other in waiting if other != room]
        if reply.status != 200:
            self._link.skip(f"invitation to {room} could not be accepted", reply.summary)

    async def _events(self, room: str, change: Room, since: str | None) -> list[Event]:
        """What is new in a room, oldest first, with what the server left out of its answer."""
        timeline = self._decoded(change.timeline.events)
        entered = False
        for event in self._decoded(change.state.events) + timeline:
            entered |= event.membership(self._me) == "join"
            self._track(room, event)
        if since is None or not (entered or change.timeline.limited):
            return timeline
        # A room we have come into shows its past; what was said since the invitation is for us.
        return await self._filled(room, timeline, change.timeline.prev_batch, since, entered)

    async def _filled(
        self, room: str, events: list[Event], start: str | None, since: str, entered: bool
    ) -> list[Event]:
        """Go back from ``start`` to our last place, or to the invitation ("Syncing", gaps)."""
        for _ in range(PAGES):
            if start is None or (entered and entrance(events, self._me)[1]):
                break
            query = {"dir": "b", "from": start, "limit": str(PAGE)}
            query |= {} if entered else {"to": since}
            reply = await self._get(f"/rooms/{path_part(room)}/messages", query)
            if reply.status in (400, 403, 404):
                reason = f"the history of {room} is refused: {reply.summary}"
                self._link.gap(reason, self._since_at)
                break
            page = self._api.read(reply, Page)
            self._link.alive()
            events = self._decoded(page.chunk)[::-1] + events
            start = page.end
        else:
            if start is not None and not (entered and entrance(events, self._me)[0]):
                reason = f"more than {PAGES * PAGE} events in {room} at once"
                self._link.gap(reason, self._since_at)
        return events[entrance(events, self._me)[0] :] if entered else events

    def _decoded(self, raws: Sequence[Raw]) -> list[Event]:
        events: list[Event] = []
        for raw in raws:
            try:
                events.append(decode(Event, bytes(raw)))
            except BadFrame as error:
                self._link.skip(str(error), bytes(raw))
        return events

    def _track(self, room: str, event: Event) -> None:
        if event.type in ("m.room.encryption", "m.room.encrypted"):
            self._encrypted.add(room)
        members = self._members.get(room)
        if event.type == "m.room.member" and event.state_key and members is not None:
            member = member_of(event.content)
            members.pop(event.state_key, None)
            if member.membership == "join":
                members[event.state_key] = member.displayname or ""

    async def _people(self, room: str) -> dict[str, str]:
        if room not in self._members:
            reply = await self._get(f"/rooms/{path_part(room)}/joined_members", {})
            if reply.status in (403, 404):  # we are out again
                return {}
            joined = self._api.read(reply, Joined).joined
            self._link.alive()
            names = {user: profile.get("display_name") or "" for user, profile in joined.items()}
            self._members[room] = names
        return self._members[room]

    async def _messages(self, room: str, event: Event) -> list[Inbound]:
        """The message an event is, if it is one for us."""
        if event.type == "m.room.encrypted":
            self._link.skip(f"encrypted message in {room}: Holdfast reads no encrypted rooms")
        if event.type != "m.room.message" or event.sender == self._me:
            return []
        try:
            content = decode(Content, bytes(event.content))
        except BadFrame as error:
            self._link.skip(str(error), bytes(event.content))
            return []
        if content.msgtype in UNHEARD:
            return []
        return [self._inbound(room, event, content, await self._people(room))]

    def _inbound(
        self, room: str, event: Event, content: Content, people: Mapping[str, str]
    ) -> Inbound:
        relation, shown = content.relates_to, content
        edited = relation.rel_type == "m.replace"
        if edited and content.new_content is not None:
            shown = content.new_content
        threaded = relation.rel_type == "m.thread"
        reply_to = relation.in_reply_to.get("event_id")
        text = shown.body
        if shown.url and shown.filename in ("", shown.body):
            text = ""  # a file's name is no caption
        elif reply_to:
            text = QUOTE.sub("", text)
        return Inbound(
            id=event.event_id,
            chat=room,
            sender=event.sender,
            sender_name=people.get(event.sender, ""),
            text=text,
            at=None if event.origin_server_ts is None else event.origin_server_ts / 1000,
            private=len(people) in (1, 2),
            mentioned=self._me in shown.mentions.user_ids
            or self._me in content.mentions.user_ids
            or bool(self._called.search(f"{shown.body} {unquote(shown.formatted_body)}")),
            thread=relation.event_id if threaded else None,
            reply_to=None if threaded and relation.is_falling_back else reply_to,
            edit_of=relation.event_id if edited else None,
            attachments=_attachments(shown),
        )

    async def _get(
        self, path: str, query: Mapping[str, str], timeout: float = ANSWER_SLACK
    ) -> HttpReply:
        return await self._api.call(self._link.http, "GET", V3 + path, query=query, timeout=timeout)


def _filter(limit: int) -> str:
    """Only what is read here ("Filtering"): messages, and who is in a room."""
    nothing: dict[str, list[str]] = {"types": []}
    state = {"types": ["m.room.member", "m.room.encryption"], "lazy_load_members": True}
    room = {"state": state, "timeline": {"limit": limit}}
    room |= {"ephemeral": nothing, "account_data": nothing}
    return msgspec.json.encode(
        {"presence": nothing, "account_data": nothing, "room": room}
    ).decode()


def _attachments(content: Content) -> tuple[Attachment, ...]:
    kind = MEDIA.get(content.msgtype)
    if kind is None or not content.url:
        return ()
    name, info = content.filename or content.body, content.info
    return (Attachment(kind=kind, name=name, mime=info.mimetype, size=info.size, ref=content.url),)
