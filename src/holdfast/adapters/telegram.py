"""Telegram, by its Bot API: a long poll, or a web hook.

There is no ping: the only proof of life is a finished getUpdates. Its ``offset`` is cursor and
acknowledgement in one, so it goes out only after the commit (https://core.telegram.org/bots/api).
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import itertools
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit

import msgspec

from holdfast.adapter import (
    Adapter,
    AdapterError,
    BadFrame,
    Continuity,
    Disconnect,
    Health,
    HookRequest,
    Link,
    Liveness,
    Outcome,
    Part,
    Rate,
    Secret,
    SendFailed,
    Settings,
    TextUnit,
    Tools,
    Traits,
    decode,
)
from holdfast.adapters import telegram_api as api
from holdfast.forgery import is_ours
from holdfast.messages import Attachment, Inbound, MediaKind, Outbound, Receipt
from holdfast.supervision import Cause, Kind

BEAT, SILENCE, GRACE = 18.0, 60.0, 20.0
"""Web hook: seconds between two looks at it, and the longest time without a good one. Three bad
ones come first. Redelivery may pause for 120 s; the hook set anew ends such a pause."""

RETENTION = 86_400.0
"""Seconds for which Telegram keeps an update."""

STAMP_EVERY = 3_600.0
"""Seconds between two stored stamps of a quiet account, which tell how long an outage was."""

ALLOWED = '["message","edited_message"]'
"""The kinds of update we ask for, each time, because Telegram remembers the last list. Posts of a
channel do not name their author: a bot could not tell its own from others."""

MAX_PHOTO = 10 * 2**20
"""Bytes of a photo; a larger image goes as a file (sendPhoto)."""


class TelegramSettings(Settings, frozen=True, kw_only=True):
    """Configuration of one bot."""

    token: Secret
    """The token @BotFather gave out, ``<bot id>:<secret>``."""
    base_url: str = "https://api.telegram.org"
    """Root of the Bot API server; another one for a self-hosted server."""
    mode: Literal["poll", "webhook"] = "poll"
    """``poll`` needs no public address; ``webhook`` needs the gateway's public ``hook_url``."""
    hook_path: str = ""
    """Path of the web hook below ``hook_url``; empty means ``/telegram/<bot id>``."""
    poll_timeout: Annotated[int, msgspec.Meta(ge=5, le=50)] = 25
    """Seconds the server holds an empty poll (it clamps to 50): the interval of proofs of life."""

    @property
    def needs_hook_url(self) -> bool:
        """See `Settings.needs_hook_url`."""
        return self.mode == "webhook"


class Telegram(Adapter):
    """One bot."""

    platform = "telegram"
    Settings: ClassVar[type[Settings]] = TelegramSettings
    traits = Traits(
        liveness=Liveness("a completed getUpdates, or a look that finds the web hook served", 60.0),
        # Documented as characters, counted by the server in UTF-16 units: the stricter is safe.
        max_text=4096,
        text_unit=TextUnit.UTF16,
        replays=True,
        edits=True,
        typing=True,
        # https://core.telegram.org/bots/faq: 30 messages a second, in one chat one. The 20 a minute
        # of a group would slow private chats too; past them a 429 says how long to wait.
        rate_total=Rate(30.0, burst=30),
        rate_chat=Rate(1.0, burst=3),
    )

    def __init__(self, settings: TelegramSettings, tools: Tools) -> None:
        self._settings, self._tools = settings, tools
        self._api = api.BotApi(tools.http, settings.base_url, settings.token)

    @property
    def endpoint(self) -> str:
        """The Bot API server."""
        return self._settings.base_url

    @property
    def identity(self) -> str:
        """The bot's user id, the part of the token that is no secret."""
        token = self._settings.token.reveal()
        bot_id, colon, _ = token.partition(":")
        if colon and bot_id.isdigit():
            return bot_id
        return hashlib.sha256(token.encode()).hexdigest()[:16]

    async def run(self, link: Link) -> None:
        """See `Adapter.run`."""
        bot = replace(self._api, http=link.http)
        link.step("get me")
        me = await bot.call("getMe", api.User)
        if self._settings.mode == "webhook":
            await self._serve(link, bot, me)
        else:
            await self._poll(link, bot, me)

    # -- by long poll -------------------------------------------------------------------------

    async def _poll(self, link: Link, bot: api.BotApi, me: api.User) -> None:
        link.step("get web hook info")
        hook = await bot.call("getWebhookInfo", api.WebhookInfo)
        if hook.url:
            link.step("delete web hook")
            await bot.call("deleteWebhook", bool)
        link.step("first poll")
        # The first one comes back at once, so that a start does not wait for a whole hold.
        for hold in itertools.chain([0], itertools.repeat(self._settings.poll_timeout)):
            batch = await _updates(link, bot, hold)
            if hold:
                link.alive()
            else:
                silence = self._settings.poll_timeout + 15.0
                link.ready(Continuity.CAUGHT_UP, silence=silence, grace=5.0)
                _mind_the_gap(link)
            if batch:
                await _take(link, batch, me)
            else:
                await _stamp(link)

    # -- by web hook --------------------------------------------------------------------------

    @property
    def _hook_path(self) -> str:
        return self._settings.hook_path or f"/telegram/{self.identity}"

    @property
    def _hook_secret(self) -> str:
        """What Telegram must present: 64 hexadecimal digits, within the alphabet it allows."""
        token = self._settings.token.reveal().encode()
        return hmac.new(token, b"holdfast web hook", hashlib.sha256).hexdigest()

    def _hook_url(self) -> str:
        if self._tools.hook_url is not None:
            return self._tools.hook_url + self._hook_path
        message = "mode is webhook, but the gateway has no public hook_url"
        hint = 'Set hook_url in [gateway] to its public https address, or set mode = "poll".'
        raise Disconnect(Cause(Kind.REFUSED, "telegram_no_hook_url", message, hint))

    async def _serve(self, link: Link, bot: api.BotApi, me: api.User) -> None:
        url, arrived = self._hook_url(), asyncio.Event()
        async with link.hooks(self._hook_path) as requests:
            link.step("set web hook")
            secret = self._hook_secret
            params = {"url": url, "secret_token": secret, "allowed_updates": ALLOWED}
            await bot.call("setWebhook", bool, params)
            look = partial(_look, link, bot, url, arrived)
            link.on_beat(look)
            link.on_probe(look)
            link.ready(Continuity.CAUGHT_UP, beat=BEAT, silence=SILENCE, grace=GRACE)
            _mind_the_gap(link)
            async for request in requests:
                if self._genuine(request):
                    link.alive()
                    await _take_hook(link, request, me)
                    arrived.set()
                else:
                    link.skip("a web hook request without our secret", request.body)
                    request.respond(403)

    def _genuine(self, request: HookRequest) -> bool:
        secret = request.headers.get("x-telegram-bot-api-secret-token", "")
        return is_ours(secret, self._hook_secret)

    # -- to the platform ----------------------------------------------------------------------

    async def send(self, message: Outbound) -> Receipt:
        """See `Adapter.send`. Telegram knows no keys: an unknown outcome can not be mended."""
        try:
            return await self._edit(message) if message.edit_of else await self._post(message)
        except api.CallFailed as failed:
            raise failed.for_send() from None

    async def _edit(self, message: Outbound) -> Receipt:
        assert message.edit_of is not None
        own_id = api.telegram_id(message.edit_of)
        params = {"chat_id": message.chat, "message_id": own_id, "text": message.text}
        try:
            await self._api.call("editMessageText", api.Stub, params)
        except api.CallFailed as failed:
            if "message is not modified" not in failed.description:
                raise
        return Receipt(message.edit_of)

    async def _post(self, message: Outbound) -> Receipt:
        try:
            sent = await self._post_to(message.chat, message, message.reply_to)
        except api.CallFailed as failed:
            if failed.moved_to is None:
                raise
            # The group became a supergroup; the ids of its old messages mean nothing there.
            sent = await self._post_to(str(failed.moved_to), message, None)
        return Receipt(api.message_id(sent))

    async def _post_to(self, chat: str, message: Outbound, reply_to: str | None) -> api.Stub:
        params = {"chat_id": chat}
        if message.thread is not None:
            params["message_thread_id"] = message.thread
        if reply_to is not None and (quoted := api.telegram_id(reply_to)).isdigit():
            reply = {"message_id": int(quoted), "allow_sending_without_reply": True}
            params["reply_parameters"] = msgspec.json.encode(reply).decode()
        match message.attachments:
            case ():
                params["text"] = message.text
                return await self._api.call("sendMessage", api.Stub, params)
            case (attachment,):
                if message.text:
                    params["caption"] = message.text
                return await self._share(attachment, params)
        cause = Cause(Kind.REFUSED, "telegram_many_files", "more than one file in one message")
        raise SendFailed(Outcome.REFUSED, cause)

    async def _share(self, attachment: Attachment, params: dict[str, str]) -> api.Stub:
        """A picture goes as a photo where Telegram takes it for one, all else as a file."""
        if attachment.kind is MediaKind.IMAGE and len(attachment.data) <= MAX_PHOTO:
            photo = _part("photo", attachment, "image")
            try:
                return await self._api.call("sendPhoto", api.Stub, params, file=photo)
            except api.CallFailed as failed:
                # Its sides are too long or too unlike, or it is of a kind that only files may be.
                if failed.cause.code != "telegram_bad_request" or failed.moved_to is not None:
                    raise
        document = _part("document", attachment, "file")
        return await self._api.call("sendDocument", api.Stub, params, file=document)

    async def typing(self, chat: str, thread: str | None = None) -> None:
        """See `Adapter.typing`. Visible for at most 5 s. Raises AdapterError."""
        params = {"chat_id": chat, "action": "typing"}
        if thread is not None:
            params["message_thread_id"] = thread
        await self._api.call("sendChatAction", bool, params)

    async def fetch(self, attachment: Attachment) -> bytes:
        """See `Adapter.fetch`. The Bot API hands out files up to 20 MB."""
        try:
            file = await self._api.call("getFile", api.File, {"file_id": attachment.ref})
            return await self._api.download(file.file_path)
        except api.CallFailed as failed:
            raise failed.for_send() from None

    async def check(self) -> Health:
        """See `Adapter.check`."""
        try:
            me = await self._api.call("getMe", api.User)
            hook = await self._api.call("getWebhookInfo", api.WebhookInfo)
            ours = self._hook_url() if self._settings.mode == "webhook" else ""
        except AdapterError as error:
            return Health(cause=error.cause)
        return Health(f"@{me.username} (bot {me.id})", notes=tuple(_notes(me, hook, ours)))


async def _updates(link: Link, bot: api.BotApi, hold: int) -> list[msgspec.Raw]:
    """One poll, which confirms all below the offset."""
    offset = link.cursor.get("offset", 0)
    params = {"offset": str(offset), "timeout": str(hold), "allowed_updates": ALLOWED}
    return await bot.call(
        "getUpdates",
        list[msgspec.Raw],
        params,
        limit=hold + 10.0 if hold else api.CALL_LIMIT,
        # Each on a connection of its own: api.telegram.org is said to close them some 39 s after
        # they were opened, and a poll that meets such an end would look like an outage.
        headers={"Connection": "close"},
    )


async def _take(link: Link, batch: list[msgspec.Raw], me: api.User) -> None:
    """Store a batch together with the offset that confirms it in the next poll."""
    before = link.cursor.get("offset")
    messages: list[Inbound] = []
    for raw in map(bytes, batch):
        try:
            update = decode(api.Update, raw)
            # Ids may fall after a quiet week: the server's order counts, not their size.
            link.cursor["offset"] = update.update_id + 1
            message = api.inbound(update, me)
        except BadFrame as error:
            link.skip(f"update: {error.cause.message}", raw)
        else:
            messages += [message] if message is not None else []
    if link.cursor.get("offset") == before:
        # It can not be confirmed, so the next poll would bring it again, at once and for ever.
        raise BadFrame("a batch of updates whose ids lead nowhere")
    link.cursor["seen_at"] = link.clock()
    await link.deliver(*messages)


async def _take_hook(link: Link, request: HookRequest, me: api.User) -> None:
    """Store one update, then say that we have it."""
    try:
        message = api.inbound(decode(api.Update, request.body), me)
    except BadFrame as error:
        # Taken all the same: sent again it would be no better, and hold up its chat for a day.
        link.skip(f"update: {error.cause.message}", request.body)
    else:
        if message is not None:
            link.cursor["seen_at"] = link.clock()
            await link.deliver(message)
    request.respond(200)


async def _look(link: Link, bot: api.BotApi, url: str, arrived: asyncio.Event) -> None:
    """Whether Telegram still calls us: the hook is ours, and nothing waits in vain."""
    info = await bot.call("getWebhookInfo", api.WebhookInfo)
    if info.url != url:
        there = urlsplit(info.url).netloc or "nowhere"
        message = f"the bot's web hook now leads to {there}"
        cause = Cause(Kind.REPLACED, "telegram_conflict", message, api.CONFLICT_HINT)
        raise Disconnect(cause)
    if info.pending_update_count and not arrived.is_set():
        why = info.last_error_message or "Telegram names no error"
        message = f"{info.pending_update_count} updates wait for the web hook in vain: {why}"
        cause = Cause(Kind.UNREACHABLE, "telegram_hook_unreached", message, api.HOOK_HINT)
        raise Disconnect(cause)
    arrived.clear()
    link.alive()
    link.acked()
    await _stamp(link)


def _mind_the_gap(link: Link) -> None:
    seen = link.cursor.get("seen_at")
    if seen is not None and link.clock() - seen > RETENTION:
        link.gap("Telegram keeps messages for 24 hours, and the outage was longer", seen)


async def _stamp(link: Link) -> None:
    if link.clock() - link.cursor.get("seen_at", 0.0) > STAMP_EVERY:
        link.cursor["seen_at"] = link.clock()
        await link.commit()


def _part(name: str, attachment: Attachment, unnamed: str) -> Part:
    """A file of a form; ``unnamed`` is its name if it has none."""
    filename = attachment.name or unnamed
    return Part(name=name, data=attachment.data, filename=filename, mime=attachment.mime or None)


def _notes(me: api.User, hook: api.WebhookInfo, ours: str) -> Iterator[str]:
    if not me.can_read_all_group_messages:
        yield (
            "In groups the bot sees only commands, replies and mentions (privacy mode). To change "
            "it: @BotFather, /setprivacy, then add the bot to the group again."
        )
    if hook.url and hook.url != ours:
        there = urlsplit(hook.url).netloc
        yield f"A web hook leads to {there}; it is taken over or removed on connecting."
    if hook.last_error_message:
        yield f"Telegram's last error with the web hook: {hook.last_error_message}"
