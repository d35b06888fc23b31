"""What Feishu's refusals mean: codes of the long connection, of tokens, of calls.

Sources: https://open.feishu.cn/document (server-docs/getting-started/server-error-codes, the error
tables of im-v1, authentication-management) and the official SDK ``lark-oapi`` 1.7.5 for codes of
the long connection. The platform's name is said as the console has it; Lark is the same abroad.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from holdfast.adapter import BadFrame, HttpReply, Outcome, http_cause, outcome_of
from holdfast.supervision import Cause, Kind

CONSOLE = (
    "in the developer console (https://open.feishu.cn/app or open.larksuite.com/app, your app)"
)

SCOPE_MISSING = "feishu_scope_missing"

_LOGIN_HINT = (
    f"Copy App ID and App Secret anew {CONSOLE}: Credentials & Basic Info; for Lark set `base_url` "
    "to https://open.larksuite.com. Then run `holdfast reload`."
)
_MODE_HINT = (
    f"See {CONSOLE} that the app is a custom (self-built) one and enabled, that Events & Callbacks "
    "receives events through a persistent connection, and that a version is published."
)
_BOT_HINT = f"Turn the bot on {CONSOLE}: Add Features, Bot; then publish a version."
_SCOPE_HINT = f"Add the scope {CONSOLE}: Permissions & Scopes; then publish a version."
_LIMIT_HINT = (
    "An app has 50 connections: stop other programs that use its credentials. Old connections end "
    "by themselves; Holdfast looks again every 5 minutes."
)
_APP_HINT = "An open_id belongs to one app: address people by the ids this app has received."


@dataclass(frozen=True, slots=True)
class Rule:
    """What a code means; ``outcome`` for a message that was refused with it."""

    kind: Kind
    code: str
    hint: str = ""
    outcome: Outcome = Outcome.NOT_SENT
    wait: float | None = None


_CREDENTIALS = Rule(Kind.CREDENTIALS, "feishu_bad_credentials", _LOGIN_HINT)
_TOKEN = Rule(Kind.CREDENTIALS, "feishu_token_refused", _LOGIN_HINT)
_BUSY = Rule(Kind.UNREACHABLE, "feishu_busy")
_LIMITED = Rule(Kind.THROTTLED, "feishu_rate_limited", wait=1.0)  # limits are per second
_SCOPE = Rule(Kind.REFUSED, SCOPE_MISSING, _SCOPE_HINT, Outcome.REFUSED)  # files have their own
_FORBIDDEN = Rule(Kind.REFUSED, "feishu_forbidden", _MODE_HINT)
_CROWDED = Rule(Kind.THROTTLED, "feishu_too_many_connections", _LIMIT_HINT, wait=300.0)
_BAD = Rule(Kind.REFUSED, "feishu_bad_message", outcome=Outcome.REFUSED)
_NOBODY = Rule(Kind.REFUSED, "feishu_unknown_chat", outcome=Outcome.REFUSED)
_NO_BOT = Rule(Kind.REFUSED, "feishu_bot_disabled", _BOT_HINT)
_REFUSED = Rule(Kind.REFUSED, "feishu_refused", outcome=Outcome.REFUSED)

TOO_MANY_CONNECTIONS = 1000040350

_ENDPOINT = {
    1: _BUSY,
    403: _FORBIDDEN,
    514: Rule(Kind.CREDENTIALS, "feishu_auth_failed", _LOGIN_HINT),
    1000040343: _BUSY,
    1000040345: _CREDENTIALS,
    TOO_MANY_CONNECTIONS: _CROWDED,
}
"""``code`` of ``/callback/ws/endpoint``; the SDK's ``ws/const.py``."""

_LOGIN = {
    10003: _CREDENTIALS,
    10012: Rule(Kind.REFUSED, "feishu_app_unavailable", _MODE_HINT),
    10014: _CREDENTIALS,
    10015: _CREDENTIALS,
}
"""``code`` of the token call."""

BAD_TOKEN = frozenset({99991661, 99991663, 99991664, 99991665, 99991666, 99991668})
"""The access token is missing, wrong or expired: fetch one and repeat once."""

_CALLS = {
    **dict.fromkeys(BAD_TOKEN, _TOKEN),
    99991400: _LIMITED,
    99991672: _SCOPE,
    99992361: Rule(Kind.REFUSED, "feishu_foreign_id", _APP_HINT, Outcome.REFUSED),
    230001: _BAD,
    230002: Rule(Kind.REFUSED, "feishu_not_in_chat", "Add the bot to the group.", Outcome.REFUSED),
    230006: _NO_BOT,
    230020: _LIMITED,
    230025: Rule(Kind.REFUSED, "feishu_too_long", outcome=Outcome.REFUSED),
    230027: _SCOPE,
    230034: _NOBODY,
    # Delivered or about to be; only the same uuid finds out.
    230049: Rule(Kind.UNREACHABLE, "feishu_pending", outcome=Outcome.UNKNOWN, wait=5.0),
    230099: _BAD,
    232009: _NOBODY,
    234006: Rule(Kind.REFUSED, "feishu_file_too_large", outcome=Outcome.REFUSED),
    234007: _NO_BOT,
}
"""``code`` of API calls; any other refuses the message for good."""

TARGET_GONE = frozenset({230011, 231003, 230019, 230071, 230072})
"""The message to answer, or its thread, is gone or takes no answers: only the chat is left."""


class Refusal(msgspec.Struct):
    """The frame of every answer; ``code`` 0 is a success, whatever the HTTP status."""

    code: int = 0
    msg: str = ""


def refusal_of(reply: HttpReply) -> Refusal | None:
    """The platform's refusal, None for a success. Raises BadFrame for an unreadable success."""
    good = reply.status < 300
    try:
        refusal = reply.decode(Refusal)
    except BadFrame:
        if good and not reply.is_html:
            raise
        return Refusal()
    return refusal if refusal.code or not good else None


def login_cause(reply: HttpReply, refusal: Refusal, what: str) -> Cause:
    """Why the platform lets us not in. A code nobody has explained convicts nobody."""
    return _cause(reply, refusal, _LOGIN.get(refusal.code) or _common(refusal), what)


def endpoint_cause(reply: HttpReply, refusal: Refusal) -> Cause:
    """Why there is no address for a connection."""
    # Errors come inside HTTP 200; a code beside another status is a machine's in between.
    rule = _ENDPOINT.get(refusal.code) if reply.status == 200 else _common(refusal)
    if rule is not None and rule.kind is Kind.CREDENTIALS and "busy" in refusal.msg.lower():
        rule = _BUSY  # third parties see 1000040345 with "system busy"
    return _cause(reply, refusal, rule, "the long connection")


def upgrade_cause(status: str, message: str, code: str, default: Cause) -> Cause:
    """Why an upgrade was refused, by the headers ``Handshake-Status``, ``-Msg``, ``-Autherrcode``.

    The credentials have just been accepted by the endpoint call, so that 514 passes by itself.
    """
    if status == "403":
        rule = _FORBIDDEN
    elif status == "514" and code == str(TOO_MANY_CONNECTIONS):
        rule = _CROWDED
    elif status:
        rule = Rule(Kind.UNREACHABLE, f"feishu_handshake_{status}")
    else:
        return default
    text = f"Feishu refused the WebSocket upgrade: {message or 'no reason'} ({status}"
    text += f", {code})" if code else ")"
    return Cause(rule.kind, rule.code, text, rule.hint, retry_after=rule.wait)


def failure(reply: HttpReply, refusal: Refusal, what: str) -> tuple[Outcome, Cause]:
    """What a refused call means for the message it carried, and why."""
    rule = _CALLS.get(refusal.code)
    if rule is None and refusal.code and reply.status < 500 and reply.status != 429:
        rule = _REFUSED
    cause = _cause(reply, refusal, rule, what)
    return (rule.outcome if rule is not None else outcome_of(reply)), cause


def account_cause(reply: HttpReply, refusal: Refusal, what: str) -> Cause:
    """Why a call that concerns the whole account was refused; unexplained codes pass."""
    return _cause(reply, refusal, _common(refusal), what)


def _common(refusal: Refusal) -> Rule | None:
    rule = _CALLS.get(refusal.code)
    about_all = rule is _SCOPE or (rule is not None and rule.outcome is Outcome.NOT_SENT)
    return rule if about_all else None


def _cause(reply: HttpReply, refusal: Refusal, rule: Rule | None, what: str) -> Cause:
    said = f"{what} was refused: {refusal.msg or 'no reason'} ({refusal.code})"
    wait = _wait(reply)
    if rule is not None:
        text, hint = said, rule.hint
        wait = max(rule.wait or 0.0, wait or 0.0) or None
        return Cause(rule.kind, rule.code, text, hint, retry_after=wait)
    if reply.status == 200 and refusal.code:
        return Cause(Kind.PROTOCOL, f"feishu_code_{refusal.code}", said, retry_after=wait)
    cause = http_cause(reply, "feishu")
    return replace(cause, retry_after=wait) if wait is not None else cause


def _wait(reply: HttpReply) -> float | None:
    """Seconds of a rate limit (server-docs/getting-started/api-access-token, frequency control)."""
    try:
        return max(0.0, float(reply.headers["x-ogw-ratelimit-reset"]))
    except (KeyError, ValueError):
        return reply.retry_after
