"""The wire of the Bot API: errors, parameters, formatted text, the values in between."""

from __future__ import annotations

import asyncio
import json
import re
import struct
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

from aiohttp import web

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
HOOK_TIMEOUT = 60.0
"""Seconds in which a web hook must answer."""

MAX_TEXT, MAX_CAPTION = 4096, 1024
MAX_PHOTO, MAX_UPLOAD, MAX_DOWNLOAD = 10 * 2**20, 50 * 2**20, 20 * 2**20
MAX_SIDES, MAX_RATIO = 10_000, 20

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


def photo_trouble(data: bytes) -> str | None:
    """Why a file is no photo, as the Bot API says it; only PNG files tell their size here.

    https://core.telegram.org/bots/api#sendphoto: "The photo's width and height must not exceed
    10000 in total. Width and height ratio must be at most 20". The words are the server's.
    """
    if data.lstrip().startswith((b"<svg", b"<?xml")) or data[4:8] == b"ftyp":
        return "IMAGE_PROCESS_FAILED"
    if data.startswith(b"\x89PNG\r\n\x1a\n") and data[12:16] == b"IHDR":
        width, height = struct.unpack(">II", data[16:24])
        if width + height > MAX_SIDES or max(width, height) > MAX_RATIO * min(width, height):
            return "PHOTO_INVALID_DIMENSIONS"
    return None


def throttled(seconds: int) -> BotApiError:
    """``429 Too Many Requests``."""
    return BotApiError(429, f"Too Many Requests: retry after {seconds}", retry_after=seconds)


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


@dataclass(frozen=True, slots=True)
class Update:
    """One queued event: its ``kind`` names the payload key, ``at`` is on the loop's clock."""

    id: int
    kind: str
    message: Json
    at: float

    def wire(self) -> Json:
        """The ``Update`` object."""
        return {"update_id": self.id, self.kind: self.message}

    @property
    def chat_id(self) -> int:
        """The chat whose order a web hook keeps."""
        return int(self.message["chat"]["id"])


@dataclass(frozen=True, slots=True)
class Upload:
    """A file part of a multipart request."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """A file on the server, fetched by ``getFile`` and then by its path."""

    id: str
    path: str
    name: str
    data: bytes

    def wire(self) -> Json:
        """The fields that every kind of file object has."""
        return {
            "file_id": self.id,
            "file_unique_id": f"u{self.id}",
            "file_size": len(self.data),
        }


@dataclass(slots=True)
class ParkedPoll:
    """A parked ``getUpdates``; ``ended`` holds the reason of a conflict, or None: look again."""

    rival: bool
    ended: asyncio.Future[str | None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )

    def end(self, conflict: str | None = None) -> None:
        """Wake the poll; the first reason stays."""
        if not self.ended.done():
            self.ended.set_result(conflict)


def integer(params: Params, name: str, default: int) -> int:
    """A number, native or as text. Raises BotApiError (400) for anything else."""
    try:
        return int(params.get(name, default))
    except (TypeError, ValueError):
        raise bad_request(f'field "{name}" must be a number') from None


def structure(params: Params, name: str) -> Any:
    """An object or array: native in a JSON body, JSON text in every other kind of request."""
    value = params.get(name)
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value else None
    except ValueError:
        raise bad_request(f"can't parse {name} JSON object") from None


def flag(params: Params, name: str) -> bool:
    """A boolean, native or as text."""
    return str(params.get(name, "")).lower() in ("true", "1", "yes")


async def merged_parameters(request: web.Request) -> Params:
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
                params[name] = Upload(value.filename, stream.read())
        else:
            params[name] = value
    return params


def answer(result: Any) -> web.Response:
    """The answer of a call that succeeded."""
    return web.json_response({"ok": True, "result": result})


def page(status: int, title: str) -> web.Response:
    """What something between the client and the Bot API answers: HTML."""
    html = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>\r\n"
    return web.Response(status=status, text=html, content_type="text/html")


def hang_up(request: web.Request) -> web.Response:
    """Drop the connection; the returned answer is never written."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
