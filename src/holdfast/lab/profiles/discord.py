"""What Discord can play."""

from __future__ import annotations

from base64 import b64encode
from functools import partial

from holdfast.lab.injection import arm
from holdfast.lab.profile import ASKED, Profile, Throttle, sessions
from holdfast.lab.simulators.discord import DiscordSimulator
from holdfast.lab.terms import Play

SOCKET = "events come over a socket: nothing is polled"
SIDE_BY_SIDE = "any number of sessions live side by side, each gets all events, and none is named"
NO_ACKS = "an event is not acknowledged: its number is, by the next heartbeat, and resumes tell it"
HOURS = 7_200.0
"""Seconds until logins are counted anew, for `Play.QUOTA`."""


def end_logins(discord: DiscordSimulator, code: int) -> None:
    """Resume and Identify are both answered by this close code."""
    discord.faults.arm("close_on_resume", times=None, code=code)
    discord.faults.arm("close_after_identify", times=None, code=code)


def throttle_calls(discord: DiscordSimulator) -> None:
    """Nothing is resumed, and the call that precedes a fresh login is refused."""
    discord.faults.arm("close_on_resume", times=None, code=4009)
    discord.faults.arm("api_429", times=None, retry_after=ASKED)


def repair(discord: DiscordSimulator) -> None:
    """The token is good again."""
    discord.set_token(discord.token)


def rename(discord: DiscordSimulator, number: int) -> None:
    """A bot's id is the first part of its token."""
    bot = b64encode(str(111 + number).encode()).decode()
    discord.token = ".".join([bot, *discord.token.split(".")[1:]])


PROFILE = Profile(
    platform="discord",
    idempotent=180.0,
    kept=sessions,
    beat=41.25,
    mend=repair,
    rename=rename,
    logins_throttled=Throttle(throttle_calls, "api_429"),
    sends_throttled=Throttle(arm("send_429", retry_after=ASKED), "send_429", granted="heard"),
    plays={
        Play.ZOMBIE: "mute",
        Play.NO_ACK: "no_ack",
        Play.ACK_LATE: arm("ack_late", times=1, delay=4.0),
        Play.HUGE_FRAME: arm("huge_frame", times=1),
        Play.GOODBYE: partial(DiscordSimulator.goodbye, code=4000),
        Play.NOTICE: partial(DiscordSimulator.goodbye, code=4000, silence=10.0),
        Play.EXPIRE: partial(DiscordSimulator.invalidate, resumable=True),
        Play.STALL_LOGIN: "no_ready",
        Play.SLOW_LOGIN: arm("slow_hello", times=1),
        Play.CLOSE_AT_ONCE: "close_when_live",
        Play.ACCEPT_ONLY: "close_after_accept",
        Play.REFUSE_RESUME: arm("refuse_resume", times=1),
        Play.RESUME_BROKEN: "abort_on_resume",
        Play.ERROR_ONCE: arm("upgrade_refused", times=1),
        Play.MALFORMED_ONCE: arm("api_malformed", times=1),
        Play.THROTTLE: partial(end_logins, code=4008),
        Play.QUOTA: arm("no_sessions_left", times=1, reset_after=HOURS),
        Play.REVOKE: DiscordSimulator.revoke,
        Play.REPAIR: repair,
        Play.FORBID: partial(end_logins, code=4014),
        Play.RESTART_CODE: partial(DiscordSimulator.close_all, code=4000),
        Play.DUPLICATE: "dup_event",
        Play.REORDER: arm("out_of_order", times=1, delay=5.0),
        Play.BAD_FRAME: arm("bad_frame", times=1),
        Play.LOSE_SEND_ANSWER: arm("send_answer_lost", times=1),
        Play.SEND_THROTTLED: arm("send_429", times=1),
        Play.DOWN: DiscordSimulator.stop,
    },
    lacks={
        **dict.fromkeys((Play.POLL_HANGS, Play.POLL_DRIPS, Play.POLL_FAILS), SOCKET),
        **dict.fromkeys((Play.REPLACED, Play.LINGERING, Play.SPLIT), SIDE_BY_SIDE),
        **dict.fromkeys((Play.REDELIVER, Play.ACK_LOST), NO_ACKS),
        Play.LOGGED_OUT: "there is no login beside the token (REVOKE)",
        Play.TOKEN_HANG: "the token is configured and never fetched",
        Play.FOREIGN_HOOK: "web hooks carry other events and keep none from the socket",
        Play.IDENTITY_FAILS: "READY itself says who the bot is: no login is without it",
        Play.HISTORY: "a new session begins with the moment",
        Play.SKEWED: "nothing is signed or judged by the date",
    },
)
