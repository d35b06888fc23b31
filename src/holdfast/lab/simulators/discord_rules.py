"""The vocabulary of the simulated Discord: faults, codes, limits, sessions. Nothing here does I/O.

Rules follow the official documentation of Gateway v10 and REST v10 (discord-api-docs, summer 2026).
"""

from __future__ import annotations

import secrets
import zlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import Any

Json = dict[str, Any]

FAULTS: Mapping[str, str] = {
    # any REST call
    "api_500": "a call answers HTTP `status` (500) with a JSON error",
    "api_html": "a call answers HTTP `status` (502) with a page of HTML",
    "api_200_html": "a call answers 200 with the HTML page of a captive portal",
    "api_malformed": "a call answers 200 with JSON that is cut off",
    "api_401": "a call answers HTTP 401, as after a token reset",
    "api_429": "a call answers 429: `retry_after` (1.0), `global` (False), `scope` ('user')",
    "api_429_bare": "a call answers 429 in JSON that names no time, neither body nor header",
    "cloudflare_ban": "a call answers 429 with HTML and without `Via`: banned at the edge",
    "api_slow": "a call is answered after `delay` (8) seconds, and done only then",
    "api_hang": "a call is never answered",
    # opening
    "no_sessions_left": "no Identify is left until `reset_after` (14400) seconds have passed",
    "upgrade_refused": "the socket's upgrade is answered with HTTP `status` (503)",
    "no_hello": "the socket is accepted and stays silent",
    "slow_hello": "Hello comes `delay` (8) seconds late",
    "no_ready": "Identify and Resume are not answered",
    "close_after_accept": "the socket is closed with `code` (4000) before Hello",
    "close_after_identify": "Identify is answered by close `code` (4000), with `ready` after READY",
    "close_on_resume": "Resume is answered by close `code` (4009); the session stays",
    "abort_on_resume": "Resume is answered by a reset (1006); the session stays",
    "invalid_session": "Identify or Resume gets op 9 with `resumable` (False)",
    "refuse_resume": "Resume forgets the session and gets op 9 false",
    "disallowed_intents": "Identify is closed with 4014, as if its intents were switched off",
    "huge_ready": "READY carries `size` (5000000) bytes more, beyond a client's usual limit",
    # while connected
    "no_ack": "a heartbeat is not acknowledged",
    "ack_late": "a heartbeat is acknowledged after `delay` (5) seconds",
    "server_beat": "the server sends op 1 right after READY or RESUMED",
    "close_when_live": "the socket is closed with `code` (4000) right after READY or RESUMED",
    "goodbye": "op 7 follows READY or RESUMED; with `code` the socket is closed behind it",
    "mute": "an event is withheld; armed without end the link is a zombie that still acks beats",
    "half_open": "after READY or RESUMED the link falls silent both ways, TCP stays",
    # events
    "drop_on_event": "the socket is reset instead of carrying the event, which waits for a Resume",
    "close_on_event": "the socket is closed with `code` (4000) instead of carrying the event",
    "split_frame": "an event's frame comes in `pieces` (3) WebSocket fragments or zlib chunks",
    "dup_event": "an event is dispatched twice, the second time with a new s",
    "dup_after_resume": "a Resume replays one event more, which the bot already has",
    "unknown_event": "a dispatch of an unknown type precedes the event",
    "unknown_op": "a frame with op 99 precedes the event",
    "bad_frame": "the frame `raw` (not JSON) precedes the event",
    "huge_frame": "a dispatch of `size` (5000000) bytes precedes the event",
    "out_of_order": "an event is overtaken: sent `delay` (0.5) seconds late with its own s",
    "link_unfurl": "a MESSAGE_UPDATE without edited_timestamp follows a message",
    # sends and edits
    "send_error": "a send is refused with `code` (50013) and HTTP `status` (403)",
    "send_429": "a send gets 429: `retry_after` (1.0), `global` (False), `scope` ('user')",
    "send_slow": "a send is delivered, the answer comes after `delay` (8) seconds",
    "send_answer_lost": "a send is delivered, then the connection is reset instead of an answer",
    "send_swallowed": "a send is answered 200 and delivered to nobody",
}


class Op(IntEnum):
    """Operation codes of gateway frames."""

    DISPATCH = 0
    HEARTBEAT = 1
    IDENTIFY = 2
    PRESENCE = 3
    VOICE_STATE = 4
    RESUME = 6
    RECONNECT = 7
    REQUEST_MEMBERS = 8
    INVALID_SESSION = 9
    HELLO = 10
    HEARTBEAT_ACK = 11
    SOUNDBOARD = 31
    CHANNEL_INFO = 43


class Close(IntEnum):
    """Close codes of the gateway."""

    NORMAL = 1000
    GOING_AWAY = 1001
    UNKNOWN = 4000
    UNKNOWN_OPCODE = 4001
    DECODE_ERROR = 4002
    NOT_AUTHENTICATED = 4003
    AUTHENTICATION_FAILED = 4004
    ALREADY_AUTHENTICATED = 4005
    INVALID_SEQ = 4007
    RATE_LIMITED = 4008
    SESSION_TIMED_OUT = 4009
    INVALID_SHARD = 4010
    SHARDING_REQUIRED = 4011
    INVALID_VERSION = 4012
    INVALID_INTENTS = 4013
    DISALLOWED_INTENTS = 4014


ENDS_SESSION = (Close.NORMAL, Close.GOING_AWAY)
"""A client that closes with one of these gives up its session."""


class Intent(IntFlag):
    """Groups of events, as far as the simulator has events of them."""

    GUILDS = 1 << 0
    GUILD_MEMBERS = 1 << 1
    PRESENCES = 1 << 8
    GUILD_MESSAGES = 1 << 9
    DIRECT_MESSAGES = 1 << 12
    MESSAGE_CONTENT = 1 << 15


KNOWN_INTENTS = (1 << 17) - 1 | 0b11 << 20 | 0b11 << 24
"""Bits 0-16, 20, 21, 24 and 25 have a meaning."""
PRIVILEGED = Intent.GUILD_MEMBERS | Intent.PRESENCES | Intent.MESSAGE_CONTENT
CONTENT_FLAG = 1 << 19
"""GATEWAY_MESSAGE_CONTENT_LIMITED: MESSAGE_CONTENT is switched on, for a bot in few servers."""
MAX_FRAME = 4096
"""Bytes of a frame that a client may send; more is closed with 4002."""
FRAMES_PER_MINUTE = 120
NONCE_MEMORY = 300.0
"""Seconds that ``enforce_nonce`` looks back; the documentation says "the past few minutes"."""
MAX_NONCE = 25
MAX_CONTENT = 2000
MAX_UPLOAD = 10 * 2**20
ATTACHMENT_LIFE = 86_400.0
"""Seconds that the signed address of an attachment stays valid."""


class Refusal(Exception):
    """A REST call is refused: HTTP status, Discord's JSON error code, and its message."""

    def __init__(
        self,
        code: int,
        message: str,
        *,
        status: int = 400,
        headers: Mapping[str, str] = {},
        **more: Any,
    ) -> None:
        super().__init__(f"{code} {message}")
        self.code, self.status, self.headers = code, status, dict(headers)
        self.body: Json = {"message": message, "code": code} | more


def unauthorized() -> Refusal:
    """The answer to a missing or wrong token."""
    return Refusal(0, "401: Unauthorized", status=401)


def unknown(code: int, what: str) -> Refusal:
    """One of the 100xx errors: the thing does not exist."""
    return Refusal(code, f"Unknown {what}", status=404)


def invalid_form(field_name: str, message: str) -> Refusal:
    """Error 50035 about one field of a body."""
    detail = {field_name: {"_errors": [{"code": "INVALID", "message": message}]}}
    return Refusal(50035, "Invalid Form Body", errors=detail)


def throttled(retry_after: float, *, everywhere: bool = False, scope: str = "user") -> Refusal:
    """A 429 of the API itself; `Via` tells it from a ban at the edge."""
    headers = {
        "Via": "1.1 google",
        "Retry-After": str(max(1, round(retry_after))),
        "X-RateLimit-Scope": "global" if everywhere else scope,
    }
    if everywhere:
        headers["X-RateLimit-Global"] = "true"
    refusal = Refusal(0, "", status=429, headers=headers)
    text = "You are being rate limited."
    refusal.body = {"message": text, "retry_after": retry_after, "global": everywhere}
    return refusal


# -- limits -----------------------------------------------------------------------------------


class Window:
    """``limit`` calls in each ``period`` of seconds; a period begins with its first call."""

    def __init__(self, limit: int, period: float) -> None:
        self.limit, self.period = limit, period
        self._used, self._ends = 0, 0.0

    def take(self, now: float) -> bool:
        """Use up one call; False when none is left."""
        if now >= self._ends:
            self._used, self._ends = 0, now + self.period
        self._used += 1
        return self._used <= self.limit

    def left(self, now: float) -> float:
        """Seconds until the period ends."""
        return max(0.0, self._ends - now)

    def headers(self, now: float, wall: float, bucket: str) -> dict[str, str]:
        """The rate limit headers of an answer; ``wall`` is the Unix time."""
        return {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(max(0, self.limit - self._used)),
            "X-RateLimit-Reset": f"{wall + self.left(now):.3f}",
            "X-RateLimit-Reset-After": f"{self.left(now):.3f}",
            "X-RateLimit-Bucket": f"{zlib.crc32(bucket.encode()):08x}",
        }


class StartLimit:
    """``session_start_limit``: Identify calls per day, and per five seconds."""

    DAY = 86_400.0
    SPACING = 5.0
    TOLERANCE = 0.05
    """Seconds a client's timer may be early without being punished."""

    def __init__(self, total: int = 1000, max_concurrency: int = 1) -> None:
        self.total, self.max_concurrency = total, max_concurrency
        self._used, self._reset_at = 0, 0.0
        self._recent: deque[float] = deque()

    def exhaust(self, now: float, reset_after: float) -> None:
        """Nothing is left until ``reset_after`` seconds have passed."""
        self._used, self._reset_at = self.total, now + reset_after

    def state(self, now: float) -> dict[str, int]:
        """The object that /gateway/bot shows; ``reset_after`` in milliseconds."""
        if now >= self._reset_at:
            self._used, self._reset_at = 0, now + self.DAY
        return {
            "total": self.total,
            "remaining": max(0, self.total - self._used),
            "reset_after": int((self._reset_at - now) * 1000),
            "max_concurrency": self.max_concurrency,
        }

    def too_soon(self, now: float) -> bool:
        """Whether the five seconds already have as many Identify calls as they may."""
        while self._recent and now - self._recent[0] >= self.SPACING - self.TOLERANCE:
            self._recent.popleft()
        return len(self._recent) >= self.max_concurrency

    def spend(self, now: float) -> bool:
        """Count one Identify; False when none was left."""
        if self.state(now)["remaining"] == 0:
            return False
        self._recent.append(now)
        self._used += 1
        return True


# -- sessions ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Event:
    """Something that happened on the platform, before a session numbers it."""

    type: str
    intent: Intent
    data: Json
    id: str | None = None
    """The message's id when a user did it: such events are what the truth log is about."""
    guild: int | None = None

    def concerns(self, session: Session) -> bool:
        """Whether the session's intents and shard let the event in."""
        index, total = session.shard
        home = 0 if self.guild is None else (self.guild >> 22) % total
        return bool(session.intents & self.intent) and home == index


@dataclass(slots=True)
class Entry:
    """An event with the number it has in one session."""

    s: int
    event: Event
    given: bool = False
    """Whether it was written to a socket."""


@dataclass(eq=False)
class Session:
    """The numbered events of one gateway session, kept so that Resume can replay them.

    An event is numbered when it occurs, whether or not a socket is there to carry it.
    """

    intents: int
    shard: tuple[int, int]
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    s: int = 0
    confirmed: int = 0
    entries: deque[Entry] = field(default_factory=deque)

    MEMORY = 2000
    """Events kept for replay; Discord's own number is not documented."""

    def next(self) -> int:
        """The next number, for a frame that is not replayed."""
        self.s += 1
        return self.s

    def record(self, event: Event) -> Entry:
        """Number an event and keep it."""
        self.entries.append(Entry(self.next(), event))
        if len(self.entries) > self.MEMORY:
            self.entries.popleft()
        return self.entries[-1]

    def confirm(self, s: object) -> list[Event]:
        """The bot named its last ``s`` in a heartbeat or Resume: the events that this proves."""
        if not isinstance(s, int) or not self.confirmed < s <= self.s:
            return []
        before, self.confirmed = self.confirmed, s
        return [e.event for e in self.entries if before < e.s <= s and e.given]

    def replay(self, after: int, *, again: bool = False) -> list[Entry]:
        """What a Resume from ``after`` gets; ``again`` adds the last entry the bot already has."""
        known = [entry for entry in self.entries if entry.s <= after]
        return (known[-1:] if again else []) + [e for e in self.entries if e.s > after]

    def unproven(self) -> list[Entry]:
        """Entries of which the bot never showed that it has them."""
        return [e for e in self.entries if e.s > self.confirmed or not e.given]


def read_intents(value: object, allowed: int) -> Close | int:
    """The intents of an Identify, or the close code they deserve."""
    if not isinstance(value, int) or value < 0 or value & ~KNOWN_INTENTS:
        return Close.INVALID_INTENTS
    return Close.DISALLOWED_INTENTS if value & PRIVILEGED & ~allowed else value


def read_shard(value: object) -> tuple[int, int] | None:
    """The ``[index, count]`` of an Identify, one shard when absent; None when it is wrong."""
    match value:
        case None:
            return 0, 1
        case [int(index), int(total)] if 0 <= index < total:
            return index, total
        case _:
            return None
