"""A simulated Matrix homeserver: the client-server API as one bot sees it.

Texts, status codes and corner cases were compared with Synapse 1.163. Where the two differ: tokens
of the stream are plain positions, an answer to /sync is computed afresh each time (Synapse repeats
a cached one for two minutes), and people accept every invitation of the bot at once.

``python -m holdfast.lab.simulators.matrix [port]`` runs it as a process.
"""

from __future__ import annotations

import asyncio
import json
import math
import re
import secrets
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, Self

from aiohttp import web

from holdfast.lab.simulator import Handler, Heard, Said, Simulator, wall_clock

SERVER_NAME: Final = "sim.local"

LINK_CALLS: Final = ("/sync", "/account/whoami")
"""The calls that open and hold the link. Faults that are not about one call strike these only, so
that a message which happens to be sent meanwhile does not use a fault up."""

TIMELINE_LIMIT: Final = 10
"""Events of a room in one answer when the filter does not say (Synapse)."""

TIMELINE_CEILING: Final = 100
"""The most a filter may ask for (Synapse, filter_timeline_limit)."""

MAX_EVENT: Final = 65_536
"""Bytes of one event, everything included (specification, size limits)."""

MAX_UPLOAD: Final = 50 * 2**20
"""Bytes of one file (Synapse, max_upload_size)."""

TOKEN_LIFETIME: Final = 300.0
"""Seconds an access token with a refresh token lives (Synapse, refreshable_access_token_lifetime)."""

LINGER: Final = 1.0
"""Seconds after an answered poll in which the bot still counts as listening."""

BYSTANDER: Final = "carol"
"""A silent member of every group: with two members it would look like a private room."""

STRIPPED: Final = frozenset(
    {"m.room.create", "m.room.join_rules", "m.room.name", "m.room.encryption", "m.room.avatar"}
)
"""State that an invitation shows (specification, stripped state)."""

Json = dict[str, Any]


class MatrixError(Exception):
    """A standard error answer: status, errcode, text, and what else the body says."""

    def __init__(self, status: int, errcode: str, text: str, **extra: Any) -> None:
        super().__init__(text)
        self.status = status
        self.body = {"errcode": errcode, "error": text, **extra}

    def response(self) -> web.Response:
        """The answer; a rate limit is told in the header as well, in whole seconds."""
        headers = {}
        if "retry_after_ms" in self.body:
            headers["Retry-After"] = str(math.ceil(self.body["retry_after_ms"] / 1000))
        return web.json_response(self.body, status=self.status, headers=headers)


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

    def joined(self) -> list[str]:
        """The members."""
        keys = (key for type_, key in self.state if type_ == "m.room.member")
        return [user for user in keys if self.membership(user) == "join"]


@dataclass(slots=True, kw_only=True)
class Session:
    """What an access token stands for."""

    user_id: str
    device_id: str
    expires_at: float = math.inf
    replaces: str | None = None
    """The refresh token that made this session; it dies when the session is first used."""


@dataclass(frozen=True, slots=True)
class File:
    """An uploaded file."""

    name: str
    kind: str
    data: bytes


Call = Callable[[web.Request, Session], Awaitable[web.StreamResponse]]


def user_id(name: str) -> str:
    """The full id of a person: ``alice`` is ``@alice:sim.local``."""
    return name if name.startswith("@") else f"@{name}:{SERVER_NAME}"


def stream_token(position: int) -> str:
    """A place in the stream, in the looks of Synapse. Clients must not read it."""
    return f"s{position}_1_0_1"


class MatrixSimulator(Simulator):
    """One homeserver, one bot account (``@bot:sim.local``), and any number of people."""

    platform: ClassVar[str] = "matrix"
    user_id: ClassVar[str] = user_id("bot")
    password: ClassVar[str] = "bot-password"
    device_id: ClassVar[str] = "HOLDFAST"

    FAULTS: ClassVar[Mapping[str, str]] = {
        "http_502": "the proxy says 502 with an HTML page",
        "http_504": "the proxy says 504 with an HTML page",
        "html_200": "a captive portal says 200 with an HTML page",
        "malformed_json": "200 with JSON that breaks off",
        "close_before_answer": "the connection is reset instead of an answer",
        "rate_limited": "429; retry_after_ms=1500",
        "unknown_token": "401 M_UNKNOWN_TOKEN: the token is invalid",
        "soft_logout": "401 M_UNKNOWN_TOKEN with soft_logout: refresh or log in again",
        "user_locked": "401 M_USER_LOCKED with soft_logout",
        "sync_hangs": "the poll is never answered",
        "sync_drips": "the poll's answer starts and never ends; a byte each interval=5 s",
        "bad_since": "400: the server does not know the stream token",
        "limited_timeline": "a room with at least two new events shows the last keep=1 only",
        "replay_history": "a first sync finds count=10 old messages in the private room chat='alice'",
        "stale_next_batch": "a first sync hands out a token count=5 positions too old",
        "send_answer_lost": "the message is stored and the connection is reset",
        "send_429": "429 for a message; retry_after_ms=1500; nothing is stored",
        "send_502": "502 for a message; nothing is stored",
    }

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self.token = f"syt_{secrets.token_urlsafe(24)}"
        self._sessions = {self.token: self._device()}
        self._refresh: dict[str, Session] = {}
        self._rooms: dict[str, Room] = {}
        self._chats: dict[str, Room] = {}
        self._files: dict[str, File] = {}
        self._filters: list[Json] = []
        self._account_data: dict[str, tuple[int, Json]] = {}
        self._transactions: dict[tuple[str, ...], str] = {}
        self._unread: dict[str, int | None] = {}
        self._position = 0
        self._arrived = asyncio.Event()
        self._held: set[web.Request] = set()
        self._parked = 0
        self._answered_at = -math.inf
        self._linked = False

    # -- people -------------------------------------------------------------------------------

    def say(
        self,
        text: str,
        *,
        chat: str = "alice",
        sender: str = "alice",
        group: bool = False,
        image: bytes | None = None,
        file: tuple[str, bytes] | None = None,
        reply_to: str | None = None,
        edit_of: str | None = None,
        thread: str | None = None,
    ) -> str:
        """A person writes; the room is made, and the bot invited, when the chat is new.

        ``file`` is a name and its bytes; ``text`` is then the caption. ``reply_to``, ``edit_of``
        and ``thread`` (its root) are event ids. A group message mentions the bot. Returns the
        event id.
        """
        content: Json = {"msgtype": "m.text", "body": text}
        if image is not None:
            content = self._attach("m.image", text, File("image.png", "image/png", image))
        elif file is not None:
            content = self._attach(
                "m.file", text, File(file[0], "application/octet-stream", file[1])
            )
        if group:
            content["m.mentions"] = {"user_ids": [self.user_id]}
        if edit_of is not None:
            content = content | {"m.new_content": dict(content), "body": f"* {text}"}
        content |= _relation(reply_to, edit_of, thread)
        event = self.emit("m.room.message", content, chat=chat, sender=sender, group=group)
        self._unread[event] = None
        self.said.append(Said(id=event, chat=chat, sender=sender, text=text, at=self.now()))
        self.note("said", id=event, chat=chat, text=text[:80])
        return event

    def emit(
        self,
        kind: str,
        content: Json,
        *,
        chat: str = "alice",
        sender: str = "alice",
        group: bool = False,
    ) -> str:
        """Any other event of a person: a reaction, a notice, something encrypted."""
        room = self._chats.get(chat) or self._new_room(chat, user_id(sender), group=group)
        if room.membership(user_id(sender)) != "join":
            self._member(room, user_id(sender), "join")
        if room.membership(self.user_id) == "leave":
            self._member(room, self.user_id, "invite", by=user_id(sender))
        return self._append(room, kind, user_id(sender), content).id

    def kick(self, chat: str, *, sender: str = "alice") -> None:
        """A person removes the bot from a room. Raises KeyError for a chat nobody used."""
        self._member(self._chats[chat], self.user_id, "leave", by=user_id(sender))

    def room_id(self, chat: str) -> str:
        """The room behind a chat's name. Raises KeyError for a chat nobody used."""
        return self._chats[chat].id

    # -- the operator -------------------------------------------------------------------------

    def account(self) -> Json:
        """Platform, homeserver, user_id and access_token of the bot."""
        return {
            "platform": self.platform,
            "homeserver": self.url,
            "user_id": self.user_id,
            "access_token": self.token,
        }

    def revoke(self) -> None:
        """Make every token invalid. As on a real server a poll in progress still ends well."""
        self._sessions.clear()
        self._refresh.clear()
        self.note("revoked")

    def restore(self, token: str | None = None) -> str:
        """Accept a token (by default the account's own) from now on, and return it."""
        self.token = token or self.token
        self._sessions[self.token] = self._device()
        self.note("restored")
        return self.token

    def expire(self) -> None:
        """Let every access token expire: soft log-out until a refresh or a login."""
        for session in self._sessions.values():
            session.expires_at = -math.inf

    # -- the truth ----------------------------------------------------------------------------

    def listening(self) -> bool:
        """A poll is parked, or one was answered less than a second ago."""
        return self._parked > 0 or self.now() - self._answered_at < LINGER

    def pending(self) -> int:
        """Messages of people that the bot has not confirmed.

        Confirmed are those in an answer whose ``next_batch`` the bot came back with, and those it
        fetched from a room's history.
        """
        return len(self._unread)

    @contextmanager
    def _held_poll(self, request: web.Request) -> Iterator[None]:
        self._held.add(request)
        try:
            yield
        finally:
            self._held.discard(request)

    @contextmanager
    def _parked_poll(self, request: web.Request) -> Iterator[None]:
        self._parked += 1
        if not self._linked:
            self._linked = True
            self.note("link-open")
        # Until the poll has ended well: whoever goes away before that is not listening.
        answered_at = -math.inf
        try:
            with self._held_poll(request):
                yield
            answered_at = self.now()
        finally:
            self._parked -= 1
            self._answered_at = answered_at
            self._settle_link()
            asyncio.get_running_loop().call_later(LINGER * 1.01, self._settle_link)

    def _settle_link(self) -> None:
        if self._linked and not self.listening():
            self._linked = False
            self.note("link-lost")

    # -- life ---------------------------------------------------------------------------------

    async def start(self) -> Self:
        """Listen; the end of a client's connection ends its poll, so that the truth is known."""
        await super().start()
        assert self._runner is not None
        assert self._runner.server is not None
        self._runner.server.handler_cancellation = True
        return self

    async def on_stop(self) -> None:
        """Cut the parked polls: a real server that ends closes them without an answer."""
        for request in list(self._held):
            _reset(request)

    def routes(self, app: web.Application) -> None:
        """The client-server API, and the media calls that need a token."""
        app.middlewares.append(self._gate)
        r0, media = "/_matrix/client/v3", "/_matrix/client/v1/media"
        room, user = f"{r0}/rooms/{{room}}", f"{r0}/user/{{user}}"
        open_calls: list[tuple[str, str, Handler]] = [
            ("GET", "/_matrix/client/versions", self._versions),
            ("GET", "/.well-known/matrix/client", self._well_known),
            ("GET", f"{r0}/login", self._login_flows),
            ("POST", f"{r0}/login", self._login),
            ("POST", f"{r0}/refresh", self._refresh_token),
            ("GET", f"{r0}/profile/{{user}}", self._profile),
            ("GET", f"{r0}/profile/{{user}}/displayname", self._profile),
        ]
        calls: list[tuple[str, str, Call]] = [
            ("POST", f"{r0}/logout", self._logout),
            ("GET", f"{r0}/account/whoami", self._whoami),
            ("GET", f"{r0}/sync", self._sync),
            ("POST", f"{r0}/join/{{room}}", self._join),
            ("POST", f"{room}/join", self._join),
            ("POST", f"{room}/leave", self._leave),
            ("GET", f"{room}/messages", self._messages),
            ("GET", f"{room}/event/{{event}}", self._event),
            ("GET", f"{room}/joined_members", self._joined_members),
            ("PUT", f"{room}/send/{{type}}/{{txn}}", self._send),
            ("PUT", f"{room}/redact/{{event}}/{{txn}}", self._redact),
            ("PUT", f"{room}/typing/{{user}}", self._typing),
            ("POST", f"{room}/receipt/{{type}}/{{event}}", self._receipt),
            ("POST", f"{r0}/createRoom", self._create_room),
            ("GET", f"{r0}/joined_rooms", self._joined_rooms),
            ("GET", f"{user}/account_data/{{type}}", self._get_account_data),
            ("PUT", f"{user}/account_data/{{type}}", self._put_account_data),
            ("POST", f"{user}/filter", self._filter),
            ("POST", f"{r0}/keys/upload", self._keys_upload),
            ("POST", "/_matrix/media/v3/upload", self._upload),
            ("GET", f"{media}/download/{{server}}/{{media}}", self._download),
            ("GET", f"{media}/download/{{server}}/{{media}}/{{name}}", self._download),
            ("GET", f"{media}/config", self._media_config),
        ]
        for method, path, handler in open_calls:
            app.router.add_route(method, path, handler)
        for method, path, call in calls:
            app.router.add_route(method, path, self._authenticated(call))
