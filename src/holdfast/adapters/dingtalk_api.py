"""DingTalk over HTTP: registration of a stream, access tokens, calls, files, what refusals mean.

Sources: https://open.dingtalk.com/document/development (pages on error codes, access tokens, robot
messages) and the official SDK ``dingtalk-stream`` 0.24.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

from holdfast.access_token import AccessToken, Issued
from holdfast.adapter import (
    AdapterError,
    BadFrame,
    Disconnect,
    Http,
    HttpReply,
    Outcome,
    Part,
    Secret,
    SendFailed,
    http_cause,
    outcome_of,
)
from holdfast.adapters.dingtalk_wire import BOT_TOPIC, Type
from holdfast.messages import Attachment, MediaKind
from holdfast.supervision import Cause, Kind
from holdfast.transfer import content_of, of_upload

RENEW_BEFORE = 300.0
"""Seconds before its expiry from which a token is not used any more (as the official SDK)."""

MAX_FILE = 20 * 2**20
"""Bytes of an upload; 2 MiB for voice, which Holdfast sends as a file."""

TRANSFER_LIMIT = 30.0
"""Seconds for a file up or down; with token and message it stays below a minute."""

# -- what refusals mean -----------------------------------------------------------------------

CONSOLE = "in the developer console (https://open-dev.dingtalk.com, your app)"

PERMISSION_MISSING = "dingtalk_permission_missing"

_LOGIN_HINT = (
    f"Copy Client ID and Client Secret anew {CONSOLE}: 凭证与基础信息; there too see that the app "
    "is enabled and its robot receives messages in Stream 模式. Then run `holdfast reload`."
)
_RIGHT_HINT = f"Grant the permission {CONSOLE}: 权限管理."
_ADDRESS_HINT = f"Add this machine's public IP address {CONSOLE}: 安全设置, 服务器出口IP."
_QUOTA_HINT = (
    "The quota begins anew with the month; a larger one comes with another DingTalk edition. Then "
    "`holdfast dead retry`."
)
_OUTSIDER_HINT = (
    "People outside the organisation can be answered only while the sessionWebhook of their last "
    "message lives (about 90 minutes)."
)


@dataclass(frozen=True, slots=True)
class _Rule:
    kind: Kind
    code: str
    outcome: Outcome = Outcome.NOT_SENT
    hint: str = ""
    wait: float | None = None


_CREDENTIALS = _Rule(Kind.CREDENTIALS, "dingtalk_bad_credentials", hint=_LOGIN_HINT)
_TOKEN = _Rule(Kind.CREDENTIALS, "dingtalk_token_refused", hint=_LOGIN_HINT)
_TOO_FAST = _Rule(Kind.THROTTLED, "dingtalk_rate_limited", wait=1.0)  # the limits are per second
_MINUTE = _Rule(Kind.THROTTLED, "dingtalk_rate_limited", wait=60.0)
_TOO_LONG = _Rule(Kind.REFUSED, "dingtalk_too_long", Outcome.REFUSED)
_BUSY = _Rule(Kind.UNREACHABLE, "dingtalk_busy")
_DOUBTFUL = _Rule(Kind.UNREACHABLE, "dingtalk_busy", Outcome.UNKNOWN)
_NOBODY = _Rule(Kind.REFUSED, "dingtalk_unknown_user", Outcome.REFUSED, _OUTSIDER_HINT)
_REFUSED = _Rule(Kind.REFUSED, "dingtalk_refused", Outcome.REFUSED)
_BANNED = _Rule(Kind.THROTTLED, "dingtalk_ip_banned", wait=300.0)

_RULES = {
    "invalidClientIdOrSecret": _CREDENTIALS,
    "authFailed": _CREDENTIALS,
    "InvalidAuthentication": _TOKEN,
    "token.invalid": _TOKEN,
    "token.notExisted": _TOKEN,
    "Forbidden.AccessDenied.AccessTokenPermissionDenied": _Rule(
        Kind.REFUSED, PERMISSION_MISSING, Outcome.REFUSED, _RIGHT_HINT
    ),
    "Forbidden.AccessDenied.ApiCountLimitForOrg": _Rule(
        Kind.THROTTLED, "dingtalk_quota_used_up", Outcome.REFUSED, _QUOTA_HINT, wait=3_600.0
    ),
    "invalidParameter.msgParam.tooLong": _TOO_LONG,
    "staffId.notExisted": _NOBODY,
    "system.busy": _DOUBTFUL,
    "unknown.send.result": _DOUBTFUL,
}
"""``code`` of the OpenAPI."""

_PARTS = {
    "QpsLimitFor": _TOO_FAST,
    "NotInWhiteList": _Rule(Kind.REFUSED, "dingtalk_ip_not_allowed", hint=_ADDRESS_HINT),
}
"""Part of a ``code`` of which there are several."""

WEBHOOK_GONE = 300001
"""The sessionWebhook is not valid any more."""

_ERRCODES = {
    -1: _BUSY,
    15: _BUSY,
    88: _TOO_FAST,
    40014: _TOKEN,
    40089: _CREDENTIALS,
    101002: _TOO_LONG,
    130101: _MINUTE,  # 20 messages a minute
    460101: _TOO_LONG,
}
"""``errcode`` of the old API and of webhooks, inside HTTP 200."""

_BANNED_STATUS = 1111


class Denied(msgspec.Struct, rename="camel"):
    """What a missing permission is called."""

    required_scopes: list[str] = []


class Refusal(msgspec.Struct):
    """The error bodies of both APIs; all of it empty in the body of a success."""

    code: str = ""
    message: str = ""
    requestid: str = ""
    accessdenieddetail: Denied | None = None
    errcode: int = 0
    errmsg: str = ""
    status: int | str = 0


def refusal_of(reply: HttpReply) -> Refusal | None:
    """The platform's refusal, None for a success. Raises BadFrame for an unreadable success."""
    good = reply.status < 300
    if reply.is_html:
        return Refusal()
    try:
        refusal = reply.decode(Refusal)
    except BadFrame:
        if good:
            raise
        return Refusal()
    said = refusal.errcode or refusal.code or refusal.status == _BANNED_STATUS
    return refusal if said or not good else None


def failure(reply: HttpReply, refusal: Refusal, doing: str) -> tuple[Outcome, Cause]:
    """What a refused call means for the message it carried, and why."""
    rule = _rule(reply, refusal)
    if rule is None:
        return outcome_of(reply), http_cause(reply, "dingtalk")
    code = refusal.code or refusal.errcode or refusal.status or f"HTTP {reply.status}"
    message = f"{doing} was refused: {refusal.message or refusal.errmsg or 'no reason'} ({code}"
    message += f", request {refusal.requestid})" if refusal.requestid else ")"
    hint = rule.hint
    if refusal.accessdenieddetail is not None and refusal.accessdenieddetail.required_scopes:
        hint += f" Its name is {', '.join(refusal.accessdenieddetail.required_scopes)}."
    wait = max(rule.wait or 0.0, reply.retry_after or 0.0) or None
    return rule.outcome, Cause(rule.kind, rule.code, message, hint, retry_after=wait)


def _rule(reply: HttpReply, refusal: Refusal) -> _Rule | None:
    """The row of a refusal; None where nothing but the HTTP status says something."""
    if refusal.status == _BANNED_STATUS:
        return _BANNED
    if refusal.errcode:
        return _ERRCODES.get(refusal.errcode, _REFUSED)
    if refusal.code in _RULES:
        return _RULES[refusal.code]
    for part, rule in _PARTS.items():
        if part in refusal.code:
            return rule
    if reply.status == 401 and not reply.is_html:
        return _TOKEN
    plain = reply.status == 429 or reply.status >= 500 or not refusal.code
    return None if plain else _REFUSED


# -- what calls answer ------------------------------------------------------------------------


class Token(msgspec.Struct, rename="camel"):
    """``POST /v1.0/oauth2/accessToken``; the life is in seconds."""

    access_token: str
    expire_in: float


class Registered(msgspec.Struct):
    """``POST /v1.0/gateway/connections/open``; the ticket lives 90 s, for one connection."""

    endpoint: str
    ticket: str


class Posted(msgspec.Struct, rename="camel"):
    """The answer to a robot message. HTTP 200 does not mean delivered: the lists tell."""

    process_query_key: str = ""
    invalid_staff_id_list: list[str] | None = None
    flow_controlled_staff_id_list: list[str] | None = None
    filtered_staff_id_list: list[str] | None = None


class Uploaded(msgspec.Struct):
    """``POST /media/upload``."""

    media_id: str


class Download(msgspec.Struct, rename="camel"):
    """``POST /v1.0/robot/messageFiles/download``: a temporary address."""

    download_url: str


def left_out(posted: Posted) -> tuple[Outcome, Cause] | None:
    """Why the one addressee of a private message did not get it; None if he did."""
    if posted.invalid_staff_id_list:
        text = "DingTalk does not know the person this message is for"
        return Outcome.REFUSED, Cause(Kind.REFUSED, _NOBODY.code, text, _NOBODY.hint)
    if posted.flow_controlled_staff_id_list:
        text = "the person this message is for got too many messages"
        cause = Cause(Kind.THROTTLED, _MINUTE.code, text, retry_after=_MINUTE.wait)
        return Outcome.NOT_SENT, cause
    if posted.filtered_staff_id_list:
        text = "DingTalk filtered the message out for the person it is for"
        return Outcome.REFUSED, Cause(Kind.REFUSED, "dingtalk_filtered", text)
    return None


# -- calls ------------------------------------------------------------------------------------


class Api:
    """Calls of one account; `token` is for whoever must be sure of it."""

    def __init__(self, client_id: str, secret: Secret, base: str, old_base: str) -> None:
        self._client_id, self._secret = client_id, secret
        self._base, self._old_base = base.rstrip("/"), old_base.rstrip("/")
        self.token = AccessToken(self._issue, renew_before=RENEW_BEFORE)

    async def register(self, http: Http) -> str:
        """The address of one connection, to be dialled within 90 s. Raises Disconnect."""
        body = {
            "clientId": self._client_id,
            "clientSecret": self._secret.reveal(),
            "subscriptions": [{"type": Type.CALLBACK, "topic": BOT_TOPIC}],
            "ua": "holdfast",
        }
        path = "/v1.0/gateway/connections/open"
        opened = (await self._log_in(http, path, body, "the stream")).decode(Registered)
        return f"{opened.endpoint}?ticket={quote(opened.ticket, safe='')}"

    async def _issue(self, http: Http) -> Issued:
        body = {"appKey": self._client_id, "appSecret": self._secret.reveal()}
        reply = await self._log_in(http, "/v1.0/oauth2/accessToken", body, "the token")
        got = reply.decode(Token)
        return Issued(got.access_token, got.expire_in)

    async def _log_in(self, http: Http, path: str, body: object, what: str) -> HttpReply:
        # Without this the answer may be XML, warns the official Node SDK.
        headers = {"Accept": "application/json"}
        reply = await http.request("POST", self._base + path, json=body, headers=headers)
        refusal = refusal_of(reply)
        if refusal is not None:
            raise Disconnect(failure(reply, refusal, what)[1])
        return reply

    async def call(self, http: Http, path: str, json: Any) -> HttpReply:
        """An OpenAPI call. Raises Disconnect without a token, BadFrame and HttpFailed."""

        async def ask(token: str) -> HttpReply:
            headers = {"x-acs-dingtalk-access-token": token}
            return await http.request("POST", self._base + path, json=json, headers=headers)

        return await self.token.call(http, ask, _refuses_token)

    async def post(self, http: Http, path: str, json: Any, doing: str) -> HttpReply:
        """A call that must succeed. Raises SendFailed, BadFrame and HttpFailed."""
        try:
            reply = await self.call(http, path, json)
        except Disconnect as problem:  # no token, so nothing was sent
            raise SendFailed(Outcome.NOT_SENT, problem.cause) from problem
        refusal = refusal_of(reply)
        if refusal is not None:
            raise SendFailed(*failure(reply, refusal, doing))
        return reply

    async def upload(self, http: Http, file: Attachment) -> str:
        """Store a file; returns its media id. Raises SendFailed, never UNKNOWN."""
        if len(file.data) > MAX_FILE:
            text = f"DingTalk takes files of up to {MAX_FILE >> 20} MiB"
            cause = Cause(Kind.REFUSED, "dingtalk_file_too_large", text)
            raise SendFailed(Outcome.REFUSED, cause)
        kind = "image" if file.kind is MediaKind.IMAGE else "file"
        part = Part(
            name="media", data=file.data, filename=file.name or kind, mime=file.mime or None
        )

        async def ask(token: str) -> HttpReply:
            url, query = f"{self._old_base}/media/upload", {"access_token": token, "type": kind}
            return await http.request(
                "POST", url, query=query, parts=[part], timeout=TRANSFER_LIMIT
            )

        try:
            reply = await self.token.call(http, ask, _refuses_token)
            refusal = refusal_of(reply)
            if refusal is None:
                return reply.decode(Uploaded).media_id
        except AdapterError as problem:
            raise SendFailed(Outcome.NOT_SENT, problem.cause) from problem
        outcome, cause = failure(reply, refusal, "the upload")
        raise SendFailed(of_upload(outcome), cause)

    async def download(self, http: Http, robot: str, code: str) -> bytes:
        """The content behind a downloadCode. Raises SendFailed, BadFrame and HttpFailed."""
        body = {"robotCode": robot, "downloadCode": code}
        path = "/v1.0/robot/messageFiles/download"
        found = (await self.post(http, path, body, "the download")).decode(Download)
        reply = await http.request("GET", found.download_url, timeout=TRANSFER_LIMIT)
        return content_of(reply, "dingtalk")


def _refuses_token(reply: HttpReply) -> bool:
    refusal = refusal_of(reply)
    return refusal is not None and _rule(reply, refusal) is _TOKEN
