"""DingTalk app robots in Stream mode: messages over a WebSocket, answers over HTTP.

Its words are in `dingtalk_wire`, calls and refusals in `dingtalk_api`. A stream has neither session
nor replay: what is said while no connection is up is lost, and reported as a gap.
"""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import PurePath
from typing import Any, ClassVar
from urllib.parse import urlsplit

import msgspec

from holdfast.adapter import (
    Adapter,
    AdapterError,
    BadFrame,
    Continuity,
    Disconnect,
    Health,
    HttpReply,
    Link,
    Liveness,
    Outcome,
    Rate,
    Secret,
    SendFailed,
    Settings,
    TextUnit,
    Tools,
    Traits,
    WebSocket,
    WebSocketClosed,
    decode,
)
from holdfast.adapters import dingtalk_api as api
from holdfast.adapters import dingtalk_wire as wire
from holdfast.adapters.dingtalk_wire import BOT_TOPIC, Code, Type
from holdfast.messages import Attachment, Inbound, MediaKind, Outbound, Receipt
from holdfast.supervision import Cause, Kind

SILENCE, GRACE = 40.0, 15.0
"""Seconds. Third parties see a SYSTEM ping every 20 to 30 s; after 25 s we ask by a WebSocket ping,
as the official SDKs do after 8 to 120 s."""

FAREWELL = 15.0
"""Seconds a connection goes on after SYSTEM disconnect; the server closes it after 10."""

FLIGHT = 5.0
"""Seconds for which a SYSTEM disconnect may be on its way: DingTalk has stopped pushing before we
read it, and what is said meanwhile is lost as well."""

TITLE = 20
"""Characters of a Markdown message's title, which only notifications show."""

SEND_PATHS = {
    "group": "/v1.0/robot/groupMessages/send",
    "user": "/v1.0/robot/oToMessages/batchSend",
}
"""First part of a chat's name -> the robot's call."""

VENDOR_HOSTS = (".dingtalk.com", ".dingtalk.io")


class DingTalkSettings(Settings, frozen=True, kw_only=True):
    """Configuration of a DingTalk robot."""

    client_id: str
    """Client ID (AppKey)."""
    client_secret: Secret
    """Client Secret (AppSecret)."""
    robot_code: str = ""
    """RobotCode; empty where it is the Client ID, as in every app of one's own organisation."""
    markdown: bool = False
    """Send texts as Markdown, of which DingTalk shows a subset, in place of plain text."""
    api_url: str = "https://api.dingtalk.com"
    """The OpenAPI; https://api.dingtalk.io overseas."""
    oapi_url: str = "https://oapi.dingtalk.com"
    """The old API, which still takes uploads."""


class DingTalk(Adapter):
    """One robot. Chats are named ``user:`` and a staff id, or ``group:`` and a conversation id."""

    platform: ClassVar[str] = "dingtalk"
    Settings: ClassVar[type[Settings]] = DingTalkSettings
    traits: ClassVar[Traits] = Traits(
        liveness=Liveness("a SYSTEM ping, a WebSocket pong or any other frame", every=SILENCE),
        # msgParam takes 15 000 bytes, and as JSON in a string a text may be twice as long.
        max_text=7_000,
        text_unit=TextUnit.BYTES,
        # Pushes are spread over all connections believed alive; keepalives come every 20 to 30 s.
        gap_tail=30.0,
        rate_total=Rate(10.0, 10),  # 20 calls in any second (standard edition)
        # 20 in any minute, then ten minutes of silence; documented for webhooks of custom robots.
        rate_chat=Rate(10 / 60, 10),
    )

    def __init__(self, settings: DingTalkSettings, tools: Tools) -> None:
        self._settings, self._tools = settings, tools
        self._robot = settings.robot_code or settings.client_id
        self._api = api.Api(
            settings.client_id, settings.client_secret, settings.api_url, settings.oapi_url
        )
        self._deaf_since: float | None = None
        """Unix seconds of a farewell that no new connection has followed yet."""

    @property
    def endpoint(self) -> str:
        """The OpenAPI, which names the stream's address."""
        return self._settings.api_url

    @property
    def identity(self) -> str:
        """The Client ID."""
        return f"dingtalk:{self._settings.client_id}"

    def classify(self, error: BaseException) -> Cause | None:
        """What a close code means."""
        if isinstance(error, WebSocketClosed):
            return wire.close_cause(error.code, error.reason)
        return None

    # -- the stream ---------------------------------------------------------------------------

    async def run(self, link: Link) -> None:
        """See `Adapter.run`.

        There is no login frame: the upgrade spends a ticket that was issued for our credentials
        and is good for one connection, and "when it succeeds, pushes begin" (协议描述).
        """
        link.step("register")
        address = await self._api.register(link.http)
        link.step("connect")
        ws = await link.websocket(address)
        link.ready(Continuity.FRESH, silence=SILENCE, grace=GRACE)
        if self._deaf_since is not None:
            # "After it the server pushes nothing more", and keeps nothing: even a successor that
            # is dialled at once comes a moment late.
            link.gap("between DingTalk's farewell and a new connection", self._deaf_since)
            self._deaf_since = None
        goodbye = ""
        try:
            async with asyncio.timeout(None) as patience:
                async for raw in ws:
                    reason = await self._take(link, ws, raw)
                    if reason and not goodbye:
                        goodbye, self._deaf_since = reason, link.clock() - FLIGHT
                        # A server that forgets to close would answer our pings for ever.
                        patience.reschedule(asyncio.get_running_loop().time() + FAREWELL)
                        link.going_away(reason)
        except (WebSocketClosed, TimeoutError) as end:
            if not goodbye:
                raise
            text = f"DingTalk asked for a new connection ({goodbye})"
            cause = Cause(Kind.RECYCLED, "dingtalk_disconnect_requested", text)
            raise Disconnect(cause) from end

    async def _take(self, link: Link, ws: WebSocket, raw: str | bytes) -> str:
        """Handle one frame; why the server takes its leave, if that is what it says."""
        try:
            frame = decode(wire.Frame, raw)
        except BadFrame as error:
            link.skip(str(error), raw)
            return ""
        match frame.type, frame.headers.topic:
            case Type.SYSTEM, "disconnect":
                return wire.farewell(frame)
            case Type.SYSTEM, "ping":
                # "opaque" must come back as it was.
                await ws.send(wire.answer(frame, Code.OK, frame.data))
            case Type.CALLBACK, topic if topic == BOT_TOPIC:
                code, message = self._read(link, frame)
                answer = wire.answer(frame, code, '{"response": null}')
                await link.take(message, partial(ws.send, answer))
            case Type.CALLBACK | Type.EVENT, _:
                await ws.send(wire.answer(frame, Code.NO_HANDLER, "{}"))
        return ""

    def _read(self, link: Link, frame: wire.Frame) -> tuple[Code, Inbound | None]:
        """What to answer, and the message to store before."""
        try:
            return Code.OK, wire.inbound(frame.data)
        except BadFrame as error:
            link.skip(str(error), frame.data)
            return Code.BAD_REQUEST, None

    # -- calls --------------------------------------------------------------------------------

    async def check(self) -> Health:
        """Ask for a token and for a stream, then whether the robot may send on its own."""
        # The token we hold outlives a withdrawn secret by up to two hours.
        self._api.token.forget()
        http = self._tools.http
        try:
            await self._api.token.get(http)
            await self._api.register(http)  # a ticket that nobody uses is harmless
            # Without an addressee nothing can be sent, but permissions are looked at first.
            reply = await self._api.call(http, SEND_PATHS["user"], {"robotCode": self._robot})
            notes = _notes(reply)
        except AdapterError as error:
            return Health(cause=error.cause)
        return Health(f"DingTalk app {self._settings.client_id}", notes=notes)

    async def send(self, message: Outbound) -> Receipt:
        """See `Adapter.send`. An answer whose sessionWebhook is over is sent by the robot's API."""
        if message.edit_of is not None:
            raise _refused("dingtalk_no_edits", "robots can not change what they said on DingTalk")
        scene, place = _place(message.chat)
        if message.attachments:
            return await self._post(scene, place, *await self._file(message))
        webhook = self._webhook(message)
        # DingTalk tells no id of what is sent through a webhook.
        if webhook and await self._answer(webhook, message):
            return Receipt("")
        return await self._post(scene, place, *self._text(message.text))

    async def fetch(self, attachment: Attachment) -> bytes:
        """See `Adapter.fetch`."""
        return await self._api.download(self._tools.http, self._robot, attachment.ref)

    def _webhook(self, message: Outbound) -> str:
        """Where to answer directly; empty if the webhook is over or not DingTalk's."""
        url, until = message.context.get("webhook", ""), message.context.get("until", "")
        host = urlsplit(url).hostname or ""
        known = {
            urlsplit(self._settings.api_url).hostname,
            urlsplit(self._settings.oapi_url).hostname,
        }
        ours = host in known or host.endswith(VENDOR_HOSTS)
        return url if ours and until.isdecimal() and self._tools.clock() < int(until) else ""

    async def _answer(self, webhook: str, message: Outbound) -> bool:
        """Send through a sessionWebhook; False if DingTalk says that it is over."""
        text, mention = message.text, {}
        if message.reply_to is not None and "staff" in message.context:
            mention = {"at": {"atUserIds": [message.context["staff"]]}}
            if self._settings.markdown:  # where only a name in the text becomes a mention
                text = f"@{message.context['staff']} {text}"
        key, param = self._text(text)
        name = "markdown" if key == "sampleMarkdown" else "text"
        body = {"msgtype": name, name: param} | mention
        reply = await self._tools.http.request("POST", webhook, json=body)
        refusal = api.refusal_of(reply)
        if refusal is not None and refusal.errcode == api.WEBHOOK_GONE:
            return False
        if refusal is not None:
            raise SendFailed(*api.failure(reply, refusal, "the answer"))
        return True

    async def _post(self, scene: str, place: str, key: str, param: dict[str, str]) -> Receipt:
        """Send by the robot's API."""
        body: dict[str, Any] = {
            "robotCode": self._robot,
            "msgKey": key,
            "msgParam": msgspec.json.encode(param).decode(),
        }
        body |= {"openConversationId": place} if scene == "group" else {"userIds": [place]}
        reply = await self._api.post(self._tools.http, SEND_PATHS[scene], body, "the message")
        posted = reply.decode(api.Posted)
        problem = api.left_out(posted)
        if problem is not None:
            raise SendFailed(*problem)
        return Receipt(posted.process_query_key)

    def _text(self, text: str) -> tuple[str, dict[str, str]]:
        """``msgKey`` and ``msgParam`` of a text."""
        if self._settings.markdown:
            return _markdown(text)
        return "sampleText", {"content": text}

    async def _file(self, message: Outbound) -> tuple[str, dict[str, str]]:
        """``msgKey`` and ``msgParam`` of an attachment, uploaded."""
        file = message.attachments[0]
        image = file.kind is MediaKind.IMAGE
        if message.text and not image:
            raise _refused("dingtalk_no_captions", "files have no captions on DingTalk")
        media = await self._api.upload(self._tools.http, file)
        if image:
            # Only Markdown shows text and picture in one message.
            caption = f"{message.text}\n\n![]({media})"
            return _markdown(caption) if message.text else ("sampleImageMsg", {"photoURL": media})
        name = file.name or "file"
        extension = PurePath(name).suffix[1:] or "file"
        return "sampleFile", {"mediaId": media, "fileName": name, "fileType": extension}


def _markdown(text: str) -> tuple[str, dict[str, str]]:
    title = text.lstrip("# \n").partition("\n")[0][:TITLE]
    return "sampleMarkdown", {"title": title or "…", "text": text}


def _place(chat: str) -> tuple[str, str]:
    """The scene of a chat and its id. Raises SendFailed."""
    scene, _, place = chat.partition(":")
    if scene not in SEND_PATHS or not place:
        text = f"{chat!r} is no DingTalk chat; an example is user:STAFF_ID"
        raise _refused("dingtalk_bad_chat", text)
    return scene, place


def _refused(code: str, message: str) -> SendFailed:
    return SendFailed(Outcome.REFUSED, Cause(Kind.REFUSED, code, message))


def _notes(reply: HttpReply) -> tuple[str, ...]:
    """What the empty message of `DingTalk.check` tells about permissions."""
    refusal = api.refusal_of(reply)
    if refusal is None:
        return ()
    cause = api.failure(reply, refusal, "sending on its own")[1]
    if cause.code != api.PERMISSION_MISSING:
        return ()
    return (f"Only direct answers to recent messages will be sent: {cause.message}. {cause.hint}",)
