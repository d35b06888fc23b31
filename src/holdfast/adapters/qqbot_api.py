"""The REST side of a QQ bot: access tokens, calls, files, and what refusals mean.

Sources: https://bot.q.qq.com/wiki (api-v2/openapi/error, api-v2/dev-prepare/interface-framework);
codes of eight digits are from the 2026 pages as third parties quote them.
"""

from __future__ import annotations

import base64
from typing import Annotated, Any

import msgspec

from holdfast.access_token import AccessToken, Issued
from holdfast.adapter import (
    AdapterError,
    BadFrame,
    Disconnect,
    Http,
    HttpReply,
    Outcome,
    Secret,
    SendFailed,
    http_cause,
    outcome_of,
)
from holdfast.adapters.qqbot_wire import CONSOLE
from holdfast.messages import Attachment, MediaKind
from holdfast.supervision import Cause, Kind
from holdfast.transfer import content_of, may_see_token, of_upload

RENEW_BEFORE = 60.0
"""Seconds before its expiry from which the token service hands out the next token."""

MAX_FILE = 10 * 2**20
"""Bytes that ``file_data`` takes, by third parties' experience."""

UPLOAD_LIMIT = 30.0
"""Seconds for an upload or a download; with token and message it stays below a minute."""

FILE_HOSTS = (".qq.com", ".qq.com.cn", ".qpic.cn")
"""Where QQ keeps attachments; no other host is shown our token."""

# -- what refusals mean -----------------------------------------------------------------------

BAD_TOKEN = frozenset({11241, 11243, 11244})
"""The token is missing, wrong or expired: renew it and repeat once."""

CONTEXT_OVER = frozenset(
    {304103, 304026, 304027, 304028, 40034005, 40034024, 40034025, 40034026, 40034027, 40034128}
)
"""The message to answer is too old or was answered five times: only an active message is left."""

SEQ_USED = 40054005
"""This msg_seq was used for this msg_id before."""

_LOGIN_HINT = f"Copy AppID and AppSecret anew {CONSOLE}: 开发管理; then run `holdfast reload`."
_RIGHT_HINT = f"Grant this right {CONSOLE}."
_URL_HINT = f"Add the address to the allowed message URLs {CONSOLE}: 开发设置."
_ACTIVE_HINT = (
    "QQ takes few active messages or none; an answer counts as one for 60 minutes (private) or 5 "
    "(elsewhere), five times per message."
)
_DAY_HINT = "The day's quota of active messages is used up: `holdfast dead retry` tomorrow."
_AUDIT = frozenset({304023, 304024})

_CREDENTIALS = frozenset({11241, 11243, 11251, 11261, 11275})
_ACCOUNT = {
    11265: f"The bot is banned: read the notices and appeal {CONSOLE}.",
    40054016: f"The bot is offline: publish it {CONSOLE}.",
}
_WAITS = frozenset({429, 22009, 1100100, 20028})
_PASSING = frozenset(
    {11242, 11244, 11252, 11263, 11281, 40054006, 50055001, 50055002, 50055006}
    | {304007, 304008, 304009, 304010, 304017, 304018, 304021, 304082, 304083, 40034004, 500, 504}
)
_HINTS = {
    **dict.fromkeys((304003, 40054010), _URL_HINT),
    **dict.fromkeys((11253, 11254, 11264, 11274), _RIGHT_HINT),  # of one call, not of the bot
    40034100: _ACTIVE_HINT,
    **dict.fromkeys((304045, 304049, 304050), _DAY_HINT),
}


class Error(msgspec.Struct):
    """The body of a refusal (api-v2/openapi/error); all zero in the body of a success."""

    code: int = 0
    err_code: int = 0
    message: str = ""
    trace_id: str = ""


def error_of(reply: HttpReply) -> Error | None:
    """The platform's refusal, None for a success. The body's code decides, not the status."""
    try:
        error = reply.decode(Error)
    except BadFrame:
        error = Error()
    error.code = error.err_code or error.code
    if reply.status < 300 and not reply.is_html and (not error.code or error.code in _AUDIT):
        return None  # waiting for an audit is a success: the message will be shown
    return error


def failure(reply: HttpReply, error: Error, doing: str) -> tuple[Outcome, Cause]:
    """What a refused call means for the message it carried, and why."""
    code = error.code
    if not code:
        return outcome_of(reply), http_cause(reply, "qq")
    message = f"{doing} was refused: {error.message or 'no reason given'} (code {code}"
    message += f", trace {error.trace_id})" if error.trace_id else ")"
    label = f"qq_api_{code}"
    if code in _WAITS:
        cause = Cause(Kind.THROTTLED, label, message, retry_after=reply.retry_after)
        return Outcome.NOT_SENT, cause
    if code in _PASSING:
        return Outcome.NOT_SENT, Cause(Kind.UNREACHABLE, label, message)
    if code in _CREDENTIALS:
        return Outcome.NOT_SENT, Cause(Kind.CREDENTIALS, label, message, _LOGIN_HINT)
    if code in _ACCOUNT:
        return Outcome.NOT_SENT, Cause(Kind.REFUSED, label, message, _ACCOUNT[code])
    return Outcome.REFUSED, Cause(Kind.REFUSED, label, message, _HINTS.get(code, ""))


class Token(msgspec.Struct):
    """The token service's answer, errors included (HTTP 200 either way)."""

    access_token: str = ""
    expires_in: int | Annotated[str, msgspec.Meta(pattern=r"^\d{1,9}$")] = 0
    """Seconds; documented as a number, sent as a string."""
    code: int = 0
    message: str = ""


def token_cause(answer: Token) -> Cause:
    """Why there is no token in an answer."""
    message = f"the token service said: {answer.message or 'nothing'} (code {answer.code})"
    match answer.code:
        case 100016 | 100007 | 10004:
            return Cause(Kind.CREDENTIALS, "qq_bad_credentials", message, _LOGIN_HINT)
        case 100001:
            return Cause(Kind.THROTTLED, "qq_token_throttled", message, retry_after=60.0)
        case _:
            return Cause(Kind.UNREACHABLE, "qq_no_token", message)


class Posted(msgspec.Struct):
    """The answer to a message (``id``) or an upload (``file_info``)."""

    id: str = ""
    file_info: str = ""


# -- calls ------------------------------------------------------------------------------------


class Api:
    """Calls of one account; `token` is for whoever must be sure of it."""

    def __init__(self, app_id: str, secret: Secret, base: str, token_url: str) -> None:
        self._app_id, self._secret = app_id, secret
        self._base, self._token_url = base.rstrip("/"), token_url
        self.token = AccessToken(self._issue, renew_before=RENEW_BEFORE)

    async def _issue(self, http: Http) -> Issued:
        body = {"appId": self._app_id, "clientSecret": self._secret.reveal()}
        reply = await http.request("POST", self._token_url, json=body)
        try:
            answer = reply.decode(Token)
        except BadFrame:
            answer = Token()
        if answer.access_token:
            return Issued(answer.access_token, float(answer.expires_in))
        # A 200 is never quoted, it may hold half a token.
        quotable = reply.status != 200 or reply.is_html
        raise Disconnect(
            http_cause(reply, "qq") if quotable and not answer.code else token_cause(answer)
        )

    async def call(
        self, http: Http, method: str, path: str, json: Any = None, *, timeout: float = 15.0
    ) -> HttpReply:
        """One call, repeated once with a new token when the platform refuses this one's.

        Raises Disconnect without a token (nothing was sent then) and HttpFailed.
        """
        url = self._base + path

        async def ask(token: str) -> HttpReply:
            headers = {"Authorization": f"QQBot {token}"}
            return await http.request(method, url, json=json, headers=headers, timeout=timeout)

        return await self.token.call(http, ask, _refuses_token)

    async def ask(self, http: Http, path: str) -> HttpReply:
        """A GET that must succeed. Raises Disconnect and HttpFailed."""
        reply = await self.call(http, "GET", path)
        error = error_of(reply)
        if error is not None:
            raise Disconnect(failure(reply, error, f"GET {path}")[1])
        return reply

    async def upload(self, http: Http, path: str, file: Attachment) -> str:
        """Store a file for a chat; returns its ``file_info``. Raises SendFailed, never UNKNOWN."""
        if len(file.data) > MAX_FILE:
            raise _refused("qq_file_too_large", f"QQ takes files of up to {MAX_FILE >> 20} MiB")
        body = {
            "file_type": _file_type(file),
            "file_data": base64.b64encode(file.data).decode(),
            "file_name": file.name or file.kind.value,
            "srv_send_msg": False,
        }
        try:
            reply = await self.call(http, "POST", f"{path}/files", body, timeout=UPLOAD_LIMIT)
            error = error_of(reply)
            if error is None:
                return reply.decode(Posted).file_info
        except AdapterError as problem:
            raise SendFailed(Outcome.NOT_SENT, problem.cause) from problem
        outcome, cause = failure(reply, error, "the upload")
        raise SendFailed(of_upload(outcome), cause)

    async def download(self, http: Http, url: str) -> bytes:
        """The content of an inbound attachment. Raises SendFailed, Disconnect and HttpFailed."""
        headers = {}
        if may_see_token(url, self._base, FILE_HOSTS):
            headers["Authorization"] = f"QQBot {await self.token.get(http)}"
        return content_of(
            await http.request("GET", url, headers=headers, timeout=UPLOAD_LIMIT), "qq"
        )


def _refuses_token(reply: HttpReply) -> bool:
    error = error_of(reply)
    return error is not None and error.code in BAD_TOKEN


def _refused(code: str, message: str) -> SendFailed:
    return SendFailed(Outcome.REFUSED, Cause(Kind.REFUSED, code, message))


def _file_type(file: Attachment) -> int:
    """1 image, 2 mp4 video, 3 SILK voice, 4 any file (POST /v2/users/{openid}/files)."""
    match file.kind:
        case MediaKind.IMAGE:
            return 1
        case MediaKind.VIDEO:
            return 2
        case MediaKind.AUDIO if file.mime == "audio/silk":
            return 3
        case _:
            return 4
