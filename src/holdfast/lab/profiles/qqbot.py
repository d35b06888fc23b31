"""What QQ can play."""

from __future__ import annotations

from functools import partial

from holdfast.lab.injection import arm
from holdfast.lab.profile import Profile, Throttle, sessions
from holdfast.lab.simulators.qqbot import QQBotSimulator
from holdfast.lab.terms import Play

SOCKET = "events come over a socket: nothing is polled"
NO_HISTORY = (
    "it happens, and can not be noticed: there is no history a bot may read, so nothing tells a "
    "platform that delivers nothing from people who say nothing. QQ ends each connection about "
    "every 30 minutes, but the next one continues the same session; the status tells the age of "
    "the last message, and the platform's page says what to do"
)
SIDE_BY_SIDE = "any number of sessions live side by side, each gets all events, and none is named"
NO_ACKS = "an event is not acknowledged: its number is, by the next heartbeat, and resumes tell it"
HOURS = 7_200.0
"""Seconds until logins are counted anew, for `Play.QUOTA`."""


def end_logins(qq: QQBotSimulator, code: int) -> None:
    """Resume and Identify are both answered by this close code."""
    qq.faults.arm("close_on_resume", times=None, code=code)
    qq.faults.arm("close_after_identify", times=None, code=code)


def end_live(qq: QQBotSimulator) -> None:
    """Whatever a login was, the socket is closed right after it."""
    qq.faults.arm("close_when_live", times=None)


def repair(qq: QQBotSimulator) -> None:
    """The secret is good again."""
    qq.set_secret(qq.secret)


def rename(qq: QQBotSimulator, number: int) -> None:
    """Another bot has another AppID."""
    qq.app_id = str(int(qq.app_id) + number)


PROFILE = Profile(
    platform="qqbot",
    excused={"logical-zombie": NO_HISTORY},
    first_wait=2.0,
    kept=sessions,
    beat=41.25,
    mend=repair,
    rename=rename,
    logins_throttled=Throttle(partial(end_logins, code=4008), "close_on_resume", wait=60.0),
    sends_throttled=Throttle(arm("send_22009"), "send_22009", wait=None, granted="heard"),
    plays={
        Play.ZOMBIE: "mute",
        Play.NO_ACK: "no_ack",
        Play.ACK_LATE: arm("ack_once_late", times=1, delay=4.0),
        Play.HUGE_FRAME: arm("huge_frame", times=1),
        Play.GOODBYE: QQBotSimulator.goodbye,
        Play.NOTICE: partial(QQBotSimulator.goodbye, silence=10.0),
        Play.EXPIRE: partial(QQBotSimulator.close_all, code=4009),
        Play.STALL_LOGIN: "no_ready",
        Play.SLOW_LOGIN: arm("slow_hello", times=1),
        Play.CLOSE_AT_ONCE: end_live,
        Play.ACCEPT_ONLY: "close_after_accept",
        Play.REFUSE_RESUME: arm("refuse_resume", times=1),
        Play.RESUME_BROKEN: arm("close_on_resume", code=4009),
        Play.ERROR_ONCE: arm("api_500", times=1),
        Play.MALFORMED_ONCE: arm("api_malformed", times=1),
        Play.THROTTLE: partial(end_logins, code=4008),
        Play.QUOTA: arm("no_sessions_left", times=1, reset_after=HOURS),
        Play.REVOKE: QQBotSimulator.revoke,
        Play.REPAIR: repair,
        Play.FORBID: partial(end_logins, code=4014),
        Play.RESTART_CODE: partial(QQBotSimulator.close_all, code=4009),
        Play.TOKEN_HANG: "token_hang",
        Play.DUPLICATE: "dup_event",
        Play.REORDER: arm("out_of_order", times=1, delay=5.0),
        Play.BAD_FRAME: arm("bad_frame", times=1),
        Play.LOSE_SEND_ANSWER: arm("send_answer_lost", times=1),
        Play.SEND_THROTTLED: arm("send_22009", times=1),
        Play.DOWN: QQBotSimulator.stop,
    },
    lacks={
        **dict.fromkeys((Play.POLL_HANGS, Play.POLL_DRIPS, Play.POLL_FAILS), SOCKET),
        **dict.fromkeys((Play.REPLACED, Play.LINGERING, Play.SPLIT), SIDE_BY_SIDE),
        **dict.fromkeys((Play.REDELIVER, Play.ACK_LOST), NO_ACKS),
        Play.LOGGED_OUT: "there is no login beside the credentials (REVOKE)",
        Play.FOREIGN_HOOK: "a bot with a web hook has been set up so by its owner, on a page",
        Play.IDENTITY_FAILS: "READY itself says who the bot is: no login is without it",
        Play.HISTORY: "a new session begins with the moment",
        Play.SKEWED: "only web hooks are signed, and their date is not judged on the socket",
    },
)
