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
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import ClassVar, Final, Self

from aiohttp import web

from holdfast.lab import by_hand
from holdfast.lab.simulator import Handler, Said, Simulator, wall_clock
from holdfast.lab.simulators.matrix_calls import V3, Call, File, RoomCalls, own
from holdfast.lab.simulators.matrix_rooms import (
    SERVER_NAME,
    Json,
    Rooms,
    display_name,
    mxid,
    parse_token,
    stream_token,
)
from holdfast.lab.simulators.matrix_sessions import Session, Sessions
from holdfast.lab.simulators.matrix_wire import (
    MatrixError,
    body_of,
    drip,
    forbidden,
    html,
    number,
    reset,
    too_many,
    unknown_token,
)

LINK_CALLS: Final = ("/sync", "/account/whoami")
"""The calls that open and hold the link. Faults that are not about one call strike these only, so
that a message which happens to be sent meanwhile does not use a fault up."""

TIMELINE_LIMIT: Final = 10
"""Events of a room in one answer when the filter does not say (Synapse)."""

TIMELINE_CEILING: Final = 100
"""The most a filter may ask for (Synapse, filter_timeline_limit)."""

OCTETS: Final = "application/octet-stream"

LINGER: Final = 1.0
"""Seconds after an answered poll in which the bot still counts as listening."""


class MatrixSimulator(Simulator):
    """One homeserver, one bot account (``@bot:sim.local``), and any number of people."""

    platform: ClassVar[str] = "matrix"
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
        "sync_slow": "the poll is taken up delay=8 s late",
        "sync_drips": "the poll's answer starts and never ends; a byte each interval=5 s",
        "bad_since": "400: the server does not know the stream token",
        "limited_timeline": "a room with at least two new events shows the last keep=1 only",
        "replay_history": "a first sync finds count=10 old messages of alice's",
        "stale_next_batch": "a first sync hands out a token count=5 positions too old",
        "send_answer_lost": "the message is stored and the connection is reset",
        "send_429": "429 for a message; retry_after_ms=1500; nothing is stored",
        "send_502": "502 for a message; nothing is stored",
    }

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self.user_id = mxid("bot")
        self.token = f"syt_{secrets.token_urlsafe(24)}"
        self._sessions = Sessions(self.now)
        self._sessions.accept(self.token, self._session())
        self._arrived = asyncio.Event()
        self._rooms = Rooms(self._arrived.set)
        self._filters: list[Json] = []
        self._unread: dict[str, int | None] = {}
        self._calls = RoomCalls(self, self._rooms, self._confirm)
        self._held: list[web.Request] = []
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
        """A person writes; a new chat is a new room, to which the bot is invited first.

        ``file`` is a name and its bytes; ``text`` is then the caption. ``reply_to``, ``edit_of``
        and ``thread`` (its root) are event ids. A group message mentions the bot. Returns the
        event id.
        """
        content: Json = {"msgtype": "m.text", "body": text}
        if image is not None:
            content = self._attachment("m.image", text, File("image.png", "image/png", image))
        elif file is not None:
            content = self._attachment("m.file", text, File(file[0], OCTETS, file[1]))
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
        room = self._rooms.opened(chat, mxid(sender), self.user_id, group=group)
        return self._rooms.append(room, kind, mxid(sender), content).id

    def kick(self, chat: str, *, sender: str = "alice") -> None:
        """A person removes the bot from a room. Raises KeyError for a chat nobody used."""
        self._rooms.member(self._rooms.chats[chat], self.user_id, "leave", by=mxid(sender))

    def room_id(self, chat: str) -> str:
        """The room behind a chat's name. Raises KeyError for a chat nobody used."""
        return self._rooms.chats[chat].id

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
        self._sessions.forget()
        self.note("revoked")

    def restore(self, token: str | None = None) -> str:
        """Accept a token (by default the account's own) from now on, and return it."""
        self.token = token or self.token
        self._sessions.accept(self.token, self._session())
        self.note("restored")
        return self.token

    def expire(self) -> None:
        """Let every access token expire: soft log-out until a refresh or a login."""
        self._sessions.expire()
        self.note("expired")

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
        self._held.append(request)
        try:
            yield
        finally:
            self._held.remove(request)

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
            reset(request)
        self._answered_at = -math.inf
        self._settle_link()

    def routes(self, app: web.Application) -> None:
        """The client-server API, and the media calls that need a token."""
        app.middlewares.append(self._gate)
        open_calls: list[tuple[str, str, Handler]] = [
            ("GET", "/_matrix/client/versions", self._versions),
            ("GET", f"{V3}/login", self._login_flows),
            ("POST", f"{V3}/login", self._login),
            ("POST", f"{V3}/refresh", self._refresh),
            ("GET", f"{V3}/profile/{{user}}", self._profile),
        ]
        calls: list[tuple[str, str, Call]] = [
            ("POST", f"{V3}/logout", self._logout),
            ("GET", f"{V3}/account/whoami", self._whoami),
            ("GET", f"{V3}/sync", self._sync),
            ("POST", f"{V3}/user/{{user}}/filter", self._filter),
            *self._calls.table(),
        ]
        for method, path, handler in open_calls:
            app.router.add_route(method, path, handler)
        for method, path, call in calls:
            app.router.add_route(method, path, self._authenticated(call))

    @web.middleware
    async def _gate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            if request.path.endswith(LINK_CALLS):
                broken = self._link_fault(request)
                if broken is not None:
                    return broken
            return await handler(request)
        except MatrixError as error:
            return error.response()
        except (web.HTTPNotFound, web.HTTPMethodNotAllowed) as error:
            return MatrixError(error.status, "M_UNRECOGNIZED", "Unrecognized request").response()

    def _link_fault(self, request: web.Request) -> web.Response | None:
        take = self.faults.take
        for status in (502, 504):
            if take(f"http_{status}") is not None:
                return html(status, "Bad gateway")
        if take("html_200") is not None:
            return html(200, "Please accept the terms of this network")
        if take("malformed_json") is not None:
            return web.Response(text='{"next_batch":"s7', content_type="application/json")
        if take("close_before_answer") is not None:
            return reset(request)
        if (params := take("rate_limited")) is not None:
            raise too_many(params)
        if take("unknown_token") is not None:
            raise unknown_token(soft=False)
        if take("soft_logout") is not None:
            raise unknown_token(soft=True)
        if take("user_locked") is not None:
            text = "User account has been locked"
            raise MatrixError(401, "M_USER_LOCKED", text, soft_logout=True)
        return None

    # -- sessions -----------------------------------------------------------------------------

    def _session(self, device_id: str | None = None) -> Session:
        return Session(user_id=self.user_id, device_id=device_id or self.device_id)

    def _authenticated(self, call: Call) -> Handler:
        async def handler(request: web.Request) -> web.StreamResponse:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            return await call(request, self._sessions.find(token if scheme == "Bearer" else ""))

        return handler

    async def _login_flows(self, _: web.Request) -> web.Response:
        return web.json_response({"flows": [{"type": "m.login.password"}]})

    async def _login(self, request: web.Request) -> web.Response:
        body = await body_of(request)
        if body.get("type") != "m.login.password":
            raise MatrixError(400, "M_INVALID_PARAM", "Invalid login submission")
        name = body.get("identifier", {}).get("user") or body.get("user", "")
        if mxid(name) != self.user_id or body.get("password") != self.password:
            raise forbidden("Invalid username or password")
        device = body.get("device_id") or secrets.token_hex(5).upper()
        # One device has one access token: the older one ends with the new login.
        self._sessions.forget(device)
        self.note("login", device=device)
        return web.json_response(
            {"user_id": self.user_id, "home_server": SERVER_NAME, "device_id": device}
            | self._sessions.grant(
                self._session(device), refreshable=bool(body.get("refresh_token"))
            )
        )

    async def _refresh(self, request: web.Request) -> web.Response:
        granted = self._sessions.refresh((await body_of(request)).get("refresh_token", ""))
        self.note("refresh")
        return web.json_response(granted)

    async def _logout(self, _: web.Request, session: Session) -> web.Response:
        self._sessions.forget(session.device_id)
        self.note("logout", device=session.device_id)
        return web.json_response({})

    async def _whoami(self, _: web.Request, session: Session) -> web.Response:
        return web.json_response(
            {"user_id": session.user_id, "device_id": session.device_id, "is_guest": False}
        )

    # -- sync ---------------------------------------------------------------------------------

    async def _sync(self, request: web.Request, session: Session) -> web.StreamResponse:
        since, limit = self._since(request), self._timeline_limit(request)
        # "timeout" counts only for a client that already has a place in the stream.
        timeout = 0.0 if since is None else number(request, "timeout", 0) / 1000
        self.note("sync", since=since, timeout=timeout)
        if (params := self.faults.take("sync_slow")) is not None:
            await asyncio.sleep(params.get("delay", 8.0))
        if self.faults.take("sync_hangs") is not None:
            with self._held_poll(request):
                await asyncio.Event().wait()
        if (params := self.faults.take("sync_drips")) is not None:
            with self._held_poll(request):
                await drip(request, params.get("interval", 5.0))
        if since is None and (params := self.faults.take("replay_history")) is not None:
            self._old_messages("alice", params.get("count", 10))
        with self._parked_poll(request):
            position, changes = await self._changes(session, since or 0, limit, timeout)
        if since is None and (params := self.faults.take("stale_next_batch")) is not None:
            position = max(0, position - params.get("count", 5))
        self._mark_carried(changes, position)
        keys = {"device_one_time_keys_count": {"signed_curve25519": 0}}
        return web.json_response({"next_batch": stream_token(position), **keys, **changes})

    async def _changes(
        self, session: Session, since: int, limit: int, timeout: float
    ) -> tuple[int, Json]:
        """What is new after ``since``, and the place up to which that is everything."""

        def shorten(new: int) -> int:
            params = self.faults.take("limited_timeline") if since and new > 1 else None
            return limit if params is None else int(params.get("keep", 1))

        end = self.now() + timeout
        while True:
            position = self._rooms.position
            changes = self._rooms.changes(session.user_id, session.device_id, since, shorten)
            if changes or self.now() >= end:
                return position, changes
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout_at(end):
                    await self._arrived.wait()

    def _since(self, request: web.Request) -> int | None:
        """The place a client has reached; what an answer carried up to there is confirmed."""
        token = request.query.get("since")
        if not token:
            return None
        since = parse_token(token)
        if since is None or since > self._rooms.position:
            raise MatrixError(400, "M_UNKNOWN", "Invalid stream token")
        if self.faults.take("bad_since") is not None:
            raise MatrixError(400, "M_UNKNOWN", "Unknown stream token")
        self._unread = {e: p for e, p in self._unread.items() if p is None or p > since}
        return since

    def _timeline_limit(self, request: web.Request) -> int:
        text = request.query.get("filter", "{}")
        if text.startswith("{"):
            try:
                chosen = json.loads(text)
            except ValueError:
                raise MatrixError(400, "M_NOT_JSON", "Invalid filter JSON") from None
        elif text.isdecimal() and int(text) < len(self._filters):
            chosen = self._filters[int(text)]
        else:
            raise MatrixError(400, "M_INVALID_PARAM", "No such filter")
        limit = chosen.get("room", {}).get("timeline", {}).get("limit", TIMELINE_LIMIT)
        return min(int(limit), TIMELINE_CEILING)

    def _confirm(self, event_id: str) -> None:
        self._unread.pop(event_id, None)

    def _mark_carried(self, changes: Json, position: int) -> None:
        for room in changes.get("rooms", {}).get("join", {}).values():
            for event in room["timeline"]["events"]:
                if event["event_id"] in self._unread:
                    self._unread[event["event_id"]] = position

    def _old_messages(self, name: str, count: int) -> None:
        room = self._rooms.opened(name, mxid(name), self.user_id, group=False)
        if room.membership(self.user_id) != "join":
            self._rooms.member(room, self.user_id, "join")
        hour_ago = int(wall_clock() * 1000) - 3_600_000
        for n in range(count):
            content = {"msgtype": "m.text", "body": f"old {n}"}
            self._rooms.append(room, "m.room.message", mxid(name), content, at_ms=hour_ago + n)

    # -- the rest ------------------------------------------------------------------------------

    async def _versions(self, _: web.Request) -> web.Response:
        return web.json_response({"versions": ["v1.11", "v1.15"], "unstable_features": {}})

    async def _profile(self, request: web.Request) -> web.Response:
        return web.json_response({"displayname": display_name(request.match_info["user"])})

    async def _filter(self, request: web.Request, session: Session) -> web.Response:
        own(request, session, "Cannot create filters for other users")
        self._filters.append(await body_of(request))
        return web.json_response({"filter_id": str(len(self._filters) - 1)})

    def _attachment(self, msgtype: str, caption: str, file: File) -> Json:
        return {
            "msgtype": msgtype,
            "body": caption or file.name,
            "filename": file.name,
            "url": self._calls.keep(file),
            "info": {"mimetype": file.kind, "size": len(file.data)},
        }


def _relation(reply_to: str | None, edit_of: str | None, thread: str | None) -> Json:
    """The ``m.relates_to`` of a message, or nothing."""
    if edit_of is not None:
        relation: Json = {"rel_type": "m.replace", "event_id": edit_of}
    elif thread is not None:
        relation = {
            "rel_type": "m.thread",
            "event_id": thread,
            "is_falling_back": reply_to is None,
            "m.in_reply_to": {"event_id": reply_to or thread},
        }
    elif reply_to is not None:
        relation = {"m.in_reply_to": {"event_id": reply_to}}
    else:
        return {}
    return {"m.relates_to": relation}


if __name__ == "__main__":
    by_hand.run(MatrixSimulator)
