"""The Bot API: how it is called, what it says, and what that means in messages and causes.

Names and rules are those of https://core.telegram.org/bots/api; the texts of errors are those of
the official server, tdlib/telegram-bot-api. Unknown fields are ignored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from holdfast.adapter import (
    AdapterError,
    BadFrame,
    Http,
    HttpFailed,
    HttpReply,
    Outcome,
    Part,
    Secret,
    SendFailed,
    Whole,
    decode,
    http_cause,
)
from holdfast.messages import Attachment, Inbound, MediaKind
from holdfast.supervision import Cause, Kind

T = TypeVar("T")

CALL_LIMIT = 8.0
"""Seconds for an ordinary call: less than a step of an attempt, more than the 3 s for which the
server holds back repeated short polls and repeated conflicts."""

TRANSFER_LIMIT = 60.0
"""Seconds for a file up or down."""

NETWORK = "telegram_network_error"


class Parameters(msgspec.Struct, frozen=True):
    """``ResponseParameters`` of an error answer."""

    retry_after: float | None = None
    migrate_to_chat_id: int | None = None


class Answer(msgspec.Struct, frozen=True):
    """The envelope of every answer ("Making requests")."""

    ok: bool
    result: msgspec.Raw = msgspec.Raw(b"null")
    error_code: int = 0
    description: str = ""
    parameters: Parameters = Parameters()


class Update(msgspec.Struct, frozen=True):
    """The envelope of an update; kinds that are not named here are not for us."""

    update_id: Whole
    message: msgspec.Raw = msgspec.Raw()
    edited_message: msgspec.Raw = msgspec.Raw()


class WebhookInfo(msgspec.Struct, frozen=True):
    """Where Telegram sends updates (no URL: to getUpdates), and how many wait."""

    url: str = ""
    pending_update_count: int = 0
    last_error_message: str = ""


class User(msgspec.Struct, frozen=True):
    """A person or bot; the last field is in the answer of getMe only."""

    id: Whole
    is_bot: bool = False
    first_name: str = ""
    last_name: str = ""
    username: str = ""
    can_read_all_group_messages: bool = True


class Chat(msgspec.Struct, frozen=True):
    """A private chat, group, supergroup or channel."""

    id: Whole
    type: str = ""
    title: str = ""


class Entity(msgspec.Struct, frozen=True):
    """A stretch of text, counted in UTF-16 code units."""

    type: str
    offset: Whole
    length: Whole
    user: User | None = None


class File(msgspec.Struct, frozen=True):
    """Any kind of file object."""

    file_id: str
    file_name: str = ""
    mime_type: str = ""
    file_size: Whole | None = None
    file_path: str = ""


class Stub(msgspec.Struct, frozen=True):
    """As much of a message as its sender or an answer to it needs."""

    message_id: Whole
    chat: Chat
    sender: User | None = msgspec.field(name="from", default=None)


class Message(Stub, frozen=True, kw_only=True):
    """A message with what an agent can use of it."""

    date: Whole
    edit_date: Whole | None = None
    sender_chat: Chat | None = None
    message_thread_id: Whole | None = None
    is_topic_message: bool = False
    reply_to_message: Stub | None = None
    text: str = ""
    caption: str = ""
    entities: tuple[Entity, ...] = ()
    caption_entities: tuple[Entity, ...] = ()
    photo: tuple[File, ...] = ()
    animation: File | None = None
    video: File | None = None
    video_note: File | None = None
    audio: File | None = None
    voice: File | None = None
    sticker: File | None = None
    document: File | None = None


# -- from the wire to messages --------------------------------------------------------------------


def inbound(update: Update, me: User) -> Inbound | None:
    """What a person said; None for all else: bots, ourselves, service messages. Raises BadFrame."""
    edited = bytes(update.edited_message)
    raw = edited or bytes(update.message)
    if not raw:
        return None
    message = decode(Message, raw)
    author, text = _author(message, me), message.text or message.caption
    attachments = _attachments(message)
    if author is None or not (text or attachments):
        return None
    own_id = message_id(message)
    answered = _answered(message)
    to_us = answered is not None and answered.sender is not None and answered.sender.id == me.id
    return Inbound(
        id=f"{own_id}e{update.update_id}" if edited else own_id,
        chat=str(message.chat.id),
        sender=author[0],
        sender_name=author[1],
        text=text,
        at=float(message.edit_date or message.date),
        private=message.chat.type == "private",
        mentioned=to_us or _mentions(message, text, me),
        # Outside of topics the id names a chain of replies, and to send with it is an error.
        thread=str(message.message_thread_id) if message.is_topic_message else None,
        reply_to=None if answered is None else message_id(answered),
        edit_of=own_id if edited else None,
        attachments=attachments,
    )


def message_id(message: Stub) -> str:
    """Our id of a message: Telegram's own is unique only within its chat."""
    return f"{message.chat.id}:{message.message_id}"


def telegram_id(ours: str) -> str:
    """Telegram's id in an id of ours: ``<chat>:<message>``, for an edit with ``e<update>``."""
    return ours.rpartition(":")[2].partition("e")[0]


def _author(message: Message, me: User) -> tuple[str, str] | None:
    """Id and name of a person. An anonymous administrator writes as a chat, with a bot's name."""
    if message.sender_chat is not None:
        return str(message.sender_chat.id), message.sender_chat.title
    user = message.sender
    if user is None or user.is_bot or user.id == me.id:
        return None
    return str(user.id), f"{user.first_name} {user.last_name}".strip()


def _answered(message: Message) -> Stub | None:
    """The message replied to; in a topic, what answers nothing refers to the topic's beginning."""
    topic = message.message_thread_id if message.is_topic_message else None
    quoted = message.reply_to_message
    return None if quoted is None or quoted.message_id == topic else quoted


def _mentions(message: Message, text: str, me: User) -> bool:
    units = text.encode("utf-16-le")
    own = f"@{me.username}".casefold()
    for entity in message.entities or message.caption_entities:
        start, end = 2 * entity.offset, 2 * (entity.offset + entity.length)
        word = units[start:end].decode("utf-16-le", "replace").casefold()
        match entity.type:
            case "mention" if word == own:
                return True
            case "text_mention" if entity.user is not None and entity.user.id == me.id:
                return True
            case "bot_command" if "@" not in word or word.endswith(own):
                return True
    return False


# An animation comes with a copy of itself as a document: the first kind found is the right one.
_MEDIA = {
    "animation": MediaKind.VIDEO,
    "video": MediaKind.VIDEO,
    "video_note": MediaKind.VIDEO,
    "audio": MediaKind.AUDIO,
    "voice": MediaKind.AUDIO,
    "sticker": MediaKind.IMAGE,
    "document": MediaKind.FILE,
}


def _attachments(message: Message) -> tuple[Attachment, ...]:
    found = [(kind, file) for name, kind in _MEDIA.items() if (file := getattr(message, name))]
    if message.photo:  # sizes from small to large, always JPEG
        largest = msgspec.structs.replace(message.photo[-1], mime_type="image/jpeg")
        found = [(MediaKind.IMAGE, largest)]
    return tuple(
        Attachment(kind=kind, name=f.file_name, mime=f.mime_type, size=f.file_size, ref=f.file_id)
        for kind, f in found[:1]
    )


# -- what goes wrong ------------------------------------------------------------------------------

TOKEN_HINT = (
    "Get the bot's token from @BotFather (/mybots, API Token), put it into the configuration, "
    "then run `holdfast reload` or `holdfast kick ACCOUNT`."
)
CONFLICT_HINT = (
    "Stop the other program that polls or sets a web hook with this bot's token, or revoke the "
    "token in @BotFather (/revoke) and use the new one here; Holdfast looks again every 5 minutes."
)
HOOK_HINT = (
    "Telegram needs an HTTPS address on port 443, 80, 88 or 8443 with a valid certificate: correct "
    'the gateway\'s public hook_url and its reverse proxy, or set mode = "poll".'
)
SERVER_HINT = "Correct base_url, or the set-up of the self-hosted Bot API server."


class CallFailed(AdapterError):
    """A call was answered, but not with its result; ``answer`` is None for a stray page."""

    def __init__(self, cause: Cause, status: int, answer: Answer | None = None) -> None:
        super().__init__(cause)
        self.status = status
        self.description = answer.description if answer else ""
        self.moved_to = answer.parameters.migrate_to_chat_id if answer else None

    def for_send(self) -> SendFailed:
        """What it means for a message or file."""
        if self.status == 200 or self.status >= 500:
            return SendFailed(Outcome.UNKNOWN, self.cause)
        if self.cause.code in ("telegram_bad_request", "telegram_forbidden", "telegram_too_large"):
            return SendFailed(Outcome.REFUSED, replace(self.cause, kind=Kind.REFUSED))
        return SendFailed(Outcome.NOT_SENT, self.cause)


def _answer_failed(method: str, reply: HttpReply, answer: Answer) -> CallFailed:
    """The Bot API's own error answer."""
    status = answer.error_code or reply.status
    kind, code, hint = _verdict(status, answer.description)
    wait = answer.parameters.retry_after
    wait = reply.retry_after if wait is None else wait
    message = f"{method} was answered with {status} {answer.description}"
    return CallFailed(Cause(kind, code, message, hint, wait), status, answer)


def _network_cause(method: str, cause: Cause) -> Cause:
    """One code for all that lies between us and Telegram; the message keeps the exact one."""
    message = f"{method}: {cause.message} ({cause.code})"
    if cause.kind in (Kind.LOCAL, Kind.REFUSED, Kind.THROTTLED):
        return replace(cause, message=message)
    return replace(cause, code=NETWORK, message=message)


def _verdict(status: int, description: str) -> tuple[Kind, str, str]:
    """Kind, code and hint of an error answer."""
    match status:
        case 400 if "Logged out" in description:
            return Kind.REFUSED, "telegram_logged_out", SERVER_HINT
        case 400 if "bad webhook" in description:
            return Kind.REFUSED, "telegram_bad_webhook", HOOK_HINT
        case 400:
            return Kind.PROTOCOL, "telegram_bad_request", ""
        case 401 if "api-id" in description:
            return Kind.REFUSED, "telegram_server_setup", SERVER_HINT
        case 404 if "method" in description:
            return Kind.REFUSED, "telegram_unknown_method", SERVER_HINT
        case 401 | 404:  # 404 is the answer to a token of the wrong form
            return Kind.CREDENTIALS, "telegram_unauthorized", TOKEN_HINT
        case 403:
            return Kind.REFUSED, "telegram_forbidden", "Only the people in that chat can lift it."
        case 409:
            return Kind.REPLACED, "telegram_conflict", CONFLICT_HINT
        case 413:
            return Kind.REFUSED, "telegram_too_large", "Files go up to 50 MB, photos to 10."
        case 421:
            return Kind.REFUSED, "telegram_wrong_server", SERVER_HINT
        case 429:
            return Kind.THROTTLED, "telegram_rate_limited", ""
        case _ if status >= 500:
            return Kind.UNREACHABLE, NETWORK, ""
        case _:
            return Kind.PROTOCOL, f"telegram_http_{status}", ""


# -- calls ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BotApi:
    """Calls over one client with one token, which no error ever shows."""

    http: Http
    base_url: str
    token: Secret

    async def call(
        self,
        method: str,
        kind: type[T],
        params: Mapping[str, str] | None = None,
        *,
        limit: float = CALL_LIMIT,
        file: Part | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> T:
        """The result of a method. Raises CallFailed, and HttpFailed when there is no answer."""
        sending: dict[str, Any] = {"timeout": TRANSFER_LIMIT if file else limit, "headers": headers}
        if file is not None:
            fields = [Part(name=name, data=value) for name, value in (params or {}).items()]
            sending["parts"] = [*fields, file]
        else:
            sending["form"] = params or {}
        reply = await self._request("POST", "bot", method, method, sending)
        try:
            answer = reply.decode(Answer)
            if answer.ok:
                return decode(kind, bytes(answer.result))
        except BadFrame:
            raise self._stray(method, reply) from None
        raise _answer_failed(method, reply, answer)

    async def download(self, path: str) -> bytes:
        """The content of a file by its ``file_path``. Raises CallFailed or HttpFailed."""
        sending = {"timeout": TRANSFER_LIMIT}
        reply = await self._request("GET", "file/bot", quote(path), "download", sending)
        if reply.status != 200:
            raise self._stray("download", reply)
        return reply.body

    async def _request(
        self, verb: str, root: str, path: str, what: str, sending: dict[str, Any]
    ) -> HttpReply:
        url = f"{self.base_url.rstrip('/')}/{root}{self.token.reveal()}/{path}"
        try:
            return await self.http.request(verb, url, **sending)
        except HttpFailed as failed:
            cause = _network_cause(what, failed.cause)
            cause = replace(cause, message=self._without_token(cause.message))
            raise HttpFailed(cause, sent=failed.sent) from None

    def _stray(self, what: str, reply: HttpReply) -> CallFailed:
        """An answer that is not the Bot API's; a page may quote the URL, and so the token."""
        body = self._without_token(reply.body.decode("utf-8", "replace")).encode()
        cause = http_cause(replace(reply, body=body), "telegram")
        if cause.code == "telegram_unexpected_html":
            cause = replace(cause, kind=Kind.UNREACHABLE)
        return CallFailed(_network_cause(what, cause), reply.status)

    def _without_token(self, text: str) -> str:
        for form in filter(None, (self.token.reveal(), quote(self.token.reveal()))):
            text = text.replace(form, "<token>")
        return text
