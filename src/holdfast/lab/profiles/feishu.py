"""What Feishu (Lark) can play."""

from __future__ import annotations

from holdfast.lab.injection import arm
from holdfast.lab.profile import ASKED, Profile, Throttle
from holdfast.lab.simulators.feishu import FeishuSimulator
from holdfast.lab.terms import Play

SOCKET = "events come over a socket: nothing is polled"
NO_SESSION = "there is no session: an event is pushed until it is acknowledged, over any connection"
UNAWARE = "an app may have 50 connections, and none is told of the others"
UNTOLD = (
    "it happens, and is not noticed while a part of the events comes: each goes to one of the app's"
    " clients at random, no frame and no call tells of the others, and what they acknowledge is "
    "delivered, as far as Feishu is concerned. Only the histories of chats would show what they "
    "took: Holdfast looks into them after four quiet minutes, for what came last (logical-zombie). "
    "The platform's page says to run one client only, and why"
)
CLOSES = "the platform never asks a client to reconnect: every close, of any code, is a loss"


def repair(feishu: FeishuSimulator) -> None:
    """The app is enabled again."""
    feishu.set_secret(feishu.app_secret)


def rename(feishu: FeishuSimulator, number: int) -> None:
    """Another app has another App ID."""
    feishu.app_id += str(number)


PROFILE = Profile(
    platform="feishu",
    replays=True,
    ordered=False,  # what was not acknowledged comes with the next repeat
    idempotent=3_600.0,
    redelivery=60.0,  # hastened, see the cast
    own_redelivery=300.0,  # after 15 s, then after 5 min; no outage of a peer lasts longer
    first_wait=2.0,
    slow_cap=60.0,
    beat=120.0,
    mend=repair,
    rename=rename,
    logins_throttled=Throttle(arm("endpoint_429", reset=ASKED), "endpoint_429"),
    sends_throttled=Throttle(
        arm("send_frequency", code=99991400, status=429, reset=ASKED),
        "send_frequency",
        granted="heard",
    ),
    plays={
        Play.ZOMBIE: "mute",
        Play.NO_ACK: "no_pong",
        Play.ACK_LATE: arm("pong_late", times=1, delay=4.0),
        Play.HUGE_FRAME: arm("big_event", times=1, size=5_000_000),
        Play.STALL_LOGIN: "no_pong",
        Play.SLOW_LOGIN: arm("endpoint_slow", times=1),
        Play.CLOSE_AT_ONCE: "close_when_live",
        Play.ACCEPT_ONLY: "reset_after_accept",
        Play.ERROR_ONCE: arm("endpoint_http", times=1),
        Play.MALFORMED_ONCE: arm("endpoint_garbage", times=1),
        Play.THROTTLE: arm("endpoint_429", reset=30),
        Play.REVOKE: FeishuSimulator.revoke,
        Play.REPAIR: repair,
        Play.FORBID: "endpoint_forbidden",
        Play.TOKEN_HANG: "token_hang",
        Play.IDENTITY_FAILS: arm("api_500", times=1),
        Play.SPLIT: "split",
        Play.DUPLICATE: "dup_event",
        Play.REDELIVER: arm("dup_after_ack", times=1, delay=5.0),
        Play.ACK_LOST: arm("ack_lost", times=1),
        Play.REORDER: arm("out_of_order", times=1, delay=5.0),
        Play.BAD_FRAME: arm("bad_frame", times=1),
        Play.LOSE_SEND_ANSWER: arm("send_answer_lost", times=1),
        Play.SEND_THROTTLED: arm("send_frequency", times=1),
        Play.DOWN: FeishuSimulator.stop,
    },
    excused={"events-split-two-clients": UNTOLD},
    lacks={
        **dict.fromkeys((Play.POLL_HANGS, Play.POLL_DRIPS, Play.POLL_FAILS), SOCKET),
        **dict.fromkeys((Play.GOODBYE, Play.NOTICE, Play.EXPIRE, Play.RESTART_CODE), CLOSES),
        **dict.fromkeys((Play.REFUSE_RESUME, Play.RESUME_BROKEN), NO_SESSION),
        **dict.fromkeys((Play.REPLACED, Play.LINGERING), UNAWARE),
        Play.QUOTA: "connections are not counted by the day",
        Play.LOGGED_OUT: "there is no login beside the credentials (REVOKE)",
        Play.FOREIGN_HOOK: "how an app gets its events is its owner's choice, on a page",
        Play.HISTORY: "what was acknowledged is not pushed again",
        Play.SKEWED: "only web hooks are signed; nothing on the socket is judged by the date",
    },
)
