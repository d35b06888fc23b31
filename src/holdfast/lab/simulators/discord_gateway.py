"""The gateway of the simulated Discord: sockets, sessions, and the events they carry."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from aiohttp import WSMsgType, web

from holdfast.lab.simulator import sockets_of
from holdfast.lab.simulators import discord_rules as rules
from holdfast.lab.simulators.discord_link import Link
from holdfast.lab.simulators.discord_platform import DiscordPlatform, answer
from holdfast.lab.simulators.discord_rules import Close, Entry, Event, Intent, Op, Session
from holdfast.lab.simulators.discord_world import BOT, GUILD_ID, without_content

SILENCE_BEATS = 2.5
"""Heartbeat intervals of silence after which the server closes with 4009 (undocumented)."""
NEWS: dict[str, Any] = {"op": Op.DISPATCH, "t": "SOMETHING_NEW", "d": {"id": "1"}}


class Gateway:
    """The sockets of the bot in ``links``, and its sessions, which outlive them.

    Faults, settings and the truth are those of the platform ``lab``. A link is lost by ``detach``
    alone, whoever hung up; its session then waits for ``resume_window`` seconds.
    """

    def __init__(self, lab: DiscordPlatform) -> None:
        self._lab = lab
        self.links: dict[Link, None] = {}
        self._opened = 0
        self._sessions: dict[str, Session] = {}
        self._expiry: dict[str, asyncio.TimerHandle] = {}
        self._given: set[Event] = set()

    def reaches_bot(self) -> bool:
        """Whether a READY or RESUMED link that is neither mute nor frozen exists."""
        live = any(k.session and not (k.frozen or k.leaving) for k in self.links)
        return live and not self._lab.faults.armed("mute")

    async def call(self, request: web.Request) -> web.Response:
        """/gateway and /gateway/bot: the socket's address, on the host that was asked."""
        body: dict[str, Any] = {"url": f"{sockets_of(request)}/gw"}
        if request.path.endswith("/bot"):
            self._play_no_sessions_left()
            body |= {"shards": 1, "session_start_limit": self._lab.limit.state(self._lab.now())}
        return answer(body)

    def _play_no_sessions_left(self) -> None:
        if (fault := self._lab.fault("no_sessions_left")) is not None:
            self._lab.limit.exhaust(self._lab.now(), fault.get("reset_after", 14_400.0))

    # -- sockets ------------------------------------------------------------------------------

    async def accept(self, request: web.Request) -> web.StreamResponse:
        """/gw and /gw-resume: one link, from Hello to its end."""
        if (fault := self._lab.fault("upgrade_refused")) is not None:
            return web.Response(status=fault.get("status", 503))
        ws = web.WebSocketResponse(timeout=2.0, compress=False)
        await ws.prepare(request)
        self._opened += 1
        link = Link(self._opened, ws, request)
        self.links[link] = None
        self._lab.note("ws-open", n=link.number, path=request.path)
        writer = asyncio.create_task(link.write(), name=f"discord-writer-{link.number}")
        try:
            self._greet(link, request.query)
            async for message in ws:
                self._receive(link, message.data if message.type is WSMsgType.TEXT else "")
        finally:
            self._ended(link, ws.close_code)
            if not link.closing:
                writer.cancel()
            await asyncio.wait({writer}, timeout=3.0)
            writer.cancel()
        return ws

    def _ended(self, link: Link, code: int | None) -> None:
        session = link.session
        self.detach(link)
        del self.links[link]
        self._lab.note("ws-closed", n=link.number, code=code)
        if session is not None and not link.closing and code in rules.ENDS_SESSION:
            self.forget(session, f"closed with {code} by the client")

    def _greet(self, link: Link, query: Mapping[str, str]) -> None:
        if (fault := self._lab.fault("close_after_accept")) is not None:
            self.hang_up(link, fault.get("code", Close.UNKNOWN))
        elif query.get("v", "10") != "10":
            self.hang_up(link, Close.INVALID_VERSION, "Invalid API version.")
        elif (fault := self._lab.fault("slow_hello")) is not None:
            asyncio.get_running_loop().call_later(fault.get("delay", 8.0), self._hello, link)
        elif self._lab.fault("no_hello") is None:
            self._hello(link)

    def _hello(self, link: Link) -> None:
        interval = int(self._lab.heartbeat_interval * 1000)
        link.send({"op": Op.HELLO, "d": {"heartbeat_interval": interval}, "s": None, "t": None})
        self._watch(link)

    def _watch(self, link: Link) -> None:
        """Give the client until its next heartbeat is long overdue."""
        self._unwatch(link)
        link.watchdog = asyncio.get_running_loop().call_later(
            SILENCE_BEATS * self._lab.heartbeat_interval,
            self.hang_up,
            link,
            Close.SESSION_TIMED_OUT,
            "Session timed out.",
        )

    @staticmethod
    def _unwatch(link: Link) -> None:
        if link.watchdog is not None:
            link.watchdog.cancel()
            link.watchdog = None

    def _receive(self, link: Link, raw: str) -> None:
        if not link.frames.take(self._lab.now()):
            self.hang_up(link, Close.RATE_LIMITED, "Rate limited.")
            return
        try:
            frame = json.loads(raw) if len(raw.encode()) <= rules.MAX_FRAME else None
        except ValueError:
            frame = None
        match frame:
            case {"op": Op.HEARTBEAT, **rest}:
                self._beat(link, rest.get("d"))
            case {"op": Op.IDENTIFY | Op.RESUME} if link.session:
                self.hang_up(link, Close.ALREADY_AUTHENTICATED, "Already authenticated.")
            case {"op": Op.IDENTIFY, "d": dict(data)}:
                self._identify(link, data)
            case {"op": Op.RESUME, "d": dict(data)}:
                self._resume(link, data)
            case {"op": Op.IDENTIFY | Op.RESUME}:
                self.hang_up(link, Close.DECODE_ERROR, "Error while decoding payload.")
            case {"op": int(op)}:
                self._other(link, op)
            case _:
                self.hang_up(link, Close.DECODE_ERROR, "Error while decoding payload.")

    def _other(self, link: Link, op: int) -> None:
        if op not in tuple(Op):
            self.hang_up(link, Close.UNKNOWN_OPCODE, "Unknown opcode.")
        elif link.session is None:
            self.hang_up(link, Close.NOT_AUTHENTICATED, "Not authenticated.")

    def _beat(self, link: Link, s: object) -> None:
        # Heartbeats begin after Hello: they are answered before Identify as well.
        self._lab.note("beat", n=link.number, s=s)
        self._confirm(link.session, s)
        self._watch(link)
        if self._lab.fault("no_ack") is not None:
            return
        ack = {"op": Op.HEARTBEAT_ACK}
        if (fault := self._lab.fault("ack_late")) is not None:
            asyncio.get_running_loop().call_later(fault.get("delay", 5.0), link.send, ack)
        else:
            link.send(ack)

    def _confirm(self, session: Session | None, s: object) -> None:
        for event in session.confirm(s) if session is not None else ():
            if event.id is not None:
                self._lab.note("ack", id=event.id)

    # -- logging in ---------------------------------------------------------------------------

    def _identify(self, link: Link, data: Mapping[str, Any]) -> None:
        self._lab.note("identify", n=link.number, intents=data.get("intents"))
        self._play_no_sessions_left()
        if not self._lab.token_valid(data.get("token")):
            self.hang_up(link, Close.AUTHENTICATION_FAILED, "Authentication failed.")
            return
        shard = rules.read_shard(data.get("shard"))
        if shard is None:
            self.hang_up(link, Close.INVALID_SHARD, "Invalid shard.")
            return
        intents = rules.read_intents(data.get("intents"), self._lab.allowed_intents)
        if self._lab.fault("disallowed_intents") is not None:
            intents = Close.DISALLOWED_INTENTS
        if isinstance(intents, Close):
            self.hang_up(link, intents, "Disallowed or invalid intent(s).")
            return
        if self._lab.limit.too_soon(self._lab.now()):
            link.send({"op": Op.INVALID_SESSION, "d": False})
            return
        if not self._lab.limit.spend(self._lab.now()):
            self.reset_token()
            return
        self._log_in(link, Session(intents, shard))

    def _log_in(self, link: Link, session: Session) -> None:
        if self._login_spoilt(link):
            return
        after = self._lab.fault("close_after_identify")
        if after is None or after.get("ready"):
            self._start_session(link, session)
        if after is not None:
            self.hang_up(link, after.get("code", Close.UNKNOWN))

    def reset_token(self) -> None:
        """What Discord does to a bot that identifies too often: every session ends, 4004."""
        self._lab.revoked = True
        self._lab.note("token-reset")
        for link in list(self.links):
            self.hang_up(link, Close.AUTHENTICATION_FAILED, "Authentication failed.")
        for session in list(self._sessions.values()):
            self.forget(session, "token reset")

    def _login_spoilt(self, link: Link) -> bool:
        """Play the faults that Identify and Resume share; True when no answer is to follow."""
        if self._lab.fault("no_ready") is not None:
            return True
        if (fault := self._lab.fault("invalid_session")) is not None:
            link.send({"op": Op.INVALID_SESSION, "d": fault.get("resumable", False)})
            return True
        return False

    def _start_session(self, link: Link, session: Session) -> None:
        self._sessions[session.id] = session
        application = self._lab.application()
        ready = {
            "v": 10,
            "user": BOT,
            "guilds": [{"id": str(GUILD_ID), "unavailable": True}],
            "session_id": session.id,
            "resume_gateway_url": link.origin.replace("http", "ws", 1) + "/gw-resume",
            "application": {key: application[key] for key in ("id", "flags")},
            "shard": session.shard,
        }
        if (fault := self._lab.fault("huge_ready")) is not None:
            ready["_trace"] = ["x" * fault.get("size", 5_000_000)]
        link.send({"op": Op.DISPATCH, "s": session.next(), "t": "READY", "d": ready})
        self._lab.note("login", session=session.id)
        guild = self._lab.world.guild_object()
        opening = Event(type="GUILD_CREATE", intent=Intent.GUILDS, data=guild, guild=GUILD_ID)
        if opening.concerns(session):
            self._write(link, session, session.record(opening))
        self._go_live(link, session, "ready")

    def _resume(self, link: Link, data: Mapping[str, Any]) -> None:
        seq = data.get("seq")
        self._lab.note("resume", n=link.number, seq=seq)
        if (fault := self._lab.fault("close_on_resume")) is not None:
            self.hang_up(link, fault.get("code", Close.SESSION_TIMED_OUT))
            return
        if self._lab.fault("abort_on_resume") is not None:
            link.abort()
            return
        if not self._lab.token_valid(data.get("token")):
            self.hang_up(link, Close.AUTHENTICATION_FAILED, "Authentication failed.")
            return
        if self._login_spoilt(link):
            return
        session = self._sessions.get(str(data.get("session_id")))
        if session is not None and self._lab.fault("refuse_resume") is not None:
            self.forget(session, "resume refused")
            session = None
        if session is None:
            link.send({"op": Op.INVALID_SESSION, "d": False, "s": None, "t": None})
        elif not isinstance(seq, int) or not 0 <= seq <= session.s:
            self.hang_up(link, Close.INVALID_SEQ, "Invalid seq.")
        else:
            self._resumed(link, session, seq)

    def _resumed(self, link: Link, session: Session, seq: int) -> None:
        if (old := self._link_of(session)) is not None:
            self.hang_up(old, Close.SESSION_TIMED_OUT, "Session resumed elsewhere.")
        self._confirm(session, seq)
        if not self._lab.faults.armed("mute"):
            again = self._lab.fault("dup_after_resume") is not None
            for entry in session.replay(seq, again=again):
                self._write(link, session, entry)
        link.send({"op": Op.DISPATCH, "s": session.next(), "t": "RESUMED", "d": {"_trace": []}})
        self._go_live(link, session, "resumed")

    def _go_live(self, link: Link, session: Session, how: str) -> None:
        if (timer := self._expiry.pop(session.id, None)) is not None:
            timer.cancel()
        link.session = session
        self._lab.note(how, n=link.number, session=session.id)
        self._lab.note("link-open", n=link.number)
        if self._lab.fault("server_beat") is not None:
            link.send({"op": Op.HEARTBEAT, "d": None})
        if (fault := self._lab.fault("goodbye")) is not None:
            self.goodbye(link, fault.get("code"))
        if (fault := self._lab.fault("close_when_live")) is not None:
            self.hang_up(link, fault.get("code", Close.UNKNOWN))
        if self._lab.fault("half_open") is not None:
            self.freeze(link)

    # -- losing links -------------------------------------------------------------------------

    def goodbye(self, link: Link, code: int | None, silence: float = 0.0) -> None:
        """Op 7; with a code the socket is closed behind it.

        With ``silence`` it is closed so many seconds later, and carries no event meanwhile.
        """
        link.send({"op": Op.RECONNECT, "d": None, "s": None, "t": None})
        if silence:
            link.leaving = True
            asyncio.get_running_loop().call_later(silence, self.hang_up, link, code or 1000)
        elif code is not None:
            self.hang_up(link, code)

    def freeze(self, link: Link) -> None:
        """The link is half-open from now on."""
        link.freeze()
        self._unwatch(link)
        self._lab.note("frozen", n=link.number)

    def hang_up(self, link: Link, code: int, reason: str = "") -> None:
        """Close a link; from this moment events wait for a resume. A frozen link closes mutely."""
        self.detach(link)
        link.close(code, reason)

    def drop(self, link: Link) -> None:
        """Reset a link."""
        self.detach(link)
        link.abort()

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

    def _link_of(self, session: Session) -> Link | None:
        return next((link for link in self.links if link.session is session), None)

    def forget(self, session: Session, reason: str) -> None:
        """End a session, noting what dies with it."""
        if self._sessions.pop(session.id, None) is not None:
            self._lab.note("session-ended", session=session.id, reason=reason)
        if (timer := self._expiry.pop(session.id, None)) is not None:
            timer.cancel()
        # What another session holds shares the fate of that session.
        held = {e.event for other in self._sessions.values() for e in other.entries}
        for entry in session.unproven():
            event = entry.event
            if event.id is not None and event not in held:
                what = "unproven" if event in self._given else "lost"
                self._lab.note(what, id=event.id, reason=reason)

    # -- events -------------------------------------------------------------------------------

    def push(self, event: Event) -> None:
        """Something happens: every session that it concerns numbers it, and sends it if it can."""
        audience = [s for s in self._sessions.values() if event.concerns(s)]
        if audience and event.id is not None:
            withheld = self._lab.fault("mute") is not None
        else:
            withheld = self._lab.faults.armed("mute")
        for session in audience:
            entry, link = session.record(event), self._link_of(session)
            if link is not None and not (link.leaving or withheld):
                self._give(link, session, entry)
        if not audience and event.id is not None:
            self._lab.note("lost", id=event.id, reason="no session")

    def _give(self, link: Link, session: Session, entry: Entry) -> None:
        if entry.event.id is None:
            self._write(link, session, entry)
            return
        if self._lab.fault("drop_on_event") is not None:
            self.drop(link)
            return
        if (fault := self._lab.fault("close_on_event")) is not None:
            self.hang_up(link, fault.get("code", Close.UNKNOWN))
            return
        self._precede(link, session)
        if (fault := self._lab.fault("out_of_order")) is not None:
            delay = fault.get("delay", 0.5)
            asyncio.get_running_loop().call_later(delay, self._write, link, session, entry)
        else:
            self._write(link, session, entry)
        if self._lab.fault("dup_event") is not None:
            self._write(link, session, session.record(entry.event))

    def _precede(self, link: Link, session: Session) -> None:
        if (fault := self._lab.fault("bad_frame")) is not None:
            link.send(str(fault.get("raw", "{not json")))
        if self._lab.fault("unknown_op") is not None:
            link.send({"op": 99, "d": None})
        if self._lab.fault("unknown_event") is not None:
            link.send(NEWS | {"s": session.next()})
        if (fault := self._lab.fault("huge_frame")) is not None:
            link.send(NEWS | {"s": session.next(), "d": {"id": "x" * fault.get("size", 5_000_000)}})

    def _write(self, link: Link, session: Session, entry: Entry) -> None:
        if link.frozen or link.closing:
            return
        entry.given = True
        self._given.add(entry.event)
        data = entry.event.data
        if entry.event.type.startswith("MESSAGE_") and "attachments" in data:
            data = self._lab.world.shown(data, link.origin)
            if not session.intents & Intent.MESSAGE_CONTENT:
                data = without_content(data)
        frame = {"op": Op.DISPATCH, "s": entry.s, "t": entry.event.type, "d": data}
        fault = self._lab.fault("split_frame") if entry.event.id is not None else None
        link.send(frame, pieces=1 if fault is None else fault.get("pieces", 3))
