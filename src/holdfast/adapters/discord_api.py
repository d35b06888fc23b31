"""The REST side of a Discord bot: calls, files, and what refusals mean.

Sources: https://discord.com/developers/docs (reference, topics/rate-limits,
topics/opcodes-and-status-codes#json).
"""

from __future__ import annotations

from typing import Any

import msgspec

from holdfast.adapter import (
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
from holdfast.adapters.discord_wire import TOKEN_HINT
from holdfast.messages import Attachment
from holdfast.supervision import Cause, Kind

USER_AGENT = "DiscordBot (holdfast, 1)"
"""Requests of another form may be blocked (reference#user-agent)."""

UPLOAD_LIMIT = 60.0
"""Seconds for a message with files, or a download; a request may carry 25 MiB."""

BAN_WAIT = 900.0
"""Seconds after a ban at the edge that names no time (10,000 refused requests in 10 minutes,
topics/rate-limits#invalid-request-limit): field reports speak of minutes to an hour."""

NO_HISTORY = 160002
"""A reply needs the permission to read what it answers."""

_PASSING = frozenset({40062, 130000})
_WAITS = frozenset({20016, 20028, 30046})
_RIGHTS = "Give the bot's role this permission in the settings of the server or channel."
_HINTS = {
    50001: "Add the bot to the server, and let its role see the channel.",
    50007: "The person must allow direct messages from the server's members.",
    50013: f"{_RIGHTS} It needs View Channel, Send Messages, and Attach Files for files.",
    NO_HISTORY: _RIGHTS,
    160005: "Unlock the thread.",
    200000: "Exempt the bot's role from the server's AutoMod rules.",
}


class Error(msgspec.Struct):
    """The body of a refusal; ``retry_after`` in seconds."""

    code: int = 0
    message: str = ""
    retry_after: float | None = None
    everywhere: bool = msgspec.field(name="global", default=False)


class Posted(msgspec.Struct):
    """The answer to a message."""

    id: str


class Application(msgspec.Struct):
    """GET /applications/@me, as far as it tells what is wrong."""

    flags: int = 0
    approximate_guild_count: int | None = None


def refused(reply: HttpReply) -> bool:
    """Whether an answer is not Discord's consent."""
    return not 200 <= reply.status < 300 or reply.is_html


def error_of(reply: HttpReply) -> Error:
    """What a refusal says, as far as it can be read."""
    try:
        return reply.decode(Error)
    except BadFrame:
        return Error()


def failure(reply: HttpReply, doing: str) -> tuple[Outcome, Cause]:
    """What a refused call means for the message it carried, and why."""
    error = error_of(reply)
    message = f"{doing} was refused: {error.message or 'no reason given'}"
    message += f" (HTTP {reply.status}, code {error.code})"
    if reply.status == 429 or error.code in _WAITS:
        return Outcome.NOT_SENT, _throttled(reply, error, message)
    if reply.status == 401 and not reply.is_html:
        return Outcome.NOT_SENT, Cause(Kind.CREDENTIALS, "discord_bad_token", message, TOKEN_HINT)
    label = f"discord_api_{error.code}"
    if error.code in _PASSING:
        cause = Cause(Kind.UNREACHABLE, label, message, retry_after=_wait(reply, error))
        return Outcome.NOT_SENT, cause
    if error.code:
        hint = _HINTS.get(error.code, "")
        return Outcome.REFUSED, Cause(Kind.REFUSED, label, message, hint)
    return outcome_of(reply), http_cause(reply, "discord")


def _throttled(reply: HttpReply, error: Error, message: str) -> Cause:
    wait = _wait(reply, error)
    if reply.is_html:
        message = "Discord's edge (Cloudflare) has banned this address for a while (HTTP 429)"
        wait = BAN_WAIT if wait is None else wait
        return Cause(Kind.THROTTLED, "discord_edge_ban", message, retry_after=wait)
    if error.everywhere:
        message += "; the limit is that of the whole bot"
    code = f"discord_api_{error.code}" if error.code else "discord_rate_limited"
    return Cause(Kind.THROTTLED, code, message, retry_after=wait)


def _wait(reply: HttpReply, error: Error) -> float | None:
    """The longer of the body's fractional seconds and the header's whole ones."""
    told = [wait for wait in (error.retry_after, reply.retry_after) if wait is not None]
    return max(told, default=None)


class Api:
    """Calls in the name of one bot."""

    def __init__(self, token: Secret, base: str) -> None:
        self._token, self._base = token, base.rstrip("/")

    async def call(self, http: Http, method: str, path: str, json: Any = None) -> HttpReply:
        """One call; a refusal is an answer. Raises HttpFailed."""
        return await http.request(method, self._base + path, json=json, headers=self._headers())

    async def ask(self, http: Http, path: str) -> HttpReply:
        """A GET that must succeed. Raises Disconnect and HttpFailed."""
        reply = await self.call(http, "GET", path)
        if refused(reply):
            raise Disconnect(failure(reply, f"GET {path}")[1])
        return reply

    async def upload(
        self, http: Http, path: str, body: dict[str, Any], files: tuple[Attachment, ...]
    ) -> HttpReply:
        """A message with files (reference#uploading-files). Raises HttpFailed."""
        names = [file.name or file.kind.value for file in files]
        listed = [{"id": i, "filename": name} for i, name in enumerate(names)]
        payload = msgspec.json.encode(body | {"attachments": listed}).decode()
        parts = [Part(name="payload_json", data=payload, mime="application/json")]
        parts += [
            Part(name=f"files[{i}]", data=file.data, filename=names[i], mime=file.mime or None)
            for i, file in enumerate(files)
        ]
        headers, url = self._headers(), self._base + path
        return await http.request("POST", url, parts=parts, headers=headers, timeout=UPLOAD_LIMIT)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bot {self._token.reveal()}", "User-Agent": USER_AGENT}


async def download(http: Http, url: str) -> bytes:
    """The content of an attachment; its address is signed, so nobody is shown the token.

    Raises SendFailed and HttpFailed.
    """
    reply = await http.request("GET", url, timeout=UPLOAD_LIMIT)
    if reply.status == 200:
        return reply.body
    gone = reply.status in (403, 404, 410)
    message = f"the attachment's address was answered with HTTP {reply.status}"
    if gone:
        message += ": it has expired (after a day), or the message was deleted"
    kind = Kind.REFUSED if gone else Kind.UNREACHABLE
    cause = Cause(kind, f"discord_file_{reply.status}", message, retry_after=reply.retry_after)
    raise SendFailed(Outcome.REFUSED if gone else Outcome.NOT_SENT, cause)
