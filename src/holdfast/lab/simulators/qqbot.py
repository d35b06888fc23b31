"""A simulated QQ bot platform: token service, REST API, gateway socket and callbacks.

The official Python SDK (qq-botpy 1.2.1) runs on it. Where the platform's behaviour is not
documented the choice made here is named in a comment. Choices that concern the truth:

* An event goes to every session that has a socket, and waits in those that have lost theirs for
  ``resume_window`` seconds. A fresh Identify ends the waiting sessions of its shard: what waited
  only there is noted as ``lost``; what was written to a socket without ever being confirmed by a
  heartbeat or Resume is noted as ``unproven``.
* An event that finds no session and no callback address is lost at once.

Longer than other files because socket, REST and callbacks share one state of the truth; whatever
needs no I/O lives in ``qqbot_rules``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import struct
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any, ClassVar

import aiohttp
from aiohttp import web
from yarl import URL

from holdfast.lab.simulator import Handler, Heard, Said, Simulator, wall_clock
from holdfast.lab.simulators import qqbot_rules as rules
from holdfast.lab.simulators.qqbot_rules import Close, Event, Intent, MessageType, Op, Refusal

Work = Callable[[web.Request], Awaitable[web.Response]]

BOT = {"id": "1234567890123456789", "username": "holdfast", "bot": True}
CHINA = timezone(timedelta(hours=8))
RECALL_WINDOW = 120.0
SILENCE_BEATS = 2.5
"""Heartbeat intervals of silence after which the server closes with 4009 (undocumented)."""
REDELIVERY = (0.0, 2.0, 10.0, 30.0)
"""Seconds before each try of a callback; the platform's own schedule is not documented."""
GATEWAY_BURST, GATEWAY_PER_SECOND = 10, 2 / 60
"""Limit of /gateway and /gateway/bot, from third parties."""


class WebhookRefused(RuntimeError):
    """The callback address did not pass the op 13 validation."""


def answer(body: object, status: int = 200) -> web.Response:
    """An API answer; the SDK wants exactly this content type, without a charset."""
    headers = {"Content-Type": "application/json", "X-Tps-trace-Id": secrets.token_hex(8)}
    return web.Response(body=json.dumps(body).encode(), status=status, headers=headers)


def timestamp() -> str:
    """The present as the platform writes it on messages."""
    return datetime.fromtimestamp(wall_clock(), CHINA).isoformat(timespec="seconds")


class Link:
    """One accepted socket. Sending is queued and never waits; ``session`` is set when it is live.

    A frozen link is half-open: it takes everything, answers nothing, and TCP stays.
    """

    OUTBOX = 10_000

    def __init__(self, number: int, ws: web.WebSocketResponse, request: web.Request) -> None:
        self.number, self.ws = number, ws
        self.session: rules.Session | None = None
        self.frozen = self.closing = False
        self.watchdog: asyncio.TimerHandle | None = None
        self._transport = request.transport
        self._outbox: asyncio.Queue[str | tuple[int, str]] = asyncio.Queue(self.OUTBOX)

    def send(self, frame: str | Mapping[str, Any]) -> None:
        """Queue a frame (text is sent as it is). A peer that reads nothing for long is dropped."""
        self._queue(frame if isinstance(frame, str) else json.dumps(frame))

    def close(self, code: int, reason: str = "") -> None:
        """Queue a close frame behind what was sent."""
        self._queue((code, reason))
        self.closing = self.closing or not self.frozen

    def _queue(self, item: str | tuple[int, str]) -> None:
        if self.frozen or self.closing:
            return
        try:
            self._outbox.put_nowait(item)
        except asyncio.QueueFull:
            self.abort()

    def freeze(self) -> None:
        """Go silent both ways; what was queued before still leaves."""
        self.frozen = True
        if isinstance(self._transport, asyncio.Transport):
            # Unread, so that neither a ping nor a close frame of the peer is answered.
            self._transport.pause_reading()

    def abort(self) -> None:
        """Reset the connection now: no close frame, no FIN. Nothing queued is sent any more."""
        self.frozen, self.closing = True, False
        if self._transport is None or self._transport.is_closing():
            return
        raw = self._transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    async def write(self) -> None:
        """Write the queue to the socket until a close frame was exchanged or the peer is gone."""
        with contextlib.suppress(ConnectionError):
            while True:
                item = await self._outbox.get()
                self._outbox.task_done()
                if isinstance(item, tuple):
                    await self.ws.close(code=item[0], message=item[1].encode())
                    return
                await self.ws.send_str(item)

    async def flushed(self, timeout: float = 1.0) -> None:
        """Wait until the queue was handed to the socket; give up after ``timeout`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._outbox.join()


class QQBotSimulator(Simulator):
    """The QQ bot platform with one bot.

    Attributes that tests may change: ``heartbeat_interval`` and ``resume_window`` (seconds),
    ``tokens.lifetime``, ``replies.window_scale``, ``limit`` (daily sessions, concurrency),
    ``allowed_intents``, ``max_text`` (characters; undocumented, adapters cut at 4000),
    ``markdown_allowed``, ``allowed_urls`` (prefixes; None allows all).
    """

    platform: ClassVar[str] = "qqbot"
    FAULTS: ClassVar[Mapping[str, str]] = rules.FAULTS

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host=host, port=port)
        self.app_id, self.secret = "102000001", "DG5g3B4j9X2KOErG"
        self.heartbeat_interval, self.resume_window = 41.25, 60.0
        self.tokens, self.replies = rules.TokenBook(), rules.ReplyBook()
        self.limit = rules.StartLimit()
        self.gateway_bucket = rules.Bucket(GATEWAY_BURST, GATEWAY_PER_SECOND)
        self.allowed_intents = rules.KNOWN_INTENTS & ~rules.PRIVATE_DOMAIN
        self.max_text, self.markdown_allowed = 4000, True
        self.allowed_urls: tuple[str, ...] | None = None
        self.accepted: list[dict[str, Any]] = []
        """Bodies of the messages that were delivered, in order."""
        self._banned: int | None = None
        self._revoked = False
        self._links: dict[Link, None] = {}
        self._opened = 0
        self._sessions: dict[str, rules.Session] = {}
        self._expiry: dict[str, asyncio.TimerHandle] = {}
        self._given: set[str] = set()
        self._names: dict[str, tuple[str, bool]] = {}
        self._files: dict[str, tuple[str, bytes]] = {}
        self._media: dict[str, rules.Media] = {}
        self._sent_at: dict[str, tuple[str, float]] = {}
        self._interactions: set[str] = set()
        self._webhook: str | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # -- the lab's side -----------------------------------------------------------------------

    def routes(self, app: web.Application) -> None:
        """Add the token service, the REST API, the gateway and the file store."""
        api, add = self._api, app.router.add_route
        add("POST", "/app/getAppAccessToken", self._token)
        add("GET", "/users/@me", api(self._me))
        add("GET", "/gateway", api(self._gateway))
        add("GET", "/gateway/bot", api(self._gateway))
        add("GET", "/websocket", self._websocket)
        add("PUT", "/interactions/{id}", api(self._interaction_done))
        for scene in ("users", "groups"):
            add("POST", f"/v2/{scene}/{{openid}}/messages", api(self._send))
            add("POST", f"/v2/{scene}/{{openid}}/files", api(self._upload))
            add("DELETE", f"/v2/{scene}/{{openid}}/messages/{{id}}", api(self._recall))
        add("GET", "/_files/{key}/{name}", self._file)

    def account(self) -> dict[str, Any]:
        """The configuration of an account of this bot."""
        return {
            "platform": self.platform,
            "app_id": self.app_id,
            "secret": self.secret,
            "api_url": self.url,
            "token_url": self.url + "/app/getAppAccessToken",
        }

    def listening(self) -> bool:
        """Whether a READY or RESUMED link that is neither mute nor frozen, or a callback, exists.

        Events wait for no one here: a session waiting to be resumed does not count.
        """
        live = any(link.session and not link.frozen for link in self._links)
        return self._webhook is not None or (live and not self.faults.armed("mute"))

    def openid(self, name: str, *, group: bool = False) -> str:
        """The openid of a user or group; from now on the bot may write to it."""
        openid = rules.openid_of(self.app_id, "group" if group else "user", name)
        self._names[openid] = name, group
        return openid

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
    ) -> str:
        """A user writes to the bot. Returns ``d.id``; ``reply_to`` quotes a message by its id."""
        key = f"ROBOT1.0_{secrets.token_urlsafe(24)}"
        openid = self.openid(chat, group=group)
        self.said.append(Said(id=key, chat=chat, sender=sender, text=text, at=self.now()))
        self.replies.open(key, openid, self.now(), group=group)
        data = rules.user_message(key, openid, sender, text, timestamp(), group=group)
        data["attachments"] = self._attach(image, file)
        if reply_to is not None:
            texts = {s.id: s.text for s in self.said} | {h.id: h.text for h in self.heard}
            data |= rules.quotation(reply_to, texts.get(reply_to, ""))
        kind = "GROUP_AT_MESSAGE_CREATE" if group else "C2C_MESSAGE_CREATE"
        self.note("said", id=key, chat=chat)
        self._occur(Event(id=key, type=kind, intent=Intent.GROUP_AND_C2C, data=data))
        return key

    def press(self, button: str, *, chat: str = "alice", group: bool = False) -> str:
        """A user presses a button. Returns the interaction's id, to be answered by PUT."""
        key, openid = str(uuid.uuid4()), self.openid(chat, group=group)
        data = rules.interaction(key, openid, button, timestamp(), group=group)
        event = Event(id=key, type="INTERACTION_CREATE", intent=Intent.INTERACTION, data=data)
        self._interactions.add(key)
        # Answers to events other than messages name the envelope's id.
        self.replies.open(event.frame()["id"], openid, self.now(), group=group)
        self._occur(event)
        return key

    def _attach(self, image: bytes | None, file: tuple[str, bytes] | None) -> list[dict[str, Any]]:
        entries = []
        for name, data in (("image.png", image), file or ("", None)):
            if data is not None:
                key = secrets.token_hex(16)
                self._files[key] = name, data
                url = str(URL(self.url) / "_files" / key / name)
                entries.append(rules.attachment(name, data, url, image=data is image))
        return entries

    async def _file(self, request: web.Request) -> web.Response:
        stored = self._files.get(request.match_info["key"])
        if stored is None:
            return web.Response(status=404)
        return web.Response(body=stored[1], content_type="application/octet-stream")

    # -- trouble on demand --------------------------------------------------------------------

    async def close_all(self, code: int, reason: str = "") -> None:
        """Close every socket with a code; returns when the frames are on their way."""
        links = list(self._links)
        for link in links:
            self._hang_up(link, code, reason)
        for link in links:
            await link.flushed()

    async def goodbye(self, close: bool = True) -> None:
        """Ask every client to reconnect (op 7), by default closing with 4009 at once."""
        links = list(self._links)
        for link in links:
            link.send({"op": Op.RECONNECT})
            if close:
                self._hang_up(link, Close.EXPIRED, "Session timed out")
        for link in links:
            await link.flushed()

    async def invalidate(self, resumable: bool = False) -> None:
        """Tell live links that their session is gone (op 9); the sockets stay open."""
        links = [link for link in self._links if link.session]
        for link in links:
            session = link.session
            self._detach(link)
            link.send({"op": Op.INVALID_SESSION, "d": resumable})
            if session and not resumable:
                self._forget(session, "invalidated")
        for link in links:
            await link.flushed()

    def drop_all(self) -> None:
        """Reset every socket."""
        for link in list(self._links):
            self._detach(link)
            link.abort()

    def half_open(self) -> None:
        """Freeze every socket: nothing comes or goes any more, TCP stays."""
        for link in list(self._links):
            self._freeze(link)

    def expire_tokens(self) -> None:
        """Every access token issued so far is expired (401, 11244; close 4004)."""
        self.tokens.expire()

    def ban(self, code: int = Close.BANNED) -> None:
        """Ban the bot (4915) or take it offline (4914): no socket, no login, no call any more."""
        self._banned = code
        for link in list(self._links):
            self._hang_up(link, code, "bot banned")

    def unban(self) -> None:
        """Undo ``ban``."""
        self._banned = None

    def revoke(self) -> None:
        """Withdraw the secret: no token is issued or valid, sockets are closed with 4004."""
        self._revoked = True
        self.tokens.expire()
        for link in list(self._links):
            self._hang_up(link, Close.AUTHENTICATION_FAILED, "authentication failed")

    def set_secret(self, new: str) -> None:
        """Set the secret and undo ``revoke``; tokens issued before stay as they are."""
        self.secret, self._revoked = new, False

    # -- token and API frame ------------------------------------------------------------------

    async def _token(self, request: web.Request) -> web.Response:
        if self.faults.take("token_500") is not None:
            return answer({"message": "internal error"}, 500)
        if self.faults.take("token_hang") is not None:
            await asyncio.Event().wait()
        if (fault := self.faults.take("token_error")) is not None:
            return answer({"code": fault.get("code", 100016), "message": "refused by fault"})
        body = await read_json(request)
        if body.get("appId") != self.app_id:
            return answer({"code": 100007, "message": "appid invalid"})
        if self._revoked or body.get("clientSecret") != self.secret:
            return answer({"code": 100016, "message": "invalid appid or secret"})
        token, left = self.tokens.issue(self.now())
        number = self.faults.take("expires_in_number") is not None
        self.note("token", expires_in=left)
        return answer({"access_token": token, "expires_in": left if number else str(left)})

    def _api(self, work: Work) -> Handler:
        """An API call: faults, authorization, then the work; refusals become error bodies."""

        async def handle(request: web.Request) -> web.StreamResponse:
            if (fault := self.faults.take("api_html")) is not None:
                page = "<html><body>Bad Gateway</body></html>"
                return web.Response(
                    text=page, content_type="text/html", status=fault.get("status", 502)
                )
            try:
                self._play("api_500", Refusal(500, "internal error", status=500))
                self._play("api_401", Refusal(11244, "token not exist or expire", status=401))
                self._authorize(request)
                return await work(request)
            except Refusal as refusal:
                self.note("refused", path=request.path, code=refusal.code)
                return answer(refusal.body(secrets.token_hex(8)), refusal.status)

        return handle

    def _play(self, name: str, refusal: Refusal) -> None:
        """Raise the refusal if the fault is armed, with the fault's ``code`` and ``status``."""
        if (fault := self.faults.take(name)) is not None:
            code, status = fault.get("code", refusal.code), fault.get("status", refusal.status)
            raise Refusal(code, refusal.message, status=status)

    def _authorize(self, request: web.Request) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        self.tokens.check(token if scheme == "QQBot" else "", self.now())
        if request.headers.get("X-Union-Appid", self.app_id) != self.app_id:
            raise Refusal(11251, "appid 不匹配", status=401)
        if self._banned:
            raise Refusal(11265, "机器人已被封禁", status=401)

    async def _me(self, _: web.Request) -> web.Response:
        return answer(BOT | {"avatar": ""})

    async def _gateway(self, request: web.Request) -> web.Response:
        self._play("gateway_401", Refusal(11244, "token not exist or expire", status=401))
        busy = Refusal(429, "too many requests", status=429)
        self._play("gateway_429", busy)
        if not self.gateway_bucket.take(self.now()):
            raise busy
        body: dict[str, Any] = {"url": f"ws://{self.host}:{self.port}/websocket"}
        if request.path.endswith("/bot"):
            self._play_no_sessions_left()
            body |= {"shards": 1, "session_start_limit": self.limit.state(self.now())}
        return answer(body)

    def _play_no_sessions_left(self) -> None:
        if (fault := self.faults.take("no_sessions_left")) is not None:
            self.limit.exhaust(self.now(), fault.get("reset_after", rules.StartLimit.DAY))

    # -- gateway socket -----------------------------------------------------------------------

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        ws = web.WebSocketResponse(timeout=2.0)
        await ws.prepare(request)
        self._opened += 1
        link = Link(self._opened, ws, request)
        self._links[link] = None
        self.note("ws-open", n=link.number)
        writer = asyncio.create_task(link.write(), name=f"qqbot-writer-{link.number}")
        try:
            self._greet(link)
            async for message in ws:
                self._receive(link, message.data)
        finally:
            self._detach(link)
            del self._links[link]
            if not link.closing:
                writer.cancel()
            await asyncio.wait({writer}, timeout=3.0)
            writer.cancel()
            self.note("ws-closed", n=link.number)
        return ws

    def _greet(self, link: Link) -> None:
        if (fault := self.faults.take("close_after_accept")) is not None:
            self._hang_up(link, fault.get("code", Close.INTERNAL))
        elif self.faults.take("no_hello") is None:
            interval = int(self.heartbeat_interval * 1000)
            link.send({"op": Op.HELLO, "d": {"heartbeat_interval": interval}})
            self._watch(link)

    def _watch(self, link: Link) -> None:
        """Give the client until its next heartbeat is long overdue."""
        self._unwatch(link)
        link.watchdog = asyncio.get_running_loop().call_later(
            SILENCE_BEATS * self.heartbeat_interval, self._hang_up, link, Close.EXPIRED
        )

    @staticmethod
    def _unwatch(link: Link) -> None:
        if link.watchdog is not None:
            link.watchdog.cancel()
            link.watchdog = None

    def _receive(self, link: Link, raw: object) -> None:
        try:
            frame = json.loads(raw) if isinstance(raw, str) else None
        except ValueError:
            frame = None
        match frame:
            case {"op": Op.HEARTBEAT, **rest}:
                self._beat(link, rest.get("d"))
            case {"op": Op.IDENTIFY | Op.RESUME} if link.session:
                self._hang_up(link, Close.ALREADY_AUTHENTICATED)
            case {"op": Op.IDENTIFY, "d": dict(data)}:
                self._identify(link, data)
            case {"op": Op.RESUME, "d": dict(data)}:
                self._resume(link, data)
            case {"op": Op.IDENTIFY | Op.RESUME} | None | list() | str() | int() | float():
                self._hang_up(link, Close.INVALID_PAYLOAD)
            case _:
                self._hang_up(link, Close.INVALID_OPCODE)

    def _beat(self, link: Link, s: object) -> None:
        if link.session is None:
            self._hang_up(link, Close.NOT_AUTHENTICATED)
            return
        self.note("beat", n=link.number, s=s)
        link.session.confirm(s)
        self._watch(link)
        if self.faults.take("no_ack") is not None:
            return
        ack = {"op": Op.HEARTBEAT_ACK}
        if (fault := self.faults.take("ack_once_late")) is not None:
            asyncio.get_running_loop().call_later(fault.get("delay", 5.0), link.send, ack)
        else:
            link.send(ack)

    def _identify(self, link: Link, data: Mapping[str, Any]) -> None:
        self.note("identify", n=link.number, intents=data.get("intents"))
        self._play_no_sessions_left()
        if self._login_refused(link, data):
            return
        shard = rules.read_shard(data.get("shard"))
        if shard is None:
            self._hang_up(link, Close.INVALID_SHARD)
            return
        intents = rules.read_intents(data.get("intents"), self._grantable(data.get("intents")))
        if isinstance(intents, Close):
            self._reject(link, intents)
            return
        if (code := self.limit.spend(self.now())) is not None:
            self._reject(link, code)
            return
        if self._login_spoilt(link):
            return
        after = self.faults.take("close_after_identify")
        if after is None or after.get("ready"):
            self._start_session(link, rules.Session(intents, shard))
        if after is not None:
            self._hang_up(link, after.get("code", Close.INTERNAL))

    def _login_refused(self, link: Link, data: Mapping[str, Any]) -> bool:
        """Close the link of a banned bot or a bad token."""
        try:
            self.tokens.check(rules.bare_token(data.get("token")), self.now())
        except Refusal as refusal:
            self._hang_up(link, Close.AUTHENTICATION_FAILED, refusal.message)
            return True
        if self._banned:
            self._hang_up(link, self._banned, "bot banned")
        return self._banned is not None

    def _login_spoilt(self, link: Link) -> bool:
        """Play the faults that Identify and Resume share; True when no answer is to follow."""
        if self.faults.take("no_ready") is not None:
            return True
        if (fault := self.faults.take("invalid_session")) is not None:
            link.send({"op": Op.INVALID_SESSION, "d": fault.get("resumable", False)})
            if fault.get("close", True):
                self._hang_up(link, Close.CREATE_SESSION, "create session error")
            return True
        return False

    def _grantable(self, asked: object) -> int:
        fault = self.faults.take("unauthorized_intents")
        if fault is None or not isinstance(asked, int):
            return self.allowed_intents
        return self.allowed_intents & ~int(fault.get("bits", asked))

    def _reject(self, link: Link, code: Close) -> None:
        """A wrong Identify: op 9 first, then the close code."""
        if code is not Close.TOO_FAST:
            link.send({"op": Op.INVALID_SESSION, "d": False})
        self._hang_up(link, code)

    def _start_session(self, link: Link, session: rules.Session) -> None:
        for old in list(self._sessions.values()):
            if old.shard == session.shard and not self._link_of(old):
                self._forget(old, "identify")
        self._sessions[session.id] = session
        ready = {"version": 1, "session_id": session.id, "user": BOT, "shard": session.shard}
        link.send({"op": Op.DISPATCH, "s": session.next(), "t": "READY", "d": ready})
        self.note("login", session=session.id)
        self._go_live(link, session, "ready")

    def _resume(self, link: Link, data: Mapping[str, Any]) -> None:
        self.note("resume", n=link.number, seq=data.get("seq"))
        if (fault := self.faults.take("close_on_resume")) is not None:
            self._hang_up(link, fault.get("code", Close.EXPIRED))
            return
        if self._login_refused(link, data) or self._login_spoilt(link):
            return
        session, refuse = self._sessions.get(str(data.get("session_id"))), None
        if session is None or (refuse := self.faults.take("refuse_resume")) is not None:
            self._refuse_resume(link, session, refuse or {})
            return
        seq = data.get("seq")
        if not isinstance(seq, int) or not 0 <= seq <= session.s:
            self._hang_up(link, Close.WRONG_SEQ)
            return
        self._resumed(link, session, seq)

    def _refuse_resume(
        self, link: Link, session: rules.Session | None, how: Mapping[str, Any]
    ) -> None:
        if session is not None:
            self._forget(session, "resume refused")
        if how.get("op9", True):
            link.send({"op": Op.INVALID_SESSION, "d": False})
        if code := how.get("code", Close.INVALID_SESSION):
            self._hang_up(link, code)

    def _resumed(self, link: Link, session: rules.Session, seq: int) -> None:
        if (old := self._link_of(session)) is not None:
            self._hang_up(old, Close.EXPIRED, "resumed elsewhere")
        session.confirm(seq)
        if not self.faults.armed("mute"):
            self._given.update(event.envelope for event in session.waiting)
            again = self.faults.take("dup_after_resume") is not None
            for frame in session.replay(seq, again=again):
                link.send(frame)
        link.send({"op": Op.DISPATCH, "s": session.next(), "t": "RESUMED", "d": ""})
        self._go_live(link, session, "resumed")

    def _go_live(self, link: Link, session: rules.Session, how: str) -> None:
        if (timer := self._expiry.pop(session.id, None)) is not None:
            timer.cancel()
        link.session = session
        self.note(how, n=link.number, session=session.id)
        self.note("link-open", n=link.number)
        if self.faults.take("server_beat") is not None:
            link.send({"op": Op.HEARTBEAT, "d": session.s})
        if self.faults.take("half_open") is not None:
            self._freeze(link)

    def _freeze(self, link: Link) -> None:
        link.freeze()
        self.note("frozen", n=link.number)

    def _hang_up(self, link: Link, code: int, reason: str = "") -> None:
        """Close a link; from this moment events wait for a resume. A frozen link closes mutely."""
        self._detach(link)
        link.close(code, reason)

    def _detach(self, link: Link) -> None:
        """The link is lost: its session waits for a Resume."""
        self._unwatch(link)
        session, link.session = link.session, None
        if session is None:
            return
        self.note("link-lost", n=link.number)
        if session.id in self._sessions:
            self._expiry[session.id] = asyncio.get_running_loop().call_later(
                self.resume_window, self._forget, session, "resume window"
            )

    def _link_of(self, session: rules.Session) -> Link | None:
        return next((link for link in self._links if link.session is session), None)

    def _forget(self, session: rules.Session, reason: str) -> None:
        """End a session, noting what dies with it."""
        self._sessions.pop(session.id, None)
        if (timer := self._expiry.pop(session.id, None)) is not None:
            timer.cancel()
        # What another session holds shares the fate of that session.
        held = {envelope for other in self._sessions.values() for envelope in other.envelopes()}
        for event in session.waiting:
            if event.envelope not in held | self._given:
                self.note("lost", id=event.id, reason=reason)
        for event in session.unproven():
            if event.envelope not in held:
                self.note("unproven", id=event.id, reason=reason)

    # -- events -------------------------------------------------------------------------------

    def _occur(self, event: Event) -> None:
        """Something happens: push it, let it wait, or lose it."""
        if self._webhook is not None:
            task = asyncio.create_task(self._call_back(self._webhook, event), name="qqbot-callback")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        audience = [s for s in self._sessions.values() if s.intents & event.intent]
        withheld = bool(audience) and self.faults.take("mute") is not None
        for session in audience:
            link = self._link_of(session)
            if link is None or withheld:
                session.waiting.append(event)
            else:
                self._push(link, session, event)
        if not audience:
            self.note("lost", id=event.id, reason="no session")

    def _push(self, link: Link, session: rules.Session, event: Event) -> None:
        self._given.add(event.envelope)
        if (fault := self.faults.take("bad_frame")) is not None:
            link.send(str(fault.get("raw", "{not json")))
        if self.faults.take("unknown_event") is not None:
            news = {"op": Op.DISPATCH, "s": session.next(), "t": "SOMETHING_NEW", "d": {"id": "1"}}
            link.send(news)
        frame = session.number(event)
        if (fault := self.faults.take("out_of_order")) is not None:
            asyncio.get_running_loop().call_later(fault.get("delay", 0.5), link.send, frame)
        else:
            link.send(frame)
        if self.faults.take("dup_event") is not None:
            link.send(session.number(event))

    # -- callbacks ----------------------------------------------------------------------------

    async def set_webhook(self, url: str | None) -> None:
        """Switch events to callbacks at ``url`` after the op 13 validation; None switches back.

        Raises WebhookRefused when the validation fails; the address before stays in force.
        """
        if url is None:
            self._webhook = None
            return
        plain, moment = secrets.token_urlsafe(15), str(int(wall_clock()))
        body = {"op": Op.CALLBACK_CHECK, "d": {"plain_token": plain, "event_ts": moment}}
        status, reply = await self._post_callback(url, body)
        expected = rules.signature(self.secret, moment, plain.encode())
        if reply != {"plain_token": plain, "signature": expected}:
            raise WebhookRefused(f"{url} answered the validation with {status}: {reply!r:.200}")
        self._webhook = url
        self.note("webhook", url=url)

    async def _post_callback(
        self, url: str, payload: Mapping[str, Any], *, forged: bool = False
    ) -> tuple[int, Any]:
        body, moment = json.dumps(payload).encode(), str(int(wall_clock()))
        secret = "not" + self.secret if forged else self.secret
        headers = rules.callback_headers(self.app_id, secret, moment, body)
        timeout = aiohttp.ClientTimeout(total=5)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(url, data=body, headers=headers) as response,
            ):
                raw = await response.read()
                return response.status, json.loads(raw) if raw else None
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return 0, repr(error)

    async def _call_back(self, url: str, event: Event) -> None:
        """Post an event until ``{"op": 12}`` answers it, then a second time if so armed."""
        if self.faults.take("webhook_forged") is not None:
            status, _ = await self._post_callback(url, event.frame(), forged=True)
            self.note("forged", id=event.id, accepted=status == 200)
        times = 2 if self.faults.take("dup_event") is not None else 1
        for delay in REDELIVERY:
            await asyncio.sleep(delay)
            status, reply = await self._post_callback(url, event.frame())
            self.note("callback", id=event.id, status=status)
            if status == 200 and isinstance(reply, dict) and reply.get("op") == Op.CALLBACK_ACK:
                times -= 1
                if times == 0:
                    return
        self.note("lost", id=event.id, reason="callback refused")

    async def on_stop(self) -> None:
        """Reset sockets and stop redelivering callbacks; sessions stay resumable."""
        self.drop_all()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # -- messages of the bot ------------------------------------------------------------------

    def _chat(self, request: web.Request) -> tuple[str, str, bool]:
        """The openid of the request's path, its name, and whether it is a group's."""
        openid, group = request.match_info["openid"], request.path.startswith("/v2/groups/")
        name, is_group = self._names.get(openid, ("", not group))
        if is_group != group:
            raise Refusal(40054003, "机器人不在群内") if group else Refusal(40054004, "非好友关系")
        return openid, name, group

    async def _send(self, request: web.Request) -> web.Response:
        openid, chat, group = self._chat(request)
        body = await read_json(request)
        draft = rules.read_draft(body, group=group)
        self._check_content(draft)
        media = self._media_of(draft, group)
        if draft.reply_to is None:
            self.replies.admit_active(openid, self.now())
        else:
            counts = draft.type is not MessageType.TYPING
            self.replies.admit_reply(draft.reply_to, openid, draft.seq, self.now(), counts=counts)
        if draft.type is MessageType.TYPING:
            self.note("typing", chat=chat)
            return answer({"id": "", "timestamp": timestamp()})
        if self.faults.take("send_swallowed") is not None:
            return answer({"id": self._new_id(openid), "timestamp": timestamp()})
        self.accepted.append(body)
        key = self._deliver(openid, chat, draft.text.strip(), draft.reply_to, media)
        return await self._confirm_send(request, key)

    def _check_content(self, draft: rules.Draft) -> None:
        """Refuse what the content, or a fault, asks to be refused."""
        self._play("send_error", Refusal(50055001, "系统繁忙"))
        self._play("send_22009", Refusal(22009, "消息发送超频", status=429))
        urls = rules.URL_PATTERN.findall(draft.text)
        if urls:
            self._play("url_refused", Refusal(304003, "URL_NOT_ALLOWED"))
        if self.allowed_urls is not None and not all(u.startswith(self.allowed_urls) for u in urls):
            raise Refusal(304003, "URL_NOT_ALLOWED")
        limit = self.max_text
        if (fault := self.faults.take("too_long")) is not None:
            limit = fault.get("limit", 0)
        if len(draft.text) > limit:
            raise Refusal(40054007, "消息内容过长")
        if draft.type is MessageType.MARKDOWN:
            refusal = Refusal(50056, "不允许发送原生 markdown")
            self._play("markdown_refused", refusal)
            if not self.markdown_allowed:
                raise refusal

    def _media_of(self, draft: rules.Draft, group: bool) -> rules.Media | None:
        if draft.file_info is None:
            return None
        media = self._media.get(draft.file_info)
        if media is None or media.group != group or self.now() > media.expires:
            raise Refusal(40034004, "富媒体文件无效")
        return media

    def _new_id(self, openid: str) -> str:
        key = f"ROBOT1.0_{secrets.token_urlsafe(24)}"
        self._sent_at[key] = openid, self.now()
        return key

    def _deliver(
        self, openid: str, chat: str, text: str, reply_to: str | None, media: rules.Media | None
    ) -> str:
        key = self._new_id(openid)
        heard = Heard(id=key, chat=chat, text=text, at=self.now(), reply_to=reply_to)
        self.hear(replace(heard, media=media.name, data=media.data) if media else heard)
        return key

    async def _confirm_send(self, request: web.Request, key: str) -> web.Response:
        if self.faults.take("send_202_pending") is not None:
            pending = Refusal(304023, "push message is waiting for audit now")
            audit = {"data": {"message_audit": {"audit_id": str(uuid.uuid4())}}}
            return answer(pending.body(secrets.token_hex(8)) | audit, 202)
        if (fault := self.faults.take("send_slow_but_delivered")) is not None:
            await asyncio.sleep(fault.get("delay", 8.0))
        if self.faults.take("send_answer_lost") is not None and request.transport is not None:
            request.transport.abort()
        return answer({"id": key, "timestamp": timestamp()})

    async def _upload(self, request: web.Request) -> web.Response:
        openid, chat, group = self._chat(request)
        body = await read_json(request)
        self._play("media_failed", Refusal(304082, "富媒体资源拉取失败"))
        kind = rules.FILE_KINDS.get(body.get("file_type") or 0)
        if kind is None:
            raise rules.wrong_request("file_type invalid")
        if body.get("file_data"):
            name, data = str(body.get("file_name") or kind), rules.read_file_data(body["file_data"])
        else:
            name, data = await self._fetch(str(body.get("url") or ""))
        expires = self.now() + rules.FILE_INFO_TTL
        media = rules.Media(name=name, data=data, group=group, expires=expires)
        info = secrets.token_urlsafe(48)
        self._media[info] = media
        reply = {"file_uuid": str(uuid.uuid4()), "file_info": info, "ttl": rules.FILE_INFO_TTL}
        if body.get("srv_send_msg"):
            self.replies.admit_active(openid, self.now())
            reply["id"] = self._deliver(openid, chat, "", None, media)
        return answer(reply)

    async def _fetch(self, address: str) -> tuple[str, bytes]:
        """Fetch a file of loopback; other hosts are believed, since the lab never leaves it."""
        try:
            url = URL(address)
        except ValueError:
            url = URL()
        if url.scheme not in ("http", "https") or not url.host:
            raise rules.wrong_request("url invalid")
        if url.host not in ("127.0.0.1", "localhost", "::1"):
            return url.name, b""
        timeout = aiohttp.ClientTimeout(total=5)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as session,
                session.get(url) as response,
            ):
                return url.name, await response.read()
        except (aiohttp.ClientError, TimeoutError):
            raise Refusal(304082, "富媒体资源拉取失败") from None

    async def _recall(self, request: web.Request) -> web.Response:
        openid, chat, _ = self._chat(request)
        key = request.match_info["id"]
        owner, at = self._sent_at.get(key, ("", 0.0))
        if owner != openid:
            raise Refusal(306004, "message not found", status=404)
        if self.now() - at > RECALL_WINDOW:
            raise Refusal(306011, "超过可撤回消息时间")
        del self._sent_at[key]
        self.note("recalled", id=key, chat=chat)
        return answer({})

    async def _interaction_done(self, request: web.Request) -> web.Response:
        key, body = request.match_info["id"], await read_json(request)
        if key not in self._interactions:
            raise Refusal(630006, "interaction not found", status=404)
        self._interactions.discard(key)
        self.note("interaction-done", id=key, code=body.get("code"))
        return web.Response(status=204)


async def read_json(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request. Raises Refusal."""
    try:
        body = json.loads(await request.read())
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise rules.wrong_request("body is not a JSON object")
    return body


if __name__ == "__main__":
    QQBotSimulator.main()
