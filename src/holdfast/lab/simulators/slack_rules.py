"""The rules of Slack that need neither a socket nor a clock: faults, refusals, events, numbers.

Numbers come from the documentation at docs.slack.dev unless a comment names another source.
"""

from __future__ import annotations

import html
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Json = dict[str, Any]

FAULTS: Mapping[str, str] = {
    # any Web API call
    "api_error": "a call answers HTTP 200 with ok false, `error` (internal_error), other fields",
    "api_500": "a call answers HTTP `status` (500) with a text that is not JSON",
    "api_html": "a call answers HTTP `status` (200) with the HTML page of a captive portal",
    "api_429": "a call answers 429, `retry_after` (1) seconds; None leaves the header out",
    "api_slow": "a call is answered after `delay` (8) seconds",
    "malformed_json": "a call answers HTTP 200 with JSON that is cut off",
    "auth_error": "auth.test answers HTTP 200 with ok false and `error` (invalid_auth)",
    # opening
    "open_error": "apps.connections.open answers ok false with `error` (invalid_auth)",
    "open_500": "apps.connections.open answers HTTP 500 with a text that is not JSON",
    "open_429": "apps.connections.open answers 429, `retry_after` (30) seconds; None: no header",
    "open_hangs": "apps.connections.open is never answered",
    "handshake_refused": "the upgrade is refused with HTTP `status` (408); the ticket is used up",
    "handshake_hangs": "the upgrade is never answered",
    "close_after_accept": "the socket is closed with `code` (1001) before hello",
    "no_hello": "the socket is accepted and stays silent",
    "disconnect_for_hello": "the first frame is a disconnect, `reason` (too_many_websockets)",
    # while connected
    "goodbye": "after hello, `after` (0) seconds: a disconnect frame, `reason` (warning)",
    "close_after_hello": "the socket is closed with `code` (1001) right after hello",
    "half_open": "after hello the link falls silent both ways, TCP stays",
    "no_pong": "a ping of the client is not answered",
    "pong_late": "a ping of the client is answered after `delay` (5) seconds",
    "no_ping": "a ping of the server is left out",
    # events
    "mute": "an envelope is withheld; armed without end the link is a zombie that still pongs",
    "split": "a second client of the app is connected and takes every other envelope",
    "event_lost": "an event never enters the stream; only the history knows it",
    "ack_lost": "an ack is overlooked, the event is sent again",
    "abort_on_event": "the link is reset right after an envelope was written",
    "dup_event": "an event is sent in two envelopes at once",
    "mention_twin": "a mention's `message` twin comes `delay` (0.5) s late, subscribed or not",
    "out_of_order": "an envelope is overtaken: written `delay` (0.5) seconds late",
    "split_frame": "an envelope comes as `parts` (3) WebSocket fragments",
    "bad_frame": "the frame `raw` (not JSON) precedes the envelope",
    "unknown_frame": "a frame of an unknown type precedes the envelope",
    "huge_frame": "a frame of `size` (5000000) bytes precedes the envelope",
    # sending
    "send_error": "a post or update is refused: ok false, `error` (internal_error), other fields",
    "send_500": "a post or update is refused with HTTP `status` (500)",
    "send_429": "a post or update answers 429, `retry_after` (1) seconds; None: no header",
    "send_answer_lost": "a post or update is delivered, then reset instead of answered",
    "send_slow": "a post or update is delivered, the answer comes after `delay` (8) seconds",
    "send_fatal": "a post or update is delivered and answered with ok false, fatal_error",
    "upload_failed": "an upload's bytes are refused with HTTP `status` (500)",
    "file_login_page": "a private file is answered with an HTML login page and HTTP 200",
}

TEAM, APP, BOT_USER, BOT_ID = "T0HOLD", "A0HOLD", "UBOT", "B0HOLD"

MAX_SOCKETS = 10
ACK_DEADLINE = 3.0
RETRY_DELAYS = (0.0, 60.0, 300.0)
"""Seconds from a missed ack to the next try. Documented for HTTP; Socket Mode shows the counters
of the same scheme but no timing."""

WARNING_GRACE = 10.0
"""Seconds between a ``warning`` and the end of the socket."""

CONNECTION_LIFE, DEBUG_LIFE = 18_060.0, 360.0
"""Seconds a socket lives; the first from the example of hello, the second with
``debug_reconnects=true``."""

MAX_TEXT = 40_000
"""Characters of ``text``; the rest is cut off."""

HISTORY_PAGE, HISTORY_MOST = 100, 999
"""Default and greatest ``limit`` of the history calls."""


class Goodbye(StrEnum):
    """``reason`` of a disconnect frame."""

    WARNING = "warning"
    REFRESH = "refresh_requested"
    DISABLED = "link_disabled"
    TOO_MANY = "too_many_websockets"


class ApiError(Exception):
    """A refused call: by default HTTP 200 with ``ok`` false, as Slack does it."""

    def __init__(
        self, error: str, *, status: int = 200, headers: Json | None = None, **extra: Any
    ) -> None:
        super().__init__(error)
        self.error, self.status, self.headers, self.extra = error, status, headers or {}, extra

    def body(self) -> Json:
        """The answer's body; ``extra`` carries fields such as ``needed`` of missing_scope."""
        return {"ok": False, "error": self.error} | self.extra


def ratelimited(fault: Mapping[str, Any], default: int) -> ApiError:
    """HTTP 429 with the fault's ``retry_after``; None leaves the header out."""
    seconds = fault.get("retry_after", default)
    headers = {} if seconds is None else {"Retry-After": str(seconds)}
    return ApiError("ratelimited", status=429, headers=headers)


# -- parameters -------------------------------------------------------------------------------


def structure(value: object) -> Any:
    """A parameter that is JSON in JSON bodies and a string of JSON in forms. Raises ApiError."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except ValueError:
        raise ApiError("invalid_arguments") from None


def flag(value: object) -> bool:
    """A boolean parameter; forms write it as 1, 0, true or false."""
    return value is True or str(value).lower() in {"1", "true"}


def page_size(value: object) -> int:
    """The ``limit`` of a history call. Raises ApiError."""
    try:
        size = int(str(value)) if value else HISTORY_PAGE
    except ValueError:
        raise ApiError("invalid_limit") from None
    return max(1, min(size, HISTORY_MOST))


def visible_text(params: Mapping[str, Any]) -> str:
    """What a user reads: the text, or that of the blocks. Raises ApiError for neither."""
    text = str(params.get("text") or "")
    if not text:
        blocks = structure(params.get("blocks") or [])
        if not isinstance(blocks, list):
            raise ApiError("invalid_blocks")
        text = "\n".join(filter(None, map(_block_text, blocks)))
    if not text and not params.get("attachments"):
        raise ApiError("no_text")
    return text[:MAX_TEXT]


def _block_text(block: object) -> str:
    match block:
        case {"type": "markdown", "text": str(text)}:
            return text
        case {"text": {"text": str(text)}}:
            return text
        case _:
            return ""


def escape(text: str) -> str:
    """A user's text as Slack stores it: only these three characters are escaped."""
    return html.escape(text, quote=False)


def unescape(text: str) -> str:
    """A bot's text as a user reads it."""
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


# -- events -----------------------------------------------------------------------------------


@dataclass(slots=True)
class Occurrence:
    """Something that happened once, however many events tell it (a mention is told by two)."""

    id: str
    """The message's id in the truth log."""
    own: bool = False
    """Whether the bot did it itself: an echo is neither acked nor lost in the truth log."""
    open: int = 0
    """Events that were neither acked nor given up."""
    acked: bool = False


@dataclass(slots=True)
class Event:
    """One event of the stream; it keeps its id over all envelopes it is sent in."""

    body: Json
    occurrence: Occurrence
    at: int
    """Unix time."""
    id: str = field(default_factory=lambda: "Ev" + uuid.uuid4().hex[:10].upper())
    attempt: int = 0

    def envelope(self, envelope_id: str, origin: str) -> Json:
        """The frame; addresses of files lead to ``origin``."""
        authorization = {
            "enterprise_id": None,
            "team_id": TEAM,
            "user_id": BOT_USER,
            "is_bot": True,
            "is_enterprise_install": False,
        }
        payload = {
            "token": "verification-token",
            "team_id": TEAM,
            "context_team_id": TEAM,
            "api_app_id": APP,
            "event": with_origin(self.body, origin),
            "type": "event_callback",
            "event_id": self.id,
            "event_time": self.at,
            "authorizations": [authorization],
            "is_ext_shared_channel": False,
            "event_context": f"4-{self.id}",
        }
        return {
            "envelope_id": envelope_id,
            "type": "events_api",
            "accepts_response_payload": False,
            "retry_attempt": self.attempt,
            "retry_reason": "timeout" if self.attempt else "",
            "payload": payload,
        }


_ADDRESSES = frozenset({"url_private", "url_private_download"})


def with_origin(value: Any, origin: str) -> Any:
    """A copy in which the paths of private files are addresses at ``origin``."""
    match value:
        case dict():
            return {
                key: origin + inner if key in _ADDRESSES else with_origin(inner, origin)
                for key, inner in value.items()
            }
        case list():
            return [with_origin(inner, origin) for inner in value]
        case _:
            return value
