"""The event sockets of the simulated Mattermost server, and the connections behind them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from typing import Any

from aiohttp import WSMsgType, web

from holdfast.lab.simulators import mattermost_rules as rules
from holdfast.lab.simulators.mattermost_rules import AppError, Connection, Event, Json
from holdfast.lab.simulators.mattermost_world import MattermostWorld

PING = object()


class Link:
    """One accepted socket; ``connection`` is set while events go to it.

    Sending is queued and never waits. A frozen link is half-open: it takes everything, answers
    nothing, and TCP stays.
    """

    def __init__(self, number: int, ws: web.WebSocketResponse, request: web.Request) -> None:
        self.number, self.ws = number, ws
        self.token = ""
        self.connection: Connection | None = None
        self.frozen = self.closing = False
        self.timers: list[asyncio.TimerHandle] = []
        self.heard_at = MattermostWorld.now()
        self._transport = request.transport
        self._outbox: asyncio.Queue[object] = asyncio.Queue(rules.SEND_QUEUE)

    def send(self, item: object) -> None:
        """Queue text, raw bytes, a delay in seconds, PING or a close code.

        A peer that lets 256 of them pile up is dropped.
        """
        if self.frozen or self.closing:
            return
        try:
            self._outbox.put_nowait(item)
        except asyncio.QueueFull:
            self.reset()

    def close(self, code: int) -> None:
        """Queue a close frame behind what was sent; 0 ends TCP without one."""
        if code == 0:
            self.end()
            return
        self.send(code)
        self.closing = self.closing or not self.frozen

    def freeze(self) -> None:
        """Go silent both ways; what was queued before still leaves."""
        self.frozen = True
        if isinstance(self._transport, asyncio.Transport):
            # Unread, so that neither a ping nor a close frame of the peer is answered.
            self._transport.pause_reading()

    def end(self) -> None:
        """End TCP without a close frame: the client sees EOF."""
        self.frozen = True
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Reset TCP: no close frame, no FIN. Nothing queued is sent any more."""
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
                match item:
                    case int(code):
                        await self.ws.close(code=code)
                        return
                    case float(delay):
                        await asyncio.sleep(delay)
                    case str(text):
                        await self.ws.send_str(text)
                    case bytes(raw) if isinstance(self._transport, asyncio.Transport):
                        self._transport.write(raw)
                    case _:
                        await self.ws.ping()


class Hub:
    """Sockets in ``links``; connections, which outlive them. The truth is that of ``lab``.

    A link is lost by ``detach`` alone, whoever hung up; its connection then waits, inactive.
    """

    def __init__(self, lab: MattermostWorld) -> None:
        self._lab = lab
        self.links: dict[Link, None] = {}
        self._connections: dict[str, Connection] = {}
        self._opened = 0
        self._acked: set[str] = set()
        self._given: set[str] = set()
        self._reaper: asyncio.TimerHandle | None = None

    def reaches_bot(self) -> bool:
        """Whether an authenticated link exists that is neither frozen, mute nor revoked."""
        if self._lab.faults.armed("mute"):
            return False
        return any(self._is_live(link) and not link.frozen for link in self.links)

    def _is_live(self, link: Link) -> bool:
        return link.connection is not None and link.token in self._lab.tokens

    def seen(self) -> None:
        """The bot used REST: its connections are not stale."""
        for connection in self._connections.values():
            connection.activity = self._lab.now()

    # -- sockets ------------------------------------------------------------------------------

    async def accept(self, request: web.Request) -> web.StreamResponse:
        """/api/v4/websocket: one link, from the upgrade to its end."""
        if (refusal := self._refused(request)) is not None:
            return refusal
        ws = web.WebSocketResponse(
            timeout=2.0, autoping=False, compress=False, max_msg_size=rules.MAX_CLIENT_FRAME
        )
        await ws.prepare(request)
        self._opened += 1
        link = Link(self._opened, ws, request)
        self.links[link] = None
        self._lab.note("ws-open", n=link.number)
        writer = asyncio.create_task(link.write(), name=f"mattermost-writer-{link.number}")
        try:
            self._welcome(link, request)
            async for message in ws:
                link.heard_at = self._lab.now()
                if message.type is WSMsgType.PING:
                    await ws.pong(message.data)
                elif message.type is WSMsgType.TEXT:
                    self._receive(link, message.data)
        finally:
            self.detach(link)
            for timer in link.timers:
                timer.cancel()
            del self.links[link]
            if not link.closing:
                writer.cancel()
            await asyncio.wait({writer}, timeout=3.0)
            writer.cancel()
            self._lab.note("ws-closed", n=link.number)
        return ws

    def _refused(self, request: web.Request) -> web.Response | None:
        if (fault := self._lab.faults.take("ws_refused")) is not None:
            headers = {"Retry-After": str(fault["retry_after"])} if "retry_after" in fault else {}
            return web.Response(status=fault.get("status", 503), headers=headers)
        origin = request.headers.get("Origin")
        if origin is not None and origin.rpartition("/")[2] != request.host:
            return web.Response(status=403, text="Forbidden")
        return None

    def _welcome(self, link: Link, request: web.Request) -> None:
        if (fault := self._lab.faults.take("close_after_accept")) is not None:
            link.close(fault.get("code", 1001))
            return
        loop = asyncio.get_running_loop()
        link.timers = [
            loop.call_later(rules.AUTH_TIMEOUT, self._end_unless_authenticated, link),
            loop.call_later(rules.PING_EVERY, self._keep_alive, link),
        ]
        token = rules.bearer(request.headers.get("Authorization", ""))
        if token not in self._lab.tokens:
            return
        link.token = token
        wanted, seq = request.query.get("connection_id"), request.query.get("sequence_number", "")
        if not wanted:
            self._open(link)
        elif not seq.isdecimal():
            link.end()
        else:
            self._resume(link, wanted, int(seq))

    def _end_unless_authenticated(self, link: Link) -> None:
        if not link.token:
            link.end()

    def _keep_alive(self, link: Link) -> None:
        link.send(PING)
        loop = asyncio.get_running_loop()
        link.timers = [
            loop.call_later(rules.PING_EVERY, self._keep_alive, link),
            loop.call_at(link.heard_at + rules.READ_TIMEOUT, self._drop_if_silent, link),
        ]

    def _drop_if_silent(self, link: Link) -> None:
        if self._lab.now() - link.heard_at >= rules.READ_TIMEOUT:
            self.detach(link)
            link.reset()

    # -- connections --------------------------------------------------------------------------

    def _open(self, link: Link) -> None:
        self._lab.note("login", n=link.number)
        if self._lab.faults.take("no_hello") is not None:
            return
        connection = Connection(self._lab.now())
        self._greet(link, connection)
        self._go_live(link, connection, "ready")

    def _greet(self, link: Link, connection: Connection) -> None:
        if (fault := self._lab.faults.take("slow_hello")) is not None:
            link.send(float(fault.get("delay", 5.0)))
        data = {
            "connection_id": connection.id,
            "server_version": f"{rules.VERSION}.{rules.VERSION}.0f3a.true",
            "server_hostname": "mm-lab",
        }
        hello = Event(kind="hello", data=data, user_id=self._lab.bot_id)
        link.send(hello.frame(connection.number(hello)))

    def _resume(self, link: Link, wanted: str, seq: int) -> None:
        self._lab.note("resume", n=link.number, seq=seq)
        if (fault := self._lab.faults.take("close_on_resume")) is not None:
            self.hang_up(link, fault.get("code", 1011))
            return
        known = self._connections.get(wanted)
        # Only an inactive connection is found: one whose socket the server still believes in
        # is not, so that a client which gave up first gets a new connection.
        if known is None or self._link_of(known) is not None:
            self._open(link)
            return
        if self._lab.faults.take("refuse_resume") is not None:
            self.forget(known, "resume refused")
            self._open(link)
            return
        for post in known.proven(seq):
            if post not in self._acked:
                self._acked.add(post)
                self._lab.note("ack", id=post)
        if known.remembers(seq):
            for frame in known.replay(seq):
                link.send(frame)
            self._go_live(link, known, "resumed")
        else:
            del self._connections[known.id]
            known.renew()
            self._greet(link, known)
            self._go_live(link, known, "ready")

    def _go_live(self, link: Link, connection: Connection, how: str) -> None:
        link.connection = connection
        connection.activity = self._lab.now()
        self._connections[connection.id] = connection
        while connection.queue:
            event = connection.queue.popleft()
            self._given.add(event.key)
            link.send(event.frame(connection.number(event)))
        self._lab.note(how, n=link.number, connection=connection.id)
        self._lab.note("link-open", n=link.number)
        if (fault := self._lab.faults.take("close_when_live")) is not None:
            self.hang_up(link, fault.get("code", 1011))
        if self._lab.faults.take("half_open") is not None:
            self.freeze(link)

    def hang_up(self, link: Link, code: int) -> None:
        """Close a link."""
        self.detach(link)
        link.close(code)

    def freeze(self, link: Link) -> None:
        """Make a link half-open."""
        link.freeze()
        self._lab.note("frozen", n=link.number)

    def detach(self, link: Link) -> None:
        """The link is lost: its connection is inactive until it is resumed or reaped."""
        connection, link.connection = link.connection, None
        if connection is None:
            return
        self._lab.note("link-lost", n=link.number)
        if self._reaper is None:
            delay = rules.REAP_EVERY - self._lab.now() % rules.REAP_EVERY
            self._reaper = asyncio.get_running_loop().call_later(delay, self._reap)

    def _reap(self) -> None:
        self._reaper = None
        for connection in self._inactive():
            if self._lab.now() - connection.activity > rules.STALE_AFTER:
                self.forget(connection, "reaped")
        if self._inactive():
            self._reaper = asyncio.get_running_loop().call_later(rules.REAP_EVERY, self._reap)

    def stop(self) -> None:
        """Reset every socket and forget every connection, as the end of the process does."""
        for link in list(self.links):
            self.detach(link)
            link.reset()
        for connection in list(self._connections.values()):
            self.forget(connection, "restart")
        if self._reaper is not None:
            self._reaper.cancel()
            self._reaper = None

    def _inactive(self) -> list[Connection]:
        return [c for c in self._connections.values() if self._link_of(c) is None]

    def _link_of(self, connection: Connection) -> Link | None:
        return next((link for link in self.links if link.connection is connection), None)

    def forget(self, connection: Connection, reason: str) -> None:
        """End a connection, noting what only the REST API can bring now."""
        self._connections.pop(connection.id, None)
        held = {event.key for other in self._connections.values() for event in other.queue}
        for event in connection.queue:
            if event.key not in held | self._given:
                self._lose(event, reason)

    def _lose(self, event: Event, reason: str) -> None:
        if event.post_id:
            self._lab.note("lost", id=event.post_id, reason=reason)

    # -- what clients ask ---------------------------------------------------------------------

    def _receive(self, link: Link, raw: str) -> None:
        if link.frozen:
            return
        try:
            frame = json.loads(raw)
        except ValueError:
            frame = None
        if not isinstance(frame, dict):
            self.detach(link)
            link.end()
            return
        seq, action = frame.get("seq"), frame.get("action")
        if action == "authentication_challenge" and not link.token:
            self._challenge(link, seq, frame.get("data"))
            return
        try:
            data = self._perform(link, seq, action, frame.get("data"))
        except AppError as error:
            fail: Json = {"status": "FAIL", "error": error.body()}
            bad_seq = error.id.endswith("bad_seq.app_error")
            link.send(json.dumps(fail if bad_seq else fail | {"seq_reply": seq}))
        else:
            if data is not None:
                link.send(json.dumps(_reply(seq) | ({"data": data} if data else {})))

    def _challenge(self, link: Link, seq: object, data: object) -> None:
        token = data.get("token") if isinstance(data, dict) else None
        if token not in self._lab.tokens:
            link.end()
            return
        link.token = str(token)
        hello_first = self._lab.faults.take("hello_first") is not None
        if not hello_first:
            link.send(json.dumps(_reply(seq)))
        self._open(link)
        if hello_first:
            link.send(json.dumps(_reply(seq)))

    def _perform(self, link: Link, seq: object, action: object, data: Any) -> Json | None:
        """The data of the answer, None for no answer. Raises AppError."""
        prefix = "api.web_socket_router"
        if not action:
            raise AppError(400, f"{prefix}.no_action.app_error")
        if not isinstance(seq, int) or seq <= 0:
            raise AppError(400, f"{prefix}.bad_seq.app_error")
        if link.token not in self._lab.tokens:
            raise _not_authenticated()
        match action:
            case "ping":
                return self._ping(link, seq)
            case "user_typing" if isinstance(data, dict):
                if (channel := self._lab.channels.get(data.get("channel_id", ""))) is None:
                    raise rules.forbidden()
                self._lab.note("typing", chat=channel.chat)
                return {}
            case "get_statuses" | "get_statuses_by_ids" | "user_update_active_status":
                return {}
        raise AppError(500, f"{prefix}.bad_action.app_error")

    def _ping(self, link: Link, seq: int) -> Json | None:
        self._lab.note("beat", n=link.number)
        if self._lab.faults.take("no_ack") is not None:
            return None
        if self._lab.faults.take("ping_fail") is not None:
            raise _not_authenticated()
        head = {"text": "pong", "version": rules.VERSION}
        data = head | {"server_time": self._lab.date(), "node_id": ""}
        if (fault := self._lab.faults.take("ack_once_late")) is not None:
            late = json.dumps(_reply(seq) | {"data": data})
            asyncio.get_running_loop().call_later(fault.get("delay", 5.0), link.send, late)
            return None
        return data

    # -- events -------------------------------------------------------------------------------

    def push(self, event: Event) -> None:
        """Something happens: send it, let it wait, or lose it."""
        if self._lab.faults.take("mute") is not None:
            self._lose(event, "mute")
            return
        held = False
        for connection in list(self._connections.values()):
            link = self._link_of(connection)
            if link is None:
                if connection.wait(event):
                    held = True
                else:
                    self.forget(connection, "overflow")
            elif self._is_live(link):
                self._given.add(event.key)
                self._give(link, connection, event)
                held = True
        if not held:
            self._lose(event, "no connection")

    def _give(self, link: Link, connection: Connection, event: Event) -> None:
        take = self._lab.faults.take
        if (fault := take("bad_frame")) is not None:
            link.send(str(fault.get("raw", "{not json")))
        if take("unknown_event") is not None:
            news = Event(kind="something_new", data={"id": "1"})
            link.send(news.frame(connection.number(news)))
        if (fault := take("huge_frame")) is not None:
            news = Event(kind="something_new", data={"id": "x" * fault.get("size", 5_000_000)})
            link.send(news.frame(connection.number(news)))
        if take("seq_gap") is not None:
            connection.number(event, keep=False)
            self._lose(event, "seq gap")
            return
        frame = event.frame(connection.number(event))
        if (fault := take("bad_post")) is not None:
            frame = event.frame(connection.next - 1, post=fault.get("raw", "{not json"))
        if (fault := take("split_frame")) is not None:
            link.send(rules.fragments(frame, fault.get("parts", 3)))
        else:
            link.send(frame)
        if take("dup_event") is not None:
            link.send(event.frame(connection.number(event)))


def _reply(seq: object) -> Json:
    return {"status": "OK", "seq_reply": seq}


def _not_authenticated() -> AppError:
    return AppError(
        401,
        rules.NOT_AUTHENTICATED,
        "WebSocket connection is not authenticated. Please log in and try again.",
    )
