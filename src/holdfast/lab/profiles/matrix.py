"""What Matrix can play."""

from __future__ import annotations

from holdfast.lab.injection import arm
from holdfast.lab.profile import ASKED, Profile, Throttle
from holdfast.lab.simulators.matrix import MatrixSimulator
from holdfast.lab.simulators.matrix_rooms import mxid
from holdfast.lab.terms import Play

POLL = "a /sync is a request of its own: there is no connection that could be told anything"
STREAM = "the stream holds an event once, and the place in it is stored with the message"
SHARED = "one token may be used by any number of clients at once, and each gets everything"


def restore(matrix: MatrixSimulator) -> None:
    """The account's token is good again."""
    matrix.restore()


def rename(matrix: MatrixSimulator, number: int) -> None:
    """Another user, with a token of his own."""
    matrix.user_id = mxid(f"bot{number}")
    matrix.restore()


PROFILE = Profile(
    platform="matrix",
    replays=True,
    idempotent=1_800.0,
    # Each /sync that arrives has found a way.
    links=lambda matrix: int(matrix.count("sync")),
    mend=restore,
    rename=rename,
    logins_throttled=Throttle(
        arm("rate_limited", retry_after_ms=int(ASKED * 1_000)), "rate_limited"
    ),
    sends_throttled=Throttle(
        arm("send_429", retry_after_ms=int(ASKED * 1_000)), "send_429", granted="heard"
    ),
    plays={
        Play.POLL_HANGS: "sync_hangs",
        Play.POLL_DRIPS: "sync_drips",
        Play.POLL_FAILS: "http_502",
        Play.STALL_LOGIN: "sync_hangs",
        Play.SLOW_LOGIN: arm("sync_slow", times=1),
        Play.ACCEPT_ONLY: "close_before_answer",
        Play.REFUSE_RESUME: arm("bad_since", times=1),
        Play.ERROR_ONCE: arm("http_502", times=1),
        Play.MALFORMED_ONCE: arm("malformed_json", times=1),
        Play.THROTTLE: arm("rate_limited", retry_after_ms=30_000),
        Play.REVOKE: MatrixSimulator.revoke,
        Play.REPAIR: restore,
        Play.FORBID: "user_locked",
        Play.LOGGED_OUT: "unknown_token",
        Play.IDENTITY_FAILS: arm("http_502", times=1),
        Play.BAD_FRAME: arm("malformed_json", times=1),
        Play.HISTORY: arm("replay_history", times=1),
        Play.LOSE_SEND_ANSWER: arm("send_answer_lost", times=1),
        Play.SEND_THROTTLED: arm("send_429", times=1),
        Play.DOWN: MatrixSimulator.stop,
    },
    lacks={
        **dict.fromkeys((Play.GOODBYE, Play.NOTICE, Play.RESTART_CODE), POLL),
        **dict.fromkeys((Play.NO_ACK, Play.ACK_LATE), "a /sync is answered or not: nothing beats"),
        **dict.fromkeys((Play.DUPLICATE, Play.REDELIVER, Play.ACK_LOST, Play.REORDER), STREAM),
        **dict.fromkeys((Play.REPLACED, Play.LINGERING, Play.SPLIT), SHARED),
        Play.ZOMBIE: "an empty answer to /sync is the server's word that nothing has happened",
        Play.HUGE_FRAME: "an event holds 64 KiB, and how many come at once is the client's choice",
        Play.EXPIRE: "the account's access token has no end of its own",
        Play.CLOSE_AT_ONCE: "a /sync that was answered is complete: what follows is the next one",
        Play.RESUME_BROKEN: "every /sync but the first continues: a server that ends those is down",
        Play.QUOTA: "logins are limited for minutes only (THROTTLE)",
        Play.TOKEN_HANG: "the account's access token is configured and never fetched",
        Play.FOREIGN_HOOK: "a bot has no web hook that would take its events away",
        Play.SKEWED: "nothing is signed or judged by the date",
    },
)
