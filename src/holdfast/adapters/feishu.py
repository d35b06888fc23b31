"""Feishu and Lark: events over a long connection or by web hook, answers over REST.

Protocol: https://open.feishu.cn/document. The long connection is in `feishu_stream` and
`feishu_frames`, web hooks are in `feishu_hook`, calls in `feishu_api`. Nothing is resumed: Feishu
repeats whatever was not acknowledged, for about seven hours (`feishu_intake`).
"""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar, Literal
from urllib.parse import quote

import msgspec

from holdfast.adapter import (
    HISTORY_CHECK,
    Adapter,
    AdapterError,
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
    WebSocketClosed,
)
from holdfast.adapters import feishu_api as api
from holdfast.adapters import feishu_intake as intake
from holdfast.adapters import feishu_rules as rules
from holdfast.adapters import feishu_stream as stream
from holdfast.adapters.feishu_history import Lookout
from holdfast.adapters.feishu_hook import Hook
from holdfast.messages import Attachment, Outbound, Receipt
from holdfast.supervision import Cause, Kind

HOOK_BEAT, HOOK_SILENCE = 25.0, 60.0
"""Seconds between API probes while events come by web hook."""

UUID = 50
"""Characters of ``uuid``, by which Feishu recognises a repeated message for an hour."""

SEND, ONE = "/im/v1/messages", "/im/v1/messages/{}"

BY_CHAT = {"receive_id_type": "chat_id"}


class FeishuSettings(Settings, frozen=True, kw_only=True):
    """Configuration of a Feishu or Lark app."""

    app_id: str
    """App ID (``cli_...``)."""
    app_secret: Secret
    """App Secret."""
    base_url: str = "https://open.feishu.cn"
    """The open platform; https://open.larksuite.com for Lark."""
    mode: Literal["websocket", "webhook"] = "websocket"
    """How events come in; ``websocket`` is the long (persistent) connection."""
    encrypt_key: Secret = Secret("")
    """Encrypt Key, with which web hooks are signed and encrypted; needed for them."""
    verification_token: Secret = Secret("")
    """Verification Token, which web hooks carry; checked if it is set."""
    hook_path: str = ""
    """Path of the web hook's address; empty for ``/feishu/<app_id>``."""
    markdown: bool = False
    """Send texts as Markdown, of which Feishu shows a subset, in place of plain text."""


class Feishu(Adapter):
    """One app's bot. Chats are chat ids (``oc_...``), people open_ids (``ou_...``)."""

    platform: ClassVar[str] = "feishu"
    Settings: ClassVar[type[Settings]] = FeishuSettings
    traits: ClassVar[Traits] = Traits(
        liveness=Liveness("a pong, an event or any other frame", every=stream.SILENCE),
        # A post takes 30 KB, and a text inside JSON inside JSON may be four times as long.
        max_text=7_000,
        text_unit=TextUnit.BYTES,
        replays=True,  # for about seven hours; what is lost past that is reported as a gap
        idempotent=3_600.0,  # what `uuid` is known for (im/v1/messages)
        edits=True,
        rate_total=Rate(16.0, 16),  # 1000 a minute
        rate_chat=Rate(5.0, 5),
        history_check=HISTORY_CHECK,
    )

    def __init__(self, settings: FeishuSettings, tools: Tools) -> None:
        self._settings, self._tools = settings, tools
        self._api = api.Api(settings.app_id, settings.app_secret, settings.base_url)
        self._lookout = Lookout(self._api)

    @property
    def endpoint(self) -> str:
        """The open platform, which names the connection's address."""
        return self._settings.base_url

    @property
    def identity(self) -> str:
        """The App ID."""
        return f"feishu:{self._settings.app_id}"

    def classify(self, error: BaseException) -> Cause | None:
        """A close has no meaning of its own here, says the SDK: any code is a loss."""
        if isinstance(error, WebSocketClosed):
            return Cause(Kind.LOST, f"feishu_close_{error.code}", error.cause.message)
        return None

    # -- events -------------------------------------------------------------------------------

    async def run(self, link: Link) -> None:
        """See `Adapter.run`."""
        if self._settings.mode == "webhook":
            await self._serve(link)
            return
        link.step("identity")
        bot = await self._api.whoami(link.http)  # anew each time: nothing leaks into the next one
        self._lookout.begin(bot.open_id)
        await stream.run(link, self._api, bot.open_id)

    async def _serve(self, link: Link) -> None:
        """Events by web hook. That we are called is up to Feishu: the beat proves token and API."""
        settings = self._settings
        hook = Hook(settings.encrypt_key.reveal(), settings.verification_token.reveal())
        link.step("probe")
        bot = await self._api.whoami(link.http)
        self._lookout.begin(bot.open_id)

        async def beat() -> None:
            await self._api.whoami(link.http)
            link.acked()
            await intake.heard(link)

        link.on_beat(beat)
        link.on_probe(beat)
        async with link.hooks(settings.hook_path or f"/feishu/{settings.app_id}") as requests:
            link.ready(intake.continuity(link), beat=HOOK_BEAT, silence=HOOK_SILENCE)
            await intake.heard(link)
            async for request in requests:
                await hook.serve(link, request, bot.open_id)

    async def overlooked(self, link: Link) -> str | None:
        """See `Adapter.overlooked`."""
        return await self._lookout.untold(link)

    # -- calls --------------------------------------------------------------------------------

    async def check(self) -> Health:
        """Ask for a token, who we are, and for a connection; then whether we may send."""
        # The token we hold outlives a withdrawn secret by up to two hours.
        self._api.token.forget()
        http, name = self._tools.http, ""
        try:
            bot = await self._api.whoami(http)
            name = f"{bot.app_name} ({bot.open_id})"
            if self._settings.mode == "websocket":
                await self._api.endpoint(http)  # an address that nobody dials is harmless
            # Without an addressee nothing can be sent, but permissions are looked at first.
            body = {"receive_id": "", "msg_type": "text", "content": '{"text":""}'}
            reply = await self._api.call(http, "POST", SEND, json=body, query=BY_CHAT)
        except AdapterError as error:
            return Health(name, error.cause)
        return Health(name, _may_send(reply), _notes(bot))

    async def send(self, message: Outbound) -> Receipt:
        """See `Adapter.send`. An answer to what is gone is sent as a message to the chat."""
        body = await self._body(message)
        if message.edit_of:
            reply = await self._call("PUT", ONE.format(quote(message.edit_of, safe="")), body)
            return self._accepted(reply, "the edit")
        body["uuid"] = _uuid(message.key)
        target = message.reply_to or (message.context.get("message") if message.thread else None)
        if target:
            path = f"{ONE.format(quote(target, safe=''))}/reply"
            answer = body | {"reply_in_thread": message.thread is not None}
            reply = await self._call("POST", path, answer)
            refusal = rules.refusal_of(reply)
            if refusal is None or refusal.code not in rules.TARGET_GONE:
                return self._accepted(reply, "the answer")
        body["receive_id"] = message.chat
        return self._accepted(await self._call("POST", SEND, body, query=BY_CHAT), "the message")

    async def fetch(self, attachment: Attachment) -> bytes:
        """See `Adapter.fetch`."""
        return await self._api.download(self._tools.http, attachment.ref)

    async def _call(
        self, method: str, path: str, body: dict[str, Any], *, query: dict[str, str] | None = None
    ) -> HttpReply:
        try:
            return await self._api.call(self._tools.http, method, path, json=body, query=query)
        except Disconnect as problem:  # no token, so nothing was sent
            raise SendFailed(Outcome.NOT_SENT, problem.cause) from problem

    def _accepted(self, reply: HttpReply, what: str) -> Receipt:
        """The receipt of an answer. Raises SendFailed, and BadFrame for an unreadable one."""
        refusal = rules.refusal_of(reply)
        if refusal is not None:
            raise SendFailed(*rules.failure(reply, refusal, what))
        return Receipt(api.posted(reply).message_id)

    async def _body(self, message: Outbound) -> dict[str, Any]:
        """``msg_type`` and content of a message, its file uploaded. Raises SendFailed."""
        if not message.attachments:
            kind, content = self._text(message.text)
        else:
            kind, content = await self._api.upload(self._tools.http, message.attachments[0])
            if message.text:
                kind, content = _captioned(kind, content, message.text)
        return {"msg_type": kind, "content": msgspec.json.encode(content).decode()}

    def _text(self, text: str) -> tuple[str, dict[str, Any]]:
        if self._settings.markdown:
            return _post([{"tag": "md", "text": text}])
        return "text", {"text": text}


def _post(*lines: list[dict[str, str]]) -> tuple[str, dict[str, Any]]:
    """``msg_type`` and content of rich text."""
    return "post", {"zh_cn": {"title": "", "content": list(lines)}}


def _captioned(kind: str, content: dict[str, str], text: str) -> tuple[str, dict[str, Any]]:
    """A text with a picture or film below it. Raises SendFailed."""
    tag = {"image": "img", "media": "media"}.get(kind)
    if tag is None:
        cause = Cause(Kind.REFUSED, "feishu_no_captions", "files have no captions on Feishu")
        raise SendFailed(Outcome.REFUSED, cause)
    return _post([{"tag": "text", "text": text}], [{"tag": tag, **content}])


def _uuid(key: str) -> str:
    """The idempotency key in Feishu's size."""
    return key if len(key) <= UUID else hashlib.sha256(key.encode()).hexdigest()[:UUID]


def _may_send(reply: HttpReply) -> Cause | None:
    """What the empty message of `Feishu.check` tells about permissions; None if all is well."""
    refusal = rules.refusal_of(reply) or rules.Refusal()
    cause = rules.failure(reply, refusal, "sending")[1]
    telling = (rules.SCOPE_MISSING, "feishu_bot_disabled")
    return cause if cause.code in telling else None


def _notes(bot: api.Bot) -> tuple[str, ...]:
    if bot.activate_status == 2:
        return ()
    return (
        f"the app is not in use in its organisation (activate_status {bot.activate_status}): "
        f"publish or enable it {rules.CONSOLE}",
    )
