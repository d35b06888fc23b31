"""Discord bots: events over the gateway WebSocket, answers over REST.

Protocol: https://discord.com/developers/docs (v10). Its words are in `discord_wire`, the socket is
in `discord_gateway`, calls are in `discord_api`. Discord keeps a lost session for a few minutes;
what happens past that is not replayed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterator
from typing import Any, ClassVar

import msgspec

from holdfast.adapter import (
    HISTORY_CHECK,
    Adapter,
    AdapterError,
    BadFrame,
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
from holdfast.adapters import discord_api as api
from holdfast.adapters import discord_history as history
from holdfast.adapters import discord_wire as wire
from holdfast.adapters.discord_gateway import Gateway
from holdfast.adapters.discord_wire import Intent
from holdfast.messages import Attachment, Inbound, Outbound, Receipt
from holdfast.supervision import Cause, Kind

CONTENT_FLAGS = 1 << 18 | 1 << 19
"""GATEWAY_MESSAGE_CONTENT and its form for bots in few servers (resources/application)."""

NONCE_LENGTH = 25
"""Characters of a nonce that are accepted (resources/message#create-message)."""


class DiscordSettings(Settings, frozen=True, kw_only=True):
    """Configuration of a Discord bot."""

    token: Secret
    """The bot token, without the word "Bot"."""
    api_url: str = "https://discord.com/api/v10"
    """REST base; it names the gateway's address."""
    intents: int = int(wire.DEFAULT_INTENTS)
    """The events to ask for, as bits of `discord_wire.Intent`."""


class Discord(Adapter):
    """One bot. Chats are named by the channel's id; a thread is a channel too."""

    platform: ClassVar[str] = "discord"
    Settings: ClassVar[type[Settings]] = DiscordSettings
    traits: ClassVar[Traits] = Traits(
        liveness=Liveness("op 11 or any other frame of the gateway", every=45.0),
        # Documented as characters; where these are not what Discord counts, this is the stricter.
        max_text=2000,
        text_unit=TextUnit.UTF16,
        # `enforce_nonce` looks back "the past few minutes": three are the fewest that are a few.
        idempotent=180.0,
        edits=True,
        typing=True,
        typing_every=8.0,  # shown for 10 s
        # 50 requests a second (topics/rate-limits), of which edits and typing take a part; the
        # bucket of a channel is not documented, its headers have said 5 in 5 s for years.
        rate_total=Rate(40.0, 40),
        rate_chat=Rate(1.0, 5),
        history_check=HISTORY_CHECK,
    )

    def __init__(self, settings: DiscordSettings, tools: Tools) -> None:
        self._settings, self._tools = settings, tools
        self._api = api.Api(settings.token, settings.api_url)
        self._gateway = Gateway(self._api, settings.token.reveal, settings.intents, self._read)
        self._blank = 0

    @property
    def endpoint(self) -> str:
        """The API, which names the gateway."""
        return self._settings.api_url

    @property
    def identity(self) -> str:
        """The bot's user id, which is the first part of its token."""
        token = self._settings.token.reveal()
        try:
            bot_id = base64.urlsafe_b64decode(token.partition(".")[0] + "==").decode()
        except (binascii.Error, ValueError):
            bot_id = ""
        if not bot_id.isdigit():
            bot_id = hashlib.sha256(token.encode()).hexdigest()[:16]
        return f"discord:{bot_id}"

    def classify(self, error: BaseException) -> Cause | None:
        """What a close code means."""
        if isinstance(error, WebSocketClosed):
            return wire.close_cause(error.code, error.reason)
        return None

    async def run(self, link: Link) -> None:
        """See `Adapter.run`."""
        await self._gateway.run(link)

    def _read(self, link: Link, event: str, data: msgspec.Raw) -> Inbound | None:
        """The message of an event, if it brings one for us."""
        own_id = link.cursor.get("bot", "")
        try:
            said = wire.message_of(event, data, own_id)
        except BadFrame as error:
            link.skip(str(error), bytes(data))
            return None
        if said is None:
            return None
        if event == "MESSAGE_CREATE":  # an edit names a message of any age
            history.remember(link.cursor, said)
        message = wire.inbound(said, own_id)
        if wire.says_something(message):
            return message
        if not message.private:
            self._blank += 1  # a sticker, or all there is without the right to read contents
        return None

    async def overlooked(self, link: Link) -> str | None:
        """See `Adapter.overlooked`."""
        return await history.untold(self._api, link)

    # -- calls --------------------------------------------------------------------------------

    async def check(self) -> Health:
        """Ask who we are, and what the application may do."""
        http = self._tools.http
        try:
            user = (await self._api.ask(http, "/users/@me")).decode(wire.User)
            reply = await self._api.ask(http, "/applications/@me")
            application = reply.decode(api.Application)
        except AdapterError as error:
            return Health(cause=error.cause)
        identity = f"{user.username} ({user.id})"
        asked = bool(self._settings.intents & Intent.MESSAGE_CONTENT)
        if asked and not application.flags & CONTENT_FLAGS:
            message = f"{identity} may not read what people write in servers"
            hint = wire.CONTENT_HINT
            return Health(identity, Cause(Kind.REFUSED, "discord_no_content_intent", message, hint))
        return Health(identity, notes=tuple(self._notes(application, asked)))

    def _notes(self, application: api.Application, asked: bool) -> Iterator[str]:
        if not asked:
            yield (
                "`intents` does not ask for MESSAGE_CONTENT (32768): in servers the bot reads only "
                "messages that mention it."
            )
        if self._blank:
            yield f"Messages that came without content and were passed over: {self._blank}."
        if application.approximate_guild_count == 0:
            yield f"The bot is in no server: invite it {wire.PORTAL}: OAuth2, URL Generator."

    async def send(self, message: Outbound) -> Receipt:
        """See `Adapter.send`."""
        if message.edit_of is not None:
            return await self._edit(message, message.edit_of)
        path, body = f"{_channel(message.chat, message.thread)}/messages", _body(message)
        reply = await self._post(path, body, message.attachments)
        if api.error_of(reply).code == api.NO_HISTORY and body.pop("message_reference", None):
            reply = await self._post(path, body, message.attachments)
        if api.refused(reply):
            raise SendFailed(*api.failure(reply, "the message"))
        return Receipt(_posted_id(reply))

    async def _post(
        self, path: str, body: dict[str, Any], files: tuple[Attachment, ...]
    ) -> HttpReply:
        if files:
            return await self._api.upload(self._tools.http, path, body, files)
        return await self._api.call(self._tools.http, "POST", path, body)

    async def _edit(self, message: Outbound, edit_of: str) -> Receipt:
        path = f"{_channel(message.chat, message.thread)}/messages/{_snowflake(edit_of)}"
        body = {"content": message.text, "allowed_mentions": {"parse": []}}
        reply = await self._api.call(self._tools.http, "PATCH", path, body)
        if api.refused(reply):
            raise SendFailed(*api.failure(reply, "the edit"))
        return Receipt(_posted_id(reply))

    async def typing(self, chat: str, thread: str | None = None) -> None:
        """See `Adapter.typing`. Visible for about 10 s. Raises AdapterError."""
        path = f"{_channel(chat, thread)}/typing"
        reply = await self._api.call(self._tools.http, "POST", path)
        if api.refused(reply):
            raise SendFailed(*api.failure(reply, "typing"))

    async def fetch(self, attachment: Attachment) -> bytes:
        """See `Adapter.fetch`."""
        return await api.download(self._tools.http, attachment.ref)


def _body(message: Outbound) -> dict[str, Any]:
    """A message as Discord wants it. What an agent writes never calls @everyone."""
    body: dict[str, Any] = {
        "content": message.text,
        "nonce": hashlib.sha256(message.key.encode()).hexdigest()[:NONCE_LENGTH],
        "enforce_nonce": True,
        "allowed_mentions": {"parse": [], "replied_user": False},
    }
    if message.reply_to is not None:
        quoted = wire.message_id(message.reply_to)
        body["message_reference"] = {"message_id": quoted, "fail_if_not_exists": False}
    return body


def _channel(chat: str, thread: str | None) -> str:
    """The path of a channel's calls. Raises SendFailed."""
    return f"/channels/{_snowflake(chat if thread is None else thread)}"


def _snowflake(text: str) -> str:
    """An id that can not leave its path. Raises SendFailed."""
    if text.isascii() and text.isdigit():
        return text
    message = f"{text!r} is no id of Discord's; an example is 1310000000000000001"
    raise SendFailed(Outcome.REFUSED, Cause(Kind.REFUSED, "discord_bad_id", message))


def _posted_id(reply: HttpReply) -> str:
    """The id of an accepted message. Raises SendFailed."""
    try:
        return reply.decode(api.Posted).id
    except BadFrame as error:
        raise SendFailed(Outcome.UNKNOWN, error.cause) from error
