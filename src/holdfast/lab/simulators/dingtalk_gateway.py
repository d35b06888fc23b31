"""The stream gateway of the simulated DingTalk platform: tickets, connections, pushes, acks."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from aiohttp import WSMsgType, web

from holdfast.lab.simulator import sockets_of
from holdfast.lab.simulators import dingtalk_rules as rules
from holdfast.lab.simulators.dingtalk_link import Bye, Fragments, Link
from holdfast.lab.simulators.dingtalk_platform import OpenPlatform, compact, read_json
from holdfast.lab.simulators.dingtalk_rules import Push, Refusal

GOODBYE_SILENCE = 10.0
"""Seconds between SYSTEM disconnect and the end of the TCP connection (protocol page)."""

EVENT_TRIES = 5
"""How often an unacknowledged EVENT is pushed in all; the platform's number is undocumented."""

CardAnswer = Callable[[Push, Mapping[str, Any]], None]


class Gateway:
    """The connections of the app in ``links``.

    Faults, settings and the truth are those of the platform ``lab``. Nothing is kept for a client
    that is away: a bot message that finds no connection is lost at once, and one that was written
    but never acknowledged is noted as ``unproven`` when its connection ends.
    """

    def __init__(self, lab: OpenPlatform, card_answer: CardAnswer) -> None:
        self._lab, self._card_answer = lab, card_answer
        self.links: dict[Link, None] = {}
        self._opened = 0
        self._timers: set[asyncio.TimerHandle] = set()
        self._acked: set[str] = set()
        self._turn = False
        """Whether the push before went to another client."""

    def reaches_bot(self) -> bool:
        """Whether a bot message that occurs now would be pushed over a link that carries it."""
        topic = "CALLBACK", rules.BOT_TOPIC
        live = any(k.live and not k.frozen and topic in k.subscriptions for k in self.links)
        return live and not self._lab.faults.armed("mute")

    # -- registration -------------------------------------------------------------------------

    async def open(self, request: web.Request) -> web.Response:
        """``/v1.0/gateway/connections/open``: endpoint and ticket, on the host that was asked."""
        self._lab.note("open")
        if (spoilt := await self._spoil_open()) is not None:
            return spoilt
        body = await read_json(request)
        if not self._lab.credentials_good(body.get("clientId"), body.get("clientSecret")):
            raise Refusal("authFailed", "鉴权失败", status=401)
        subscriptions = rules.read_subscriptions(body.get("subscriptions"))
        dead = self._lab.faults.take("ticket_expired") is not None
        ticket = self._lab.tickets.issue(subscriptions, self._lab.now(), dead=dead)
        self._lab.note("login", ua=body.get("ua"))
        return web.json_response({"endpoint": f"{sockets_of(request)}/connect", "ticket": ticket})

    async def _spoil_open(self) -> web.Response | None:
        lab = self._lab
        if (slow := lab.faults.take("open_slow")) is not None:
            await asyncio.sleep(slow.get("delay", 8.0))
        if lab.faults.take("open_hang") is not None:
            await asyncio.Event().wait()
        lab.play("open_401", Refusal("authFailed", "鉴权失败", status=401))
        lab.play("open_403", Refusal(rules.QPS_LIMIT, "qps limit", status=403))
        lab.play("open_429", Refusal("Throttling", "too many requests", status=429))
        lab.play("open_503", Refusal("ServiceUnavailable", "service unavailable", status=503))
        if lab.faults.take("open_html") is not None:
            return web.Response(text=rules.HTML_PAGE, content_type="text/html")
        if lab.faults.take("open_fields_missing") is not None:
            return web.json_response({})
        if lab.faults.take("ip_banned") is not None:
            return web.json_response({"status": 1111, "wait": 300}, status=403)
        return None

    # -- connections --------------------------------------------------------------------------

    async def accept(self, request: web.Request) -> web.StreamResponse:
        """``/connect``: one link, from the upgrade to its end.

        A bad ticket is answered with 401; the platform's own status is undocumented.
        """
        if (fault := self._lab.faults.take("upgrade_rejected")) is not None:
            return web.Response(status=fault.get("status", 503))
        ticket = self._lab.tickets.redeem(request.query.get("ticket", ""), self._lab.now())
        if ticket is None:
            self._lab.note("refused", path=request.path, code="ticket")
            return web.Response(status=401)
        ws = web.WebSocketResponse(timeout=2.0, autoping=False)
        await ws.prepare(request)
        self._opened += 1
        link = Link(self._opened, ws, request, ticket)
        self.links[link] = None
        self._lab.note("ws-open", n=link.number)
        writer = asyncio.create_task(link.write(), name=f"dingtalk-writer-{link.number}")
        try:
            self._greet(link)
            async for message in ws:
                await self._receive(link, message.type, message.data)
        finally:
            self._end(link)
            self._lab.note("ws-closed", n=link.number)
            if not link.closing:
                writer.cancel()
            try:
                await asyncio.wait({writer}, timeout=3.0)
            finally:
                # The server cancels the handler of a client that is gone.
                writer.cancel()
        return ws

    def _greet(self, link: Link) -> None:
        # "When the upgrade succeeds, pushes begin": there is no hello and no login frame.
        faults = self._lab.faults
        if faults.take("reset_after_accept") is not None:
            link.live = False
            link.abort()
            return
        if (fault := faults.take("close_after_accept")) is not None:
            link.live = False
            link.send(Bye(fault.get("code", 1000), ""))
            return
        self._lab.note("ready", n=link.number)
        self._lab.note("link-open", n=link.number)
        self._schedule_ping(link)
        if self._lab.lifetime is not None:
            loop = asyncio.get_running_loop()
            link.timers.append(loop.call_later(self._lab.lifetime, self.recycle, link))
        if (fault := faults.take("disconnect")) is not None:
            self.recycle(link, fault.get("reason", "connection is expired"))
        if faults.take("half_open") is not None:
            self.freeze(link)

    def _end(self, link: Link) -> None:
        self.detach(link)
        link.cancel_timers()
        del self.links[link]
        for push in link.unacked.values():
            if push.id not in self._acked:
                self._lab.note("unproven", id=push.id, n=link.number)

    def detach(self, link: Link) -> None:
        """The link is lost for pushes, whoever ended it."""
        if link.live:
            link.live = False
            self._lab.note("link-lost", n=link.number)

    def close(self, link: Link, code: int, reason: str = "") -> None:
        """Close a link with a close frame. A frozen link says nothing."""
        self.detach(link)
        link.send(Bye(code, reason))

    def reset(self, link: Link) -> None:
        """Reset a link's connection."""
        self.detach(link)
        link.abort()

    def freeze(self, link: Link) -> None:
        """Make a link half-open."""
        link.freeze()
        self._lab.note("frozen", n=link.number)

    def recycle(
        self, link: Link, reason: str = "connection is expired", silence: float = GOODBYE_SILENCE
    ) -> None:
        """SYSTEM disconnect: no push any more, and the end of TCP after ``silence`` seconds."""
        self.detach(link)
        link.cancel_timers()
        # Without messageId, as on the protocol page.
        link.send(compact(rules.frame("SYSTEM", "disconnect", {"reason": reason})))
        link.timers.append(asyncio.get_running_loop().call_later(silence, link.hang_up))

    # -- heartbeat ----------------------------------------------------------------------------

    def _schedule_ping(self, link: Link) -> None:
        if self._lab.ping_interval is not None:
            loop = asyncio.get_running_loop()
            link.timers[:] = [
                t for t in link.timers if not t.cancelled() and t.when() > loop.time()
            ]
            link.timers.append(loop.call_later(self._lab.ping_interval, self.ping, link))

    def ping(self, link: Link) -> None:
        """A SYSTEM ping. Leaving it unanswered ends nothing: no such thing is documented."""
        message_id, opaque = rules.new_message_id(), secrets.token_hex(4)
        link.overdue = bool(link.pings)
        link.pings = {}
        if self._lab.faults.take("no_ping") is None:
            link.pings[message_id] = opaque
            data = {"opaque": opaque}
            link.send(compact(rules.frame("SYSTEM", "ping", data, messageId=message_id)))
        self._schedule_ping(link)

    async def _receive(self, link: Link, kind: WSMsgType, data: Any) -> None:
        if link.frozen:
            return
        if kind is WSMsgType.PING:
            self._lab.note("beat", n=link.number, kind="ws")
            if (late := self._lab.faults.take("pong_late")) is not None:
                await asyncio.sleep(late.get("delay", 5.0))
            if self._lab.faults.take("no_pong") is None:
                await link.ws.pong(data)
        elif kind is not WSMsgType.PONG:
            self._answered(link, rules.read_ack(data))

    def _answered(self, link: Link, ack: rules.Ack | None) -> None:
        if ack is None:
            self._lab.note("bad-frame", n=link.number)
        elif (opaque := link.pings.pop(ack.message_id, None)) is not None:
            link.overdue = False
            if ack.data.get("opaque") == opaque:
                self._lab.note("beat", n=link.number, kind="system")
        elif (push := link.unacked.get(ack.message_id)) is not None:
            # "LATER" asks for redelivery of an EVENT; whatever else data holds is ignored.
            later = push.type == "EVENT" and ack.data.get("status") == "LATER"
            if ack.code != 200 or later:
                self._lab.note("nack", id=push.id, code=ack.code)
                return
            del link.unacked[ack.message_id]
            self._acked.add(push.id)
            self._lab.note("ack", id=push.id)
            if push.topic == rules.CARD_TOPIC:
                self._card_answer(push, ack.data)

    # -- pushes -------------------------------------------------------------------------------

    def push(self, push: Push) -> None:
        """Something happens: give it to one connection picked at random, or lose it."""
        link = self._pick(push)
        if link is None or self._lab.faults.take("mute") is not None:
            self._lab.note("lost", id=push.id, reason="mute" if link else "no connection")
            return
        if self._lab.faults.take("split") is not None:
            self._turn = not self._turn
            if self._turn:
                self._lab.note("elsewhere", id=push.id)
                return
        self._give(link, push)
        if self._lab.faults.take("dup_event") is not None:
            self._give(link, push)
        if self._lab.faults.take("dup_elsewhere") is not None:
            if (second := self._pick(push, but=link)) is not None:
                self._give(second, push)
        if (fault := self._lab.faults.take("redeliver")) is not None:
            self._later(fault.get("after", 60.0), self._again, push)

    def push_event(self, push: Push, tries: int = EVENT_TRIES) -> None:
        """An EVENT: pushed again every ``event_retry`` seconds until acknowledged as a success."""
        if push.id in self._acked:
            return
        if tries == 0:
            self._lab.note("lost", id=push.id, reason="not acknowledged")
            return
        if (link := self._pick(push)) is not None and self._lab.faults.take("mute") is None:
            self._give(link, push)
        self._later(self._lab.event_retry, self.push_event, push, tries - 1)

    def _again(self, push: Push) -> None:
        if push.id not in self._acked:
            self.push(push)

    def _pick(self, push: Push, but: Link | None = None) -> Link | None:
        """A link that subscribed to the topic.

        A half-open link, or one that left a ping unanswered, is picked only if there is no other:
        how soon the platform notices one is undocumented, and a dead socket must not swallow what a
        new connection could carry.
        """
        topic = push.type, "*" if push.type == "EVENT" else push.topic
        able = [k for k in self.links if k.live and k is not but and topic in k.subscriptions]
        able = [k for k in able if not (k.frozen or k.overdue)] or able
        return self._lab.dice.choice(able) if able else None

    def _give(self, link: Link, push: Push) -> None:
        if link.frozen:
            self._lab.note("lost", id=push.id, reason="half open")
            return
        self._precede(link)
        message_id = rules.new_message_id()
        frame = push.frame(message_id, link.origin)
        frame["headers"] |= {"connectionId": str(uuid.UUID(int=link.number))}
        if (fault := self._lab.faults.take("big_frame")) is not None:
            frame["extension"] = "x" * fault.get("size", 300 * 1024)
        link.unacked[message_id] = push
        self._lab.note("pushed", id=push.id, n=link.number)
        text: str | Fragments = compact(frame)
        if (fault := self._lab.faults.take("split_frame")) is not None:
            text = Fragments(compact(frame), fault.get("parts", 3), fault.get("delay", 0.2))
        if (fault := self._lab.faults.take("out_of_order")) is not None:
            self._later(fault.get("delay", 0.5), link.send, text)
        else:
            link.send(text)

    def _precede(self, link: Link) -> None:
        """The odd frames that faults put before a push."""
        if (fault := self._lab.faults.take("bad_frame")) is not None:
            link.send(str(fault.get("raw", "{not json")))
        if self._lab.faults.take("no_headers") is not None:
            link.send(compact({"specVersion": "1.0", "type": "CALLBACK", "data": "{}"}))
        if self._lab.faults.take("unknown_topic") is not None:
            message_id = rules.new_message_id()
            link.send(compact(rules.frame("CALLBACK", "/v1.0/new", {}, messageId=message_id)))

    # -- timers -------------------------------------------------------------------------------

    def _later(self, delay: float, work: Callable[..., None], *args: Any) -> None:
        loop = asyncio.get_running_loop()
        self._timers = {t for t in self._timers if t.when() > loop.time()}
        self._timers.add(loop.call_later(delay, work, *args))

    def stop(self) -> None:
        """Reset every connection and forget what was to be pushed again."""
        while self._timers:
            self._timers.pop().cancel()
        for link in list(self.links):
            self.reset(link)
