"""The Web API of Slack: calls, files, and what refusals mean.

Sources: https://docs.slack.dev/reference/methods and /apis/web-api/rate-limits. Refusals come as
HTTP 200 with ``ok`` false; only 429 and 5xx use the status.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from typing import Final, TypeVar

import msgspec

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
)
from holdfast.messages import Attachment
from holdfast.supervision import Cause, Kind
from holdfast.transfer import content_of, may_see_token

CALL_LIMIT: Final = 10.0
"""Seconds for a call: as long as a step of an attempt."""

TRANSFER_LIMIT: Final = 30.0
"""Seconds for a file up or down."""

FILE_HOSTS: Final = (".slack.com", ".slack-files.com")
"""Where Slack keeps files; no other host is shown our token."""


class Token(Enum):
    """Which of the two tokens a call wants, and where the console has it."""

    BOT = (
        "bot_token",
        "Copy the Bot User OAuth Token (xoxb-...) at https://api.slack.com/apps: your app > "
        "OAuth & Permissions (reinstall the app if it was removed), then run `holdfast reload`.",
    )
    APP = (
        "app_token",
        "Generate an app-level token (xapp-...) with the scope connections:write at "
        "https://api.slack.com/apps: your app > Basic Information > App-Level Tokens, then run "
        "`holdfast reload`.",
    )

    def __init__(self, setting: str, hint: str) -> None:
        self.setting, self.hint = setting, hint


# -- what refusals mean -----------------------------------------------------------------------

SCOPE_HINT: Final = (
    "Add {} at https://api.slack.com/apps: your app > OAuth & Permissions > Bot Token Scopes, "
    "then reinstall the app to the workspace."
)
_ADMIN_HINT = "Ask an administrator of the workspace to let this app in."
_INVITE_HINT = "Invite the bot: write `/invite @` and its name in that channel."

_CREDENTIALS = frozenset(
    {"invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired"}
    | {"user_removed_from_team", "team_disabled"}
)
_PASSING = frozenset({"internal_error", "service_unavailable", "request_timeout"})
_LIMITED = frozenset({"ratelimited", "rate_limited"})
_REFUSED: Mapping[str, str] = {
    **dict.fromkeys(
        ("forbidden_team", "org_login_required", "ekm_access_denied", "no_permission"), _ADMIN_HINT
    ),
    **dict.fromkeys(("channel_not_found", "not_in_channel"), _INVITE_HINT),
    **dict.fromkeys(("method_deprecated", "is_archived", "restricted_action"), ""),
    **dict.fromkeys(("msg_too_long", "no_text", "user_not_found", "file_not_found"), ""),
    **dict.fromkeys(("cant_update_message", "edit_window_closed", "message_not_found"), ""),
    "thread_not_found": "",
}
"""Errors that a person must look at, and what he can do."""


class Answer(msgspec.Struct):
    """What every answer has."""

    ok: bool = False
    error: str = ""
    needed: str = ""
    provided: str = ""


def refusal(reply: HttpReply, method: str, token: Token) -> SendFailed | None:
    """Why a call failed and what that means for a message it carried; None for a success."""
    try:
        answer = reply.decode(Answer)
    except BadFrame as problem:
        if reply.status == 200 and not reply.is_html:
            # The body is not quoted: it may hold the ticket of a socket.
            text = f"the answer to {method} could not be read: {problem.cause.message}"
            return SendFailed(Outcome.UNKNOWN, Cause(Kind.PROTOCOL, "slack_bad_answer", text))
        answer = Answer()
    if answer.ok and reply.status == 200:
        return None
    if reply.status == 429 or not answer.error:
        # A proxy's 502 may hide a delivered message.
        outcome = Outcome.UNKNOWN if reply.status >= 500 else Outcome.NOT_SENT
        return SendFailed(outcome, http_cause(reply, "slack"))
    return SendFailed(*_verdict(answer, reply, method, token))


def _verdict(answer: Answer, reply: HttpReply, method: str, token: Token) -> tuple[Outcome, Cause]:
    error = answer.error
    code = f"slack_{error}" if re.fullmatch(r"\w{1,60}", error, re.ASCII) else "slack_refused"
    message = f"Slack refused {method} with {token.setting}: {error[:60]}"
    if error in _CREDENTIALS:
        return Outcome.NOT_SENT, Cause(Kind.CREDENTIALS, code, message, token.hint)
    if error in _LIMITED:
        wait = reply.retry_after
        cause = Cause(Kind.THROTTLED, "slack_rate_limited", message, retry_after=wait)
        return Outcome.NOT_SENT, cause
    if error in _PASSING:
        return Outcome.NOT_SENT, Cause(Kind.UNREACHABLE, code, message)
    if error == "fatal_error":  # "some aspect of the operation succeeded" is possible
        return Outcome.UNKNOWN, Cause(Kind.UNREACHABLE, code, message)
    if error == "missing_scope":
        message += f" (needed: {answer.needed or 'not told'})"
        bot = token is Token.BOT and answer.needed
        hint = SCOPE_HINT.format(answer.needed) if bot else token.hint
        return Outcome.REFUSED, Cause(Kind.REFUSED, code, message, hint)
    if error == "not_allowed_token_type":
        return Outcome.REFUSED, Cause(Kind.REFUSED, code, message, token.hint)
    kind = Kind.REFUSED if error in _REFUSED else Kind.PROTOCOL
    return Outcome.REFUSED, Cause(kind, code, message, _REFUSED.get(error, ""))


# -- answers ----------------------------------------------------------------------------------


class Bot(msgspec.Struct, frozen=True):
    """auth.test: who we are."""

    user_id: str
    user: str = ""
    team: str = ""
    team_id: str = ""
    bot_id: str = ""
    scopes: frozenset[str] | None = None
    """From the header ``X-OAuth-Scopes``; None where something on the way removed it."""


class Opened(msgspec.Struct):
    """apps.connections.open: the address of one socket, with its ticket."""

    url: str


class Posted(msgspec.Struct):
    """chat.postMessage and chat.update."""

    channel: str
    ts: str


class Reserved(msgspec.Struct):
    """files.getUploadURLExternal."""

    upload_url: str
    file_id: str


class FileInfo(msgspec.Struct):
    """A file, as far as its address goes."""

    url_private: str = ""
    url_private_download: str = ""


class FileAnswer(msgspec.Struct):
    """files.info."""

    file: FileInfo


T = TypeVar("T")


# -- calls ------------------------------------------------------------------------------------


class Api:
    """Calls with either token."""

    def __init__(self, base: str, bot_token: Secret, app_token: Secret) -> None:
        self._base = base.rstrip("/") + "/"
        self._tokens = {Token.BOT: bot_token, Token.APP: app_token}

    async def reply(
        self,
        http: Http,
        method: str,
        params: Mapping[str, str] | None = None,
        token: Token = Token.BOT,
    ) -> HttpReply:
        """One call that succeeded. Raises SendFailed and HttpFailed."""
        headers = {"Authorization": f"Bearer {self._tokens[token].reveal()}"}
        # Every method takes a form; the reading ones take no JSON.
        reply = await http.request(
            "POST", self._base + method, form=params or {}, headers=headers, timeout=CALL_LIMIT
        )
        if (failed := refusal(reply, method, token)) is not None:
            raise failed
        return reply

    async def call(
        self,
        http: Http,
        method: str,
        kind: type[T],
        params: Mapping[str, str] | None = None,
        token: Token = Token.BOT,
    ) -> T:
        """One call's answer. Raises SendFailed and HttpFailed."""
        return _read(await self.reply(http, method, params, token), method, kind)

    async def whoami(self, http: Http) -> Bot:
        """Whose bot token it is. Raises Disconnect and HttpFailed."""
        try:
            reply = await self.reply(http, "auth.test")
            bot = _read(reply, "auth.test", Bot)
        except SendFailed as problem:
            raise Disconnect(problem.cause) from problem
        told = reply.headers.get("x-oauth-scopes")
        if told is None:
            return bot
        scopes = frozenset(scope.strip() for scope in told.split(","))
        return msgspec.structs.replace(bot, scopes=scopes)

    async def open(self, http: Http) -> str:
        """The address of a new socket, good for one try. Raises Disconnect and HttpFailed."""
        try:
            return (await self.call(http, "apps.connections.open", Opened, token=Token.APP)).url
        except SendFailed as problem:
            raise Disconnect(problem.cause) from problem

    async def upload(self, http: Http, file: Attachment) -> str:
        """Store a file that nobody sees yet; its id. Raises SendFailed, never UNKNOWN."""
        name = file.name or file.kind.value
        try:
            params = {"filename": name, "length": str(len(file.data))}
            place = await self.call(http, "files.getUploadURLExternal", Reserved, params)
            reply = await http.request(
                "POST", place.upload_url, body=file.data, timeout=TRANSFER_LIMIT
            )
        except AdapterError as problem:
            refused = isinstance(problem, SendFailed) and problem.outcome is Outcome.REFUSED
            outcome = Outcome.REFUSED if refused else Outcome.NOT_SENT
            raise SendFailed(outcome, problem.cause) from problem
        if reply.status != 200:
            raise SendFailed(Outcome.NOT_SENT, http_cause(reply, "slack_upload"))
        return place.file_id

    async def download(self, http: Http, file: Attachment) -> bytes:
        """The content of an inbound file. Raises SendFailed and HttpFailed."""
        url = file.ref
        if "://" not in url:  # a shared channel's file: only its id was told
            info = (await self.call(http, "files.info", FileAnswer, {"file": url})).file
            url = info.url_private_download or info.url_private
        ours = may_see_token(url, self._base, FILE_HOSTS)
        token = self._tokens[Token.BOT].reveal()
        headers = {"Authorization": f"Bearer {token}"} if ours else {}
        reply = await http.request("GET", url, headers=headers, timeout=TRANSFER_LIMIT)
        page = reply.is_html and "html" not in file.mime
        if page or reply.status in (301, 302, 303, 307):
            text = "Slack showed its login page in place of a file"
            cause = Cause(
                Kind.REFUSED, "slack_file_login_page", text, SCOPE_HINT.format("files:read")
            )
            raise SendFailed(Outcome.REFUSED, cause)
        return content_of(reply, "slack")


def _read(reply: HttpReply, method: str, kind: type[T]) -> T:
    try:
        return reply.decode(kind)
    except BadFrame as problem:
        text = f"the answer to {method} could not be read: {problem.cause.message}"
        cause = Cause(Kind.PROTOCOL, "slack_bad_answer", text)
        raise SendFailed(Outcome.UNKNOWN, cause) from problem
