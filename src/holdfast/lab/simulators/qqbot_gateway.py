"""The gateway of the simulated QQ bot platform: sockets, sessions, and the events they carry."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from holdfast.lab.simulator import sockets_of
from holdfast.lab.simulators import qqbot_rules as rules
from holdfast.lab.simulators.qqbot_platform import BOT, OpenPlatform, answer
from holdfast.lab.simulators.qqbot_rules import Close, Event, Op, Refusal

SILENCE_BEATS = 2.5
"""Heartbeat intervals of silence after which the server closes with 4009 (undocumented)."""


class Link:
    """One accepted socket. Sending is queued and never waits; ``session`` is set when it is live.

    ``origin`` is the address the client came by: a relay's, if one stands before the simulator.
    A frozen link is half-open: it takes everything, answers nothing, and TCP stays. A leaving one
    answers heartbeats and carries no event any more.
    """

    OUTBOX = 10_000

    def __init__(self, number: int, ws: web.WebSocketResponse, request: web.Request) -> None:
        self.number, self.ws = number, ws
        self.origin = f"{request.scheme}://{request.host}"
        self.session: rules.Session | None = None
        self.frozen = self.closing = self.leaving = False
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


class Gateway:
    """The sockets of the bot in ``links``, and its sessions, which outlive them.

    Faults, settings and the truth are those of the platform ``lab``. A link is lost by ``detach``
    alone, whoever hung up; its session then waits for ``resume_window`` seconds.
    """

    def __init__(self, lab: OpenPlatform) -> None:
        self._lab = lab
        self.links: dict[Link, None] = {}
        self._opened = 0
        self._sessions: dict[str, rules.Session] = {}
        self._expiry: dict[str, asyncio.TimerHandle] = {}
        self._given: set[str] = set()

    def reaches_bot(self) -> bool:
        """Whether a READY or RESUMED link that is neither mute nor frozen exists."""
        live = any(k.session and not (k.frozen or k.leaving) for k in self.links)
        return live and not self._lab.faults.armed("mute")

    async def call(self, request: web.Request) -> web.Response:
        """/gateway and /gateway/bot: the socket's address, on the host that was asked."""
        self._lab.play("gateway_401", Refusal(11244, "token not exist or expire", status=401))
        busy = Refusal(429, "too many requests", status=429)
        self._lab.play("gateway_429", busy)
        if not self._lab.gateway_bucket.take(self._lab.now()):
            raise busy
        body: dict[str, Any] = {"url": f"{sockets_of(request)}/websocket"}
        if request.path.endswith("/bot"):
            self._play_no_sessions_left()
            body |= {"shards": 1, "session_start_limit": self._lab.limit.state(self._lab.now())}
        return answer(body)

    def _play_no_sessions_left(self) -> None:
        if (fault := self._lab.faults.take("no_sessions_left")) is not None:
            self._lab.limit.exhaust(self._lab.now(), fault.get("reset_after", rules.StartLimit.DAY))

    # -- sockets ------------------------------------------------------------------------------

    async def accept(self, request: web.Request) -> web.WebSocketResponse:
        """/websocket: one link, from Hello to its end."""
        ws = web.WebSocketResponse(timeout=2.0)
        await ws.prepare(request)
        self._opened += 1
        link = Link(self._opened, ws, request)
        self.links[link] = None
        self._lab.note("ws-open", n=link.number)
        writer = asyncio.create_task(link.write(), name=f"qqbot-writer-{link.number}")
        try:
            self._greet(link)
            async for message in ws:
                self._receive(link, message.data)
        finally:
            self.detach(link)
            del self.links[link]
            # Noted before the wait: a client that has gone gets this handler cancelled in it.
            self._lab.note("ws-closed", n=link.number)
            if not link.closing:
                writer.cancel()
            await asyncio.wait({writer}, timeout=3.0)
            writer.cancel()
        return ws

    def _greet(self, link: Link) -> None:
        if (fault := self._lab.faults.take("close_after_accept")) is not None:
            self.hang_up(link, fault.get("code", Close.INTERNAL))
        elif (fault := self._lab.faults.take("slow_hello")) is not None:
            asyncio.get_running_loop().call_later(fault.get("delay", 8.0), self._hello, link)
        elif self._lab.faults.take("no_hello") is None:
            self._hello(link)

    def _hello(self, link: Link) -> None:
        interval = int(self._lab.heartbeat_interval * 1000)
        link.send({"op": Op.HELLO, "d": {"heartbeat_interval": interval}})
        self._watch(link)

    def _watch(self, link: Link) -> None:
        """Give the client until its next heartbeat is long overdue."""
        self._unwatch(link)
        link.watchdog = asyncio.get_running_loop().call_later(
            SILENCE_BEATS * self._lab.heartbeat_interval, self.hang_up, link, Close.EXPIRED
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
                self.hang_up(link, Close.ALREADY_AUTHENTICATED)
            case {"op": Op.IDENTIFY, "d": dict(data)}:
                self._identify(link, data)
            case {"op": Op.RESUME, "d": dict(data)}:
                self._resume(link, data)
            case {"op": Op.IDENTIFY | Op.RESUME} | None | list() | str() | int() | float():
                self.hang_up(link, Close.INVALID_PAYLOAD)
            case _:
                self.hang_up(link, Close.INVALID_OPCODE)

    def _beat(self, link: Link, s: object) -> None:
        if link.session is None:
            self.hang_up(link, Close.NOT_AUTHENTICATED)
            return
        self._lab.note("beat", n=link.number, s=s)
        link.session.confirm(s)
        self._watch(link)
        if self._lab.faults.take("no_ack") is not None:
            return
        ack = {"op": Op.HEARTBEAT_ACK}
        if (fault := self._lab.faults.take("ack_once_late")) is not None:
            asyncio.get_running_loop().call_later(fault.get("delay", 5.0), link.send, ack)
        else:
            link.send(ack)

    def _identify(self, link: Link, data: Mapping[str, Any]) -> None:
        self._lab.note("identify", n=link.number, intents=data.get("intents"))
        self._play_no_sessions_left()
        if self._login_refused(link, data):
            return
        shard = rules.read_shard(data.get("shard"))
        if shard is None:
            self.hang_up(link, Close.INVALID_SHARD)
            return
        intents = rules.read_intents(data.get("intents"), self._grantable(data.get("intents")))
        if isinstance(intents, Close):
            self._reject(link, intents)
            return
        if (code := self._lab.limit.spend(self._lab.now())) is not None:
            self._reject(link, code)
            return
        if self._login_spoilt(link):
            return
        after = self._lab.faults.take("close_after_identify")
        if after is None or after.get("ready"):
            self._start_session(link, rules.Session(intents, shard))
        if after is not None:
            self.hang_up(link, after.get("code", Close.INTERNAL))

    def _login_refused(self, link: Link, data: Mapping[str, Any]) -> bool:
        """Close the link of a banned bot or a bad token."""
        try:
            self._lab.tokens.check(rules.bare_token(data.get("token")), self._lab.now())
        except Refusal as refusal:
            self.hang_up(link, Close.AUTHENTICATION_FAILED, refusal.message)
            return True
        if self._lab.banned:
            self.hang_up(link, self._lab.banned, "bot banned")
        return self._lab.banned is not None

    def _login_spoilt(self, link: Link) -> bool:
        """Play the faults that Identify and Resume share; True when no answer is to follow."""
        if self._lab.faults.take("no_ready") is not None:
            return True
        if (fault := self._lab.faults.take("invalid_session")) is not None:
            link.send({"op": Op.INVALID_SESSION, "d": fault.get("resumable", False)})
            if fault.get("close", True):
                self.hang_up(link, Close.CREATE_SESSION, "create session error")
            return True
        return False

    def _grantable(self, asked: object) -> int:
        fault = self._lab.faults.take("unauthorized_intents")
        if fault is None or not isinstance(asked, int):
            return self._lab.allowed_intents
        return self._lab.allowed_intents & ~int(fault.get("bits", asked))

    def _reject(self, link: Link, code: Close) -> None:
        """A wrong Identify: op 9 first, then the close code."""
        if code is not Close.TOO_FAST:
            link.send({"op": Op.INVALID_SESSION, "d": False})
        self.hang_up(link, code)

    def _start_session(self, link: Link, session: rules.Session) -> None:
        for old in list(self._sessions.values()):
            if old.shard == session.shard and not self._link_of(old):
                self.forget(old, "identify")
        self._sessions[session.id] = session
        ready = {"version": 1, "session_id": session.id, "user": BOT, "shard": session.shard}
        link.send({"op": Op.DISPATCH, "s": session.next(), "t": "READY", "d": ready})
        self._lab.note("login", session=session.id)
        self._go_live(link, session, "ready")

    def _resume(self, link: Link, data: Mapping[str, Any]) -> None:
        self._lab.note("resume", n=link.number, seq=data.get("seq"))
        if (fault := self._lab.faults.take("close_on_resume")) is not None:
            self.hang_up(link, fault.get("code", Close.EXPIRED))
            return
        if self._login_refused(link, data) or self._login_spoilt(link):
            return
        session, refuse = self._sessions.get(str(data.get("session_id"))), None
        if session is None or (refuse := self._lab.faults.take("refuse_resume")) is not None:
            self._refuse_resume(link, session, refuse or {})
            return
        seq = data.get("seq")
        if not isinstance(seq, int) or not 0 <= seq <= session.s:
            self.hang_up(link, Close.WRONG_SEQ)
            return
        self._resumed(link, session, seq)

    def _refuse_resume(
        self, link: Link, session: rules.Session | None, how: Mapping[str, Any]
    ) -> None:
        if session is not None:
            self.forget(session, "resume refused")
        if how.get("op9", True):
            link.send({"op": Op.INVALID_SESSION, "d": False})
        if code := how.get("code", Close.INVALID_SESSION):
            self.hang_up(link, code)

    def _resumed(self, link: Link, session: rules.Session, seq: int) -> None:
        if (old := self._link_of(session)) is not None:
            self.hang_up(old, Close.EXPIRED, "resumed elsewhere")
        session.confirm(seq)
        if not self._lab.faults.armed("mute"):
            self._given.update(event.envelope for event in session.waiting)
            again = self._lab.faults.take("dup_after_resume") is not None
            for frame in session.replay(seq, link.origin, again=again):
                link.send(frame)
        link.send({"op": Op.DISPATCH, "s": session.next(), "t": "RESUMED", "d": ""})
        self._go_live(link, session, "resumed")

    def _go_live(self, link: Link, session: rules.Session, how: str) -> None:
        if (timer := self._expiry.pop(session.id, None)) is not None:
            timer.cancel()
        link.session = session
        self._lab.note(how, n=link.number, session=session.id)
        self._lab.note("link-open", n=link.number)
        if self._lab.faults.take("server_beat") is not None:
            link.send({"op": Op.HEARTBEAT, "d": session.s})
        if (fault := self._lab.faults.take("close_when_live")) is not None:
            self.hang_up(link, fault.get("code", Close.INTERNAL))
        if self._lab.faults.take("half_open") is not None:
            self.freeze(link)

    def say_goodbye(self, link: Link, silence: float) -> None:
        """Op 7, then nothing but acknowledged heartbeats, and 4009 after so many seconds."""
        link.send({"op": Op.RECONNECT})
        link.leaving = True
        loop = asyncio.get_running_loop()
        loop.call_later(silence, self.hang_up, link, Close.EXPIRED, "Session timed out")

    def freeze(self, link: Link) -> None:
        link.freeze()
        self._lab.note("frozen", n=link.number)

    def hang_up(self, link: Link, code: int, reason: str = "") -> None:
        """Close a link; from this moment events wait for a resume. A frozen link closes mutely."""
        self.detach(link)
        link.close(code, reason)

    def detach(self, link: Link) -> None:
        """The link is lost: its session waits for a Resume."""
        self._unwatch(link)
        session, link.session = link.session, None
        if session is None:
            return
        self._lab.note("link-lost", n=link.number)
        if session.id in self._sessions:
            self._expiry[session.id] = asyncio.get_running_loop().call_later(
                self._lab.resume_window, self.forget, session, "resume window"
            )

    def _link_of(self, session: rules.Session) -> Link | None:
        return next((link for link in self.links if link.session is session), None)

    def forget(self, session: rules.Session, reason: str) -> None:
        """End a session, noting what dies with it."""
        if self._sessions.pop(session.id, None) is not None:
            self._lab.note("session-ended", session=session.id, reason=reason)
        if (timer := self._expiry.pop(session.id, None)) is not None:
            timer.cancel()
        # What another session holds shares the fate of that session.
        held = {envelope for other in self._sessions.values() for envelope in other.envelopes()}
        for event in session.waiting:
            if event.envelope not in held | self._given:
                self._lab.note("lost", id=event.id, reason=reason)
        for event in session.unproven():
            if event.envelope not in held:
                self._lab.note("unproven", id=event.id, reason=reason)

    # -- events -------------------------------------------------------------------------------

    def push(self, event: Event) -> None:
        """Something happens: send it, let it wait, or lose it."""
        audience = [s for s in self._sessions.values() if s.intents & event.intent]
        withheld = bool(audience) and self._lab.faults.take("mute") is not None
        for session in audience:
            link = self._link_of(session)
            if link is None or link.leaving or withheld:
                session.waiting.append(event)
            else:
                self._give(link, session, event)
        if not audience:
            self._lab.note("lost", id=event.id, reason="no session")

    def _give(self, link: Link, session: rules.Session, event: Event) -> None:
        self._given.add(event.envelope)
        if (fault := self._lab.faults.take("bad_frame")) is not None:
            link.send(str(fault.get("raw", "{not json")))
        if self._lab.faults.take("unknown_event") is not None:
            link.send(_news(session, "1"))
        if (fault := self._lab.faults.take("huge_frame")) is not None:
            link.send(_news(session, "x" * fault.get("size", 5_000_000)))
        frame = session.number(event, link.origin)
        if (fault := self._lab.faults.take("out_of_order")) is not None:
            asyncio.get_running_loop().call_later(fault.get("delay", 0.5), link.send, frame)
        else:
            link.send(frame)
        if self._lab.faults.take("dup_event") is not None:
            link.send(session.number(event, link.origin))


def _news(session: rules.Session, key: str) -> dict[str, Any]:
    """A dispatch of a type that no page names."""
    return {"op": Op.DISPATCH, "s": session.next(), "t": "SOMETHING_NEW", "d": {"id": key}}
