"""The rules of the WhatsApp Cloud API that need no socket: errors, limits, identities, bodies.

Nothing here reads a clock; ``now`` is always an argument, in seconds of the simulator's loop.
Numbers come from the official documentation unless a comment names another source.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

FAULTS: Mapping[str, str] = {
    # any Graph call
    "api_500": "a call answers HTTP 500 with code 2, marked as transient",
    "api_html": "a call answers HTTP `status` (502) with a page of HTML",
    "api_hang": "a call is never answered",
    "api_429": "a call answers HTTP 429 with code 4, and Retry-After if `retry_after` is given",
    "token_expired": "a call answers HTTP 401 with code 190 and `subcode` (463)",
    "error_in_200": "a call answers HTTP 200 with an error body of `code` (1)",
    # sending
    "send_error": "a send is refused with `code` (131000) and HTTP `status` (500)",
    "app_limit": "a send is refused with 4, too many calls of the app",
    "waba_limit": "a send is refused with 80007, too many calls of the business account",
    "rate_limit": "a send is refused with 130429, throughput reached",
    "pair_limit": "a send is refused with 131056, too many messages to this user",
    "window_closed": "a send is refused with 131047, outside the 24 hours",
    "unavailable": "a send is refused with 131016, temporarily unavailable",
    "send_failed_later": "a send is accepted, then fails by status with `code` (131026)",
    "send_answer_lost": "a send is delivered, then the connection is reset instead of an answer",
    "send_slow_but_delivered": "a send is delivered, the answer comes after `delay` (8) seconds",
    "send_swallowed": "a send is answered 200, delivered to nobody, and has no status",
    # media
    "upload_failed": "a media upload is refused with 131053",
    "media_gone": "the lookup of a media id is refused with 100, subcode 33",
    "media_expired": "the download address of a media answers 404",
    # pushing
    "mute": "an event is withheld; armed without end the link is a zombie that takes calls",
    "callback_unreachable": "a post to the callback fails without reaching it",
    "ack_lost": "the bot's answer to a post does not arrive, so the post is repeated",
    "dup_event": "a post that was taken is repeated `delay` (0) seconds later",
    "out_of_order": "an event is overtaken: posted `delay` (0.5) seconds late",
    "batch": "events wait until `size` (2) of them, or 5 seconds, fill one body",
    "webhook_forged": "a body signed with a wrong secret precedes the event",
    "webhook_unsigned": "a body without a signature precedes the event",
    "webhook_replayed": "a body with the signature of an earlier one precedes the event",
    "webhook_foreign": "a signed body for another phone number precedes the event",
    "unknown_field": "a signed body of an unknown field precedes the event",
    "value_errors": "a signed body with nothing but `errors` of `code` (131000) precedes the event",
    "bad_body": "the signed body `raw` (not JSON) precedes the event",
    "status_reversed": "the statuses of a send are posted in reverse order",
}


class GraphError(Exception):
    """A call is refused: an HTTP status and the platform's code, subcode and message.

    ``headers`` go into the answer. HTTP statuses other than 401 are not documented per code.
    """

    def __init__(
        self,
        code: int,
        message: str,
        *,
        status: int = 400,
        subcode: int | None = None,
        transient: bool = False,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"(#{code}) {message}")
        self.code, self.message, self.status = code, message, status
        self.subcode, self.transient, self.headers = subcode, transient, headers or {}

    def body(self) -> dict[str, Any]:
        """The error body of an answer."""
        error: dict[str, Any] = {
            "message": f"(#{self.code}) {self.message}",
            "type": "OAuthException",
            "code": self.code,
            "error_data": {"messaging_product": "whatsapp", "details": self.message},
            "fbtrace_id": secrets.token_urlsafe(8),
        }
        if self.subcode is not None:
            error["error_subcode"] = self.subcode
        if self.transient:
            error["is_transient"] = True
        return {"error": error}

    def report(self) -> dict[str, Any]:
        """The same error as an entry of ``errors`` in a web hook."""
        details = {"details": self.message}
        return {
            "code": self.code,
            "title": self.message,
            "message": self.message,
            "error_data": details,
        }


SEND_REFUSALS: Mapping[str, GraphError] = {
    "send_error": GraphError(131000, "Something went wrong", status=500),
    "app_limit": GraphError(4, "Application request limit reached"),
    "waba_limit": GraphError(80007, "Rate limit issues"),
    "rate_limit": GraphError(130429, "Rate limit hit"),
    "pair_limit": GraphError(131056, "Pair rate limit hit"),
    "window_closed": GraphError(131047, "Re-engagement message"),
    "unavailable": GraphError(131016, "Service unavailable", status=500, transient=True),
}
"""Fault name to the refusal it plays."""

TOKEN_TROUBLE: Mapping[int, str] = {
    458: "The user has not authorized application",
    460: "The session has been invalidated because the user changed their password",
    463: "Session has expired",
    467: "The access token is invalid",
}


def token_error(subcode: int) -> GraphError:
    """The answer to a call whose token is bad."""
    reason = TOKEN_TROUBLE.get(subcode, "The access token is invalid")
    text = f"Error validating access token: {reason}"
    return GraphError(190, text, status=401, subcode=subcode)


def parameter(message: str) -> GraphError:
    """A call that can never succeed."""
    return GraphError(100, f"Invalid parameter: {message}")


def no_object(key: str) -> GraphError:
    """The id names nothing this token may see."""
    text = f"Object with ID '{key}' does not exist or cannot be loaded"
    return GraphError(100, text, subcode=33)


# -- limits -----------------------------------------------------------------------------------

WINDOW = 86_400.0
"""Seconds after a user's last message in which free-form messages may be sent."""
PER_SECOND = 80
PAIR_BURST, PAIR_PER_SECOND = 45, 1 / 6
MAX_TEXT, MAX_CAPTION, MAX_INTERACTIVE = 4096, 1024, 1024
MAX_BYTES: Mapping[str, int] = {
    "image": 5 * 2**20,
    "audio": 16 * 2**20,
    "video": 16 * 2**20,
    "sticker": 500 * 2**10,
    "document": 100 * 2**20,
}
MEDIA_KEPT, INBOUND_MEDIA_KEPT, MEDIA_URL_KEPT = 30 * 86_400.0, 7 * 86_400.0, 300.0
TYPING_WINDOW = 30 * 86_400.0
"""Age in seconds up to which a user's message may be marked as read."""


class Bucket:
    """A token bucket: ``burst`` at once, ``per_second`` afterwards."""

    def __init__(self, burst: float, per_second: float) -> None:
        self.burst, self.per_second = burst, per_second
        self._level, self._at = burst, 0.0

    def take(self, now: float) -> bool:
        """Use up one unit; False when none is left."""
        self._level = min(self.burst, self._level + (now - self._at) * self.per_second)
        self._at = now
        if self._level < 1:
            return False
        self._level -= 1
        return True


# -- identities -------------------------------------------------------------------------------


def _digits(name: str, count: int) -> str:
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:12], "big")
    return str(number % 10**count).zfill(count)


@dataclass(frozen=True, slots=True)
class Person:
    """A WhatsApp user: a stable phone number and business-scoped id made from a name."""

    name: str

    @property
    def wa_id(self) -> str:
        """The phone number, digits only."""
        return f"1650{_digits(self.name, 7)}"

    @property
    def user_id(self) -> str:
        """The business-scoped user id."""
        return f"US.{_digits('user ' + self.name, 20)}"

    def contact(self, *, username: bool) -> dict[str, Any]:
        """The entry of ``contacts``; a user with a username shows no phone number."""
        entry = {"profile": {"name": self.name}, "user_id": self.user_id}
        return entry if username else entry | {"wa_id": self.wa_id}


def group_id(name: str) -> str:
    """A stable group id."""
    return base64.urlsafe_b64encode(f"capi_group:{name}".encode()).decode().rstrip("=")


def new_wamid() -> str:
    """An id of a message."""
    return f"wamid.{secrets.token_urlsafe(30)}"


# -- bodies of posts --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One message or status, before it is put into a body."""

    id: str
    """The wamid; for statuses with the status behind it."""
    kind: str
    """``messages`` or ``statuses``."""
    data: Mapping[str, Any]
    contact: Mapping[str, Any] | None = None


def envelope(waba: str, changes: list[dict[str, Any]]) -> dict[str, Any]:
    """The frame of every body."""
    entry = {"id": waba, "changes": changes}
    return {"object": "whatsapp_business_account", "entry": [entry]}


def change(metadata: Mapping[str, str], field: str = "messages", **value: Any) -> dict[str, Any]:
    """One entry of ``changes``."""
    head = {"messaging_product": "whatsapp", "metadata": dict(metadata)}
    return {"field": field, "value": head | value}


def changes_of(events: Iterable[Event], metadata: Mapping[str, str]) -> list[dict[str, Any]]:
    """Events as changes: neighbours of one kind and one contact share a value."""
    changes: list[dict[str, Any]] = []
    for event in events:
        contacts = [] if event.contact is None else [dict(event.contact)]
        last = changes[-1]["value"] if changes else {}
        if event.kind in last and last.get("contacts", []) == contacts:
            last[event.kind].append(dict(event.data))
            continue
        value: dict[str, Any] = {"contacts": contacts} if contacts else {}
        changes.append(change(metadata, **(value | {event.kind: [dict(event.data)]})))
    return changes


def encode(payload: Mapping[str, Any]) -> bytes:
    """The bytes that are signed: everything outside ASCII is escaped."""
    return json.dumps(payload, separators=(",", ":"), ensure_ascii=True).encode()


def signature(secret: str, body: bytes) -> str:
    """The value of ``X-Hub-Signature-256``."""
    return "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
