"""The Graph API of WhatsApp: calls, files, and what refusals mean.

Sources: https://developers.facebook.com/docs/whatsapp/cloud-api/support/error-codes,
/reference/messages, /reference/media. The body's ``code`` decides: HTTP statuses vary, and a
refusal may come with 200.
"""

from __future__ import annotations

import mimetypes
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

import msgspec

from holdfast.adapter import (
    BadFrame,
    Http,
    HttpFailed,
    HttpReply,
    Outcome,
    Part,
    Secret,
    SendFailed,
    http_cause,
    outcome_of,
)
from holdfast.adapters.whatsapp_wire import Error
from holdfast.messages import Attachment, MediaKind
from holdfast.supervision import Cause, Kind
from holdfast.transfer import content_of, may_see_token, of_upload

CALL_LIMIT: Final = 10.0
"""Seconds for a call: as long as a step of an attempt."""

TRANSFER_LIMIT: Final = 30.0
"""Seconds for a file up or down; with message and status it stays below a minute."""

FILE_HOSTS: Final = (".fbsbx.com",)
"""Where WhatsApp keeps files (lookaside.fbsbx.com); no other host is shown our token."""

MANAGER: Final = "WhatsApp Manager (https://business.facebook.com/wa/manage)"
APPS: Final = "https://developers.facebook.com/apps, your app"


class Key(Enum):
    """What a call proves itself with, and where Meta's console has it."""

    TOKEN = (
        "access_token",
        "whatsapp_bad_token",
        "Generate a token of a system user, which does not expire, at "
        "https://business.facebook.com/settings > Users > System users > Generate token, with "
        "whatsapp_business_messaging and whatsapp_business_management; put it into "
        "`access_token`, then run `holdfast reload`.",
    )
    APP = (
        "app_id and app_secret",
        "whatsapp_bad_app_secret",
        f"Copy App ID and App secret from {APPS} > App settings > Basic, then run "
        "`holdfast reload`. The secret is also what signs every message to us.",
    )

    def __init__(self, setting: str, code: str, hint: str) -> None:
        self.setting, self.code, self.hint = setting, code, hint


# -- what refusals mean -----------------------------------------------------------------------

_SUBCODES: Final = {
    458: "the app was removed from the account",
    460: "the password was changed",
    463: "it has expired",
    467: "it is not valid",
}
_RIGHT_HINT = (
    "Give the system user the app and the WhatsApp account with full control at "
    "https://business.facebook.com/settings > Users > System users, and its token "
    "whatsapp_business_messaging and whatsapp_business_management."
)
_ID_HINT = (
    f"Copy Phone number ID and WhatsApp Business Account ID from {APPS} > WhatsApp > API Setup; "
    "the token's system user must have been given that account."
)
_REGISTER_HINT = f"Register the number at {APPS} > WhatsApp > API Setup, or in {MANAGER}."
_LOCKED_HINT = f"Read the notices, and appeal, in {MANAGER} > Account overview."
_WINDOW_HINT = (
    "WhatsApp takes free messages for 24 hours after the user's last one. Wait until he writes "
    f"again, or send an approved template ({MANAGER} > Message templates)."
)
_ALLOWED_HINT = f"Add the recipient's number at {APPS} > WhatsApp > API Setup > To."

_CREDENTIALS: Final = frozenset({0, 190})
_ACCOUNT: Final[Mapping[int, str]] = {
    131037: f"Let the display name be approved in {MANAGER} > Phone numbers.",
    131042: f"Mend the payment method in {MANAGER} > Account overview.",
    **dict.fromkeys((131045, 133010), _REGISTER_HINT),
    **dict.fromkeys((368, 131031), _LOCKED_HINT),
}
"""The account's trouble: its messages wait until a person has mended it."""

_WAITS: Final[Mapping[int, float | None]] = {
    130429: None,
    131056: 6.0,  # one message in 6 s to the same user; the sender's own ladder grows from there
    # Counted by the hour: look again every minute.
    **dict.fromkeys((4, 613, 80007, 133016), 60.0),
}
_PASSING: Final = frozenset({2, 131016, 131057})
_DOUBTFUL: Final = frozenset({1, 131000})
"""Unknown failures, which may hide an accepted message."""

_HINTS: Final[Mapping[int, str]] = {
    **dict.fromkeys((3, 10, *range(200, 300), 131005), _RIGHT_HINT),
    33: _ID_HINT,
    131047: _WINDOW_HINT,
    131030: _ALLOWED_HINT,
    **dict.fromkeys((131048, 131064), f"See the number's quality in {MANAGER} > Phone numbers."),
    131026: "The user has no WhatsApp, an old one, or has not accepted its terms.",
    131062: "WhatsApp wants the user's phone number for this: use it as the chat.",
}


class _Refusal(msgspec.Struct):
    """The body of a refusal."""

    error: Error


def refusal(reply: HttpReply, doing: str, key: Key = Key.TOKEN) -> SendFailed | None:
    """Why a call failed and what that means for a message it carried; None for a success."""
    try:
        error = reply.decode(_Refusal).error
    except BadFrame:
        if reply.status == 200 and not reply.is_html:
            return None
        return SendFailed(outcome_of(reply), http_cause(reply, "whatsapp"))
    outcome, cause = verdict(error, doing, key, reply.retry_after)
    if cause.kind is Kind.PROTOCOL and reply.status >= 500:
        outcome, cause = Outcome.UNKNOWN, http_cause(reply, "whatsapp")
    return SendFailed(outcome, cause)


def verdict(
    error: Error, doing: str, key: Key = Key.TOKEN, retry_after: float | None = None
) -> tuple[Outcome, Cause]:
    """What an error code means for the message it is about, and why."""
    code, label = error.code, f"whatsapp_api_{error.code}"
    if code in _CREDENTIALS:
        # Not quoted: Meta's text of a malformed token repeats the token.
        why = _SUBCODES.get(error.error_subcode or 0, "Meta does not accept it")
        message = f"{doing} was refused because of {key.setting}: {why} (code {code})"
        return Outcome.NOT_SENT, Cause(Kind.CREDENTIALS, key.code, message, key.hint)
    message = f"{doing} was refused: {error.text}"
    if code in _WAITS:
        wait = max(_WAITS[code] or 0.0, retry_after or 0.0) or None
        return Outcome.NOT_SENT, Cause(Kind.THROTTLED, label, message, retry_after=wait)
    if code in _ACCOUNT:
        return Outcome.NOT_SENT, Cause(Kind.REFUSED, label, message, _ACCOUNT[code])
    if code in _DOUBTFUL:
        return Outcome.UNKNOWN, Cause(Kind.UNREACHABLE, label, message)
    if code in _PASSING or error.is_transient:
        return Outcome.NOT_SENT, Cause(Kind.UNREACHABLE, label, message)
    if error.error_subcode == 33:  # of code 100: an id that the token may not see
        code = 33
    kind = Kind.REFUSED if code in _HINTS or code > 100_000 else Kind.PROTOCOL
    return Outcome.REFUSED, Cause(kind, label, message, _HINTS.get(code, ""))


def refused(code: str, message: str) -> SendFailed:
    """A message that can not be sent as it is."""
    return SendFailed(Outcome.REFUSED, Cause(Kind.REFUSED, code, message))


# -- calls ------------------------------------------------------------------------------------


class Accepted(msgspec.Struct):
    """An entry of ``messages`` in the answer to a send."""

    id: str


class Sent(msgspec.Struct):
    """The answer to a send. It says accepted; what became of it, a status tells."""

    messages: list[Accepted] = []


class Stored(msgspec.Struct):
    """The answer to an upload (``id``) or a lookup (``url``, good for five minutes)."""

    id: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class Graph:
    """Calls of the Graph API. They raise SendFailed, HttpFailed and BadFrame."""

    http: Http = field(repr=False)
    base: str
    token: Secret
    app_id: str
    app_secret: Secret

    async def call(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        json: Any = None,
        parts: list[Part] | None = None,
        key: Key = Key.TOKEN,
        timeout: float = CALL_LIMIT,
    ) -> HttpReply:
        """One call that must succeed."""
        reply = await self.http.request(
            method,
            f"{self.base}/{path}",
            query=query,
            json=json,
            parts=parts,
            headers=self._proof(key),
            timeout=timeout,
        )
        failed = refusal(reply, f"{method} {path}", key)
        if failed is not None:
            raise failed
        return reply

    def _proof(self, key: Key) -> dict[str, str]:
        shown = self.token.reveal()
        if key is Key.APP:  # "App access tokens", /docs/facebook-login/guides/access-tokens
            shown = f"{self.app_id}|{self.app_secret.reveal()}"
        return {"Authorization": f"Bearer {shown}"}

    async def upload(self, number: str, file: Attachment, mime: str) -> str:
        """Store a file for sending; its media id. Never of unknown outcome."""
        parts = [
            Part(name="messaging_product", data="whatsapp"),
            Part(name="type", data=mime),
            Part(name="file", data=file.data, filename=file.name or file.kind.value, mime=mime),
        ]
        path = f"{number}/media"
        try:
            reply = await self.call("POST", path, parts=parts, timeout=TRANSFER_LIMIT)
            return reply.decode(Stored).id
        except (HttpFailed, BadFrame) as failed:
            raise SendFailed(Outcome.NOT_SENT, failed.cause) from failed
        except SendFailed as failed:
            raise SendFailed(of_upload(failed.outcome), failed.cause) from failed

    async def download(self, number: str, media: str) -> bytes:
        """The content of a file somebody sent to us."""
        reply = await self.call("GET", media, query={"phone_number_id": number})
        url = reply.decode(Stored).url
        ours = may_see_token(url, self.base, FILE_HOSTS)
        headers = self._proof(Key.TOKEN) if ours else {}
        reply = await self.http.request("GET", url, headers=headers, timeout=TRANSFER_LIMIT)
        # An address that has run out is asked for anew; the file's own id lasts seven days.
        return content_of(reply, "whatsapp", gone=())


# -- files ------------------------------------------------------------------------------------

# /docs/whatsapp/cloud-api/reference/media#supported-media-types: type -> formats and bytes.
_MIB: Final = 2**20
_FORMATS: Final[Mapping[MediaKind, tuple[str, frozenset[str], int]]] = {
    MediaKind.IMAGE: ("image", frozenset({"image/jpeg", "image/png"}), 5 * _MIB),
    MediaKind.VIDEO: ("video", frozenset({"video/mp4", "video/3gpp"}), 16 * _MIB),
    MediaKind.AUDIO: (
        "audio",
        frozenset({"audio/aac", "audio/amr", "audio/mpeg", "audio/mp4", "audio/ogg"}),
        16 * _MIB,
    ),
}
MAX_FILE: Final = 100 * _MIB
"""Bytes of a document."""


def media_type(file: Attachment) -> tuple[str, str]:
    """Message type and MIME type of a file: what WhatsApp would not show goes as a document.

    Raises SendFailed for one that is too large for that.
    """
    mime = file.mime or _sniffed(file.data) or mimetypes.guess_type(file.name)[0]
    mime = mime or "application/octet-stream"
    kind, formats, limit = _FORMATS.get(file.kind, ("document", frozenset[str](), 0))
    if mime in formats and len(file.data) <= limit:
        return kind, mime
    if len(file.data) > MAX_FILE:
        text = f"WhatsApp takes files of up to {MAX_FILE // _MIB} MiB"
        raise refused("whatsapp_file_too_large", text)
    return "document", mime


def _sniffed(data: bytes) -> str:
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    return "image/jpeg" if data.startswith(b"\xff\xd8\xff") else ""
