"""QQ bots: events over the gateway WebSocket or by signed callbacks, answers over REST.

Protocol: https://bot.q.qq.com/wiki (api-v2). Its words are in `qqbot_wire`, the socket is in
`qqbot_gateway`, tokens and calls are in `qqbot_api`. QQ keeps a lost session for about a minute;
what happens past that is not replayed, and a callback address is the only other road in.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from typing import Any, ClassVar, Literal
from urllib.parse import quote

import msgspec

from holdfast.adapter import (
    Adapter,
    AdapterError,
    BadFrame,
    Continuity,
    Disconnect,
    Health,
    HookRequest,
    Http,
    HttpReply,
    Link,
    Liveness,
    Outcome,
    Rate,
    Secret,
    SendFailed,
    Settings,
    Tools,
    Traits,
    WebSocketClosed,
    decode,
)
from holdfast.adapters import qqbot_api as api
from holdfast.adapters import qqbot_wire as wire
from holdfast.adapters.qqbot_gateway import BEAT, Gateway
from holdfast.adapters.qqbot_wire import Callback, Intent
from holdfast.forgery import as_sent
from holdfast.messages import Attachment, Inbound, Outbound, Receipt
from holdfast.opcode_gateway import Frame, Op
from holdfast.recollection import Recollection
from holdfast.supervision import Cause, Kind

HOOK_BEAT, HOOK_SILENCE = 25.0, 60.0
"""Seconds between API probes while events come by callback."""

MAX_AGE = 300.0
"""Seconds by which a callback's timestamp may be off; beyond, its signature may be a replay."""

TIMESTAMP = re.compile(r"[0-9]{1,12}")
"""Unix seconds."""

RECENT = 1000
"""Private chats for which the last message is remembered, to show that we are typing."""


class QQBotSettings(Settings, frozen=True, kw_only=True):
    """Configuration of a QQ bot."""

    app_id: str
    """AppID."""
    secret: Secret
    """AppSecret; also the key of callback signatures."""
    api_url: str = "https://api.sgroup.qq.com"
    """REST base; https://sandbox.api.sgroup.qq.com reaches the sandbox."""
    token_url: str = "https://bots.qq.com/app/getAppAccessToken"
    """The token service."""
    mode: Literal["websocket", "webhook"] = "websocket"
    """How events come in."""
    intents: int = int(Intent.DIRECT_MESSAGE | wire.ESSENTIAL)
    """The events to ask for, as bits of `qqbot_wire.Intent`."""
    hook_path: str = ""
    """Path of the callback address; empty for ``/qqbot/<app_id>``."""


class QQBot(Adapter):
    """One QQ bot. Chats are named ``c2c:``, ``group:``, ``channel:`` or ``dms:`` and an id."""

    platform: ClassVar[str] = "qqbot"
    Settings: ClassVar[type[Settings]] = QQBotSettings
    traits: ClassVar[Traits] = Traits(
        liveness=Liveness("op 11 or any other frame of the gateway", every=BEAT),
        max_text=4000,  # undocumented; current adapters cut here
        # Answers carry msg_id and msg_seq and are recognised; active and guild messages have
        # no key at all, and a trait must hold for every message.
        idempotent=0.0,
        typing=True,
        typing_every=50.0,
        rate_total=Rate(50.0, 50),  # half of 100 messages/s, and all of 50 files/s
        rate_chat=Rate(5.0, 5),  # documented for channels
    )

    def __init__(self, settings: QQBotSettings, tools: Tools) -> None:
        self._settings, self._tools = settings, tools
        self._api = api.Api(settings.app_id, settings.secret, settings.api_url, settings.token_url)
        self._gateway = Gateway(self._api, settings.intents, self._read)
        self._recent = Recollection(RECENT)
        self._typing_seq = itertools.count(10_000)  # never the seq of an answer

    @property
    def endpoint(self) -> str:
        """The API, which names the gateway."""
        return self._settings.api_url

    @property
    def identity(self) -> str:
        """The AppID."""
        return f"qqbot:{self._settings.app_id}"

    def classify(self, error: BaseException) -> Cause | None:
        """What a close code means."""
        if isinstance(error, WebSocketClosed):
            return wire.close_cause(error.code, error.reason)
        return None

    async def run(self, link: Link) -> None:
        """See `Adapter.run`."""
        if self._settings.mode == "webhook":
            await self._serve(link)
        else:
            await self._gateway.run(link)

    def _read(self, link: Link, event: str, data: msgspec.Raw) -> Inbound | None:
        """The message of an event, if it brings one for us."""
        try:
            message = wire.inbound(event, data, link.cursor.get("bot", ""))
        except BadFrame as error:
            link.skip(str(error), bytes(data))
            return None
        if message is not None and message.chat.startswith("c2c:"):
            self._recent.note(message.chat, message.id)
        return message

    # -- callbacks ----------------------------------------------------------------------------

    async def _serve(self, link: Link) -> None:
        """Events by callback. That we are called is up to QQ: the beat proves token and API."""
        try:
            key = wire.signing_key(self._settings.secret.reveal())
        except ImportError as error:
            message = "callbacks are signed with Ed25519, and the package for it is missing"
            hint = "Run `pip install holdfast[webhooks]`, or set `mode` to websocket."
            raise Disconnect(Cause(Kind.LOCAL, "qq_no_cryptography", message, hint)) from error
        link.step("probe")
        link.cursor["bot"] = (await self._whoami(link.http)).id

        async def beat() -> None:
            await self._whoami(link.http)
            link.acked()

        link.on_beat(beat)
        link.on_probe(beat)
        path = self._settings.hook_path or f"/qqbot/{self._settings.app_id}"
        async with link.hooks(path) as requests:
            link.ready(Continuity.FRESH, beat=HOOK_BEAT, silence=HOOK_SILENCE)
            async for request in requests:
                await self._called(link, request, key)

    async def _called(self, link: Link, request: HookRequest, key: wire.Key) -> None:
        try:
            frame = decode(Frame, request.body)
            if frame.op == Callback.CHECK:
                _answer(request, wire.check_answer(key, frame.d))
                return
        except BadFrame as error:
            request.respond(400)
            link.skip(str(error), request.body)
            return
        moment = request.headers.get("x-signature-timestamp", "")
        signature = request.headers.get("x-signature-ed25519", "")
        signed = as_sent(moment) + request.body
        if not wire.signed(key, signature, signed):
            request.respond(401)
            link.skip("a callback with a false signature", request.body)
        elif not TIMESTAMP.fullmatch(moment) or abs(link.clock() - int(moment)) > MAX_AGE:
            request.respond(401)
            link.skip(f"a callback dated {moment}: replayed, or a clock is wrong", request.body)
        else:
            link.alive()
            if frame.op == Op.DISPATCH and frame.t in wire.SCENES:
                if (message := self._read(link, frame.t, frame.d)) is not None:
                    await link.deliver(message)
            _answer(request, {"op": int(Callback.ACK)})

    # -- calls --------------------------------------------------------------------------------

    async def _whoami(self, http: Http) -> wire.User:
        return (await self._api.ask(http, "/users/@me")).decode(wire.User)

    async def check(self) -> Health:
        """Ask for a token with the credentials, then with the token who we are."""
        # The token we hold outlives a withdrawn secret by up to two hours.
        self._api.token.forget()
        try:
            user = await self._whoami(self._tools.http)
        except AdapterError as error:
            return Health(cause=error.cause)
        notes: tuple[str, ...] = ()
        if self._gateway.degraded:
            notes = (f"QQ refused `intents`; only {self._gateway.fewer} are in force",)
        return Health(f"{user.username} ({user.id})", notes=notes)

    async def send(self, message: Outbound) -> Receipt:
        """See `Adapter.send`. An answer that QQ takes no more is sent as an active message."""
        if message.edit_of is not None:
            raise _refused("qq_no_edits", "bots can not change what they said on QQ")
        scene, path = _place(message.chat)
        try:
            body = await self._body(scene, path, message)
            reply = await self._api.call(self._tools.http, "POST", f"{path}/messages", body)
            error = api.error_of(reply)
            if error is not None and error.code == api.SEQ_USED and "msg_seq" in body:
                # All answers to a message are numbered by us: this number was used by an earlier
                # try of this very message. QQ does not tell the id it got.
                return Receipt("")
            if error is not None and error.code in api.CONTEXT_OVER and "msg_id" in body:
                body = {k: v for k, v in body.items() if k not in ("msg_id", "msg_seq")}
                reply = await self._api.call(self._tools.http, "POST", f"{path}/messages", body)
                error = api.error_of(reply)
        except Disconnect as problem:  # no token, so nothing was sent
            raise SendFailed(Outcome.NOT_SENT, problem.cause) from problem
        if error is not None:
            raise SendFailed(*api.failure(reply, error, "the message"))
        return Receipt(_posted_id(reply))

    async def _body(self, scene: str, path: str, message: Outbound) -> dict[str, Any]:
        """A message as QQ wants it, its file uploaded."""
        body: dict[str, Any] = {"content": message.text}
        if "msg_id" in message.context:
            body["msg_id"] = message.context["msg_id"]
        if scene in ("channel", "dms"):
            if message.attachments:
                raise _refused("qq_no_guild_files", "Holdfast sends no files to QQ guilds")
            if message.reply_to is not None:
                body["message_reference"] = {"message_id": message.reply_to}
            return body
        if "msg_id" in body:
            body["msg_seq"] = message.seq
        if not message.attachments:
            return body | {"msg_type": 0}
        info = await self._api.upload(self._tools.http, path, message.attachments[0])
        # "content" must not be empty, a blank will do.
        return body | {"msg_type": 7, "content": message.text or " ", "media": {"file_info": info}}

    async def typing(self, chat: str, thread: str | None = None) -> None:
        """Private chats only, as a notice that answers the last message there."""
        last = self._recent.get(chat)
        if last is None:
            return
        body = {
            "msg_type": 6,
            "input_notify": {"input_type": 1, "input_second": 60},
            "msg_id": last,
            "msg_seq": next(self._typing_seq),
        }
        with contextlib.suppress(AdapterError):
            _, path = _place(chat)
            await self._api.call(self._tools.http, "POST", f"{path}/messages", body)

    async def fetch(self, attachment: Attachment) -> bytes:
        """The content of an inbound attachment. Raises SendFailed or HttpFailed."""
        try:
            return await self._api.download(self._tools.http, attachment.ref)
        except Disconnect as problem:
            raise SendFailed(Outcome.NOT_SENT, problem.cause) from problem


def _place(chat: str) -> tuple[str, str]:
    """The scene of a chat and the path of its calls. Raises SendFailed."""
    scene, _, place = chat.partition(":")
    if scene not in wire.PATHS or not place:
        raise _refused("qq_bad_chat", f"{chat!r} is no QQ chat; an example is c2c:OPENID")
    return scene, wire.PATHS[scene] + quote(place, safe="")


def _refused(code: str, message: str) -> SendFailed:
    return SendFailed(Outcome.REFUSED, Cause(Kind.REFUSED, code, message))


def _posted_id(reply: HttpReply) -> str:
    """The id of an accepted message, empty while it waits for an audit. Raises SendFailed."""
    try:
        return reply.decode(api.Posted).id if reply.body else ""
    except BadFrame as error:
        raise SendFailed(Outcome.UNKNOWN, error.cause) from error


def _answer(request: HookRequest, body: object) -> None:
    request.respond(200, msgspec.json.encode(body), "application/json")
