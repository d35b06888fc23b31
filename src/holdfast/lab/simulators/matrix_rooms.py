"""The rooms of a simulated Matrix homeserver: events in order, who is in, and what a client sees.

No network and no faults here; ``holdfast.lab.simulators.matrix`` serves this over HTTP.
"""

from __future__ import annotations

import math
import re
import secrets
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from holdfast.lab.simulator import wall_clock

SERVER_NAME: Final = "sim.local"

BYSTANDER: Final = "carol"
"""A silent member of every group: with two members it would look like a private room."""

STRIPPED: Final = frozenset(
    {"m.room.create", "m.room.join_rules", "m.room.name", "m.room.encryption", "m.room.avatar"}
)
"""State that an invitation shows (specification, stripped state)."""

Json = dict[str, Any]


def mxid(name: str) -> str:
    """The full id of a person: ``alice`` is ``@alice:sim.local``."""
    return name if name.startswith("@") else f"@{name}:{SERVER_NAME}"


def display_name(user: str) -> str:
    """The name people see: ``alice`` for ``@alice:sim.local``."""
    return user[1:].partition(":")[0]


def stream_token(position: int) -> str:
    """A place in the stream, in the looks of Synapse. Clients must not read it."""
    return f"s{position}_1_0_1"


def parse_token(token: str) -> int | None:
    """The position in a stream token; None for a token this server never made."""
    found = re.fullmatch(r"s(\d+)_1_0_1", token)
    return None if found is None else int(found[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event of a room; ``position`` is its place in the server's stream."""

    position: int
    id: str
    type: str
    sender: str
    content: Json
    at_ms: int
    state_key: str | None = None
    redacts: str | None = None
    redacted_by: str | None = None
    transaction: tuple[str, str] | None = None
    """Device and transaction id of the sender, shown to that device alone."""

    def shown(self, device_id: str, room_id: str | None = None) -> Json:
        """The event as a client gets it; /sync leaves the room id out, other calls name it."""
        unsigned: Json = {"age": max(0, int(wall_clock() * 1000) - self.at_ms)}
        if self.transaction is not None and self.transaction[0] == device_id:
            unsigned["transaction_id"] = self.transaction[1]
        if self.redacted_by is not None:
            unsigned["redacted_because"] = {"event_id": self.redacted_by}
        optional = {"state_key": self.state_key, "redacts": self.redacts, "room_id": room_id}
        return {
            "type": self.type,
            "sender": self.sender,
            "content": self.content,
            "origin_server_ts": self.at_ms,
            "event_id": self.id,
            "unsigned": unsigned,
            **{name: value for name, value in optional.items() if value is not None},
        }


@dataclass(slots=True)
class Room:
    """A room's events in server order, and the state they add up to."""

    id: str
    chat: str
    """What the people in it call the room."""
    events: list[Event] = field(default_factory=list)
    state: dict[tuple[str, str], Event] = field(default_factory=dict)

    def append(self, event: Event) -> None:
        """Add an event; a state event replaces the one of its type and key."""
        self.events.append(event)
        if event.state_key is not None:
            self.state[event.type, event.state_key] = event

    def between(self, after: int, until: float = math.inf) -> list[Event]:
        """The events with ``after < position <= until``."""
        low = bisect_right(self.events, after, key=lambda event: event.position)
        high = bisect_right(self.events, until, key=lambda event: event.position)
        return self.events[low:high]

    def membership(self, user: str) -> str:
        """``join``, ``invite`` or ``leave``."""
        event = self.state.get(("m.room.member", user))
        return "leave" if event is None else str(event.content["membership"])

    def stripped(self, user: str) -> list[Json]:
        """What an invited person may see of the room: its outlines, and who invites."""
        invitation = self.state["m.room.member", user]
        host = self.state.get(("m.room.member", invitation.sender))
        events = [event for (kind, _), event in self.state.items() if kind in STRIPPED]
        events += [event for event in (host, invitation) if event is not None]
        fields = ("type", "state_key", "sender", "content")
        return [{name: getattr(event, name) for name in fields} for event in events]

    def joined(self) -> list[str]:
        """The members."""
        keys = (key for type_, key in self.state if type_ == "m.room.member")
        return [user for user in keys if self.membership(user) == "join"]


class Rooms:
    """Every room of the server, one stream of events through all of them.

    ``on_event`` is called after each event, when it is already visible.
    """

    def __init__(self, on_event: Callable[[], None]) -> None:
        self.position = 0
        """The place of the newest event."""
        self.chats: dict[str, Room] = {}
        """Rooms by the name people have for them."""
        self._rooms: dict[str, Room] = {}
        self._account_data: dict[tuple[str, str], tuple[int, Json]] = {}
        self._on_event = on_event

    # -- writing ------------------------------------------------------------------------------

    def append(self, room: Room, kind: str, sender: str, content: Json, **more: Any) -> Event:
        """Add an event to a room; ``more`` are further fields of Event."""
        self.position += 1
        event = Event(
            position=self.position,
            id=f"${secrets.token_urlsafe(32)}",
            type=kind,
            sender=sender,
            content=content,
            **{"at_ms": int(wall_clock() * 1000), **more},
        )
        room.append(event)
        self._on_event()
        return event

    def member(
        self, room: Room, user: str, membership: str, *, by: str = "", direct: bool = False
    ) -> None:
        """Change somebody's membership; ``by`` is who does it, by default the person."""
        content: Json = {"membership": membership, "displayname": display_name(user)}
        if direct:
            content["is_direct"] = True
        self.append(room, "m.room.member", by or user, content, state_key=user)

    def create(self, chat: str, creator: str, *, name: str | None = None) -> Room:
        """A room with its first member and the state that every new room starts with."""
        # Rooms of version 12 have no domain in their id.
        room = Room(id=f"!{secrets.token_urlsafe(32)}", chat=chat)
        self._rooms[room.id] = self.chats[chat] = room

        def state(kind: str, content: Json) -> None:
            self.append(room, kind, creator, content, state_key="")

        state("m.room.create", {"room_version": "12"})
        self.member(room, creator, "join")
        state("m.room.power_levels", {"users": {}, "users_default": 0, "events_default": 0})
        state("m.room.join_rules", {"join_rule": "invite"})
        # "shared": who joins reads what was said before, the invitation's first words included.
        state("m.room.history_visibility", {"history_visibility": "shared"})
        if name is not None:
            state("m.room.name", {"name": name})
        return room

    def opened(self, chat: str, sender: str, bot: str, *, group: bool) -> Room:
        """The room of a chat with ``sender`` in it and the bot in it or invited."""
        room = self.chats.get(chat)
        if room is None:
            room = self.create(chat, sender, name=chat if group else None)
            if group:
                self.member(room, mxid(BYSTANDER), "join")
            self.member(room, bot, "invite", by=sender, direct=not group)
        if room.membership(sender) != "join":
            self.member(room, sender, "join")
        if room.membership(bot) == "leave":
            self.member(room, bot, "invite", by=sender)
        return room

    def redact(self, room: Room, event_id: str, redaction: str) -> None:
        """Take the content out of an event; the server accepts redactions of unknown ones too."""
        for index, event in enumerate(room.events):
            if event.id == event_id:
                room.events[index] = replace(event, content={}, redacted_by=redaction)

    def put_account_data(self, user: str, kind: str, content: Json) -> None:
        """Keep a client's own data; its devices see the change in /sync."""
        self.position += 1
        self._account_data[user, kind] = (self.position, content)
        self._on_event()

    # -- reading ------------------------------------------------------------------------------

    def get(self, room_id: str) -> Room | None:
        """The room with that id."""
        return self._rooms.get(room_id)

    def joined_by(self, user: str) -> list[str]:
        """Ids of the rooms somebody is in."""
        return [room.id for room in self._rooms.values() if room.membership(user) == "join"]

    def account_data(self, user: str, kind: str) -> Json | None:
        """What ``put_account_data`` kept."""
        kept = self._account_data.get((user, kind))
        return None if kept is None else kept[1]

    def changes(self, user: str, device: str, since: int, shorten: Callable[[int], int]) -> Json:
        """What /sync has to tell about everything after ``since``; empty when nothing happened.

        ``shorten`` gets the number of a room's new events and says how many of them are shown.
        """
        rooms: dict[str, Json] = {"join": {}, "invite": {}, "leave": {}}
        for room in self._rooms.values():
            member = room.state.get(("m.room.member", user))
            if member is None:
                continue
            # A room just joined shows its past too, and is always limited, as with Synapse.
            newly = member.position > since
            match room.membership(user):
                case "join" if fresh := room.between(0 if newly else since):
                    timeline = _timeline(fresh, device, shorten(len(fresh)), newly)
                    rooms["join"][room.id] = timeline
                case "invite" if newly:
                    rooms["invite"][room.id] = {"invite_state": {"events": room.stripped(user)}}
                case "leave" if newly and since > 0:
                    fresh = room.between(since, member.position)
                    timeline = _timeline(fresh, device, shorten(len(fresh)), False)
                    rooms["leave"][room.id] = timeline
        data = [
            {"type": kind, "content": content}
            for (owner, kind), (position, content) in self._account_data.items()
            if owner == user and position > since
        ]
        answer: Json = {"rooms": {name: found for name, found in rooms.items() if found}}
        answer["account_data"] = {"events": data} if data else {}
        return {name: value for name, value in answer.items() if value}


def _timeline(fresh: list[Event], device: str, limit: int, newly: bool) -> Json:
    shown = fresh[-limit:] if limit else []
    before = shown[0].position - 1 if shown else fresh[-1].position
    skipped = {
        (event.type, event.state_key): event
        for event in fresh
        if event.state_key is not None and event.position <= before
    }
    return {
        "timeline": {
            "events": [event.shown(device) for event in shown],
            "limited": newly or len(shown) < len(fresh),
            "prev_batch": stream_token(before),
        },
        "state": {"events": [event.shown(device) for event in skipped.values()]},
        "ephemeral": {"events": []},
        "account_data": {"events": []},
        "summary": {},
    }
