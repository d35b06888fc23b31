"""What DingTalk can play."""

from __future__ import annotations

from functools import partial

from holdfast.lab.injection import arm
from holdfast.lab.profile import ASKED, Profile, Throttle
from holdfast.lab.simulators.dingtalk import DingTalkSimulator
from holdfast.lab.terms import Play

SOCKET = "messages come over a socket: nothing is polled"
NO_HISTORY = (
    "it happens, and can not be noticed: there is no history a bot may read, so nothing tells a "
    "platform that delivers nothing from people who say nothing. DingTalk's own goodbye, every few "
    "hours, bounds it; the status tells the age of the last message, and the platform's page warns"
)
NO_SESSION = "there is no session: each connection begins with a new ticket and continues nothing"
UNAWARE = "any number of clients may connect with one app's credentials, and none is told of others"
UNTOLD = (
    "it happens, and can not be noticed: each push goes to one of the app's clients at random, no "
    "frame and no call tells of the others, and there is no history to ask for what they took. The "
    "platform's page says to run one client only, and why"
)
ONCE = "a message for a robot is pushed once, whatever becomes of its acknowledgement"


def fall_silent(dingtalk: DingTalkSimulator) -> None:
    """Both heartbeats end: DingTalk's own, and its answers to ours."""
    dingtalk.faults.arm("no_ping", times=None)
    dingtalk.faults.arm("no_pong", times=None)


def pong_late(dingtalk: DingTalkSimulator) -> None:
    """DingTalk's own next pings are left out, so that the bot asks; its ping is answered late."""
    dingtalk.faults.arm("no_ping", times=2)
    dingtalk.faults.arm("pong_late", times=1, delay=4.0)


def withhold_token(dingtalk: DingTalkSimulator) -> None:
    """The next message comes without an address for its answer that is still good, so that the
    answer needs a token."""
    dingtalk.faults.arm("webhook_expired", times=1)
    dingtalk.faults.arm("token_hang", times=None)


def repair(dingtalk: DingTalkSimulator) -> None:
    """The app is enabled again."""
    dingtalk.set_secret(dingtalk.client_secret)


def rename(dingtalk: DingTalkSimulator, number: int) -> None:
    """Another app has another Client ID."""
    dingtalk.client_id += str(number)


PROFILE = Profile(
    platform="dingtalk",
    excused={"logical-zombie": NO_HISTORY, "events-split-two-clients": UNTOLD},
    first_wait=20.0,
    cap=300.0,
    beat=30.0,
    mend=repair,
    rename=rename,
    logins_throttled=Throttle(arm("open_429", retry_after=ASKED), "open_429"),
    sends_throttled=Throttle(arm("send_429", retry_after=ASKED), "send_429", granted="heard"),
    plays={
        Play.ZOMBIE: "mute",
        Play.NO_ACK: fall_silent,
        Play.ACK_LATE: pong_late,
        Play.HUGE_FRAME: arm("big_frame", times=1, size=5_000_000),
        Play.GOODBYE: partial(DingTalkSimulator.goodbye, silence=0.0),
        Play.NOTICE: DingTalkSimulator.goodbye,
        Play.EXPIRE: partial(DingTalkSimulator.goodbye, silence=0.0),
        Play.STALL_LOGIN: "open_hang",
        Play.SLOW_LOGIN: arm("open_slow", times=1),
        Play.CLOSE_AT_ONCE: "close_after_accept",
        Play.ACCEPT_ONLY: "upgrade_rejected",
        Play.ERROR_ONCE: arm("open_503", times=1),
        Play.MALFORMED_ONCE: arm("open_fields_missing", times=1),
        Play.THROTTLE: arm("open_429", retry_after=30),
        Play.REVOKE: DingTalkSimulator.revoke,
        Play.REPAIR: repair,
        Play.FORBID: arm("open_403", code="Forbidden.AccessDenied.AccessTokenPermissionDenied"),
        Play.RESTART_CODE: partial(DingTalkSimulator.close_all, code=1001),
        Play.TOKEN_HANG: withhold_token,
        Play.SPLIT: "split",
        Play.DUPLICATE: "dup_event",
        Play.REORDER: arm("out_of_order", times=1, delay=5.0),
        Play.BAD_FRAME: arm("bad_frame", times=1),
        Play.LOSE_SEND_ANSWER: arm("send_answer_lost", times=1),
        Play.SEND_THROTTLED: arm("webhook_too_fast", times=1),
        Play.DOWN: DingTalkSimulator.stop,
    },
    lacks={
        **dict.fromkeys((Play.POLL_HANGS, Play.POLL_DRIPS, Play.POLL_FAILS), SOCKET),
        **dict.fromkeys((Play.REFUSE_RESUME, Play.RESUME_BROKEN), NO_SESSION),
        **dict.fromkeys((Play.REPLACED, Play.LINGERING), UNAWARE),
        **dict.fromkeys((Play.REDELIVER, Play.ACK_LOST), ONCE),
        Play.QUOTA: "connections are not counted by the day",
        Play.LOGGED_OUT: "there is no login beside the credentials (REVOKE)",
        Play.FOREIGN_HOOK: "how an app gets its messages is its owner's choice, on a page",
        Play.IDENTITY_FAILS: "every message says who its robot is: nobody is asked",
        Play.HISTORY: "what nobody took is gone",
        Play.SKEWED: "nothing on the stream is signed or judged by the date",
    },
)
