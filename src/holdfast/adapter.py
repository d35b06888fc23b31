"""The contract between an adapter and the gateway.

An adapter is one file that speaks one platform's protocol and says what happened. It never sleeps,
retries, counts or logs an error: the supervisor decides, the gateway carries out. What an adapter
needs from the outside world (sockets, HTTP, web hooks, the journal) it is handed as a `Link` for
one connection and `Tools` for the account, so every wait is bounded and every socket has an owner.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Final, Protocol, TypeVar

import msgspec

from holdfast.errors import HoldfastError, StoreError
from holdfast.messages import Attachment, Inbound, Outbound, Receipt
from holdfast.supervision import Cause, Kind

T = TypeVar("T")

# -- what an adapter declares ---------------------------------------------------------------------

HISTORY_CHECK: Final = 240.0
"""Seconds for `Traits.history_check`: deafness must show within five minutes of the first message
that was not told, two looks included (see `holdfast.gateway.deafness`)."""


@dataclass(frozen=True, slots=True)
class Liveness:
    """Which completed inbound signal proves life. Without it an adapter does not load.

    Absence of evidence is never health, and neither a started request nor a successful send is
    evidence that messages come in.
    """

    signal: str
    """In words, for example ``"a completed getUpdates"``."""
    every: float
    """Longest legitimate time between two signals, in seconds."""


@dataclass(frozen=True, slots=True)
class Rate:
    """A token bucket: ``burst`` at once, refilled by ``per_second``."""

    per_second: float
    burst: int = 1


class TextUnit(StrEnum):
    """How a platform counts the length of a text."""

    CHARACTERS = "characters"
    UTF16 = "utf-16 units"
    BYTES = "utf-8 bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a platform can do, as far as the gateway must know it."""

    liveness: Liveness
    max_text: int
    text_unit: TextUnit = TextUnit.CHARACTERS
    replays: bool = False
    """The platform keeps what we miss and hands it out from our cursor: no outage loses messages.
    Where it is False, a reconnect without resume is reported as a gap."""
    gap_tail: float = 0.0
    """Seconds for which the platform may go on sending into a connection that is dead for us while
    a new one is up already: a gap reaches so far beyond the new connection's start."""
    repeats: float = 0.0
    """Seconds for which the platform may send a message again that we have taken, or tell what
    became of ours, with a margin: for so long at least both are known. A day needs no word."""
    idempotent: float = 0.0
    """Seconds for which the platform recognises a send repeated with the same key as the same
    message, as it promises them at least; `math.inf` for ever, 0 never. A repetition that may come
    later is treated as one that may double."""
    edits: bool = False
    typing: bool = False
    typing_every: float = 4.0
    """Seconds after which a typing indicator must be renewed."""
    rate_total: Rate | None = None
    rate_chat: Rate | None = None
    """Per chat, whatever its kind."""
    history_check: float | None = None
    """Seconds without a message after which `Adapter.overlooked` is asked, again and again while
    the connection lives; None where the platform has no history that a bot may read."""


class Continuity(StrEnum):
    """How a connection continues its predecessor."""

    RESUMED = "resumed"
    """The platform replays what was missed."""
    CAUGHT_UP = "caught up"
    """We fetch what was missed from our own cursor."""
    FRESH = "fresh"
    """What happened in between is lost to us: the gateway reports a gap."""


@dataclass(frozen=True, slots=True)
class Health:
    """The outcome of `Adapter.check`: good when ``cause`` is None."""

    identity: str = ""
    """Who the credentials belong to, for people."""
    cause: Cause | None = None
    notes: tuple[str, ...] = ()
    """What works but is worth knowing (a missing optional permission)."""


# -- what goes wrong ------------------------------------------------------------------------------


class AdapterError(HoldfastError):
    """Something went wrong on a connection, with its cause."""

    def __init__(self, cause: Cause) -> None:
        super().__init__(f"{cause.code}: {cause.message}" if cause.message else cause.code)
        self.cause = cause


class Disconnect(AdapterError):
    """The connection must end, for the given cause."""


class BadFrame(AdapterError):
    """The peer sent something that can not be understood; the one error of every decoder.

    A single bad message is skipped with `Link.skip`; only a broken handshake ends a connection.
    """

    def __init__(self, what: str) -> None:
        super().__init__(Cause(Kind.PROTOCOL, "bad_frame", what))


class WebSocketClosed(AdapterError):
    """The peer closed the WebSocket, or the connection under it was lost (code 1006)."""

    def __init__(self, code: int, reason: str = "") -> None:
        text = f"closed with code {code}" + (f": {reason}" if reason else "")
        super().__init__(Cause(Kind.LOST, f"close_{code}", text))
        self.code, self.reason = code, reason


class HttpFailed(AdapterError):
    """A request got no whole answer.

    ``sent`` is False only when it is certain that the peer never saw the request. ``reply`` is what
    answered a WebSocket upgrade in its place, as far as it is known (its body is not).
    """

    def __init__(self, cause: Cause, *, sent: bool, reply: HttpReply | None = None) -> None:
        super().__init__(cause)
        self.sent, self.reply = sent, reply


class Outcome(StrEnum):
    """What is known of a send that failed."""

    NOT_SENT = "not sent"
    """The platform did not take it: try again later."""
    UNKNOWN = "unknown"
    """It may or may not have been delivered."""
    REFUSED = "refused"
    """The platform will never take it: a person may look at it among the dead letters."""


class SendFailed(AdapterError):
    """A message was not accepted. ``cause.retry_after`` is a floor for the next try.

    ``away``: nothing is wrong but that its recipient is not there; `Link.recipient_back` tells.
    """

    def __init__(self, outcome: Outcome, cause: Cause, *, away: bool = False) -> None:
        super().__init__(cause)
        self.outcome, self.away = outcome, away


# -- what an adapter is handed --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class HttpReply:
    """A whole answer. Bodies are bounded by the request's ``max_body``."""

    status: int
    headers: Mapping[str, str]
    """Looked up by names in lower case."""
    body: bytes

    def decode(self, kind: type[T]) -> T:
        """The JSON body as ``kind``. Raises BadFrame."""
        return decode(kind, self.body)

    @property
    def is_html(self) -> bool:
        """A web page: where an API was asked, a proxy or a login portal speaks in its place."""
        return "html" in self.headers.get("content-type", "")

    @property
    def retry_after(self) -> float | None:
        """Seconds of a Retry-After header in its numeric form; None otherwise."""
        try:
            return max(0.0, float(self.headers["retry-after"]))
        except (KeyError, ValueError):
            return None

    @property
    def summary(self) -> str:
        """Status and the first printable characters of the body, safe for a log line."""
        text = self.body[:200].decode("utf-8", "replace")
        start = "".join(c if c.isprintable() else " " for c in text)[:80].strip()
        return f"HTTP {self.status}" + (f": {start}" if start else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part of a multipart/form-data body."""

    name: str
    data: bytes | str
    filename: str | None = None
    mime: str | None = None


class Http(Protocol):
    """A bounded HTTP client on a connection pool of its own."""

    async def request(
        self,
        method: str,
        url: str,
        *,
        json: Any = None,
        form: Mapping[str, str] | None = None,
        body: bytes | None = None,
        parts: list[Part] | None = None,
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = 15.0,
        max_body: int = 32 * 2**20,
    ) -> HttpReply:
        """One request; any status is an answer. Raises HttpFailed; cancelling is safe."""


class WebSocket(Protocol):
    """A client WebSocket. Every inbound frame, control frames included, is proof of life."""

    def __aiter__(self) -> AsyncIterator[str | bytes]:
        """Data frames until the end, which is always WebSocketClosed."""

    async def receive(self) -> str | bytes:
        """The next data frame. Raises WebSocketClosed."""

    async def send(self, data: str | bytes) -> None:
        """Send a data frame. Raises WebSocketClosed when the connection is gone."""

    async def ping(self) -> None:
        """Send a WebSocket ping; the pong counts as life by itself."""

    async def close(self) -> None:
        """The closing handshake, bounded; the gateway does it for whoever does not."""


class HookRequest(Protocol):
    """One HTTP request to a web hook path; the sender waits for `respond`."""

    method: str
    headers: Mapping[str, str]
    """Names in lower case."""
    query: Mapping[str, str]
    body: bytes

    def respond(
        self,
        status: int = 200,
        body: bytes = b"",
        mime: str = "text/plain",
        *,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Answer. Without it the gateway answers 503 so that the platform sends again."""

    async def upgrade(self) -> WebSocket:
        """Answer by accepting a WebSocket, for callers that ask for one (``Upgrade`` header).

        It is closed with this path's `Link.hooks` context at the latest. Raises WebSocketClosed
        when the caller has left, and may be called once.
        """


class Link(Protocol):
    """One connection, from dial to end, as its adapter sees it."""

    generation: int
    resume: bool
    """Whether a stored session should be resumed; False demands a fresh login."""
    cursor: dict[str, Any]
    """Position in the platform's stream, JSON values; stored with the messages it has passed."""
    http: Http
    """A client on a fresh connection pool that dies with this connection."""
    clock: Callable[[], float]
    """Unix seconds, for whatever has a date: the gateway's one clock, as in `Tools`."""

    def step(self, name: str, limit: float | None = None) -> None:
        """A named step of the attempt begins and must finish in ``limit`` (default 10) s."""

    def ready(
        self,
        continuity: Continuity,
        *,
        beat: float | None = None,
        silence: float | None = None,
        grace: float | None = None,
        resumable: bool = False,
    ) -> None:
        """The protocol's own proof of a working login has come; never call it on an open socket.

        ``beat`` is the heartbeat interval, ``silence`` the longest legitimate silence, ``grace``
        the end part of it in which a probe is out (seconds; None takes the policy's number).
        """

    def alive(self) -> None:
        """A completed inbound signal. WebSocket frames count by themselves."""

    def acked(self) -> None:
        """The peer acknowledged a heartbeat."""

    def logged_in(
        self,
        remaining: int | None = None,
        total: int | None = None,
        reset_after: float | None = None,
    ) -> None:
        """A fresh login is being spent, and what the platform says is left of its quota."""

    def on_beat(self, beat: Callable[[], Awaitable[None]]) -> None:
        """How to send a heartbeat. Raising means it was not sent."""

    def on_probe(self, probe: Callable[[], Awaitable[None]]) -> None:
        """How to ask a silent peer for proof. Its answer must arrive as life by the usual road."""

    async def websocket(
        self,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        max_size: int = 16 * 2**20,
        close_code: int = 1000,
    ) -> WebSocket:
        """Dial, owned and closed by the gateway. Raises HttpFailed when the upgrade fails.

        ``close_code`` is what the gateway closes it with: on some platforms 1000 ends the session.
        """

    @property
    def hooks_url(self) -> str:
        """Base URL of the gateway's own HTTP server as seen from this machine, without trailing
        slash; empty before the first `hooks`."""

    def hooks(self, path: str) -> AbstractAsyncContextManager[AsyncIterator[HookRequest]]:
        """Requests to ``path`` of the gateway's web hook server, one at a time."""

    async def take(
        self, message: Inbound | None, then: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """The message of a WebSocket frame (None: it has none), to be stored with its neighbours.

        What has been taken is stored with the cursor in one transaction when the socket has no
        further frame to hand over, at `deliver` and `commit`, and at the end of `run`. After that,
        and in this order, each ``then`` is awaited: the place to acknowledge. Without a message
        it waits only for those taken before; without a socket nothing waits. Raises StoreError.
        """

    async def deliver(self, *messages: Inbound) -> None:
        """Store messages and cursor in one transaction; acknowledge to the platform only then.

        Messages already known are dropped. Raises StoreError: then acknowledge nothing.
        """

    async def commit(self) -> None:
        """Store the cursor, with what has been taken so far. Raises StoreError."""

    def gap(self, reason: str, since: float | None = None) -> None:
        """Messages since then (Unix seconds; default: the last proof of life) may be missing."""

    def skip(self, what: str, raw: bytes | str = b"") -> None:
        """One message could not be understood: count it, keep a sample, go on."""

    async def undelivered(self, key: str, receipt: str, cause: Cause) -> None:
        """A message that was accepted with this receipt's id did not arrive: a dead letter.

        Raises StoreError: then acknowledge nothing. Tell it again as often as it is said.
        """

    def recipient_back(self) -> None:
        """Somebody who could not be reached can be again: what waits for him goes out now."""

    def going_away(self, reason: str) -> None:
        """The peer has announced the planned end of this connection, and takes a second one.

        A successor is opened at once, in a `run` of its own; this one goes on reading and
        acknowledging until the peer closes it or its time to drain is over. Without room in the
        budget of attempts nothing happens before the end.
        """


class Tools(Protocol):
    """What an adapter is handed for the life of its account."""

    http: Http
    """The account's own client for sends: apart from the polls, so neither waits for the other."""
    hook_url: str | None
    """Public base URL of the gateway's web hook server, without trailing slash; None if none."""
    clock: Callable[[], float]
    """Unix seconds, for whatever has a date: the gateway's one clock."""


# -- the adapter ----------------------------------------------------------------------------------


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of an adapter's own configuration. Secret fields are of type `Secret`."""

    @property
    def needs_hook_url(self) -> bool:
        """Whether the account can not work without the gateway's public ``hook_url``."""
        return False


class Secret:
    """A string that never shows itself; use ``reveal`` at the one place where it is sent."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def __bool__(self) -> bool:
        return bool(self._value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __repr__(self) -> str:
        return "Secret(***)" if self._value else "Secret(empty)"

    def reveal(self) -> str:
        """The secret itself."""
        return self._value


class Adapter(ABC):
    """One account on one platform."""

    platform: ClassVar[str]
    traits: ClassVar[Traits]
    Settings: ClassVar[type[Settings]]

    def __init__(self, settings: Any, tools: Tools) -> None:
        """``settings`` is an instance of the class attribute `Settings`. Does no I/O."""
        self.tools = tools

    @abstractmethod
    async def run(self, link: Link) -> None:
        """One connection, from dial to end; returning is an end. Cancelling is always safe."""

    @abstractmethod
    async def send(self, message: Outbound) -> Receipt:
        """Hand one message to the platform. Raises SendFailed (or HttpFailed, classified)."""

    @abstractmethod
    async def check(self) -> Health:
        """Probe the credentials by a call independent of the connection; explain in words."""

    async def typing(self, chat: str, thread: str | None = None) -> None:  # noqa: B027
        """Show that an answer is being written. Best effort."""

    async def overlooked(self, link: Link) -> str | None:
        """What people said that this live connection was never told of, in words; None if nothing.

        Asked while nothing comes in, see `Traits.history_check`: heartbeats prove a connection,
        not that it still delivers. One look at the newest messages of the chats heard from last,
        within 15 s and the platform's rate limits. What the bot or another program said is no
        evidence, nor is whatever is raised here; a message may still be on its way, so the gateway
        asks twice. Then the connection ends with `Kind.SESSION`, and the next `run` fetches what
        was missed. Changes nothing; cancelling is safe.
        """
        return None

    async def fetch(self, attachment: Attachment) -> bytes:
        """The content of an inbound attachment. Raises SendFailed or HttpFailed."""
        raise Disconnect(Cause(Kind.REFUSED, "no_media", f"{self.platform} has no media"))

    def classify(self, error: BaseException) -> Cause | None:
        """The cause of a platform-specific error; None leaves it to the shared defaults."""
        return None

    @property
    def endpoint(self) -> str:
        """URL of the server a login needs, for the reachability prober; empty for none."""
        return ""

    @property
    def page(self) -> str:
        """URL at which people chat with this account in a browser; empty where we serve none."""
        return ""

    @property
    @abstractmethod
    def identity(self) -> str:
        """Names the credential (not secret): two accounts with equal identity are a mistake."""


# -- shared defaults ------------------------------------------------------------------------------


def decode(kind: type[T], data: bytes | str) -> T:
    """Decode JSON into ``kind``. Raises BadFrame, and nothing else, on any input."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadFrame(f"{error}") from error


Whole = Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)]
"""A whole number from a peer: what JSON holds exactly (RFC 8259, section 6).

Python's own has no bounds, and one beyond these fits neither a float nor the journal: a message
with such a date or size could be taken neither in nor off the platform's hands.
"""


_LOCAL_ERRNO = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ENOMEM}
)

_LOST_ERRNO = frozenset({errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED, errno.ESHUTDOWN})


def cause_of(error: BaseException) -> Cause:
    """The cause of any error no adapter has classified. Never guesses that a person must act."""
    match error:
        case AdapterError():
            return error.cause
        case StoreError():
            return Cause(Kind.LOCAL, error.code, str(error), error.hint)
        case asyncio.CancelledError():
            return Cause(Kind.LOST, "cancelled", "the connection's task was cancelled")
        case TimeoutError():
            return Cause(Kind.TIMEOUT, "timeout", str(error) or "no answer in time")
        case ssl.SSLError():
            return Cause(Kind.UNREACHABLE, "tls", f"TLS failed: {error}")
        case socket.gaierror():
            return Cause(Kind.UNREACHABLE, "dns", f"name resolution failed: {error}")
        case OSError() if error.errno in _LOCAL_ERRNO:
            return Cause(Kind.LOCAL, "local_" + errno.errorcode[error.errno].lower(), str(error))
        case OSError() if error.errno in _LOST_ERRNO:
            return Cause(Kind.LOST, "reset", f"connection lost: {error}")
        case OSError():
            return Cause(Kind.UNREACHABLE, "unreachable", str(error) or type(error).__name__)
        case _:
            return Cause(Kind.UNKNOWN, "unknown", f"{type(error).__name__}: {error}")


def http_cause(reply: HttpReply, label: str) -> Cause:
    """The cause of an HTTP answer that no adapter has a better word for.

    429 waits, 5xx and HTML pages pass by themselves; anything else is the peer's breach.
    """
    match reply.status:
        case 413:
            return Cause(
                Kind.PROTOCOL,
                f"{label}_http_413",
                f"too large for the platform, or for a proxy before it ({reply.summary})",
                "Send something smaller, or raise the limit of your proxy (nginx: "
                "client_max_body_size); then `holdfast dead retry`.",
            )
        case 429:
            return Cause(
                Kind.THROTTLED,
                f"{label}_rate_limited",
                reply.summary,
                retry_after=reply.retry_after,
            )
        case status if status >= 500:
            return Cause(
                Kind.UNREACHABLE,
                f"{label}_http_{status}",
                reply.summary,
                retry_after=reply.retry_after,
            )
        case status if reply.is_html:
            return Cause(
                Kind.UNREACHABLE,  # who answered is not the platform
                f"{label}_unexpected_html",
                f"a web page (HTTP {status}) where the platform's API was expected",
                "Something between here and the platform answers in its place: a proxy, a login "
                "portal or a firewall.",
            )
        case status:
            return Cause(Kind.PROTOCOL, f"{label}_http_{status}", reply.summary)


def outcome_of(reply: HttpReply) -> Outcome:
    """What a refusal means for the message it carried, where nothing but HTTP says something.

    Only meaningful of an answer that is no success.
    """
    if reply.status >= 500:
        return Outcome.UNKNOWN  # a proxy's 502 may hide a delivered message
    if reply.status == 413:
        return Outcome.REFUSED  # a proxy's limit of size is as good as the platform's
    # Neither a redirection nor a web page is the platform's own word.
    passing = reply.status == 429 or reply.is_html or 300 <= reply.status < 400
    return Outcome.NOT_SENT if passing else Outcome.REFUSED
