"""Mattermost's REST API v4: how it is called, what it says, and what its errors mean.

Sources: https://developers.mattermost.com/api-documentation/ and the server's source (server/
channels/api4, server/channels/app). Ids are 26 letters and digits; times are Unix milliseconds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final, TypeVar
from urllib.parse import quote

from msgspec import Raw, Struct

from holdfast.adapter import (
    AdapterError,
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
    http_cause,
)
from holdfast.supervision import Cause, Kind

T = TypeVar("T")

PENDING: Final = "api.post.deduplicate_create_post.pending"
"""The first try with this ``pending_post_id`` is still under way."""

BAD_ROOT: Final = "api.post.create_post.root_id.app_error"
"""The post to answer is deleted, or is itself an answer."""

TOKEN_HINT: Final = (
    "An administrator creates a new token under Integrations > Bot Accounts (the bot must be "
    "enabled there); put it into the configuration, then run `holdfast reload`."
)

RIGHT_HINT: Final = (
    "Add the bot to the team and the channel, and allow posting there: System Console > "
    "Permissions, or the channel's own settings."
)

URL_HINT: Final = (
    "`url` must be the server's Site URL, with its sub-path if it has one (System Console > Web "
    "Server). A proxy or login portal in between answers with pages of its own."
)

UPGRADE_HINT: Final = (
    "The proxy in front of Mattermost must pass on the Upgrade and Connection headers for "
    "/api/v4/websocket, and `url` must be the server's Site URL."
)


class MattermostSettings(Settings, frozen=True, kw_only=True):
    """One bot on one server."""

    url: str
    """Site URL of the server, with its sub-path if it has one: ``https://chat.example.org``."""
    token: Secret
    """Access token of the bot account; a personal access token works too."""

    def __post_init__(self) -> None:
        """Raises ValueError, which a configuration error shows."""
        if not self.url.startswith(("https://", "http://")):
            raise ValueError("url must start with https:// (or http://)")
        if not self.token:
            raise ValueError("token must not be empty")


# -- what the server says -------------------------------------------------------------------------


class Error(Struct):
    """The body of an error answer; ``id`` decides, the message is translated."""

    id: str = ""
    message: str = ""


class User(Struct):
    """A user."""

    id: str
    username: str
    is_bot: bool = False


class Named(Struct):
    """Whatever has an id, read no further: a team, a new post."""

    id: str


class Channel(Struct):
    """A channel; ``type`` is D for two people, G for a few, O public, P private."""

    id: str
    type: str
    last_post_at: Whole = 0


class FileInfo(Struct):
    """About a file."""

    id: str
    name: str = ""
    mime_type: str = ""
    size: Whole | None = None


class Metadata(Struct):
    """What belongs to a post."""

    files: list[FileInfo] | None = None


class Post(Struct):
    """A post, from an event or from a page."""

    id: str
    channel_id: str
    user_id: str
    create_at: Whole
    edit_at: Whole = 0
    """When its text was last changed; 0 for never."""
    delete_at: Whole = 0
    root_id: str = ""
    message: str = ""
    type: str = ""
    props: dict[str, Any] | None = None
    file_ids: list[str] | None = None
    metadata: Metadata | None = None


class Page(Struct):
    """``/channels/{id}/posts``; ``posts`` may hold roots of threads that are not in ``order``."""

    order: list[str] = []
    """Newest first."""
    posts: dict[str, Raw] = {}


class Uploaded(Struct):
    """Files were taken."""

    file_infos: list[FileInfo]


# -- calling it -----------------------------------------------------------------------------------


class Api:
    """The calls of one bot."""

    def __init__(self, settings: MattermostSettings) -> None:
        self.base = settings.url.rstrip("/")
        self._token = settings.token

    @property
    def socket(self) -> str:
        """Address of the event socket."""
        return f"ws{self.base.removeprefix('http')}/api/v4/websocket"

    @property
    def headers(self) -> dict[str, str]:
        """What proves who we are, to REST and to the socket's upgrade."""
        return {"Authorization": f"Bearer {self._token.reveal()}"}

    async def call(self, http: Http, method: str, path: str, **more: Any) -> HttpReply:
        """One request with the token; see `holdfast.adapter.Http.request`."""
        url = f"{self.base}/api/v4{path}"
        return await http.request(method, url, headers=self.headers, **more)

    async def ask(self, http: Http, path: str, kind: type[T]) -> T:
        """A GET that must succeed. Raises Disconnect and HttpFailed."""
        return self.read(await self.call(http, "GET", path), kind)

    def read(self, reply: HttpReply, kind: type[T]) -> T:
        """What a good answer says. Raises Disconnect for any other."""
        if not 200 <= reply.status < 300 or reply.is_html:
            raise Disconnect(self.cause(reply))
        try:
            return reply.decode(kind)
        except BadFrame as error:
            text = f"{self.base} answered what the protocol does not allow: {error}"
            raise Disconnect(Cause(Kind.PROTOCOL, "mattermost_bad_answer", text)) from None

    def accepted(self, reply: HttpReply, kind: type[T], unclear: Outcome = Outcome.UNKNOWN) -> T:
        """What a good answer to a send says. Raises SendFailed, when in doubt ``unclear``."""
        try:
            return self.read(reply, kind)
        except Disconnect as error:
            outcome = outcome_of(reply)
            if outcome is Outcome.UNKNOWN:
                outcome = unclear
            raise SendFailed(outcome, error.cause) from None

    def cause(self, reply: HttpReply) -> Cause:
        """What an error answer means. Only Mattermost itself writes an error id."""
        error = error_of(reply)
        if not error.id or reply.status == 429:
            cause = http_cause(reply, "mattermost")
            astray = cause.kind is Kind.PROTOCOL
            wait = cause.retry_after or _reset_after(reply)
            text = f"{self.base} answered {cause.message}"
            hint = URL_HINT if astray else ""
            return replace(cause, message=text, hint=hint, retry_after=wait)
        text = f"{self.base} answered HTTP {reply.status} {error.id}: {error.message}"
        match reply.status:
            case 401:
                return Cause(Kind.CREDENTIALS, "mattermost_unauthorized", text, TOKEN_HINT)
            case 403:
                return Cause(Kind.REFUSED, "mattermost_forbidden", text, RIGHT_HINT)
            case status if error.id == PENDING:
                return Cause(Kind.UNREACHABLE, "mattermost_pending", text, retry_after=1.0)
            case status if status >= 500 and status != 501:
                code = f"mattermost_http_{status}"
                return Cause(Kind.UNREACHABLE, code, text, retry_after=reply.retry_after)
            case status:
                return Cause(Kind.PROTOCOL, f"mattermost_http_{status}", text)


def error_of(reply: HttpReply) -> Error:
    """The error in an answer; empty when there is none."""
    try:
        return Error() if reply.status < 400 else reply.decode(Error)
    except BadFrame:
        return Error()


def withheld(reply: HttpReply) -> bool:
    """Whether Mattermost itself, and no proxy, says that a thing is gone or not ours to see."""
    return reply.status in (403, 404) and bool(error_of(reply).id)


def outcome_of(reply: HttpReply) -> Outcome:
    """What an error answer, or one that can not be read, means for a send."""
    error, status = error_of(reply), reply.status
    if status in (401, 429) or error.id == PENDING or (error.id and status == 503):
        return Outcome.NOT_SENT
    # 501 is a feature switched off; and a proxy's limit of size is as good as the server's.
    if status == 413 or (error.id and (status < 500 or status == 501)):
        return Outcome.REFUSED
    return Outcome.NOT_SENT if reply.is_html and status < 500 else Outcome.UNKNOWN


def way_cause(error: AdapterError) -> Cause | None:
    """A refused upgrade with a hint; None for all other trouble on the way."""
    cause = error.cause
    if not isinstance(error, HttpFailed) or not cause.code.startswith("upgrade_"):
        return None
    hint = UPGRADE_HINT if cause.code in ("upgrade_400", "upgrade_403", "upgrade_404") else ""
    return replace(cause, code=f"mattermost_{cause.code}", hint=hint)


def path_part(part: str) -> str:
    """An id as a part of a path: ours come back from people's configuration and agents too."""
    return quote(part, safe="")


def _reset_after(reply: HttpReply) -> float | None:
    """Seconds until the rate limiter's next period ("Rate limiting")."""
    reset = reply.headers.get("x-ratelimit-reset", "")
    return float(reset) if reply.status == 429 and reset.isdecimal() else None
