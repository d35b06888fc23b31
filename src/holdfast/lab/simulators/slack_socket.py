"""Socket Mode of the simulated Slack: tickets, sockets, envelopes, acks and retries."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import secrets
import socket
import struct
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial

from aiohttp import WSCloseCode, WSMessage, WSMsgType, web

from holdfast.lab.simulator import sockets_of
from holdfast.lab.simulators import slack_rules as rules
from holdfast.lab.simulators.slack_platform import Workspace, server_error
from holdfast.lab.simulators.slack_rules import Event, Goodbye, Json

HOST = "applink-7fc4fdbb64-4x5xq"
"""The server's name in ``debug_info`` and pings; its form is that of the documentation."""


class Link:
    """One accepted socket; ``live`` between hello and its end. Sending is queued, never waits.

    ``origin`` is the address the client came by: a relay's, if one stands before the simulator.
    A frozen link is half-open: it takes everything, answers nothing, and TCP stays.
    """

    OUTBOX = 10_000

    def __init__(self, number: int, ws: web.WebSocketResponse, request: web.Request) -> None:
        self.number, self.ws = number, ws
        self.origin = f"{request.scheme}://{request.host}"
        self.live = self.frozen = self.closing = False
        self.heard_at = 0.0
        self.beat: asyncio.TimerHandle | None = None
        self.timers: list[asyncio.TimerHandle] = []
        self._transport = request.transport
        self._outbox: asyncio.Queue[Callable[[], Awaitable[object]]] = asyncio.Queue(self.OUTBOX)

    def send(self, frame: Json | str) -> None:
        """Queue a text frame."""
        text = frame if isinstance(frame, str) else json.dumps(frame)
        self._queue(partial(self.ws.send_str, text))

    def send_split(self, frame: Json, parts: int) -> None:
        """Queue a text frame in so many fragments."""
        self._queue(partial(self._write_fragments, json.dumps(frame).encode(), parts))

    def ping(self, payload: bytes) -> None:
        """Queue a ping."""
        self._queue(partial(self.ws.ping, payload))

    def pong(self, payload: bytes) -> None:
        """Queue a pong, which echoes its ping."""
        self._queue(partial(self.ws.pong, payload))

    def close(self, code: int) -> None:
        """Queue a close frame behind what was sent."""
        self._queue(partial(self.ws.close, code=code))
        self.closing = self.closing or not self.frozen

    def _queue(self, action: Callable[[], Awaitable[object]]) -> None:
        if self.frozen or self.closing:
            return
        try:
            self._outbox.put_nowait(action)
        except asyncio.QueueFull:
            self.abort()

    async def _write_fragments(self, data: bytes, parts: int) -> None:
        """RFC 6455, 5.4: the first fragment has the opcode, the last one FIN."""
        assert self._transport is not None
        size = max(1, -(-len(data) // parts))
        pieces = [data[at : at + size] for at in range(0, len(data), size)]
        for number, piece in enumerate(pieces):
            first = (0 if number else WSMsgType.TEXT) | (number == len(pieces) - 1) << 7
            long = len(piece) > 125
            head = (
                struct.pack("!BBH", first, 126, len(piece)) if long else bytes((first, len(piece)))
            )
            self._transport.write(head + piece)

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
            while not self.ws.closed:
                action = await self._outbox.get()
                self._outbox.task_done()
                await action()

    async def flushed(self, timeout: float = 1.0) -> None:
        """Wait until the queue was handed to the socket; give up after ``timeout`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._outbox.join()


class Sockets:
    """The sockets of the app in ``links``, and the stream of events over them.

    Each envelope goes to one live link, chosen at random; a frozen one is as good as any, for
    Slack cannot know. A missed ack is followed by the next try. Undocumented, chosen here: with no
    socket at all an event is lost at once, but a retry then waits for its next turn; an ack that
    is late, or comes over another socket, counts for nothing.
    """

    def __init__(self, lab: Workspace) -> None:
        self._lab = lab
        self.links: dict[Link, None] = {}
        self.enabled = True
        """Whether Socket Mode is switched on in the app's settings."""
        self._opened = 0
        self._tickets: dict[str, float] = {}
        self._awaited: dict[str, tuple[Event, Link]] = {}
        self._random = random.Random(0)
        self._turn = False
        """Whether the envelope before went to another client."""

    def live(self) -> list[Link]:
        """The links that envelopes are sent over."""
        return [link for link in self.links if link.live]

    def reaches_bot(self) -> bool:
        """Whether a live link that is neither mute nor frozen exists."""
        usable = any(not link.frozen for link in self.live())
        return usable and not self._lab.faults.armed("mute")

    # -- opening ------------------------------------------------------------------------------

    async def open(self, request: web.Request, _: Json) -> web.StreamResponse | Json:
        """apps.connections.open: a ticket for one socket, on the host that was asked."""
        if self._lab.faults.take("open_hangs") is not None:
            await asyncio.Event().wait()
        if (fault := self._lab.faults.take("open_500")) is not None:
            return server_error(fault)
        if (fault := self._lab.faults.take("open_429")) is not None:
            raise rules.ratelimited(fault, 30)
        self._lab.play("open_error", "invalid_auth")
        ticket = secrets.token_hex(16)
        self._tickets[ticket] = self._lab.now() + self._lab.ticket_life
        self._lab.note("login")
        return {"url": f"{sockets_of(request)}/link/?ticket={ticket}&app_id={rules.APP}"}

    async def accept(self, request: web.Request) -> web.StreamResponse:
        """/link/: one socket, from its ticket to its end."""
        good_until = self._tickets.pop(request.query.get("ticket", ""), float("-inf"))
        if (fault := self._lab.faults.take("handshake_refused")) is not None:
            return web.Response(status=fault.get("status", 408))
        if self._lab.faults.take("handshake_hangs") is not None:
            await asyncio.Event().wait()
        if self._lab.now() > good_until:
            self._lab.note("bad-ticket")
            return web.Response(status=403)
        ws = web.WebSocketResponse(timeout=2.0, autoping=False, compress=False)
        await ws.prepare(request)
        self._opened += 1
        link = Link(self._opened, ws, request)
        self._lab.note("ws-open", n=link.number)
        await self._run(link, debug=rules.flag(request.query.get("debug_reconnects")))
        return ws

    async def _run(self, link: Link, *, debug: bool) -> None:
        writer = asyncio.create_task(link.write(), name=f"slack-writer-{link.number}")
        self.links[link] = None
        try:
            self._greet(link, rules.DEBUG_LIFE if debug else self._lab.connection_life)
            async for message in link.ws:
                self._receive(link, message)
        finally:
            self.detach(link)
            del self.links[link]
            if not link.closing:
                writer.cancel()
            await asyncio.wait({writer}, timeout=3.0)
            writer.cancel()
            self._lab.note("ws-closed", n=link.number)

    def _greet(self, link: Link, life: float) -> None:
        faults = self._lab.faults
        if (fault := faults.take("close_after_accept")) is not None:
            self.hang_up(link, fault.get("code", WSCloseCode.GOING_AWAY))
        elif (fault := faults.take("disconnect_for_hello")) is not None:
            self.say_goodbye(link, fault.get("reason", Goodbye.TOO_MANY))
        elif not self.enabled:
            self.say_goodbye(link, Goodbye.DISABLED)
        elif len(self.links) > self._lab.max_sockets:
            self.say_goodbye(link, Goodbye.TOO_MANY)
        elif faults.take("no_hello") is None:
            self._hello(link, life)

    def _hello(self, link: Link, life: float) -> None:
        debug = {
            "host": HOST,
            "build_number": 10,
            "approximate_connection_time": int(life),
        }
        link.send(
            {
                "type": "hello",
                "num_connections": len(self.live()) + 1 + self._lab.faults.armed("split"),
                "connection_info": {"app_id": rules.APP},
                "debug_info": debug,
            }
        )
        link.live, link.heard_at = True, self._lab.now()
        self._lab.note("ready", n=link.number)
        self._lab.note("link-open", n=link.number)
        warn_after = max(0.0, life - rules.WARNING_GRACE)
        self._later(link, warn_after, self.say_goodbye, link, Goodbye.WARNING)
        self._beat(link)
        self._play_after_hello(link)

    def _play_after_hello(self, link: Link) -> None:
        faults = self._lab.faults
        if (fault := faults.take("goodbye")) is not None:
            reason = Goodbye(fault.get("reason", Goodbye.WARNING))
            self._later(link, fault.get("after", 0.0), self.say_goodbye, link, reason)
        if (fault := faults.take("close_after_hello")) is not None:
            self.hang_up(link, fault.get("code", WSCloseCode.GOING_AWAY))
        if faults.take("half_open") is not None:
            self.freeze(link)

    # -- life and end -------------------------------------------------------------------------

    @staticmethod
    def _later(link: Link, delay: float, call: Callable[..., None], *args: object) -> None:
        """Run something unless the link is lost before."""
        link.timers.append(asyncio.get_running_loop().call_later(delay, call, *args))

    def _beat(self, link: Link) -> None:
        loop = asyncio.get_running_loop()
        link.beat = loop.call_later(self._lab.ping_interval, self._ping, link)

    def _ping(self, link: Link) -> None:
        if self._lab.now() - link.heard_at > self._lab.silence_limit:
            self.detach(link)
            if not link.frozen:
                link.abort()
            return
        if self._lab.faults.take("no_ping") is None:
            link.ping(f"Ping from {HOST}".encode())
        self._beat(link)

    def say_goodbye(self, link: Link, reason: str) -> None:
        """Send a disconnect frame; the socket is closed at once, or 10 s after a warning."""
        link.send({"type": "disconnect", "reason": reason, "debug_info": {"host": HOST}})
        self._lab.note("goodbye", n=link.number, reason=str(reason))
        if reason == Goodbye.WARNING:
            self._later(link, rules.WARNING_GRACE, self.hang_up, link, WSCloseCode.OK)
        else:
            self.hang_up(link, WSCloseCode.OK)

    def freeze(self, link: Link) -> None:
        """Make a link half-open."""
        link.freeze()
        self._lab.note("frozen", n=link.number)

    def hang_up(self, link: Link, code: int) -> None:
        """Close a link; from this moment no envelope goes over it. A frozen link closes mutely."""
        self.detach(link)
        link.close(code)

    def detach(self, link: Link) -> None:
        """The link is lost, whoever hung up."""
        for timer in (link.beat, *link.timers):
            if timer is not None:
                timer.cancel()
        link.timers.clear()
        if link.live:
            link.live = False
            self._lab.note("link-lost", n=link.number)

    def _receive(self, link: Link, message: WSMessage) -> None:
        link.heard_at = self._lab.now()
        if message.type is WSMsgType.PING:
            self._lab.note("beat", n=link.number)
            if (fault := self._lab.faults.take("pong_late")) is not None:
                self._later(link, fault.get("delay", 5.0), link.pong, message.data)
            elif self._lab.faults.take("no_pong") is None:
                link.pong(message.data)
        elif message.type is WSMsgType.PONG:
            self._lab.note("pong", n=link.number)
        elif message.type is WSMsgType.TEXT:
            self._acknowledge(link, message.data)

    # -- events -------------------------------------------------------------------------------

    def push(self, events: Sequence[Event]) -> None:
        """Something happens, told by these events: send them, or lose them."""
        for event in events:
            event.occurrence.open += 1
        own = all(event.occurrence.own for event in events)
        lost = not own and self._lab.faults.take("event_lost") is not None
        for event in events:
            self._begin(event, "fault" if lost else None)

    def push_later(self, event: Event, delay: float) -> None:
        """Tell of something by one more event, after so many seconds."""
        event.occurrence.open += 1
        asyncio.get_running_loop().call_later(delay, self._begin, event)

    def _begin(self, event: Event, lost: str | None = None) -> None:
        if not (event.occurrence.own or lost) and self._lab.faults.take("split") is not None:
            self._turn = not self._turn
            lost = "taken by another client" if self._turn else None
        if lost or not self.live():
            self._give_up(event, lost or "no socket")
        else:
            self._try(event)

    def _try(self, event: Event) -> None:
        links = self.live()
        if not links:
            self._missed(event)
            return
        link = self._random.choice(links)
        self._write(link, event)
        if not event.occurrence.own and self._lab.faults.take("dup_event") is not None:
            event.occurrence.open += 1
            self._write(link, replace(event))

    def _write(self, link: Link, event: Event) -> None:
        """Send one envelope, and await its ack whether it gets through or not."""
        key = str(uuid.uuid4())
        self._awaited[key] = event, link
        asyncio.get_running_loop().call_later(self._lab.ack_deadline, self._overdue, key)
        frame = event.envelope(key, link.origin)
        if event.occurrence.own:
            # An echo uses up no fault, but a mute link is mute for it too.
            if not self._lab.faults.armed("mute"):
                link.send(frame)
        elif self._lab.faults.take("mute") is None:
            self._write_badly(link, frame)

    def _write_badly(self, link: Link, frame: Json) -> None:
        faults = self._lab.faults
        if (fault := faults.take("bad_frame")) is not None:
            link.send(str(fault.get("raw", "{not json")))
        if faults.take("unknown_frame") is not None:
            link.send({"type": "something_new", "debug_info": {"host": HOST}})
        if (fault := faults.take("huge_frame")) is not None:
            link.send({"type": "something_new", "debug_info": "x" * fault.get("size", 5_000_000)})
        if (fault := faults.take("out_of_order")) is not None:
            self._later(link, fault.get("delay", 0.5), link.send, frame)
        elif (fault := faults.take("split_frame")) is not None:
            link.send_split(frame, fault.get("parts", 3))
        else:
            link.send(frame)
        if faults.take("abort_on_event") is not None:
            # After the writer had its turn.
            self._later(link, 0.05, link.abort)

    def _acknowledge(self, link: Link, raw: str) -> None:
        try:
            frame = json.loads(raw)
        except ValueError:
            frame = None
        key = frame.get("envelope_id") if isinstance(frame, dict) else None
        event, carrier = self._awaited.get(str(key), (None, None))
        if event is None or carrier is not link:
            self._lab.note("ack-stray", n=link.number, envelope=key)
            return
        occurrence = event.occurrence
        if not occurrence.own and self._lab.faults.take("ack_lost") is not None:
            return
        del self._awaited[str(key)]
        occurrence.open -= 1
        occurrence.acked = True
        if occurrence.own:
            self._lab.note("ack-echo", id=occurrence.id, event=event.id)
        else:
            self._lab.note("ack", id=occurrence.id, event=event.id, attempt=event.attempt)

    def _overdue(self, key: str) -> None:
        if (entry := self._awaited.pop(key, None)) is not None:
            self._missed(entry[0])

    def _missed(self, event: Event) -> None:
        """A try failed; the next one follows in its time."""
        if event.attempt >= len(self._lab.retry_delays):
            self._give_up(event, "retries")
            return
        delay = self._lab.retry_delays[event.attempt]
        event.attempt += 1
        asyncio.get_running_loop().call_later(delay, self._try, event)

    def _give_up(self, event: Event, reason: str) -> None:
        occurrence = event.occurrence
        occurrence.open -= 1
        if not (occurrence.own or occurrence.open or occurrence.acked):
            self._lab.note("lost", id=occurrence.id, reason=reason)
