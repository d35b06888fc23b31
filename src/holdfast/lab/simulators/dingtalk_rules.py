"""The rules of the simulated DingTalk platform: faults, refusals, tickets, tokens, frames.

Sources are the official protocol page ("协议描述"), the OpenAPI pages, and the official Python SDK
``dingtalk-stream`` 0.24.3. Choices where these are silent are named where they are made.
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
    # connections/open
    "open_401": "the open call answers HTTP 401 authFailed",
    "open_403": "the open call answers HTTP 403 with `code` (Forbidden.…QpsLimitForAppkeyAndApi)",
    "open_429": "the open call answers HTTP 429, with Retry-After when `retry_after` is given",
    "open_503": "the open call answers HTTP `status` (503)",
    "open_hang": "the open call is never answered",
    "open_slow": "the open call is answered after `delay` (8) seconds",
    "open_html": "the open call answers HTTP 200 with a page of HTML",
    "open_fields_missing": "the open call answers HTTP 200 without endpoint and ticket",
    "ip_banned": "the open call answers `status` 1111: the caller's address is banned",
    # the upgrade
    "ticket_expired": "the next ticket is dead on arrival: its upgrade is rejected",
    "upgrade_rejected": "the upgrade answers HTTP `status` (503)",
    # while connected
    "close_after_accept": "the socket is closed with `code` (1000) right after the upgrade",
    "reset_after_accept": "the connection is reset right after the upgrade",
    "disconnect": "the frame SYSTEM disconnect, with `reason`, is the first frame of a connection",
    "half_open": "after the upgrade the link falls silent both ways, TCP stays",
    "mute": "a push is withheld for ever; armed without end the link is a zombie that still pongs",
    "no_ping": "a SYSTEM ping is left out",
    "no_pong": "a WebSocket ping is not answered",
    "pong_late": "a WebSocket ping is answered after `delay` (5) seconds",
    # frames
    "bad_frame": "the frame `raw` (not JSON) precedes the push",
    "no_headers": "a frame without headers precedes the push",
    "unknown_topic": "a callback of an unknown topic precedes the push",
    "split_frame": "the push comes in `parts` (3) WebSocket fragments, `delay` (0.2) seconds apart",
    "big_frame": "the push is padded to more than `size` (307200) bytes",
    # messages
    "dup_event": "a message is pushed twice on one connection: one msgId, two messageIds",
    "split": "a second client of the app takes every other message",
    "dup_elsewhere": "a message is pushed to a second connection too, if there is one",
    "redeliver": "a message not acknowledged within `after` (60) seconds is pushed again",
    "out_of_order": "a push is overtaken: it leaves `delay` (0.5) seconds late",
    "no_staff_id": "the message lacks senderStaffId: its sender is from outside the organisation",
    "webhook_expired": "the message's sessionWebhook is expired from the start",
    # token
    "token_400": "the token call answers HTTP 400 invalidClientIdOrSecret",
    "token_500": "the token call answers HTTP 500",
    "token_hang": "the token call is never answered",
    # any OpenAPI call
    "api_401": "an OpenAPI call answers HTTP 401 InvalidAuthentication",
    "api_403": "an OpenAPI call answers HTTP 403 with `code` (the missing permission)",
    "api_429": "an OpenAPI call answers HTTP 429, with Retry-After when `retry_after` is given",
    "api_qps": "an OpenAPI call answers HTTP 403 QpsLimitForAppkeyAndApi",
    "api_500": "an OpenAPI call answers HTTP 500 with `code` (system.busy)",
    "api_html": "an OpenAPI call answers HTTP `status` (502) with a page of HTML",
    # sending
    "webhook_error": "the webhook answers HTTP 200 with `errcode` (-1)",
    "webhook_too_fast": "the webhook answers HTTP 200 with errcode 130101",
    "webhook_gone": "the webhook answers HTTP 200 with errcode 300001",
    "send_429": "a send answers HTTP 429, with Retry-After when `retry_after` is given",
    "send_500": "a send answers HTTP 500 and is not delivered",
    "send_refused": "an OpenAPI send is refused with HTTP 400 and `code` (invalidParameter…)",
    "send_flow_controlled": "a private OpenAPI send answers 200 with all users flow-controlled",
    "send_slow_but_delivered": "a send is delivered, the answer comes after `delay` (8) seconds",
    "send_answer_lost": "a send is delivered, then the connection is reset instead of an answer",
    "send_swallowed": "a send is answered as a success and delivered to nobody",
    "upload_error": "a media upload answers HTTP 200 with `errcode` (-1)",
    # cards
    "card_missing": "a card call answers param.stream.outTrackId, card is not exist",
    "card_too_large": "a card call answers param.stream.content, content is too large",
    "card_busy": "a card call answers HTTP 500 system.busy",
    "card_template_missing": "creating a card answers param.templateNotExist",
}

BOT_TOPIC = "/v1.0/im/bot/messages/get"
CARD_TOPIC = "/v1.0/card/instances/callback"

QPS_LIMIT = "Forbidden.AccessDenied.QpsLimitForAppkeyAndApi"
NO_PERMISSION = "Forbidden.AccessDenied.AccessTokenPermissionDenied"
HTML_PAGE = "<html><body>Bad Gateway</body></html>"


class Refusal(Exception):
    """An OpenAPI call is refused: HTTP status, the platform's code, a message."""

    def __init__(
        self, code: str, message: str, *, status: int = 400, retry_after: float | None = None
    ) -> None:
        super().__init__(f"{code} {message}")
        self.code, self.message, self.status = code, message, status
        self.retry_after = retry_after

    def headers(self) -> dict[str, str]:
        """Retry-After, in whole seconds, when the server names one."""
        return {} if self.retry_after is None else {"Retry-After": f"{self.retry_after:.0f}"}

    def body(self) -> dict[str, str]:
        """The error object of the OpenAPI."""
        trace = str(uuid.uuid4()).upper()
        return {"code": self.code, "message": self.message, "requestid": trace}


class Complaint(Exception):
    """A call of the old API or a webhook fails inside HTTP 200."""

    def __init__(self, errcode: int, errmsg: str) -> None:
        super().__init__(f"{errcode} {errmsg}")
        self.errcode, self.errmsg = errcode, errmsg

    def body(self) -> dict[str, Any]:
        """The error object of the old API."""
        return {"errcode": self.errcode, "errmsg": self.errmsg}


# -- tickets and tokens -----------------------------------------------------------------------


TICKET_LIFE = 90.0
"""Seconds a ticket is valid, for one connection (protocol page)."""

TOKEN_OVERLAP = 300.0
"""Seconds before expiry from which a new token is issued ("near its end"; undocumented)."""


@dataclass(frozen=True, slots=True)
class Ticket:
    """What a registered client may connect with once: until when, and what it subscribed to."""

    expires: float
    subscriptions: frozenset[tuple[str, str]]


class TicketBook:
    """Tickets that were issued and not used. ``lifetime`` is in seconds."""

    def __init__(self) -> None:
        self.lifetime = TICKET_LIFE
        self._open: dict[str, Ticket] = {}

    def issue(self, subscriptions: frozenset[tuple[str, str]], now: float, *, dead: bool) -> str:
        """A new ticket; a ``dead`` one is expired from the start."""
        # The slash and plus make a client that does not percent-encode the ticket fail.
        name = f"{uuid.uuid4()}/{secrets.token_hex(4)}+="
        self._open[name] = Ticket(now if dead else now + self.lifetime, subscriptions)
        return name

    def redeem(self, name: str, now: float) -> Ticket | None:
        """The ticket, used up by this call; None when it is unknown, used or expired."""
        ticket = self._open.pop(name, None)
        return ticket if ticket and now < ticket.expires else None


class TokenBook:
    """Access tokens of the app. ``lifetime`` is in seconds and may be changed between calls."""

    def __init__(self) -> None:
        self.lifetime = 7200.0
        self._expiry: dict[str, float] = {}
        self._current: str | None = None

    def issue(self, now: float) -> tuple[str, int]:
        """The token in force, the same one until its end is near, and its seconds left."""
        if self._current is None or self._expiry[self._current] - now <= TOKEN_OVERLAP:
            self._current = secrets.token_hex(16)
            self._expiry[self._current] = now + self.lifetime
        return self._current, int(self._expiry[self._current] - now)

    def expire(self) -> None:
        """Every token issued so far is invalid from now on."""
        self._expiry.clear()
        self._current = None

    def valid(self, token: str, now: float) -> bool:
        """Whether a call may be made with this token."""
        return now < self._expiry.get(token, float("-inf"))


def read_subscriptions(value: object) -> frozenset[tuple[str, str]]:
    """Type and topic of each subscription. Raises Refusal."""
    if not isinstance(value, list) or not value:
        raise Refusal("param.invalid", "subscriptions is mandatory")
    found = set()
    for entry in value:
        match entry:
            case {"type": "EVENT" | "CALLBACK" | "SYSTEM" as kind, "topic": str(topic)}:
                found.add((kind, topic))
            case _:
                raise Refusal("param.invalid", "subscription invalid")
    return frozenset(found)


# -- frames -----------------------------------------------------------------------------------


def new_message_id() -> str:
    """An id of a push, in the platform's shape."""
    return f"{secrets.token_hex(4)}_{secrets.randbelow(1000)}_{secrets.token_hex(6)}"


def frame(type_: str, topic: str, data: object, **headers: str) -> dict[str, Any]:
    """A server frame: ``data`` is JSON in a string, ``time`` milliseconds in a string."""
    head = {"topic": topic, "contentType": "application/json", "time": str(millis())}
    return {
        "specVersion": "1.0",
        "type": type_,
        "headers": head | headers,
        "data": json.dumps(data, ensure_ascii=False),
    }


def millis() -> int:
    """The present as the platform writes it: Unix time in milliseconds."""
    return int(wall_clock() * 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """Something that happened on the platform, before a connection is chosen for it.

    ``id`` names it in truth notes, and is ``msgId`` or ``eventId`` where the data has one.
    """

    id: str
    type: str
    topic: str
    data: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)

    def frame(self, message_id: str, origin: str) -> dict[str, Any]:
        """The frame of one delivery; ``origin`` is the address the bot reached the platform by."""
        data = dict(self.data)
        if "sessionWebhook" in data:
            data["sessionWebhook"] = origin + data["sessionWebhook"]
        return frame(self.type, self.topic, data, messageId=message_id, **self.headers)


@dataclass(frozen=True, slots=True)
class Ack:
    """A client's answer to a frame, as far as the platform looks at it."""

    message_id: str
    code: int
    data: Mapping[str, Any]


def read_ack(raw: object) -> Ack | None:
    """The answer in a text frame; None when it is none. ``data`` may hold anything."""
    try:
        body = json.loads(raw) if isinstance(raw, str) else None
    except ValueError:
        return None
    match body:
        case {"code": int(code), "headers": {"messageId": str(message_id)}, **rest}:
            try:
                data = json.loads(str(rest.get("data")))
            except ValueError:
                data = None
            return Ack(message_id, code, data if isinstance(data, dict) else {})
        case _:
            return None
