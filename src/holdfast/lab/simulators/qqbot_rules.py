"""The rules of the QQ bot platform that need no socket: tokens, limits, sessions, signatures.

Nothing here reads a clock; ``now`` is always an argument, in seconds of the simulator's loop.
Numbers come from the official documentation unless a comment names another source.
"""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

FAULTS: Mapping[str, str] = {
    # token
    "token_error": "the token call answers 200 with `code` (100016) instead of a token",
    "token_500": "the token call answers HTTP 500",
    "token_hang": "the token call is never answered",
    "expires_in_number": "`expires_in` is a number, as documented, instead of the usual string",
    # any API call
    "api_500": "an API call answers HTTP 500 with a JSON error",
    "api_malformed": "an API call answers HTTP 200 with JSON that is cut off",
    "api_html": "an API call answers HTTP `status` (502) with a page of HTML",
    "api_401": "an API call answers HTTP 401 with `code` (11244)",
    # gateway call
    "gateway_401": "/gateway and /gateway/bot answer HTTP 401 with `code` (11244)",
    "gateway_429": "/gateway and /gateway/bot answer HTTP 429",
    "no_sessions_left": "no Identify is left until `reset_after` (86400) seconds have passed",
    # opening
    "no_hello": "the socket is accepted and stays silent",
    "slow_hello": "Hello comes `delay` (8) seconds late",
    "no_ready": "Identify and Resume are not answered",
    "close_after_accept": "the socket is closed with `code` (4900) before Hello",
    "close_after_identify": "Identify is answered by close `code` (4900), with `ready` after READY",
    "close_on_resume": "Resume is answered by close `code` (4009)",
    "invalid_session": "Identify or Resume gets op 9: `resumable` (False), `close` (True)",
    "refuse_resume": "Resume forgets the session: `op9` (True), then close `code` (4006; 0: none)",
    "unauthorized_intents": "Identify with one of `bits` (any) gets op 9 and close `code` (4014)",
    # while connected
    "no_ack": "heartbeats are not acknowledged",
    "ack_once_late": "a heartbeat is acknowledged after `delay` (5) seconds",
    "server_beat": "the server sends op 1 right after READY or RESUMED",
    "close_when_live": "the socket is closed with `code` (4900) right after READY or RESUMED",
    "mute": "an event is withheld; armed without end the link is a zombie that still acks beats",
    "half_open": "after READY or RESUMED the link falls silent both ways, TCP stays",
    # events
    "dup_event": "an event is pushed twice, the second time with a new s",
    "dup_after_resume": "a resume replays one event that the bot already has, with a new s",
    "unknown_event": "a dispatch of an unknown type precedes the event",
    "bad_frame": "the frame `raw` (not JSON) precedes the event",
    "huge_frame": "a dispatch of `size` (5000000) bytes precedes the event",
    "out_of_order": "an event is overtaken: sent `delay` (0.5) seconds late with its own s",
    "webhook_forged": "a callback with a false signature precedes the event",
    # sending
    "send_error": "a send is refused with `code` (50055001) and HTTP `status` (400)",
    "send_22009": "a send is refused as too frequent",
    "send_202_pending": "a send is delivered and answered 202 with code 304023, waiting for audit",
    "send_slow_but_delivered": "a send is delivered, the answer comes after `delay` (8) seconds",
    "send_answer_lost": "a send is delivered, then the connection is reset instead of an answer",
    "send_swallowed": "a send is answered 200 and delivered to nobody",
    "url_refused": "a text with a URL is refused with 304003",
    "too_long": "a text longer than `limit` (0) is refused with 40054007",
    "markdown_refused": "a markdown message is refused with 50056",
    "media_failed": "a media upload is refused with 304082",
}


class Op(IntEnum):
    """Operation codes of gateway frames and callbacks."""

    DISPATCH = 0
    HEARTBEAT = 1
    IDENTIFY = 2
    RESUME = 6
    RECONNECT = 7
    INVALID_SESSION = 9
    HELLO = 10
    HEARTBEAT_ACK = 11
    CALLBACK_ACK = 12
    CALLBACK_CHECK = 13


class Close(IntEnum):
    """Close codes; 4003 to 4005 are known from the official Go SDK only."""

    INVALID_OPCODE = 4001
    INVALID_PAYLOAD = 4002
    NOT_AUTHENTICATED = 4003
    AUTHENTICATION_FAILED = 4004
    ALREADY_AUTHENTICATED = 4005
    INVALID_SESSION = 4006
    WRONG_SEQ = 4007
    TOO_FAST = 4008
    EXPIRED = 4009
    INVALID_SHARD = 4010
    TOO_MANY_GUILDS = 4011
    INVALID_VERSION = 4012
    INVALID_INTENT = 4013
    INTENT_NOT_AUTHORIZED = 4014
    INTERNAL = 4900
    CREATE_SESSION = 4903
    OFFLINE = 4914
    BANNED = 4915


class Intent(IntFlag):
    """Groups of events a bot may ask for in Identify."""

    GUILDS = 1 << 0
    GUILD_MEMBERS = 1 << 1
    GUILD_MESSAGES = 1 << 9
    GUILD_MESSAGE_REACTIONS = 1 << 10
    DIRECT_MESSAGE = 1 << 12
    OPEN_FORUM = 1 << 18
    AUDIO_OR_LIVE_CHANNEL_MEMBER = 1 << 19
    ENTER_AIO = 1 << 23
    GROUP_MEMBER = 1 << 24
    GROUP_AND_C2C = 1 << 25
    INTERACTION = 1 << 26
    MESSAGE_AUDIT = 1 << 27
    FORUMS = 1 << 28
    AUDIO_ACTION = 1 << 29
    PUBLIC_GUILD_MESSAGES = 1 << 30


KNOWN_INTENTS = sum(Intent)
PRIVATE_DOMAIN = Intent.GUILD_MESSAGES | Intent.FORUMS
"""Rights that only bots of the private domain get."""


class Refusal(Exception):
    """An API call is refused: an HTTP status and the platform's code and message."""

    def __init__(self, code: int, message: str, *, status: int = 400) -> None:
        super().__init__(f"{code} {message}")
        self.code, self.message, self.status = code, message, status

    def body(self, trace: str) -> dict[str, Any]:
        """The error body; ``code`` and ``err_code`` agree."""
        return {
            "message": self.message,
            "code": self.code,
            "err_code": self.code,
            "trace_id": trace,
        }


def wrong_request(message: str) -> Refusal:
    """A request that can never succeed; 12002 is one of several codes for it."""
    return Refusal(12002, message)


# -- access tokens ----------------------------------------------------------------------------


TOKEN_OVERLAP = 60.0
"""Seconds before expiry from which a new token is issued while the old one stays valid."""


class TokenBook:
    """Access tokens of one bot. ``lifetime`` is in seconds and may be changed between calls."""

    def __init__(self, lifetime: float = 7200.0) -> None:
        self.lifetime = lifetime
        self._expiry: dict[str, float] = {}
        self._current: str | None = None

    def issue(self, now: float) -> tuple[str, int]:
        """The current token and its whole seconds left; a new one in the last minute only."""
        left = self._expiry[self._current] - now if self._current else 0.0
        if self._current is None or left <= TOKEN_OVERLAP:
            self._current = uuid.uuid4().hex
            left = self.lifetime
            self._expiry[self._current] = now + left
        return self._current, int(left)

    def expire(self) -> None:
        """Every token issued so far is expired from now on."""
        self._expiry = dict.fromkeys(self._expiry, float("-inf"))
        self._current = None

    def check(self, token: str, now: float) -> None:
        """Raise the 401 refusal that a missing, wrong or expired token gets."""
        if not token:
            raise Refusal(11241, "header 缺少 token", status=401)
        if token not in self._expiry:
            raise Refusal(11243, "token 校验不通过", status=401)
        if now >= self._expiry[token]:
            raise Refusal(11244, "token not exist or expire", status=401)


def bare_token(credentials: object) -> str:
    """The token of ``QQBot <token>``; the Go SDK leaves the scheme out in Resume."""
    return credentials.removeprefix("QQBot ").strip() if isinstance(credentials, str) else ""


# -- limits -----------------------------------------------------------------------------------


class Bucket:
    """A token bucket: ``burst`` at once, ``per_second`` afterwards."""

    def __init__(self, burst: float, per_second: float) -> None:
        self.burst, self.per_second = burst, per_second
        self._level, self._at = burst, 0.0

    def take(self, now: float) -> bool:
        """Use up one unit; False when none is left."""
        self._level = min(self.burst, self._level + (now - self._at) * self.per_second)
        self._at = now
        if self._level < 1:
            return False
        self._level -= 1
        return True


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

    def spend(self, now: float) -> Close | None:
        """Count one Identify. The close code it deserves, or None when it is allowed."""
        while self._recent and now - self._recent[0] >= self.SPACING - self.TOLERANCE:
            self._recent.popleft()
        if len(self._recent) >= self.max_concurrency:
            return Close.TOO_FAST
        if self.state(now)["remaining"] == 0:
            return Close.CREATE_SESSION
        self._recent.append(now)
        self._used += 1
        return None


# -- sessions ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened on the platform, before a session numbers it."""

    id: str
    """``d.id`` where it has one, which is what a bot de-duplicates by."""
    type: str
    intent: Intent
    data: Mapping[str, Any]
    envelope: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def dispatch_id(self) -> str:
        """``id`` of the frame, which answers to events other than messages name."""
        return f"{self.type}:{self.envelope}"

    def frame(self, origin: str, s: int | None = None) -> dict[str, Any]:
        """The dispatch frame; without ``s`` it is the body of a callback.

        ``origin`` is the address by which the bot reaches the platform: addresses of attachments
        are paths until they are put behind it.
        """
        data = dict(self.data)
        if files := data.get("attachments"):
            data["attachments"] = [file | {"url": origin + file["url"]} for file in files]
        head = {"id": self.dispatch_id, "op": int(Op.DISPATCH)}
        return head | ({} if s is None else {"s": s}) | {"t": self.type, "d": data}


class Session:
    """The numbered events of one gateway session, kept so that Resume can replay them."""

    MEMORY = 2000
    """Events kept for replay; the platform's own number is not documented."""

    def __init__(self, intents: int, shard: tuple[int, int]) -> None:
        self.id = str(uuid.uuid4())
        self.intents, self.shard = intents, shard
        self.s = 0
        self.confirmed = 0
        self.waiting: deque[Event] = deque()
        """Events that no socket was given yet."""
        self._sent: deque[tuple[int, Event]] = deque(maxlen=self.MEMORY)

    def next(self) -> int:
        """The next number."""
        self.s += 1
        return self.s

    def number(self, event: Event, origin: str) -> dict[str, Any]:
        """The frame of an event with the next number; it is remembered as sent."""
        frame = event.frame(origin, self.next())
        self._sent.append((self.s, event))
        return frame

    def confirm(self, s: object) -> None:
        """The bot named its last ``s`` in a heartbeat or Resume."""
        if isinstance(s, int) and s <= self.s:
            self.confirmed = max(self.confirmed, s)

    def replay(self, after: int, origin: str, *, again: bool = False) -> list[dict[str, Any]]:
        """Frames a Resume from ``after`` gets: those sent since, then those that waited.

        ``again`` adds one event that the bot has already, under a new number.
        """
        frames = [event.frame(origin, s) for s, event in self._sent if s > after]
        known = [event for s, event in self._sent if s <= after]
        if again and known:
            frames.append(known[-1].frame(origin, self.next()))
        while self.waiting:
            frames.append(self.number(self.waiting.popleft(), origin))
        return frames

    def envelopes(self) -> set[str]:
        """The events this session can still deliver or has delivered, by envelope."""
        return {event.envelope for _, event in self._sent} | {e.envelope for e in self.waiting}

    def unproven(self) -> list[Event]:
        """Events given to a socket of which the bot never showed that it has them."""
        return [event for s, event in self._sent if s > self.confirmed]


def read_intents(value: object, allowed: int) -> Close | int:
    """The intents of an Identify, or the close code they deserve."""
    if not isinstance(value, int) or value <= 0 or value & ~KNOWN_INTENTS:
        return Close.INVALID_INTENT
    return Close.INTENT_NOT_AUTHORIZED if value & ~allowed else value


def read_shard(value: object) -> tuple[int, int] | None:
    """The ``[index, count]`` of an Identify, one shard when absent; None when it is wrong."""
    match value:
        case None:
            return 0, 1
        case [int(index), int(total)] if 0 <= index < total:
            return index, total
        case _:
            return None


# -- callback signatures ----------------------------------------------------------------------


def signing_key(secret: str) -> Ed25519PrivateKey:
    """The bot's Ed25519 key: its secret, repeated and cut to 32 bytes, is the seed.

    Raises ValueError for an empty secret.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not secret:
        raise ValueError("the bot secret is empty")
    raw = secret.encode()
    return Ed25519PrivateKey.from_private_bytes((raw * (32 // len(raw) + 1))[:32])


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """Hexadecimal signature over timestamp and body."""
    return signing_key(secret).sign(timestamp.encode() + body).hex()


def callback_headers(app_id: str, secret: str, timestamp: str, body: bytes) -> dict[str, str]:
    """The headers of a signed callback."""
    return {
        "Content-Type": "application/json",
        "User-Agent": "QQBot-Callback",
        "X-Bot-Appid": app_id,
        "X-Signature-Ed25519": signature(secret, timestamp, body),
        "X-Signature-Timestamp": timestamp,
    }
