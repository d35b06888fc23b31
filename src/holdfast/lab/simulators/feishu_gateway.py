"""The long connections of the simulated Feishu platform: endpoint call, upgrade, frames, acks."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from collections.abc import Callable
from typing import Any

from aiohttp import WSMsgType, web

from holdfast.lab.simulator import sockets_of
from holdfast.lab.simulators import feishu_rules as rules
from holdfast.lab.simulators.feishu_delivery import Deliveries
from holdfast.lab.simulators.feishu_frames import BadFrame, Frame, Method, control, event_frames
from holdfast.lab.simulators.feishu_link import Bye, Link, Push
from holdfast.lab.simulators.feishu_platform import OpenPlatform, read_json
from holdfast.lab.simulators.feishu_rules import Event, Refusal, compact

SERVICE_ID = 33554678
DEVICE_BASE = 7123456789012345000

CardAnswer = Callable[[Event, Any], None]


class Gateway:
    """The connections of the app in ``links``; an event goes to one of them.

    Faults, settings and the truth are those of the platform ``lab``; what is not acknowledged is
    repeated by ``deliveries``.
    """

    def __init__(self, lab: OpenPlatform, deliveries: Deliveries, card_answer: CardAnswer) -> None:
        self._lab, self._deliveries, self._card_answer = lab, deliveries, card_answer
        self.links: dict[Link, None] = {}
        self._tickets: set[str] = set()
        self._opened = self._pushed = 0
        self._turn = False
        """Whether the push before went to another client."""

    def reaches_bot(self) -> bool:
        """Whether an event that occurs now would be pushed over a link that carries it."""
        live = any(link.live and not link.frozen for link in self.links)
        return live and not self._lab.faults.armed("mute")

    # -- endpoint call ------------------------------------------------------------------------

    async def endpoint(self, request: web.Request) -> web.Response:
        """``/callback/ws/endpoint``: a socket address on the host that was asked."""
        self._lab.note("endpoint", ua=request.headers.get("User-Agent", ""))
        if (spoilt := await self._spoil_endpoint()) is not None:
            return spoilt
        body = await read_json(request)
        if not self._lab.credentials_good(body.get("AppID"), body.get("AppSecret")):
            return self._deny("endpoint_invalid", {})
        if self._full():
            return self._deny("endpoint_too_many", {})
        self._lab.note("login")
        data: dict[str, Any] = {"URL": self._address(request)}
        if self._lab.faults.take("endpoint_no_config") is None:
            data["ClientConfig"] = self._config("endpoint_partial_config")
        return web.json_response({"code": 0, "msg": "", "data": data})

    def _address(self, request: web.Request) -> str:
        ticket = secrets.token_hex(16)
        self._tickets.add(ticket)
        ids = f"&device_id={DEVICE_BASE + len(self._tickets)}&service_id={SERVICE_ID}"
        if self._lab.faults.take("endpoint_no_ids") is not None:
            ids = ""
        # Query parameters besides the two ids are from memory of public logs.
        query = f"fpid=493&aid=552564{ids}&access_key=lab&ticket={ticket}"
        return f"{sockets_of(request)}/ws/v2?{query}"

    def _config(self, partial: str) -> dict[str, int]:
        whole = self._lab.client_config()
        if (fault := self._lab.faults.take(partial)) is not None:
            kept = fault.get("kept", "PingInterval")
            return {kept: whole[kept]}
        return whole

    def _deny(self, name: str, fault: dict[str, Any]) -> web.Response:
        code, msg = rules.ENDPOINT_CODES[name]
        code, msg = fault.get("code", code), fault.get("msg", msg)
        self._lab.note("refused", path="/callback/ws/endpoint", code=code)
        # With a data object, so that the Node SDK, which reads it first, sees the code.
        data = {"URL": "", "ClientConfig": None}
        return web.json_response({"code": code, "msg": msg, "data": data})

    async def _spoil_endpoint(self) -> web.Response | None:
        lab = self._lab
        if (slow := lab.faults.take("endpoint_slow")) is not None:
            await asyncio.sleep(slow.get("delay", 8.0))
        if lab.faults.take("endpoint_hang") is not None:
            await asyncio.Event().wait()
        lab.play("endpoint_http", Refusal(1, "system busy", status=500))
        lab.play("endpoint_429", rules.rate_limit())
        if (fault := lab.faults.take("endpoint_no_data")) is not None:
            return web.json_response({"code": fault.get("code", 1), "msg": "system busy"})
        if lab.faults.take("endpoint_garbage") is not None:
            return web.Response(text=rules.HTML_PAGE, content_type="text/html")
        for name in rules.ENDPOINT_CODES:
            if (fault := lab.faults.take(name)) is not None:
                return self._deny(name, fault)
        return None

    # -- connections --------------------------------------------------------------------------

    def _full(self) -> bool:
        return sum(link.live for link in self.links) >= self._lab.max_links

    def _reject(self, request: web.Request) -> web.Response | None:
        """The answer of an upgrade that is refused.

        An address is good once; what the platform says to a used one is undocumented, so it gets
        514 with a code that clients retry.
        """
        faults = self._lab.faults
        if (fault := faults.take("upgrade_rejected")) is not None:
            return web.Response(status=fault.get("status", 503))
        if (fault := faults.take("upgrade_busy")) is not None:
            return _handshake(fault.get("status", 500), "system busy")
        if faults.take("upgrade_forbidden") is not None:
            return _handshake(403, "forbidden")
        if (fault := faults.take("upgrade_auth_failed")) is not None:
            return _handshake(514, "auth failed", fault.get("code", 1000040343))
        if self._full() or faults.take("upgrade_too_many") is not None:
            return _handshake(514, "exceed connection limit", 1000040350)
        ticket = request.query.get("ticket", "")
        if ticket not in self._tickets:
            return _handshake(514, "auth failed", 1000040343)
        self._tickets.remove(ticket)
        return None

    async def accept(self, request: web.Request) -> web.StreamResponse:
        """``/ws/v2``: one link, from the upgrade to its end."""
        if (rejection := self._reject(request)) is not None:
            self._lab.note("refused", path=request.path, code=rejection.status)
            return rejection
        ws = web.WebSocketResponse(timeout=2.0, autoping=False)
        await ws.prepare(request)
        self._opened += 1
        link = Link(self._opened, ws, request, self._lab.now())
        self.links[link] = None
        self._lab.note("ws-open", n=link.number)
        writer = asyncio.create_task(link.write(), name=f"feishu-writer-{link.number}")
        try:
            self._greet(link)
            async for message in ws:
                await self._receive(link, message.type, message.data)
        finally:
            self.detach(link)
            del self.links[link]
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
        # There is no hello and no login frame: pushes begin with the upgrade.
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
        self._watch(link)
        if faults.take("half_open") is not None:
            self.freeze(link)

    def detach(self, link: Link) -> None:
        """The link is lost for pushes, whoever ended it."""
        if link.watch is not None:
            link.watch.cancel()
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

    def _watch(self, link: Link) -> None:
        """Drop a link from which nothing came for some ping intervals.

        Any message counts, WebSocket pings too: a client in the field lives on those alone. Of a
        half-open link the client learns nothing.
        """
        patience = self._lab.idle_intervals * self._lab.ping_interval
        left = link.heard_at + patience - self._lab.now()
        if left > 0:
            link.watch = asyncio.get_running_loop().call_later(left, self._watch, link)
            return
        self._lab.note("idle", n=link.number)
        if link.frozen:
            self.detach(link)
        else:
            self.reset(link)

    # -- frames of the client -----------------------------------------------------------------

    async def _receive(self, link: Link, kind: WSMsgType, data: Any) -> None:
        if link.frozen:
            return
        link.heard_at = self._lab.now()
        if kind is WSMsgType.PING:
            self._lab.note("beat", n=link.number, kind="ws")
            if self._lab.faults.take("no_ws_pong") is None:
                await link.ws.pong(data)
        elif kind is not WSMsgType.PONG:
            self._frame(link, data)

    def _frame(self, link: Link, data: bytes | str) -> None:
        try:
            if isinstance(data, str):
                raise BadFrame("a text message")
            frame = Frame.decode(data)
            if frame.method == Method.CONTROL:
                self._control(link, frame)
            else:
                self._answered(link, frame)
        except BadFrame as error:
            self._lab.note("bad-frame", n=link.number, error=str(error))

    def _control(self, link: Link, frame: Frame) -> None:
        if frame.header("type") != "ping" or frame.service != link.service:
            raise BadFrame("a control frame that is no ping of this service")
        self._lab.note("beat", n=link.number, kind="frame")
        faults = self._lab.faults
        if faults.take("no_pong") is not None:
            return
        empty = faults.take("pong_empty") is not None
        payload = None if empty else compact(self._config("pong_partial"))
        pong = control("pong", link.service, payload)
        if (fault := faults.take("pong_late")) is not None:
            self._deliveries.later(fault.get("delay", 5.0), link.send, pong)
        else:
            link.send(pong)
        if (fault := faults.take("close_when_live")) is not None:
            self.close(link, fault.get("code", 1000))

    def _answered(self, link: Link, frame: Frame) -> None:
        push = link.unacked.get(frame.header("message_id"))
        if push is None or not any(frame.answers(sent) for sent in push.frames):
            raise BadFrame("an answer to a frame that was not sent")
        answer = frame.json()
        code = answer.get("code") if isinstance(answer, dict) else None
        if code != 200:
            self._deliveries.failed(push.event, code)
        elif self._lab.now() - push.at > self._lab.ack_within:
            self._deliveries.failed(push.event, "late")
        else:
            if push.event.callback:
                self._card_answer(push.event, _callback_data(answer))
            self._deliveries.acked(push.event)

    # -- pushes -------------------------------------------------------------------------------

    def attempt(self, event: Event) -> None:
        """Push an event to one connection picked at random, if there is one.

        A half-open link is picked only if there is no other: how soon the platform notices one is
        undocumented.
        """
        live = [link for link in self.links if link.live]
        able = [link for link in live if not link.frozen] or live
        if not able:
            self._lab.note("undelivered", id=event.key, reason="no connection")
            return
        if self._lab.faults.take("mute") is not None:
            self._lab.note("undelivered", id=event.key, reason="mute")
            return
        if self._lab.faults.take("split") is not None:
            self._turn = not self._turn
            if self._turn:
                self._deliveries.acked(event)
                return
        self._give(self._lab.dice.choice(able), event)

    def _give(self, link: Link, event: Event) -> None:
        self._precede(link)
        frames = self._cut(link, event)
        message_id = frames[0].header("message_id")
        link.unacked[message_id] = Push(event, frames, self._lab.now())
        self._lab.note("pushed", id=event.key, n=link.number)
        if (fault := self._lab.faults.take("out_of_order")) is not None:
            delay = fault.get("delay", 0.5)
            for frame in frames:
                self._deliveries.later(delay, link.send, frame)
        else:
            for frame in frames:
                link.send(frame)

    def _cut(self, link: Link, event: Event) -> list[Frame]:
        """The frames of an event that leave, in the order in which they leave."""
        faults = self._lab.faults
        body = event.envelope(self._lab.app_id)
        if (fault := faults.take("big_event")) is not None:
            body["padding"] = "x" * fault.get("size", 2**20)
        split, lost = faults.take("split_event"), faults.take("part_lost")
        parts = (split or {}).get("parts", 3) if split is not None else 1
        if lost is not None:
            parts = lost.get("parts", 2)
        frames = self._frames(link, compact(body), parts)
        if (fault := faults.take("header_missing")) is not None:
            frames = [_without(frame, fault.get("header", "trace_id")) for frame in frames]
        if lost is not None:
            return frames[:-1]
        if split is not None:
            order = split.get("order") or self._lab.dice.sample(range(parts), parts)
            return [frames[index] for index in order]
        return frames

    def _frames(
        self, link: Link, payload: bytes, parts: int = 1, kind: str = "event"
    ) -> list[Frame]:
        self._pushed += 1
        return list(
            event_frames(
                payload,
                message_id=secrets.token_hex(16),
                service=link.service,
                number=self._pushed,
                moment=rules.millis(),
                parts=parts,
                kind=kind,
            )
        )

    def _precede(self, link: Link) -> None:
        """The odd frames that faults put before a push."""
        faults = self._lab.faults
        if faults.take("server_ping") is not None:
            link.send(control("ping", link.service))
        if (fault := faults.take("bad_frame")) is not None:
            link.send(bytes.fromhex(fault.get("raw", "ff")))
        if faults.take("text_frame") is not None:
            link.send("{}")
        if (fault := faults.take("future_frame")) is not None:
            headers = (("type", "future"),)
            method = fault.get("method", 2)
            link.send(Frame(method=method, service=link.service, headers=headers))
        if faults.take("card_frame") is not None:
            link.send(self._frames(link, b'{"action":{}}', kind="card")[0])


def _handshake(status: int, msg: str, autherrcode: int | None = None) -> web.Response:
    headers = {"Handshake-Status": str(status), "Handshake-Msg": msg}
    if autherrcode is not None:
        headers["Handshake-Autherrcode"] = str(autherrcode)
    # The status line of a real rejection is not documented; SDKs read the headers only.
    return web.Response(status=status, headers=headers)


def _without(frame: Frame, name: str) -> Frame:
    headers = tuple(pair for pair in frame.headers if pair[0] != name)
    return Frame(
        method=frame.method,
        service=frame.service,
        headers=headers,
        payload=frame.payload,
        seq_id=frame.seq_id,
        log_id=frame.log_id,
    )


def _callback_data(answer: dict[str, Any]) -> Any:
    """The JSON object of a callback's answer; None without one. Raises BadFrame."""
    if not answer.get("data"):
        return None
    try:
        return json.loads(base64.b64decode(answer["data"], validate=True))
    except (ValueError, TypeError) as error:
        raise BadFrame(f"data of a callback's answer: {error}") from error
