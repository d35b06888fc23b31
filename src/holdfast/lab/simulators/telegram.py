"""Telegram's Bot API on loopback: ``getUpdates``, web hooks, sends, files, and their faults.

The rules follow the official documentation and the official server, tdlib/telegram-bot-api
(https://core.telegram.org/bots/api, spring 2026). python-telegram-bot runs on it unmodified.
"""

from __future__ import annotations

import asyncio
import json
import math
import mimetypes
import random
import re
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any, ClassVar, Never, Self

import aiohttp
from aiohttp import web

from holdfast.lab.simulator import Heard, Said, Simulator, wall_clock

Params = dict[str, Any]
Json = dict[str, Any]

TOKEN = "123456:AAF-simulated-token-of-35-characters"
RIVAL = "holdfast-lab-rival"
"""User agent of the second poller, so that its polls are not taken for the bot's."""

MAX_POLL = 50
"""Seconds to which the server clamps ``timeout``."""
RETENTION = 86_400.0
"""Seconds for which an unconfirmed update is kept."""
CONFLICT_SPACING = 3.0
"""Seconds between two 409 answers of one bot."""
BETWEEN_POLLS = 1.0
"""Seconds after a finished poll in which the bot still counts as listening."""
FUTURE_OFFSET = 10
"""How far beyond the next id an offset may lie before the server answers from its queue head."""
HOOK_DELAY_CEILING = (60.0, 120.0)
"""The redelivery delay doubles from 1 s up to a random ceiling in this range."""
HOOK_RETRY_AFTER_CAP = 3600.0

MAX_TEXT, MAX_CAPTION = 4096, 1024
MAX_PHOTO, MAX_UPLOAD, MAX_DOWNLOAD = 10 * 2**20, 50 * 2**20, 20 * 2**20

SENDS = frozenset({"sendmessage", "sendphoto", "senddocument", "editmessagetext"})
NOT_IN_HOOK_ANSWERS = frozenset({"deletewebhook", "setwebhook", "close", "logout"})

OTHER_POLL = (
    "terminated by other getUpdates request; make sure that only one bot instance is running"
)
HOOK_ACTIVE = (
    "can't use getUpdates method while webhook is active; "
    "use deleteWebhook to delete the webhook first"
)
BY_SET_WEBHOOK = "terminated by setWebhook request"
NOT_MODIFIED = (
    "message is not modified: specified new message content and reply markup "
    "are exactly the same as a current content and reply markup of the message"
)


class BotApiError(Exception):
    """An error answer of the Bot API; the HTTP status equals ``error_code``."""

    def __init__(self, code: int, description: str, *, retry_after: int | None = None) -> None:
        super().__init__(f"{code} {description}")
        self.code, self.description, self.retry_after = code, description, retry_after

    def response(self) -> web.Response:
        """The answer on the wire; on 429 with a ``Retry-After`` header as well."""
        body: Json = {"ok": False, "error_code": self.code, "description": self.description}
        headers = {}
        if self.retry_after is not None:
            body["parameters"] = {"retry_after": self.retry_after}
            headers["Retry-After"] = str(self.retry_after)
        return web.json_response(body, status=self.code, headers=headers)


def bad_request(reason: str) -> BotApiError:
    """``400 Bad Request: <reason>``."""
    return BotApiError(400, f"Bad Request: {reason}")


def throttled(seconds: int) -> BotApiError:
    """``429 Too Many Requests``."""
    return BotApiError(429, f"Too Many Requests: retry after {seconds}", retry_after=seconds)


# -- formatted text ---------------------------------------------------------------------------


class _HtmlText(HTMLParser):
    """The visible text of ``parse_mode=HTML``. Raises BotApiError as the server would."""

    TAGS = frozenset(
        "a b blockquote code del em i ins pre s span strike strong tg-emoji tg-spoiler u".split()
    )

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.text = ""
        self._open: list[str] = []
        if re.search(r"<(?!/?[a-zA-Z])", source):
            raise bad_request("can't parse entities: Unsupported start tag")
        self.feed(source)
        self.close()
        if self._open:
            raise bad_request(f"can't parse entities: Can't find end tag of \"{self._open[-1]}\"")

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in self.TAGS:
            raise bad_request(f'can\'t parse entities: Unsupported start tag "{tag}"')
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            raise bad_request("can't parse entities: Unexpected end tag")

    def handle_data(self, data: str) -> None:
        self.text += data


_MARKDOWN = re.compile(
    r"\\(?P<escaped>.)|(?P<mark>```|__|\|\||[*_~`])|(?P<open>!?\[)|(?P<link>\]\([^)]*\))"
    r"|(?P<quote>^>)|(?P<reserved>[\[\]()>#+\-=|{}.!])|(?P<plain>.)",
    re.DOTALL | re.MULTILINE,
)


def _markdown_text(source: str) -> str:
    """The visible text of ``parse_mode=MarkdownV2``, where a stray reserved character is 400.

    Nesting is checked, the attributes of links and the language of code blocks are not.
    """
    visible: list[str] = []
    marks: list[str] = []
    for token in _MARKDOWN.finditer(source):
        kind, value = token.lastgroup, token[token.lastgroup or 0]
        in_code = bool(marks) and marks[-1] in ("`", "```")
        if kind == "mark" and marks[-1:] == [value]:
            marks.pop()
        elif in_code or kind in ("escaped", "plain"):
            visible.append(value)
        elif kind == "mark" or kind == "open":
            marks.append(value)
        elif kind == "link" and marks[-1:] in (["["], ["!["]):
            marks.pop()
        elif kind != "quote":
            raise bad_request(
                f"can't parse entities: Character '{value[0]}' is reserved "
                "and must be escaped with the preceding '\\'"
            )
    if marks:
        raise bad_request(f"can't parse entities: Can't find end of the entity '{marks[-1]}'")
    return "".join(visible)


def visible_text(source: str, parse_mode: str | None) -> str:
    """What a user sees. Raises BotApiError when the entities cannot be parsed."""
    match (parse_mode or "").lower():
        case "":
            return source
        case "html":
            return _HtmlText(source).text
        case "markdownv2":
            return _markdown_text(source)
    raise bad_request("unsupported parse_mode")


def utf16_length(text: str) -> int:
    """Length in UTF-16 code units, in which Telegram counts entity offsets."""
    return len(text.encode("utf-16-le")) // 2


# -- values -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Update:
    id: int
    kind: str
    message: Json
    at: float

    def wire(self) -> Json:
        return {"update_id": self.id, self.kind: self.message}

    @property
    def chat_id(self) -> int:
        return int(self.message["chat"]["id"])


@dataclass(frozen=True, slots=True)
class _Upload:
    name: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _File:
    id: str
    path: str
    name: str
    data: bytes

    def wire(self) -> Json:
        return {
            "file_id": self.id,
            "file_unique_id": f"u{self.id}",
            "file_size": len(self.data),
        }


@dataclass(slots=True)
class _Poll:
    """A parked ``getUpdates``; ``ended`` holds the reason of a conflict, or None: look again."""

    rival: bool
    ended: asyncio.Future[str | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def end(self, conflict: str | None = None) -> None:
        if not self.ended.done():
            self.ended.set_result(conflict)


@dataclass(slots=True, kw_only=True)
class _Hook:
    url: str
    secret: str | None
    max_connections: int
    own_certificate: bool
    slots: asyncio.Semaphore
    workers: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    last_error: tuple[int, str] | None = None


def _integer(params: Params, name: str, default: int) -> int:
    try:
        return int(params.get(name, default))
    except (TypeError, ValueError):
        raise bad_request(f'field "{name}" must be a number') from None


def _structure(params: Params, name: str) -> Any:
    """An object or array: native in a JSON body, JSON text in every other kind of request."""
    value = params.get(name)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value else None
    except ValueError:
        raise bad_request(f"can't parse {name} JSON object") from None


def _flag(params: Params, name: str) -> bool:
    return str(params.get(name, "")).lower() in ("true", "1", "yes")


async def _merged(request: web.Request) -> Params:
    """Query, form, JSON and multipart parameters as one mapping."""
    params: Params = dict(request.query)
    if request.content_type == "application/json":
        try:
            params |= await request.json()
        except (ValueError, TypeError):
            raise bad_request("can't parse JSON object") from None
        return params
    for name, value in (await request.post()).items():
        if isinstance(value, web.FileField):
            with value.file as stream:
                params[name] = _Upload(value.filename, stream.read())
        else:
            params[name] = value
    return params


def _answer(result: Any) -> web.Response:
    return web.json_response({"ok": True, "result": result})


def _page(status: int, title: str) -> web.Response:
    html = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\r\n"
    return web.Response(status=status, text=html, content_type="text/html")


def _hang_up(request: web.Request) -> web.Response:
    """Drop the connection; the returned answer is never written."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def _for_ever() -> Never:
    """Wait until the client goes away: the handler is cancelled then."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody completes this future")


# -- the platform -----------------------------------------------------------------------------


class TelegramSimulator(Simulator):
    """One bot on a simulated Bot API server.

    ``account()["base_url"]`` is the server root; clients append ``/bot<token>/<method>`` and
    ``/file/bot<token>/<path>``. Users and groups have names here and stable integer ids there.
    Message ids are unique over all chats (Telegram promises it within a chat only), so that
    ``Said.id`` alone identifies what a ``Heard.reply_to`` answers.
    """

    platform = "telegram"
    username = "gate_test_bot"

    FAULTS: ClassVar[Mapping[str, str]] = {
        "http_502": "any request: 502 with an HTML body",
        "http_504": "any request: 504 with an HTML body",
        "html_200": "any request: 200 with the HTML page of a captive portal",
        "malformed_json": "any request: 200 with a JSON body that is cut off",
        "unauthorized": "any request: 401, as after a revoked token (arm with times=None)",
        "rate_limited": "getUpdates: 429 with retry_after=5 and the header",
        "conflict": "getUpdates: 409, another poller took over",
        "lingering_poll": "getUpdates: 409 for seconds=30, as if the former self still polled",
        "poll_hangs": "getUpdates: accepted and never answered",
        "poll_drips": "getUpdates: a byte of white space every=5 s, and never an end",
        "close_before_answer": "getUpdates: closed instead of answered; the updates stay queued",
        "close_after_answer": "getUpdates: closed right after a complete answer",
        "send_answer_lost": "sends and edits: delivered, then closed without an answer",
        "send_429": "sends and edits: 429 with retry_after=5 and the header",
        "send_403": "sends and edits: 403, the bot was blocked by the user",
        "id_jump": "the next update_id is random, or to=<id>; lower only if nothing is queued",
    }

    def __init__(
        self, *, host: str = "127.0.0.1", port: int = 0, token: str = TOKEN, seed: int = 0
    ) -> None:
        super().__init__(host=host, port=port)
        self.token = token
        self.commands: list[Json] = []
        self._revoked = False
        self._random = random.Random(seed)
        self._chats: dict[int, str] = {}
        self._messages: dict[tuple[int, int], Json] = {}
        self._threads: set[tuple[int, int]] = set()
        self._last_message = 5000
        self._files: dict[str, _File] = {}
        self._queue: list[_Update] = []
        self._next_update = 881_204_431
        self._allowed: frozenset[str] = frozenset()
        self._parked: _Poll | None = None
        self._previous_poll = (0, -math.inf)
        self._polled_at = -math.inf
        self._former_until = -math.inf
        self._next_conflict = -math.inf
        self._was_listening = False
        self._judging: asyncio.TimerHandle | None = None
        self._hook: _Hook | None = None
        self._hook_set_at = -math.inf
        self._session: aiohttp.ClientSession | None = None
        self._methods: dict[str, Callable[[Params], Any]] = {
            "getme": self._get_me,
            "setwebhook": self._set_webhook,
            "deletewebhook": self._delete_webhook,
            "getwebhookinfo": self._get_webhook_info,
            "sendmessage": self._send_message,
            "editmessagetext": self._edit_message_text,
            "deletemessage": self._delete_message,
            "sendchataction": self._send_chat_action,
            "sendphoto": self._send_photo,
            "senddocument": self._send_document,
            "getfile": self._get_file,
            "setmycommands": self._set_my_commands,
            "answercallbackquery": self._answer_callback_query,
            "setmessagereaction": self._set_message_reaction,
        }

    # -- life ---------------------------------------------------------------------------------

    def routes(self, app: web.Application) -> None:
        app.router.add_route("*", "/bot{token}/{method}", self._api)
        app.router.add_get("/file/bot{token}/{path:.+}", self._download)

    def account(self) -> dict[str, Any]:
        return {"platform": "telegram", "token": self.token, "base_url": self.url}

    async def start(self) -> Self:
        """Listen; a web hook set before is served again."""
        await super().start()
        assert self._runner is not None
        assert self._runner.server is not None
        # Without it a poll whose client is gone would stay parked, and the truth would be wrong.
        self._runner.server.handler_cancellation = True
        self._serve_hook()
        self._judge()
        return self

    async def stop(self) -> None:
        """Stop listening; updates, messages, files and the web hook are remembered."""
        await super().stop()
        self._polled_at = -math.inf
        self._judge()

    async def on_stop(self) -> None:
        """End the deliveries to the web hook and close their connections."""
        if self._judging is not None:
            self._judging.cancel()
        if self._hook is not None:
            await self._end_workers(self._hook)
        if self._session is not None:
            await self._session.close()
            self._session = None

    def revoke_token(self) -> None:
        """From now on every request gets 401, the parked poll too."""
        self._revoked = True
        if self._parked is not None:
            self._parked.end()
        self._judge()

    def restore(self) -> None:
        """The token is valid again."""
        self._revoked = False
        self._judge()

    def set_token(self, token: str) -> None:
        """A new token replaces the old one, which is unknown from now on."""
        self.revoke_token()
        self.token = token
        self.restore()

    # -- truth --------------------------------------------------------------------------------

    def listening(self) -> bool:
        """A poll of the bot is parked or finished less than 1 s ago, or a web hook is set."""
        if self._runner is None or self._revoked:
            return False
        if self._hook is not None:
            return True
        if self._parked is not None:
            return not self._parked.rival
        return self.now() - self._polled_at < BETWEEN_POLLS

    def pending(self) -> int:
        """The number of updates that the bot has not confirmed and that are not too old."""
        return len(self._fresh())

    def _judge(self) -> None:
        listening = self.listening()
        if listening != self._was_listening:
            self._was_listening = listening
            self.note("link-open" if listening else "link-lost")

    def _poll_finished(self) -> None:
        self._polled_at = self.now()
        self._judge()
        if self._judging is not None:
            self._judging.cancel()
        loop = asyncio.get_running_loop()
        # A hair later than the bound, for a sum of floats may fall short of it.
        self._judging = loop.call_later(BETWEEN_POLLS + 0.001, self._judge)

    # -- users --------------------------------------------------------------------------------

    def chat_id(self, name: str, *, group: bool = False) -> int:
        """The id of a user or group, which the bot may write to from now on."""
        number = zlib.crc32(name.encode())
        chat_id = -1_001_000_000_000 - number % 10**9 if group else 10_000 + number
        assert self._chats.setdefault(chat_id, name) == name, f"two names share the id {chat_id}"
        return chat_id

    def say(
        self,
        text: str,
        *,
        chat: str = "alice",
        sender: str = "alice",
        group: bool = False,
        image: bytes | None = None,
        file: tuple[str, bytes] | None = None,
        reply_to: str | None = None,
        edit_of: str | None = None,
        thread: int | None = None,
    ) -> str:
        """A user writes; in a group the text mentions the bot, at its start unless it already does.

        ``Said.text`` is the text with the mention. ``thread`` is a forum topic. An edit keeps the
        message id. Raises KeyError when ``reply_to`` or ``edit_of`` is no message of the chat.
        """
        chat_id = self.chat_id(chat, group=group)
        content = self._content(text, group=group, image=image, file=file)
        if thread is not None:
            self._threads.add((chat_id, thread))
            content |= {"message_thread_id": thread, "is_topic_message": True}
        if reply_to is not None:
            content["reply_to_message"] = self._quoted(self._messages[chat_id, int(reply_to)])
        if edit_of is not None:
            old = self._messages[chat_id, int(edit_of)]
            message = old | content | {"edit_date": int(wall_clock())}
        else:
            message = self._message(chat_id, self._user(sender)) | content
        self._messages[chat_id, message["message_id"]] = message
        said = Said(
            id=str(message["message_id"]),
            chat=chat,
            sender=sender,
            text=str(content.get("text", content.get("caption", ""))),
            at=self.now(),
        )
        self.said.append(said)
        self._enqueue("message" if edit_of is None else "edited_message", message)
        self.note("said", id=said.id, chat=chat, text=said.text[:80])
        return said.id

    def _content(
        self, text: str, *, group: bool, image: bytes | None, file: tuple[str, bytes] | None
    ) -> Json:
        mention = f"@{self.username}"
        if group and mention not in text:
            text = f"{mention} {text}"
        content: Json = {}
        if image is not None:
            content["photo"] = self._photo(image)
        elif file is not None:
            content["document"] = self._document(*file)
        words, notes = ("caption", "caption_entities") if content else ("text", "entities")
        if text:
            content[words] = text
        entities = []
        if command := re.match(r"/\w+(@\w+)?", text):
            entities.append({"offset": 0, "length": len(command[0]), "type": "bot_command"})
        elif mention in text:
            offset = utf16_length(text[: text.index(mention)])
            entities.append({"offset": offset, "length": len(mention), "type": "mention"})
        if entities:
            content[notes] = entities
        return content

    def _user(self, name: str) -> Json:
        return {
            "id": self.chat_id(name),
            "is_bot": False,
            "first_name": name.capitalize(),
            "username": name,
            "language_code": "en",
        }

    def _bot(self) -> Json:
        bot_id = int(self.token.partition(":")[0])
        return {"id": bot_id, "is_bot": True, "first_name": "Gate", "username": self.username}

    def _chat(self, chat_id: int) -> Json:
        name = self._chats[chat_id]
        if chat_id > 0:
            return {
                "id": chat_id,
                "first_name": name.capitalize(),
                "username": name,
                "type": "private",
            }
        forum = any(chat == chat_id for chat, _ in self._threads)
        return {"id": chat_id, "title": name, "type": "supergroup"} | (
            {"is_forum": True} if forum else {}
        )

    def _message(self, chat_id: int, author: Json) -> Json:
        self._last_message += 1
        return {
            "message_id": self._last_message,
            "from": author,
            "chat": self._chat(chat_id),
            "date": int(wall_clock()),
        }

    @staticmethod
    def _quoted(message: Json) -> Json:
        """Telegram nests replies one level deep."""
        return {key: value for key, value in message.items() if key != "reply_to_message"}

    # -- files --------------------------------------------------------------------------------

    def _store(self, folder: str, name: str, data: bytes) -> _File:
        number = len(self._files) + 1
        suffix = name.rpartition(".")[2] if "." in name else "bin"
        path = f"{folder}/file_{number}.{suffix}"
        stored = _File(id=f"AgAC{number:08d}", path=path, name=name, data=data)
        self._files[stored.id] = stored
        return stored

    def _photo(self, data: bytes, large: _File | None = None) -> list[Json]:
        """Sizes from small to large; the small one is no real picture."""
        small = self._store("thumbnails", "thumb.jpg", data[:1024])
        large = large or self._store("photos", "photo.jpg", data)
        return [
            small.wire() | {"width": 90, "height": 67},
            large.wire() | {"width": 1280, "height": 960},
        ]

    def _document(self, name: str, data: bytes, stored: _File | None = None) -> Json:
        stored = stored or self._store("documents", name, data)
        mime = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return stored.wire() | {"file_name": name, "mime_type": mime}

    def _get_file(self, params: Params) -> Json:
        stored = self._files.get(str(params.get("file_id")))
        if stored is None:
            raise bad_request("wrong file_id or the file is temporarily unavailable")
        if len(stored.data) > MAX_DOWNLOAD:
            raise bad_request("file is too big")
        return stored.wire() | {"file_path": stored.path}

    async def _download(self, request: web.Request) -> web.StreamResponse:
        if (played := self._front_door()) is not None:
            return played
        try:
            self._authorize(request.match_info["token"])
        except BotApiError as error:
            return error.response()
        for stored in self._files.values():
            if stored.path == request.match_info["path"]:
                return web.Response(body=stored.data, content_type="application/octet-stream")
        return BotApiError(404, "Not Found").response()

    # -- every request ------------------------------------------------------------------------

    async def _api(self, request: web.Request) -> web.StreamResponse:
        rival = request.headers.get("User-Agent") == RIVAL
        if not rival and (played := self._front_door()) is not None:
            return played
        method = request.match_info["method"].lower()
        try:
            self._authorize(request.match_info["token"], faulty=not rival)
            params = await _merged(request)
            if method == "getupdates":
                return await self._get_updates(request, params, rival)
            result = self._call(method, params)
        except BotApiError as error:
            return error.response()
        if method in SENDS and self.faults.take("send_answer_lost") is not None:
            return _hang_up(request)
        return _answer(result)

    def _front_door(self) -> web.Response | None:
        """What a proxy in front of the Bot API answers in its place."""
        if self.faults.take("html_200") is not None:
            return _page(200, "Welcome to the hotel network")
        if self.faults.take("http_502") is not None:
            return _page(502, "502 Bad Gateway")
        if self.faults.take("http_504") is not None:
            return _page(504, "504 Gateway Time-out")
        if self.faults.take("malformed_json") is not None:
            return web.Response(text='{"ok":true,"result":[{"upd', content_type="application/json")
        return None

    def _authorize(self, token: str, *, faulty: bool = True) -> None:
        if re.fullmatch(r"\d+:[\w-]+", token) is None:
            raise BotApiError(404, "Not Found")
        unknown = token != self.token or self._revoked
        if unknown or (faulty and self.faults.take("unauthorized") is not None):
            raise BotApiError(401, "Unauthorized")

    def _call(self, method: str, params: Params) -> Any:
        call = self._methods.get(method)
        if call is None:
            raise BotApiError(404, "Not Found: method not found")
        if method in SENDS:
            if (fault := self.faults.take("send_429")) is not None:
                raise throttled(int(fault.get("retry_after", 5)))
            if self.faults.take("send_403") is not None:
                raise BotApiError(403, "Forbidden: bot was blocked by the user")
        return call(params)

    def _get_me(self, params: Params) -> Json:
        self.note("login")
        return self._bot() | {
            "can_join_groups": True,
            "can_read_all_group_messages": False,
            "supports_inline_queries": False,
        }

    def _set_my_commands(self, params: Params) -> bool:
        self.commands = _structure(params, "commands") or []
        return True

    def _answer_callback_query(self, params: Params) -> bool:
        self.note("callback-answer", id=params.get("callback_query_id"))
        return True

    # -- updates ------------------------------------------------------------------------------

    def _enqueue(self, kind: str, message: Json) -> None:
        if self._allowed and kind not in self._allowed:
            return
        if (jump := self.faults.take("id_jump")) is not None:
            # With a queue, a lower id would break the order of ids that confirmation rests on.
            lowest = self._next_update + 1000 if self._queue else 1
            self._next_update = int(jump.get("to", self._random.randint(lowest, 2**31 - 10_000)))
        self._queue.append(_Update(self._next_update, kind, message, self.now()))
        self._next_update += 1
        self._serve_hook()
        if self._parked is not None:
            self._parked.end()

    def _fresh(self) -> list[_Update]:
        oldest = self.now() - RETENTION
        if self._queue and self._queue[0].at <= oldest:
            self._queue = [update for update in self._queue if update.at > oldest]
        return self._queue

    def _confirm(self, offset: int) -> None:
        """Delete what the offset confirms; an offset of another life is answered from the head."""
        if offset < 0:
            self._queue = self._fresh()[offset:]
        elif offset <= self._next_update + FUTURE_OFFSET:
            self._queue = [update for update in self._fresh() if update.id >= offset]

    async def _get_updates(
        self, request: web.Request, params: Params, rival: bool
    ) -> web.StreamResponse:
        if not rival and (played := await self._poll_fault(request)) is not None:
            return played
        if self._hook is not None:
            raise await self._conflict(HOOK_ACTIVE)
        if "allowed_updates" in params:
            self._allowed = frozenset(_structure(params, "allowed_updates") or ())
        offset = _integer(params, "offset", 0)
        limit = min(max(_integer(params, "limit", 100), 1), 100)
        timeout = min(max(_integer(params, "timeout", 0), 0), MAX_POLL)
        limit, timeout = self._slow_down(offset, limit, timeout)
        self._confirm(offset)
        if not self._fresh() and timeout > 0:
            await self._park(rival, timeout)
            self._authorize(request.match_info["token"], faulty=not rival)
        batch = self._fresh()[:limit]
        if rival:
            return _answer([update.wire() for update in batch])
        return await self._answer_poll(request, offset, batch)

    async def _poll_fault(self, request: web.Request) -> web.StreamResponse | None:
        if (fault := self.faults.take("rate_limited")) is not None:
            raise throttled(int(fault.get("retry_after", 5)))
        if self.faults.take("conflict") is not None:
            raise await self._conflict(OTHER_POLL)
        if (fault := self.faults.take("lingering_poll")) is not None:
            self._former_until = self.now() + float(fault.get("seconds", 30))
        if self.now() < self._former_until:
            raise await self._conflict(OTHER_POLL)
        if self.faults.take("poll_hangs") is not None:
            await _for_ever()
        if (fault := self.faults.take("poll_drips")) is not None:
            return await self._drip(request, float(fault.get("every", 5)))
        return None

    @staticmethod
    async def _drip(request: web.Request, every: float) -> Never:
        """Legal JSON white space without end: only a deadline on the whole answer notices."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(every)

    def _slow_down(self, offset: int, limit: int, timeout: int) -> tuple[int, int]:
        """The server's brake on clients that ask for the same offset again and again."""
        previous, at = self._previous_poll
        self._previous_poll = (offset, self.now())
        if offset != previous:
            return limit, timeout
        if self.now() - at < 3.0 and timeout < 3:
            timeout = 3
        return (1 if self.now() - at < 0.5 else limit), timeout

    async def _park(self, rival: bool, timeout: float) -> None:
        """Wait for an update or the timeout; the poll parked before gets its 409."""
        if self._parked is not None:
            self._parked.end(OTHER_POLL)
        poll = self._parked = _Poll(rival)
        self._judge()
        try:
            await asyncio.wait({poll.ended}, timeout=timeout)
        except asyncio.CancelledError:
            if self._parked is poll:
                self._parked = None
                self._polled_at = -math.inf
                self._judge()
            raise
        if self._parked is poll:
            self._parked = None
        if poll.ended.done() and (reason := poll.ended.result()) is not None:
            raise await self._conflict(reason)

    async def _conflict(self, reason: str) -> BotApiError:
        """The 409, held back until it comes at least 3 s after the one before."""
        due = max(self.now(), self._next_conflict)
        self._next_conflict = due + CONFLICT_SPACING
        self._judge()
        await asyncio.sleep(due - self.now())
        return BotApiError(409, f"Conflict: {reason}")

    async def _answer_poll(
        self, request: web.Request, offset: int, batch: list[_Update]
    ) -> web.StreamResponse:
        if self.faults.take("close_before_answer") is not None:
            self._polled_at = -math.inf
            self._judge()
            return _hang_up(request)
        response = _answer([update.wire() for update in batch])
        if self.faults.take("close_after_answer") is not None:
            await response.prepare(request)
            await response.write_eof()
            if request.transport is not None:
                request.transport.close()
        self.note("poll", n=len(batch), offset=offset)
        self._poll_finished()
        return response

    @asynccontextmanager
    async def rival(self, *, timeout: int = MAX_POLL) -> AsyncIterator[list[Json]]:
        """A second poller with the same token, over real HTTP; yields the updates it steals.

        It confirms what it gets and comes back 1 s after each 409. With ``timeout=0`` it is a
        silent thief: short polls every 4 s, which never cost the bot a 409. Faults spare it.
        """
        stolen: list[Json] = []
        task = asyncio.create_task(self._steal(stolen, timeout), name="telegram-rival")
        try:
            yield stolen
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _steal(self, stolen: list[Json], timeout: int) -> None:
        query = {"offset": 0, "timeout": timeout}
        url = f"{self.url}/bot{self.token}/getUpdates"
        async with aiohttp.ClientSession(headers={"User-Agent": RIVAL}) as session:
            while True:
                updates: list[Json] = []
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(url, params=query) as response:
                        updates = (await response.json()).get("result", [])
                if updates:
                    stolen += updates
                    query["offset"] = updates[-1]["update_id"] + 1
                    self.note("stolen", n=len(updates))
                else:
                    # Short polls of one offset within 3 s would be parked by the server.
                    await asyncio.sleep(1.0 if timeout else 4.0)

    # -- web hook -----------------------------------------------------------------------------

    def _set_webhook(self, params: Params) -> bool:
        """Unlike production, plain HTTP and any port are accepted: the bot is on loopback."""
        url = str(params.get("url", ""))
        if not url:
            return self._delete_webhook(params)
        if self.now() - self._hook_set_at < 1.0:
            raise throttled(1)
        if not re.match(r"https?://", url):
            raise bad_request("bad webhook: An HTTPS URL must be provided for webhook")
        secret = params.get("secret_token")
        if secret is not None and re.fullmatch(r"[\w-]{1,256}", secret, re.ASCII) is None:
            raise bad_request("secret token contains unallowed characters")
        self._delete_webhook(params)
        if "allowed_updates" in params:
            self._allowed = frozenset(_structure(params, "allowed_updates") or ())
        connections = min(max(_integer(params, "max_connections", 40), 1), 100)
        self._hook_set_at = self.now()
        self._hook = _Hook(
            url=url,
            secret=secret,
            max_connections=connections,
            own_certificate="certificate" in params,
            slots=asyncio.Semaphore(connections),
        )
        if self._parked is not None:
            self._parked.end(BY_SET_WEBHOOK)
        self.note("hook-set", url=url)
        self._serve_hook()
        self._judge()
        return True

    def _delete_webhook(self, params: Params) -> bool:
        if _flag(params, "drop_pending_updates"):
            self._queue = []
        if self._hook is not None:
            for worker in self._hook.workers.values():
                worker.cancel()
            self._hook = None
            self.note("hook-deleted")
            self._judge()
        return True

    def _get_webhook_info(self, params: Params) -> Json:
        info: Json = {
            "url": "",
            "has_custom_certificate": False,
            "pending_update_count": self.pending(),
        }
        if self._allowed:
            info["allowed_updates"] = sorted(self._allowed)
        if (hook := self._hook) is not None:
            info |= {
                "url": hook.url,
                "has_custom_certificate": hook.own_certificate,
                "max_connections": hook.max_connections,
                "ip_address": self.host,
            }
            if hook.last_error is not None:
                info["last_error_date"], info["last_error_message"] = hook.last_error
        return info

    def _serve_hook(self) -> None:
        """One worker a chat: updates of one chat go in order, different chats side by side."""
        hook = self._hook
        if hook is None or self._runner is None:
            return
        for chat_id in {update.chat_id for update in self._fresh()} - set(hook.workers):
            hook.workers[chat_id] = asyncio.create_task(
                self._deliver(hook, chat_id), name=f"telegram-hook-{chat_id}"
            )

    @staticmethod
    async def _end_workers(hook: _Hook) -> None:
        workers = list(hook.workers.values())
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)

    async def _deliver(self, hook: _Hook, chat_id: int) -> None:
        delay, ceiling = 1.0, self._random.uniform(*HOOK_DELAY_CEILING)
        try:
            while mine := [update for update in self._fresh() if update.chat_id == chat_id]:
                async with hook.slots:
                    wait = await self._post(hook, mine[0])
                if wait is None:
                    self._queue = [update for update in self._queue if update is not mine[0]]
                    delay = 1.0
                    continue
                await asyncio.sleep(max(wait, delay))
                delay = min(delay * 2, ceiling)
        finally:
            hook.workers.pop(chat_id, None)

    async def _post(self, hook: _Hook, update: _Update) -> float | None:
        """Deliver once. Returns None when the bot took it, else its ``Retry-After`` or 0."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        headers = {"X-Telegram-Bot-Api-Secret-Token": hook.secret} if hook.secret else {}
        try:
            async with self._session.post(
                hook.url, json=update.wire(), headers=headers, ssl=False, allow_redirects=False
            ) as response:
                body = await response.read()
                status, reason = response.status, response.reason
                retry_after = response.headers.get("Retry-After", "")
        except (aiohttp.ClientError, TimeoutError) as error:
            hook.last_error = (int(wall_clock()), str(error) or type(error).__name__)
            self.note("hook-failed", id=update.id, error=type(error).__name__)
            return 0.0
        if 200 <= status < 300:
            self.note("hook-delivered", id=update.id)
            self._obey(body)
            return None
        hook.last_error = (
            int(wall_clock()),
            f"Wrong response from the webhook: {status} {reason}",
        )
        self.note("hook-failed", id=update.id, status=status)
        return min(float(retry_after), HOOK_RETRY_AFTER_CAP) if retry_after.isdigit() else 0.0

    def _obey(self, body: bytes) -> None:
        """A hook's answer may be a method call, whose result nobody learns."""
        try:
            params = json.loads(body)
            method = str(params.pop("method")).lower()
        except (ValueError, KeyError, TypeError, AttributeError):
            return
        if method in NOT_IN_HOOK_ANSWERS or method.startswith("get"):
            return
        with suppress(BotApiError):
            self._call(method, params)

    # -- outbound -----------------------------------------------------------------------------

    def _addressed(self, params: Params) -> int:
        if params.get("chat_id") in (None, ""):
            raise bad_request("chat_id is empty")
        try:
            chat_id = int(params["chat_id"])
        except ValueError:
            chat_id = 0
        if chat_id not in self._chats:
            raise bad_request("chat not found")
        return chat_id

    def _existing(self, params: Params, missing: str) -> Json:
        key = self._addressed(params), _integer(params, "message_id", 0)
        if key not in self._messages:
            raise bad_request(missing)
        return self._messages[key]

    @staticmethod
    def _text(params: Params) -> str:
        text = visible_text(str(params.get("text", "")), params.get("parse_mode"))
        if not text.strip():
            raise bad_request("message text is empty")
        if len(text) > MAX_TEXT:
            raise bad_request("message is too long")
        return text

    def _send_message(self, params: Params) -> Json:
        text = self._text(params)
        return self._deliver_to_user(params, {"text": text}, text=text)

    def _deliver_to_user(
        self,
        params: Params,
        content: Json,
        *,
        text: str,
        media: str | None = None,
        data: bytes = b"",
    ) -> Json:
        chat_id = self._addressed(params)
        if thread := _integer(params, "message_thread_id", 0):
            if (chat_id, thread) not in self._threads:
                raise bad_request("message thread not found")
            content |= {"message_thread_id": thread, "is_topic_message": True}
        answered = self._answered(params, chat_id)
        if answered is not None:
            content["reply_to_message"] = self._quoted(answered)
        message = self._message(chat_id, self._bot()) | content
        self._messages[chat_id, message["message_id"]] = message
        self.hear(
            Heard(
                id=str(message["message_id"]),
                chat=self._chats[chat_id],
                text=text,
                at=self.now(),
                reply_to=None if answered is None else str(answered["message_id"]),
                media=media,
                data=data,
            )
        )
        return message

    def _answered(self, params: Params, chat_id: int) -> Json | None:
        """The message replied to: ``reply_parameters``, or the older ``reply_to_message_id``."""
        reply = _structure(params, "reply_parameters")
        if reply is None and "reply_to_message_id" in params:
            reply = {
                "message_id": params["reply_to_message_id"],
                "allow_sending_without_reply": _flag(params, "allow_sending_without_reply"),
            }
        if not reply:
            return None
        key = int(reply.get("chat_id") or chat_id), _integer(reply, "message_id", 0)
        if key not in self._messages and not reply.get("allow_sending_without_reply"):
            raise bad_request("message to be replied not found")
        return self._messages.get(key)

    def _edit_message_text(self, params: Params) -> Json:
        text = self._text(params)
        message = self._existing(params, "message to edit not found")
        if not message["from"]["is_bot"]:
            raise bad_request("message can't be edited")
        if message.get("text") == text:
            raise bad_request(NOT_MODIFIED)
        message |= {"text": text, "edit_date": int(wall_clock())}
        message_id = str(message["message_id"])
        chat = self._chats[message["chat"]["id"]]
        self.hear(Heard(id=message_id, chat=chat, text=text, at=self.now(), edit_of=message_id))
        return message

    def _delete_message(self, params: Params) -> bool:
        message = self._existing(params, "message to delete not found")
        chat_id, message_id = message["chat"]["id"], message["message_id"]
        del self._messages[chat_id, message_id]
        self.note("deleted", id=str(message_id), chat=self._chats[chat_id])
        return True

    def _send_chat_action(self, params: Params) -> bool:
        chat = self._chats[self._addressed(params)]
        self.note("chat-action", chat=chat, action=params.get("action"))
        return True

    def _set_message_reaction(self, params: Params) -> bool:
        message = self._existing(params, "message to react not found")
        emoji = [one.get("emoji") for one in _structure(params, "reaction") or []]
        chat = self._chats[message["chat"]["id"]]
        self.note("reaction", id=str(message["message_id"]), chat=chat, emoji=emoji)
        return True

    def _send_photo(self, params: Params) -> Json:
        sent = self._sent_file(params, "photo", MAX_PHOTO)
        content = {"photo": self._photo(sent.data, sent)}
        return self._send_captioned(params, content, "photo", sent.data)

    def _send_document(self, params: Params) -> Json:
        sent = self._sent_file(params, "document", MAX_UPLOAD)
        content = {"document": self._document(sent.name, sent.data, sent)}
        return self._send_captioned(params, content, sent.name, sent.data)

    def _send_captioned(self, params: Params, content: Json, media: str, data: bytes) -> Json:
        caption = visible_text(str(params.get("caption", "")), params.get("parse_mode"))
        if len(caption) > MAX_CAPTION:
            raise bad_request("message caption is too long")
        if caption:
            content["caption"] = caption
        return self._deliver_to_user(params, content, text=caption, media=media, data=data)

    def _sent_file(self, params: Params, kind: str, limit: int) -> _File:
        """An upload, or the id of a file the server has; URLs are not fetched here."""
        value = params.get(kind)
        if isinstance(value, str) and value.startswith("attach://"):
            value = params.get(value.removeprefix("attach://"))
        if isinstance(value, _Upload):
            if len(value.data) > limit:
                raise BotApiError(413, "Request Entity Too Large")
            return self._store(f"{kind}s", value.name, value.data)
        if isinstance(value, str) and value in self._files:
            return self._files[value]
        raise bad_request("wrong file identifier/HTTP URL specified")


if __name__ == "__main__":
    TelegramSimulator.main()
