"""WhatsApp by its Cloud API: messages come by signed web hook, answers go over the Graph API.

There is no connection and no ping. Meta posts each message until 200 answers it, for up to seven
days, so 200 is said only after the commit; and the proof of life is a look at everything between
a user and us: token, number, subscription and callback.
Source: https://developers.facebook.com/docs/whatsapp/cloud-api. Its words are in `whatsapp_wire`,
calls in `whatsapp_api`, the callback is in `whatsapp_hook`, the look in `whatsapp_watch`, statuses
are in `whatsapp_fates`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Final

from holdfast.adapter import (
    Adapter,
    AdapterError,
    BadFrame,
    Disconnect,
    Health,
    HttpFailed,
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
)
from holdfast.adapters import whatsapp_api as api
from holdfast.adapters import whatsapp_wire as wire
from holdfast.adapters.whatsapp_fates import Fates
from holdfast.adapters.whatsapp_hook import BEAT, RETENTION, Hook
from holdfast.adapters.whatsapp_watch import Watch, WrongCallback, lacking, notes
from holdfast.messages import Attachment, Inbound, Outbound, Receipt
from holdfast.recollection import Recollection
from holdfast.supervision import Cause, Kind

MAX_CAPTION: Final = 1024
"""Characters under a picture, video or document (cloud-api/reference/messages, media object)."""

RECENT: Final = 1000
"""Chats for which the last message is remembered, to mark it as read and show that we type."""


class WhatsAppSettings(Settings, frozen=True, kw_only=True):
    """Configuration of one phone number."""

    phone_number_id: str
    """Phone number ID (not the number itself): the app's WhatsApp > API Setup."""
    business_account_id: str
    """WhatsApp Business Account ID, in the same place."""
    access_token: Secret
    """Token of a system user, which does not expire."""
    app_secret: Secret
    """The app's secret (App settings > Basic), which signs every message to us."""
    verify_token: Secret
    """Any text of yours; Meta shows it when it verifies the callback URL."""
    app_id: str = ""
    """The app's ID. With it secret, callback and subscribed fields are checked, too."""
    claim: bool = False
    """Have this number's messages sent to the gateway, whatever callback URL the app has. It is
    what a second number of one app needs, for an app has but one URL."""
    hook_path: str = ""
    """Path of the callback below ``hook_url``; empty for ``/whatsapp/<phone_number_id>``."""
    api_url: str = "https://graph.facebook.com/v26.0"
    """Graph API with its version, which Meta keeps for about two years."""

    @property
    def needs_hook_url(self) -> bool:
        """See `Settings.needs_hook_url`."""
        return True


class WhatsApp(Adapter):
    """One phone number. Chats are user ids, phone numbers, or ``group:`` and a group's id."""

    platform: ClassVar[str] = "whatsapp"
    Settings: ClassVar[type[Settings]] = WhatsAppSettings
    traits: ClassVar[Traits] = Traits(
        liveness=Liveness(
            "a look that finds token, number, subscription and callback good, or a signed post",
            every=BEAT,
        ),
        # "4096 characters", of which kind is not said: the stricter is safe.
        max_text=4096,
        text_unit=TextUnit.UTF16,
        replays=True,
        repeats=RETENTION + 86_400.0,  # the last one may be late
        typing=True,
        typing_every=20.0,  # it fades after 25 s
        # Cloud API overview, throughput: 80 a second; pair rate limit: one in 6 s, 45 at once.
        rate_total=Rate(80.0, burst=80),
        rate_chat=Rate(1 / 6, burst=45),
    )

    def __init__(self, settings: WhatsAppSettings, tools: Tools) -> None:
        self._settings, self._tools = settings, tools
        self._graph = api.Graph(
            tools.http,
            settings.api_url.rstrip("/"),
            settings.access_token,
            settings.app_id,
            settings.app_secret,
        )
        self._recent = Recollection(RECENT)
        self._fates = Fates()
        self._hook = Hook(
            settings.hook_path or f"/whatsapp/{settings.phone_number_id}",
            settings.phone_number_id,
            settings.app_secret,
            settings.verify_token,
            claim=settings.claim,
            fates=self._fates,
            taken=self._remember,
        )

    @property
    def endpoint(self) -> str:
        """The Graph API."""
        return self._settings.api_url

    @property
    def identity(self) -> str:
        """The phone number ID."""
        return f"whatsapp:{self._settings.phone_number_id}"

    def _watch(self, graph: api.Graph) -> Watch:
        """How to look. Raises Disconnect for a configuration that can not work."""
        settings, base = self._settings, self._tools.hook_url
        if base is None:
            message = "WhatsApp delivers by web hook, but the gateway has no public hook_url"
            hint = "Set hook_url in [gateway] to its public https address."
            raise Disconnect(Cause(Kind.REFUSED, "whatsapp_no_hook_url", message, hint))
        if not (settings.app_secret and settings.verify_token):  # anybody could forge with it
            message = "app_secret and verify_token must not be empty"
            raise Disconnect(Cause(Kind.REFUSED, "whatsapp_no_secret", message, api.Key.APP.hint))
        number, account = settings.phone_number_id, settings.business_account_id
        return Watch(graph, number, account, base + self._hook.path)

    async def run(self, link: Link) -> None:
        """See `Adapter.run`."""
        await self._hook.serve(link, self._watch(replace(self._graph, http=link.http)))

    # -- going out ----------------------------------------------------------------------------

    async def send(self, message: Outbound) -> Receipt:
        """See `Adapter.send`. A lost answer is settled by the message's status, if one comes."""
        earlier = self._fates.settled(message.key)
        if earlier is not None:
            return earlier
        body = _envelope(message) | await self._content(message)
        try:
            reply = await self._post(body)
            accepted = reply.decode(api.Sent).messages
            if accepted:
                return Receipt(accepted[0].id)
            doubt: AdapterError = BadFrame("an accepted message without an id")
        except AdapterError as failed:
            if not _may_have_arrived(failed):
                raise
            doubt = failed
        return await self._fates.settle(message.key, doubt)

    async def _post(self, body: dict[str, Any]) -> HttpReply:
        path = f"{self._settings.phone_number_id}/messages"
        return await self._graph.call("POST", path, json={"messaging_product": "whatsapp"} | body)

    async def _content(self, message: Outbound) -> dict[str, Any]:
        if message.edit_of is not None:
            raise api.refused("whatsapp_no_edits", "businesses can not edit on WhatsApp")
        match message.attachments:
            case ():
                text = {"preview_url": False, "body": message.text}
                return {"type": "text", "text": text}
            case (file,):
                return await self._file(message.text, file)
        raise api.refused("whatsapp_many_files", "more than one file in one message")

    async def _file(self, caption: str, file: Attachment) -> dict[str, Any]:
        kind, mime = api.media_type(file)
        if caption and kind == "audio":
            raise api.refused("whatsapp_no_captions", "recordings have no captions on WhatsApp")
        if len(caption) > MAX_CAPTION:
            text = f"captions are at most {MAX_CAPTION} characters on WhatsApp"
            raise api.refused("whatsapp_caption_too_long", text)
        number = self._settings.phone_number_id
        part = {"id": await self._graph.upload(number, file, mime)}
        if caption:
            part["caption"] = caption
        if kind == "document":
            part["filename"] = file.name or "file"
        return {"type": kind, kind: part}

    def _remember(self, message: Inbound) -> None:
        self._recent.note(message.chat, message.id)

    async def typing(self, chat: str, thread: str | None = None) -> None:
        """Marks the last message there as read, too; WhatsApp has no other way."""
        last = self._recent.get(chat)
        if last is not None:
            indicator = {"type": "text"}
            read = {"status": "read", "message_id": last}
            await self._post(read | {"typing_indicator": indicator})

    async def fetch(self, attachment: Attachment) -> bytes:
        """See `Adapter.fetch`. WhatsApp keeps what users sent for seven days."""
        return await self._graph.download(self._settings.phone_number_id, attachment.ref)

    async def check(self) -> Health:
        """See `Adapter.check`."""
        try:
            watch = self._watch(self._graph)
            aside: list[str] = []
            try:
                number = await watch.look()
            except WrongCallback as wrong:
                if not self._settings.claim:
                    raise
                number = await watch.whoami()
                aside.append(f"{wrong.cause.message}: it is taken over on connecting")
            token = await watch.token()
        except AdapterError as error:
            return Health(cause=error.cause)
        aside += notes(number, token, self._settings.app_id, self._tools.clock())
        return Health(number.title, cause=lacking(token), notes=tuple(aside))


def _may_have_arrived(failed: AdapterError) -> bool:
    match failed:
        case HttpFailed():
            return failed.sent
        case SendFailed():
            return failed.outcome is Outcome.UNKNOWN
    return isinstance(failed, BadFrame)


def _envelope(message: Outbound) -> dict[str, Any]:
    """Whom a message is for, what it answers, and the marker its statuses will carry."""
    body: dict[str, Any] = {"biz_opaque_callback_data": message.key}
    if message.chat.startswith(wire.GROUP):
        body |= {"recipient_type": "group", "to": message.chat.removeprefix(wire.GROUP)}
    elif "phone" in message.context:
        body |= {"recipient_type": "individual", "to": message.context["phone"]}
    else:
        # A phone number, or the id of a user ("US.1349...").
        field = "to" if message.chat.removeprefix("+").isdecimal() else "recipient"
        body |= {"recipient_type": "individual", field: message.chat}
    if message.reply_to is not None:
        body["context"] = {"message_id": message.reply_to}
    return body
