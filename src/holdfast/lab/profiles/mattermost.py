"""What Mattermost can play."""

from __future__ import annotations

import math

from holdfast.lab.injection import arm
from holdfast.lab.profile import ASKED, Profile, Throttle
from holdfast.lab.simulators.mattermost import MattermostSimulator
from holdfast.lab.terms import Play

SOCKET = "events come over a socket: nothing is polled"
CLOSES = "a server never asks a client to reconnect: it announces a shutdown by its close alone"
SHARED = "any number of sockets may be open with one token, and each gets all events"
NUMBERED = "events are numbered, written in order and never again"


def repair(mattermost: MattermostSimulator) -> None:
    """The token is good again."""
    mattermost.set_token(mattermost.token)


def stall(mattermost: MattermostSimulator) -> None:
    """No new stream is greeted, and nobody is told that his old one goes on."""
    mattermost.faults.arm("no_hello", times=None)
    mattermost.faults.arm("no_ack", times=None)


def slow_login(mattermost: MattermostSimulator) -> None:
    """Only a new connection is greeted, and so can be greeted late."""
    mattermost.faults.arm("refuse_resume", times=1)
    mattermost.faults.arm("slow_hello", times=1)


PROFILE = Profile(
    platform="mattermost",
    replays=True,
    idempotent=math.inf,
    beat=30.0,
    mend=repair,
    logins_throttled=Throttle(arm("api_429", retry_after=int(ASKED)), "api_429"),
    sends_throttled=Throttle(arm("send_429", retry_after=int(ASKED)), "send_429", granted="heard"),
    plays={
        Play.ZOMBIE: "mute",
        Play.NO_ACK: "no_ack",
        Play.ACK_LATE: arm("ack_once_late", times=1, delay=4.0),
        Play.HUGE_FRAME: arm("huge_frame", times=1),
        Play.STALL_LOGIN: stall,
        Play.SLOW_LOGIN: slow_login,
        Play.CLOSE_AT_ONCE: "close_when_live",
        Play.ACCEPT_ONLY: "close_after_accept",
        Play.REFUSE_RESUME: arm("refuse_resume", times=1),
        Play.RESUME_BROKEN: "close_on_resume",
        Play.ERROR_ONCE: arm("ws_refused", times=1),
        Play.MALFORMED_ONCE: arm("api_malformed", times=1),
        Play.THROTTLE: arm("api_429", retry_after=30),
        Play.REVOKE: MattermostSimulator.revoke,
        Play.REPAIR: repair,
        Play.FORBID: "api_403",
        Play.LOGGED_OUT: "api_401",
        Play.IDENTITY_FAILS: arm("api_500", times=1),
        Play.DUPLICATE: "dup_event",
        Play.BAD_FRAME: arm("bad_frame", times=1),
        Play.LOSE_SEND_ANSWER: arm("send_answer_lost", times=1),
        Play.SEND_THROTTLED: arm("send_429", times=1),
        Play.DOWN: MattermostSimulator.stop,
    },
    lacks={
        **dict.fromkeys((Play.POLL_HANGS, Play.POLL_DRIPS, Play.POLL_FAILS), SOCKET),
        **dict.fromkeys((Play.GOODBYE, Play.NOTICE, Play.RESTART_CODE), CLOSES),
        **dict.fromkeys((Play.REPLACED, Play.LINGERING, Play.SPLIT), SHARED),
        **dict.fromkeys((Play.REDELIVER, Play.ACK_LOST, Play.REORDER), NUMBERED),
        Play.EXPIRE: "a bot's access token has no session that would end",
        Play.QUOTA: "nobody counts how often a bot logs in",
        Play.TOKEN_HANG: "the token is configured and never fetched",
        Play.FOREIGN_HOOK: "web hooks are integrations of their own and keep no event from sockets",
        Play.HISTORY: "a new connection begins with the moment",
        Play.SKEWED: "nothing is signed or judged by the date",
    },
)
