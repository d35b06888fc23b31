"""The Matrix client-server API: how it is called, what it says, and what its errors mean.

Section names in quotes are those of https://spec.matrix.org/latest/client-server-api/.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final, Literal, TypeVar
from urllib.parse import quote

from msgspec import Raw, Struct, field

from holdfast.adapter import (
    BadFrame,
    Disconnect,
    Http,
    HttpFailed,
    HttpReply,
    Outcome,
    Secret,
    SendFailed,
    Settings,
    Whole,
    decode,
    http_cause,
)
from holdfast.supervision import Cause, Kind

T = TypeVar("T")

V3: Final = "/_matrix/client/v3"

NETWORK: Final = "matrix_network_error"
"""Code of every trouble on the way, whatever its kind."""

THROTTLED: Final = 5.0
"""Seconds to wait when a 429 does not say."""

TOKENS: Final = frozenset({"M_UNKNOWN_TOKEN", "M_MISSING_TOKEN"})

ACCOUNT: Final = {
    "M_USER_LOCKED": "locked",
    "M_USER_SUSPENDED": "suspended",
    "M_USER_DEACTIVATED": "deactivated",
    "M_CONSENT_NOT_GIVEN": "waiting for consent to the server's terms",
    "M_RESOURCE_LIMIT_EXCEEDED": "held up by a limit of the whole server",
}
"""Errors about the account as a whole ("Common error codes", "Other error codes")."""

PROXY_HINT: Final = (
    "Nothing to do: Holdfast keeps trying. If only long polls fail, a proxy cuts them short: lower "
    "sync_timeout. A web page instead of an answer comes from a proxy or a wrong homeserver URL."
)

TOKEN_HINT: Final = (
    "Log in as the bot again, put the new access token into the configuration, then run "
    "`holdfast reload`. With a password in the configuration Holdfast logs in by itself."
)


class MatrixSettings(Settings, frozen=True, kw_only=True):
    """One account on a homeserver, by access token, by password, or both."""

    homeserver: str
    """Base URL, for example ``https://matrix.example.org``."""
    user_id: str
    """The whole id of the bot, for example ``@bot:example.org``."""
    access_token: Secret | None = None
    """Used first. Without a password, its end needs a person."""
    password: Secret | None = None
    """For logging in when there is no valid token; the new token is never written down."""
    device_id: str | None = None
    """The device to log in as; by default one derived from the user id. Keep it: the server knows
    repeated sends by it, and a login ends the device's former session."""
    sync_timeout: float = 30.0
    """Seconds the server holds an idle poll (1 to 120)."""
    auto_join: bool = True
    """Accept every invitation. Those that come while it is off are accepted once it is on."""
    msgtype: Literal["m.notice", "m.text"] = "m.notice"
    """What texts are sent as. Bots send notices, so that bots do not answer each other."""

    def __post_init__(self) -> None:
        """Raises ValueError, which a configuration error shows."""
        if not (self.access_token or self.password):
            raise ValueError("access_token or password is needed")
        if not re.fullmatch(r"@[^:]+:.+", self.user_id):
            raise ValueError("user_id must look like @bot:example.org")
        if not self.homeserver.startswith(("https://", "http://")):
            raise ValueError("homeserver must start with https:// (or http://)")
        if not 1 <= self.sync_timeout <= 120:
            raise ValueError("sync_timeout must be between 1 and 120 seconds")


# -- what the server says -------------------------------------------------------------------------


class Error(Struct):
    """The standard error response."""

    errcode: str = ""
    error: str = ""
    retry_after_ms: float | None = None


class Session(Struct):
    """``/login`` and ``/account/whoami``."""

    user_id: str
    device_id: str | None = None
    access_token: str = ""


class Joined(Struct):
    """``/rooms/{id}/joined_members``: users and their profiles."""

    joined: dict[str, dict[str, str | None]] = {}


class Sent(Struct):
    """A message was taken."""

    event_id: str


class Uploaded(Struct):
    """A file was taken; ``mxc://`` address."""

    content_uri: str


class Member(Struct):
    """Content of ``m.room.member``; also a profile."""

    membership: str = ""
    displayname: str | None = None


class Event(Struct):
    """An event of a room, its content still undecoded."""

    type: str
    sender: str
    event_id: str
    state_key: str | None = None
    origin_server_ts: float | None = None
    content: Raw = Raw(b"{}")
    unsigned: dict[str, Raw] = {}

    def membership(self, user: str) -> str:
        """What a user's membership became by this event; empty when it did not change it."""
        if self.type != "m.room.member" or self.state_key != user:
            return ""
        before = member_of(self.unsigned.get("prev_content", b"{}")).membership
        now = member_of(self.content).membership
        return "" if now == before else now


class Events(Struct):
    """A section of a room."""

    events: list[Raw] = []


class Timeline(Events):
    """Newest events; ``limited`` when older ones, before ``prev_batch``, were left out."""

    limited: bool = False
    prev_batch: str | None = None


class Room(Struct):
    """A joined room in /sync."""

    timeline: Timeline = field(default_factory=Timeline)
    state: Events = field(default_factory=Events)


class Rooms(Struct):
    """What happened in rooms, by our membership."""

    join: dict[str, Room] = {}
    invite: dict[str, Raw] = {}
    leave: dict[str, Raw] = {}


class Batch(Struct):
    """One answer to /sync."""

    next_batch: str
    rooms: Rooms = field(default_factory=Rooms)


class Page(Struct):
    """``/rooms/{id}/messages``."""

    chunk: list[Raw] = []
    end: str | None = None


class Relation(Struct):
    """``m.relates_to``: replies, threads and edits."""

    rel_type: str = ""
    event_id: str = ""
    is_falling_back: bool = False
    in_reply_to: dict[str, str] = field(name="m.in_reply_to", default_factory=dict)


class Mentions(Struct):
    """``m.mentions``."""

    user_ids: list[str] = []


class Info(Struct):
    """About a file."""

    mimetype: str = ""
    size: Whole | None = None


class Content(Struct):
    """Content of ``m.room.message``."""

    msgtype: str = ""
    body: str = ""
    formatted_body: str = ""
    filename: str = ""
    url: str = ""
    info: Info = field(default_factory=Info)
    mentions: Mentions = field(name="m.mentions", default_factory=Mentions)
    relates_to: Relation = field(name="m.relates_to", default_factory=Relation)
    new_content: Content | None = field(name="m.new_content", default=None)


# -- calling it -----------------------------------------------------------------------------------


class MatrixApi:
    """The calls of one account. The token of a login with a password lives in memory only."""

    def __init__(self, settings: MatrixSettings) -> None:
        self.settings = settings
        self.base = settings.homeserver.rstrip("/")
        self._token = settings.access_token.reveal() if settings.access_token else ""
        digest = hashlib.sha256(settings.user_id.encode()).hexdigest()
        self._device = settings.device_id or f"HOLDFAST_{digest[:10].upper()}"

    async def call(self, http: Http, method: str, path: str, **more: Any) -> HttpReply:
        """One request with the token, where there is one; see `holdfast.adapter.Http.request`."""
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        headers |= more.pop("headers", {})
        return await http.request(method, self.base + path, headers=headers, **more)

    def read(self, reply: HttpReply, kind: type[T]) -> T:
        """What a good answer says. Raises Disconnect for any other."""
        if reply.status != 200:
            raise Disconnect(self.cause(reply))
        try:
            return reply.decode(kind)
        except BadFrame as error:
            if reply.is_html:
                raise Disconnect(_bad_gateway(self.base, reply)) from None
            text = f"{self.base} answered what the protocol does not allow: {error}"
            raise Disconnect(Cause(Kind.PROTOCOL, "matrix_bad_answer", text)) from None

    def cause(self, reply: HttpReply) -> Cause:
        """What an error answer means ("Standard error response")."""
        error = error_of(reply)
        text = f"{self.base} answered HTTP {reply.status} {error.errcode}: {error.error}"
        if error.errcode in TOKENS and self.settings.password:
            return Cause(Kind.RECYCLED, "matrix_session_expired", f"{text}; logging in again")
        if error.errcode in TOKENS:
            return Cause(Kind.CREDENTIALS, "matrix_unknown_token", text, TOKEN_HINT)
        if error.errcode in ACCOUNT:
            hint = f"The account is {ACCOUNT[error.errcode]}: ask the homeserver's administrator."
            return Cause(Kind.REFUSED, f"matrix_{error.errcode[2:].lower()}", text, hint)
        if reply.status == 429:
            body = THROTTLED if error.retry_after_ms is None else error.retry_after_ms / 1000
            wait = body if reply.retry_after is None else reply.retry_after
            return Cause(Kind.THROTTLED, "matrix_rate_limited", text, retry_after=wait)
        if reply.status >= 500:
            return _bad_gateway(self.base, reply)
        if error.errcode == "M_FORBIDDEN":
            return Cause(Kind.REFUSED, "matrix_forbidden", text)
        return http_cause(reply, "matrix")

    async def sign_in(self, http: Http) -> str:
        """Make sure of a token that is good, with the password if need be; return whose it is.

        Raises Disconnect or HttpFailed.
        """
        if not self._token:
            await self._log_in(http)
        reply = await self.call(http, "GET", f"{V3}/account/whoami")
        if error_of(reply).errcode in TOKENS and self.settings.password:
            await self._log_in(http)
            reply = await self.call(http, "GET", f"{V3}/account/whoami")
        session = self.read(reply, Session)
        self._device = session.device_id or self._device
        if session.user_id != self.settings.user_id:
            text = f"the token belongs to {session.user_id}, not to {self.settings.user_id}"
            raise Disconnect(Cause(Kind.CREDENTIALS, "matrix_wrong_user", text, TOKEN_HINT))
        return session.user_id

    async def _log_in(self, http: Http) -> None:
        password, user = self.settings.password, self.settings.user_id
        assert password is not None
        body = {
            "type": "m.login.password",
            "identifier": {"type": "m.id.user", "user": user},
            "password": password.reveal(),
            "device_id": self._device,
            "initial_device_display_name": "Holdfast",
        }
        self._token = ""
        reply = await self.call(http, "POST", f"{V3}/login", json=body)
        if error_of(reply).errcode == "M_FORBIDDEN":
            text = f"{self.base} refused the password of {user}"
            hint = "Put the right password into the configuration, then run `holdfast reload`."
            raise Disconnect(Cause(Kind.CREDENTIALS, "matrix_bad_password", text, hint))
        self._token = self.read(reply, Session).access_token

    def accepted(self, reply: HttpReply, kind: type[T], unclear: Outcome = Outcome.UNKNOWN) -> T:
        """What a good answer to a send says. Raises SendFailed, when in doubt ``unclear``."""
        try:
            return self.read(reply, kind)
        except Disconnect as error:
            outcome = outcome_of(reply)
            raise SendFailed(
                unclear if outcome is Outcome.UNKNOWN else outcome, error.cause
            ) from None


# -- reading it ----------------------------------------------------------------------------------


def error_of(reply: HttpReply) -> Error:
    """The standard error in an answer; empty when there is none."""
    try:
        return Error() if reply.status == 200 else reply.decode(Error)
    except BadFrame:
        return Error()


def network_cause(base: str, error: HttpFailed) -> Cause | None:
    """Trouble on the way keeps its kind and has one code; None for trouble of our own."""
    cause = error.cause
    if cause.kind not in (Kind.UNREACHABLE, Kind.LOST, Kind.TIMEOUT):
        return None
    text = f"{cause.code}: {cause.message} ({base})"
    return replace(cause, code=NETWORK, message=text, hint=cause.hint or PROXY_HINT)


def _bad_gateway(base: str, reply: HttpReply) -> Cause:
    text, wait = f"{base} answered {reply.summary}", reply.retry_after
    return Cause(Kind.UNREACHABLE, NETWORK, text, PROXY_HINT, retry_after=wait)


def outcome_of(reply: HttpReply) -> Outcome:
    """What an error answer, or one that can not be read, means for a send."""
    code = error_of(reply).errcode
    if reply.status == 429 or code in TOKENS or code in ACCOUNT:
        return Outcome.NOT_SENT
    # Without an errcode the homeserver may not have been asked; a proxy's limit of size counts.
    refused = reply.status == 413 or (code and 400 <= reply.status < 500)
    return Outcome.REFUSED if refused else Outcome.UNKNOWN


def path_part(part: str) -> str:
    """An id as a part of a path: they hold slashes, and room ids must not be read."""
    return quote(part, safe="")


def member_of(content: Raw | bytes) -> Member:
    """Who may change his own membership event may write nonsense: it is no membership."""
    try:
        return decode(Member, bytes(content))
    except BadFrame:
        return Member()


def entrance(events: Sequence[Event], me: str) -> tuple[int, bool]:
    """Where our stay in a room begins, and whether that is the invitation, or certain without."""
    joined = 0
    for index in range(len(events) - 1, -1, -1):
        match events[index].membership(me):
            case "":
                pass
            case "join" if not joined:
                joined = index
            case "invite":
                return index, True
            case _:
                return joined, True
    return joined, False
