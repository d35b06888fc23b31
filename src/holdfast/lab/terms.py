"""The words in which the lab speaks of a play: what a mode may ask of the platform and of the
subject, on whose clock, and what must follow.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Final

NAME: Final = "platform.test"
"""The host name of the platform, for `Mode.host`, where a mode is about names."""

SILENCE: Final = 60.0
"""Seconds for which a dead connection may pass as connected: the promise of the whole project."""

AT_ONCE: Final = 2.0
"""Seconds until an end that the network tells of must be noticed."""

BACK: Final = 6.0
"""Seconds from the healing of a network until the account is connected again, at the worst."""


class Clock(StrEnum):
    """On whose time a mode is played."""

    SIMULATED = "simulated"
    """Holdfast runs in the lab's own process and time jumps when nothing is left to do."""
    REAL = "real"
    """The subject is a process of its own, as its users run it."""


class Ability(Enum):
    """What a mode asks of the subject rather than of the platform."""

    KILL = "be a process that can be killed and started again"
    KILL_POINT = "die at a named point of its code"
    FREEZE = "be a process that can be frozen"
    STALL = "have its event loop blocked"
    SUSPEND = "have its clocks jump as after a suspend"
    AGENT = "answer with the lab's own agent"
    STATUS = "publish the state of an account"
    JOURNAL = "keep a journal"
    RESOLVER = "have its names resolved by the lab"
    LIMITS = "run out of descriptors"
    DISK = "run out of disk"
    CONTROL = "take orders: kick, pause, resume"
    TRUST = "trust an authority of the lab's own"
    PROXY = "be told of a proxy by its settings and its environment"
    LOG = "keep a log that the lab can read"
    ASK = "be asked how it is, from outside"
    TWICE = "run beside a second one of its kind"
    SEVERAL = "look after several accounts in one play"
    SETTINGS = "be given the settings that the mode is about"
    HOURS = "be waited for longer than 180 s: its time is real"


class Play(Enum):
    """What a mode asks of the platform. A play lasts until `Scene.mend`, unless it says once.

    Plays of a login or a message strike the next one; the mode ends the connection, or lets
    somebody speak, by itself.
    """

    ZOMBIE = "deliver no event any more, and go on answering heartbeats and calls"
    NO_ACK = "acknowledge no heartbeat"
    ACK_LATE = "acknowledge the next heartbeat 4 s late, once"
    POLL_HANGS = "accept the poll and never answer it"
    POLL_DRIPS = "answer the poll with a byte every few seconds, without an end"
    POLL_FAILS = "answer every poll with an error"
    HUGE_FRAME = "send a frame far beyond a usual client's limit before the next message"
    GOODBYE = "ask the connection to end, as planned, and end it"
    NOTICE = "announce the end of the connection, deliver nothing any more, end it seconds later"
    EXPIRE = "end the session as on schedule, so that it can be continued"
    STALL_LOGIN = "accept the connection and never finish the login"
    SLOW_LOGIN = "finish the next login some seconds late, once"
    CLOSE_AT_ONCE = "complete every login and end the connection at once"
    ACCEPT_ONLY = "accept every connection and end it before the login is over"
    REFUSE_RESUME = "know nothing of the session or place that the bot wants to continue from"
    RESUME_BROKEN = "end every connection that wants to continue a session; take fresh logins"
    ERROR_ONCE = "answer the next login with a server error, once"
    MALFORMED_ONCE = "answer the next login with something that breaks off, once"
    THROTTLE = "answer logins with a rate limit, telling how long it lasts if it can"
    QUOTA = "have no logins left for the next hours"
    REVOKE = "refuse the credentials from now on, on the live connection too"
    REPAIR = "accept the credentials again"
    FORBID = "refuse the login for good: what is asked for is not allowed"
    REPLACED = "say that another client has taken the account over"
    LINGERING = "hold the bot's own former session for 30 s against the new one"
    LOGGED_OUT = "say that the login itself is dead"
    RESTART_CODE = "end the connection with the code that means: connect again now"
    TOKEN_HANG = "never answer calls for an access token"
    FOREIGN_HOOK = "have a leftover web hook that keeps polls out"
    IDENTITY_FAILS = "fail the next call that tells the bot who it is, once"
    SPLIT = "hand every other event to another client of the account"
    DUPLICATE = "deliver the next messages twice"
    REDELIVER = "deliver the next message again some seconds later although it was acknowledged"
    ACK_LOST = "overlook the next acknowledgement"
    REORDER = "let the next message be overtaken by the one after it, once"
    BAD_FRAME = "send something that can not be understood before the next message, once"
    HISTORY = "hand out old messages as if they were new, at the next login"
    LOSE_SEND_ANSWER = "take the bot's next message and cut the connection instead of answering"
    SEND_THROTTLED = "refuse the bot's next message as too frequent, once"
    SKEWED = "judge signatures and dates by a clock that is an hour off"
    DOWN = "stop its server, until a step starts it again"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """What must follow, beside the laws that hold in every mode (see `holdfast.lab.judge`)."""

    detect: float | None = None
    """Seconds from a fault until the status says otherwise than connected; None: it need not."""
    silence: float | None = None
    """Seconds for which `connected` may be a lie; None: the platform's silence limit."""
    recover: float | None = BACK
    """Seconds from a fault's healing until connected and listening again; None: it need not."""
    ladder: bool = False
    """No probe can see the end of the fault, so the back-off decides when the next attempt is made:
    what the platform's may have come to by then is granted beside ``recover``."""
    undisturbed: bool = False
    """The account stays connected by one and the same connection all the time."""
    kinds: frozenset[str] = frozenset()
    """Causes one of which the status must name between notice and recovery; empty: any."""
    opens: tuple[int, float] = (10, 60.0)
    """Attempts at most, in any window of so many seconds."""
    gap: bool = False
    """Messages may fall into a reported gap even where the platform replays: it has refused to."""
    doubles: bool = False
    """It is hidden from the bot whether the platform took a message: a marked double is an answer,
    but for where the platform recognises what is sent again (`Profile.idempotent`)."""
