"""Rules of a Mattermost server: faults, errors, ids, and what a resumable connection keeps."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

Json = dict[str, Any]

FAULTS: Mapping[str, str] = {
    # any API call
    "api_500": "an API call answers HTTP `status` (500) with the error `id`",
    "api_503": "an API call answers 503 `api.context.server_busy.app_error`",
    "api_401": "an API call answers 401 as for an expired session",
    "api_403": "an API call answers 403 as for a missing right",
    "api_429": "an API call answers 429 in plain text, `retry_after` (1; None: no headers) seconds",
    "api_html": "a page of HTML with HTTP `status` (502; 200: a captive portal) answers",
    "api_malformed": "an API call answers 200 with JSON that is cut off",
    "api_hang": "an API call is never answered",
    "posts_error": "fetching the posts of a channel answers HTTP `status` (500)",
    # opening
    "ws_refused": "the upgrade answers HTTP `status` (503), with `retry_after` if given (seconds)",
    "close_after_accept": "the socket is closed with `code` (1001; 0: EOF) before any frame",
    "no_hello": "the socket is authenticated, but neither hello nor any event comes",
    "slow_hello": "hello and all after it come `delay` (5) seconds late",
    "hello_first": "hello precedes the OK to the challenge",
    "close_on_resume": "a socket that names a connection id is closed with `code` (1011)",
    "refuse_resume": "the connection id is forgotten: hello with a new one",
    # while connected
    "no_ack": "an application ping is not answered",
    "ack_once_late": "an application ping is answered after `delay` (5) seconds",
    "ping_fail": "an application ping is answered FAIL not_authenticated",
    "mute": "an event reaches no socket and no buffer; without end the link is a zombie that pongs",
    "close_when_live": "the socket is closed with `code` (1011) after hello or resume",
    "half_open": "after hello or resume the link falls silent both ways, TCP stays",
    # events
    "seq_gap": "the event is numbered, but never sent nor kept",
    "dup_event": "an event is sent twice, the second time with a new seq",
    "unknown_event": "an event of an unknown type precedes the event",
    "bad_frame": "the frame `raw` (not JSON, no seq) precedes the event",
    "huge_frame": "an event of an unknown type with `size` (5000000) bytes precedes the event",
    "bad_post": "`data.post` of the event is the text `raw` (not JSON)",
    "split_frame": "the event comes as a message of `parts` (3) WebSocket fragments",
    # sending
    "send_error": "a post is refused with `status` (400) and `id`",
    "send_429": "a post is refused with 429, `retry_after` (1; None: no headers) seconds",
    "send_pending": "a post answers 500 as if the same pending_post_id were in flight",
    "send_slow": "a post is created `delay` (5) seconds late; meanwhile a repeat is pending",
    "send_slow_but_delivered": "a post is created, the answer comes after `delay` (8) seconds",
    "send_answer_lost": "a post is created, then the connection is reset instead of an answer",
    "send_swallowed": "a post is answered 201 and exists for nobody",
    "upload_too_large": "an upload answers 413",
    "typing_busy": "typing answers 503",
}

PING_EVERY, READ_TIMEOUT = 60.0, 100.0
"""Seconds between WebSocket pings of the server, and of silence after which it closes."""
AUTH_TIMEOUT = 5.0
"""Seconds in which a socket must be authenticated."""
REAP_EVERY = STALE_AFTER = 300.0
"""The hub drops inactive connections this often, if their user was inactive for so long."""
DEAD_QUEUE, SEND_QUEUE = 128, 256
"""Written events kept for a replay; unwritten events kept for a connection."""
MAX_CLIENT_FRAME = 8192
DEDUPE_WINDOW = 30.0
"""Seconds in which a pending_post_id names the first post made with it."""
MAX_MESSAGE, MAX_FILE, MAX_FILES = 16_383, 100 * 2**20, 10
MAX_SINCE = 1000
"""Posts in one answer to ``since``; the server's own bound."""

ZBASE32 = "ybndrfg8ejkmcpqxot1uwisza345h769"
SESSION_EXPIRED = "api.context.session_expired.app_error"
NOT_AUTHENTICATED = "api.web_socket_router.not_authenticated.app_error"
VERSION = "11.3.0"


def new_id(seed: str | None = None) -> str:
    """A 26 character id: random, or always the same for one seed."""
    raw = secrets.token_bytes(26) if seed is None else hashlib.sha256(seed.encode()).digest()
    return "".join(ZBASE32[byte & 31] for byte in raw[:26])


class AppError(Exception):
    """An API call is refused; clients decide on ``status`` and ``id``."""

    def __init__(self, status: int, id: str, message: str = "") -> None:
        super().__init__(f"{status} {id}")
        self.status, self.id = status, id
        self.message = message or f"Refused: {id}."

    def body(self) -> Json:
        """The error object of REST answers and of FAIL replies."""
        return {
            "id": self.id,
            "message": self.message,
            "detailed_error": "",
            "request_id": new_id(),
            "status_code": self.status,
        }


def expired() -> AppError:
    """The answer to a bad, expired or revoked token."""
    return AppError(401, SESSION_EXPIRED, "Invalid or expired session, please login again.")


def forbidden() -> AppError:
    """The answer to a missing right, which includes channels that do not exist."""
    return AppError(
        403,
        "api.context.permissions.app_error",
        "You do not have the appropriate permissions.",
    )


def invalid(what: str) -> AppError:
    """The answer to a request that can never succeed."""
    return AppError(400, "api.context.invalid_body_param.app_error", f"Invalid or missing {what}.")


def pending() -> AppError:
    """The answer to a repeat while the first post is still being created."""
    return AppError(500, "api.post.deduplicate_create_post.pending")


def bearer(header: str) -> str:
    """The token of ``Bearer <token>`` or ``token <token>``; empty when there is none."""
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() in ("bearer", "token") else ""


def answer(body: object, status: int = 200) -> web.Response:
    """A JSON answer; clients compare the content type, which has no charset."""
    headers = {"Content-Type": "application/json"}
    return web.Response(body=json.dumps(body).encode(), status=status, headers=headers)


def limit_exceeded(retry_after: int | None) -> web.Response:
    """429 as the server's rate limiter writes it: plain text."""
    headers = {}
    if retry_after is not None:
        headers = {
            "X-RateLimit-Limit": "100",
            "X-RateLimit-Remaining": "0",
            "X-RateLimit-Reset": str(retry_after),
            "Retry-After": str(retry_after),
        }
    return web.Response(status=429, text="limit exceeded", headers=headers)


def fragments(text: str, parts: int) -> bytes:
    """One text message as unmasked WebSocket fragments, cut without regard for characters."""
    data = text.encode()
    size = max(1, -(-len(data) // parts))
    pieces = [data[start : start + size] for start in range(0, len(data), size)]
    wire = bytearray()
    for n, piece in enumerate(pieces):
        wire.append((0x80 if n == len(pieces) - 1 else 0) | (1 if n == 0 else 0))
        if len(piece) < 126:
            wire.append(len(piece))
        else:
            wire += b"\x7f" + len(piece).to_bytes(8, "big")
        wire += piece
    return bytes(wire)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened on the server, before a connection numbers it."""

    kind: str
    data: Json
    channel_id: str = ""
    user_id: str = ""
    post_id: str = ""
    """The post it announces, by which the truth log names it."""

    @property
    def key(self) -> str:
        """The same for two events only if they tell the same about the same post."""
        return f"{self.kind} {self.data.get('post')}"

    def frame(self, seq: int, **changed: object) -> str:
        """The frame on the wire."""
        broadcast = {
            "omit_users": None,
            "user_id": self.user_id,
            "channel_id": self.channel_id,
            "team_id": "",
            "connection_id": "",
            "omit_connection_id": "",
        }
        body = {"event": self.kind, "data": self.data | changed, "broadcast": broadcast}
        return json.dumps(body | {"seq": seq})


class Connection:
    """One event stream, which outlives its sockets: numbered, and replayed within limits."""

    def __init__(self, activity: float) -> None:
        self.id = new_id()
        self.activity = activity
        """When its user was last seen, on the loop's clock."""
        self.next = 0
        """The seq of the next event."""
        self.queue: deque[Event] = deque()
        """Events that no socket was given yet."""
        self._written: deque[tuple[int, Event]] = deque(maxlen=DEAD_QUEUE)

    def number(self, event: Event, *, keep: bool = True) -> int:
        """The seq of an event; it is remembered as written unless ``keep`` is false."""
        seq, self.next = self.next, self.next + 1
        if keep:
            self._written.append((seq, event))
        return seq

    def wait(self, event: Event) -> bool:
        """Keep an event for the next socket; False when it is one too many, and not kept."""
        if len(self.queue) >= SEND_QUEUE:
            return False
        self.queue.append(event)
        return True

    def remembers(self, seq: int) -> bool:
        """Whether a socket that expects ``seq`` can go on without a loss."""
        return seq == self.next or any(known == seq for known, _ in self._written)

    def replay(self, seq: int) -> list[str]:
        """The frames written since ``seq``, under their old numbers."""
        return [event.frame(known) for known, event in self._written if known >= seq]

    def proven(self, seq: int) -> Iterator[str]:
        """Posts that a client expecting ``seq`` shows to have."""
        return (event.post_id for known, event in self._written if known < seq and event.post_id)

    def renew(self) -> None:
        """Become a new connection, keeping only what was never written."""
        self.id, self.next = new_id(), 0
        self._written.clear()
