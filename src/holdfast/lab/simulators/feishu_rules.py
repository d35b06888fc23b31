"""The rules of the simulated Feishu platform: faults, refusals, tokens, events.

Sources are the pages of open.feishu.cn and the official Python SDK ``lark-oapi`` 1.7.5. Choices
where these are silent are named where they are made.
"""

from __future__ import annotations

import json
import secrets
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.lab.simulator import wall_clock

FAULTS: Mapping[str, str] = {
    # endpoint call
    "endpoint_busy": "the endpoint call answers code 1, system busy",
    "endpoint_internal": "the endpoint call answers code 1000040343, internal error",
    "endpoint_forbidden": "the endpoint call answers code 403",
    "endpoint_auth_failed": "the endpoint call answers code 514",
    "endpoint_invalid": "the endpoint call answers code 1000040345, with `msg`",
    "endpoint_too_many": "the endpoint call answers code 1000040350, too many connections",
    "endpoint_code": "the endpoint call answers `code` (1000040399), one that no page names",
    "endpoint_no_data": "the endpoint call answers `code` (1) without a data object",
    "endpoint_http": "the endpoint call answers HTTP `status` (500), with code and msg",
    "endpoint_429": "the endpoint call answers HTTP 429, with `reset` seconds in a header if given",
    "endpoint_hang": "the endpoint call is never answered",
    "endpoint_slow": "the endpoint call is answered after `delay` (8) seconds",
    "endpoint_garbage": "the endpoint call answers HTTP 200 with a body that is not JSON",
    "endpoint_no_config": "the endpoint call answers without ClientConfig",
    "endpoint_partial_config": "the ClientConfig of the endpoint answer has PingInterval only",
    "endpoint_no_ids": "the URL of the endpoint answer lacks device_id and service_id",
    # upgrade
    "upgrade_rejected": "the upgrade answers HTTP `status` (503) without Handshake headers",
    "upgrade_busy": "the upgrade is rejected with Handshake-Status `status` (500)",
    "upgrade_forbidden": "the upgrade is rejected with Handshake-Status 403",
    "upgrade_auth_failed": "the upgrade is rejected with 514 and Autherrcode `code` (1000040343)",
    "upgrade_too_many": "the upgrade is rejected with 514 and Autherrcode 1000040350",
    # while connected
    "close_after_accept": "the socket is closed with `code` (1000) right after the upgrade",
    "reset_after_accept": "the connection is reset right after the upgrade",
    "half_open": "after the upgrade the link falls silent both ways, TCP stays",
    "split": "a second client of the app takes every other push",
    "mute": "a push is withheld; armed without end the link is a zombie that still pongs",
    "no_pong": "a ping frame is not answered",
    "pong_late": "a ping frame is answered after `delay` (5) seconds",
    "close_when_live": "the socket is closed with `code` (1000) right after a pong",
    "pong_empty": "a pong has no payload",
    "pong_partial": "the ClientConfig of a pong has one field only, `kept` (PingInterval)",
    "no_ws_pong": "a WebSocket ping is not answered",
    # frames
    "server_ping": "a ping frame of the server precedes the push",
    "bad_frame": "the bytes `raw` (in hexadecimal, ff) precede the push",
    "text_frame": "a text message precedes the push",
    "future_frame": "a frame of `method` (2) precedes the push",
    "card_frame": "a data frame with the old type=card precedes the push",
    "header_missing": "the push lacks the header `header` (trace_id)",
    "split_event": "the push comes in `parts` (3) frames, in shuffled order unless `order` is told",
    "part_lost": "the push comes in `parts` (2) frames of which the last never leaves",
    "big_event": "the push is padded by `size` (1048576) bytes",
    # events
    "dup_event": "an event is pushed twice with one event_id",
    "dup_after_ack": "an event that was acknowledged is pushed again `delay` (0) seconds later",
    "ack_lost": "an acknowledgement is overlooked, the event is repeated when it is due",
    "dup_message": "an event is followed by another with a new event_id and the same message_id",
    "out_of_order": "a push is overtaken: it leaves `delay` (0.5) seconds late",
    "unknown_event": "an event of an unknown type precedes the event",
    "unknown_message": "the message comes with a message_type that no page names",
    "no_user_id": "the sender has no user_id: the scope for it is missing",
    # web hook
    "hook_forged": "a request with a false signature precedes the event",
    "hook_unsigned": "a request without signature headers precedes the event",
    "hook_tampered": "a request whose body was changed after signing precedes the event",
    "hook_plain": "an unencrypted, unsigned request precedes the event",
    "hook_wrong_token": "a plain request with another verification token precedes the event",
    "hook_garbage": "a signed request that cannot be decrypted precedes the event",
    "hook_replayed": "after its acceptance a request is sent again, `age` (7200) seconds old",
    # token
    "token_error": "the token call answers HTTP 200 with `code` (10014)",
    "token_429": "the token call answers HTTP 429, 99991400, with `reset` in a header if given",
    "token_500": "the token call answers HTTP 500",
    "token_hang": "the token call is never answered",
    # any API call
    "api_token_invalid": "an API call answers `code` (99991663): the token is invalid",
    "api_scope": "an API call answers 99991672: a scope is missing",
    "api_429": "an API call answers HTTP 429, 99991400, with `reset` in a header if given",
    "api_old_limit": "an API call answers HTTP 400, 99991400, as older APIs do",
    "api_500": "an API call answers HTTP `status` (500) with a JSON error",
    "api_html": "an API call answers HTTP `status` (502) with a page of HTML",
    # sending
    "send_refused": "a send is refused with `code` (230001) and HTTP `status` (400)",
    "send_code_in_200": "a send is refused with `code` (230001) inside HTTP 200",
    "send_frequency": "a send is refused with 230020",
    "send_pending": "a send is delivered and answered 230049, message is being sent",
    "reply_recalled": "a reply is refused with 230011: its target was recalled",
    "history_forbidden": "a history is refused with 230027: a scope is missing",
    "reply_missing": "a reply is refused with 231003: its target is not found",
    "card_refused": "an interactive message is refused with 230099",
    "send_slow_but_delivered": "a send is delivered, the answer comes after `delay` (8) seconds",
    "send_answer_lost": "a send is delivered, then the connection is reset instead of an answer",
    "send_swallowed": "a send is answered as a success and delivered to nobody",
    "upload_refused": "an upload is refused with `code` (234001)",
    "resource_refused": "a download is refused with `code` (234001)",
}

ENDPOINT_CODES: Mapping[str, tuple[int, str]] = {
    "endpoint_busy": (1, "system busy"),
    "endpoint_internal": (1000040343, "internal error"),
    "endpoint_forbidden": (403, "forbidden"),
    "endpoint_auth_failed": (514, "auth failed"),
    "endpoint_invalid": (1000040345, "app_id or app_secret is invalid"),
    "endpoint_too_many": (1000040350, "the number of connections exceeded the limit"),
    "endpoint_code": (1000040399, "unknown error"),
}

HTML_PAGE = "<html><body>Bad Gateway</body></html>"
TENANT = "1a2b3c4d5e6f7788"

RATE_LIMITED = 99991400


class Refusal(Exception):
    """A call fails: the platform's code and message, and an HTTP status, which may be 200.

    ``reset`` is the number of seconds a rate limit lasts, when the platform tells.
    """

    def __init__(
        self, code: int, msg: str, *, status: int = 400, reset: float | None = None
    ) -> None:
        super().__init__(f"{code} {msg}")
        self.code, self.msg, self.status, self.reset = code, msg, status, reset

    def headers(self) -> dict[str, str]:
        """The rate limit headers, when the platform tells."""
        if self.reset is None:
            return {}
        return {"x-ogw-ratelimit-limit": "100", "x-ogw-ratelimit-reset": f"{self.reset:.0f}"}

    def body(self) -> dict[str, Any]:
        """The error object."""
        return {"code": self.code, "msg": self.msg, "error": {"log_id": uuid.uuid4().hex}}


def rate_limit(status: int = 429) -> Refusal:
    """Too many requests: 429, or 400 from older APIs."""
    return Refusal(RATE_LIMITED, "request trigger frequency limit", status=status)


def wrong_parameter(msg: str) -> Refusal:
    """A message call that can never succeed."""
    return Refusal(230001, f"Your request contains an invalid request parameter, ext={msg}")


def millis(seconds: float | None = None) -> str:
    """A date as the platform writes it: milliseconds in a string; by default the present."""
    return str(int((wall_clock() if seconds is None else seconds) * 1000))


# -- access tokens ----------------------------------------------------------------------------

TOKEN_OVERLAP = 1800.0
"""Seconds of life below which a call gets a new token while the old one stays valid."""


class TokenBook:
    """Tenant access tokens of one app. ``lifetime`` is in seconds and may be changed."""

    def __init__(self, lifetime: float = 7200.0) -> None:
        self.lifetime = lifetime
        self._expiry: dict[str, float] = {}
        self._current: str | None = None

    def issue(self, now: float) -> tuple[str, int]:
        """The current token and its whole seconds left; a new one in the last half hour only."""
        left = self._expiry[self._current] - now if self._current else 0.0
        if self._current is None or left < TOKEN_OVERLAP:
            self._current = f"t-g1044{secrets.token_hex(16)}"
            left = self.lifetime
            self._expiry[self._current] = now + left
        return self._current, int(left)

    def expire(self) -> None:
        """Every token issued so far is invalid from now on."""
        self._expiry.clear()
        self._current = None

    def check(self, credentials: str, now: float) -> None:
        """Raise the refusal that a missing or dead token gets. The statuses are undocumented."""
        scheme, _, token = credentials.partition(" ")
        if scheme != "Bearer" or not token:
            raise Refusal(99991661, "Missing access token for authorization")
        if self._expiry.get(token, now) <= now:
            raise Refusal(99991663, "Invalid access token for authorization")


# -- events -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened, as it is pushed, unchanged, until acknowledged."""

    key: str
    """Under which truth notes name it: the message_id of a message."""
    type: str
    data: Mapping[str, Any]
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    """``header.event_id``."""
    created: str = field(default_factory=millis)
    callback: bool = False
    """Whether it waits for an answer; such a push is not repeated (choice: nothing is written)."""

    def envelope(self, app_id: str, token: str = "") -> dict[str, Any]:
        """Schema 2.0; the verification token is empty over the socket."""
        header = {
            "event_id": self.id,
            "event_type": self.type,
            "create_time": self.created,
            "token": token,
            "app_id": app_id,
            "tenant_key": TENANT,
        }
        return {"schema": "2.0", "header": header, "event": dict(self.data)}


def compact(body: object) -> bytes:
    """JSON as the platform pushes it."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
