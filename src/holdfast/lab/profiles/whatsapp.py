"""What WhatsApp can play."""

from __future__ import annotations

from functools import partial
from itertools import count
from typing import Any

from holdfast.lab.injection import arm
from holdfast.lab.profile import ASKED, Profile, Throttle
from holdfast.lab.simulators.whatsapp import WhatsAppSimulator
from holdfast.lab.terms import Play

HOOK = "messages come by web hook, each over a connection of its own that ends with its answer"
ENDS = "each post has a connection of its own: there is none that could be lost and made anew"
LOOKS = "nobody logs in: the bot looks now and then whether token and callback are still good"

_posts = count()


def each_post(_: Any) -> int:
    """Another number each time: a post has its own connection, and none outlives a fault."""
    return next(_posts)


def enter_callback(whatsapp: WhatsAppSimulator) -> None:
    """The owner puts everything right: the token, and the callback address he entered first."""
    whatsapp.set_token(whatsapp.access_token)
    entered = (fact.detail["url"] for fact in whatsapp.log if fact.what == "webhook")
    if (url := next(entered, None)) is not None:
        whatsapp.steal_callback(url)


PROFILE = Profile(
    platform="whatsapp",
    replays=True,
    ordered=False,  # what was not taken is posted again, later each time
    redelivery=6 * 3_600.0,  # its longest wait between two posts of one message
    excused=dict.fromkeys(
        (
            "ghost-registration",
            "heartbeat-unacked",
            "network-path-change",
            "reader-not-woken",
            "stale-generation-cleanup",
            "task-hung-loop-alive",
            "watchdog-wrong-signal",
        ),
        HOOK,
    )
    | dict.fromkeys(
        (
            "duplicate-handlers",
            "leak-per-reconnect: 100 reconnects",
            "leak-per-reconnect: 500 reconnects",
            "orphan-tasks",
            "recovery-path-untested",
        ),
        ENDS,
    ),
    alone="all numbers of a gateway are called at one address, which is one cable here",
    links=each_post,
    mend=enter_callback,
    logins_throttled=Throttle(
        arm("api_429", retry_after=int(ASKED)), "api_429", granted="probe", doubts=60.0
    ),
    sends_throttled=Throttle(arm("rate_limit"), "rate_limit", wait=None, granted="heard"),
    plays={
        Play.STALL_LOGIN: "api_hang",
        Play.ERROR_ONCE: arm("api_500", times=1),
        Play.MALFORMED_ONCE: arm("api_html", times=1, status=200),
        Play.THROTTLE: arm("api_429", retry_after=90),
        Play.REVOKE: WhatsAppSimulator.expire_token,
        Play.REPAIR: enter_callback,
        Play.FORBID: partial(WhatsAppSimulator.set_webhook, url=None),
        Play.REPLACED: WhatsAppSimulator.steal_callback,
        Play.LOGGED_OUT: arm("token_expired", subcode=460),
        Play.DUPLICATE: "dup_event",
        Play.REDELIVER: arm("dup_event", times=1, delay=5.0),
        Play.ACK_LOST: arm("ack_lost", times=1),
        Play.REORDER: arm("out_of_order", times=1, delay=5.0),
        Play.BAD_FRAME: arm("bad_body", times=1),
        Play.LOSE_SEND_ANSWER: arm("send_answer_lost", times=1),
        Play.SEND_THROTTLED: arm("rate_limit", times=1),
        Play.DOWN: WhatsAppSimulator.stop,
    },
    lacks={
        **dict.fromkeys((Play.ZOMBIE, Play.NO_ACK, Play.ACK_LATE, Play.HUGE_FRAME), HOOK),
        **dict.fromkeys((Play.POLL_HANGS, Play.POLL_DRIPS, Play.POLL_FAILS), HOOK),
        **dict.fromkeys((Play.GOODBYE, Play.NOTICE, Play.EXPIRE, Play.RESTART_CODE), HOOK),
        **dict.fromkeys((Play.CLOSE_AT_ONCE, Play.ACCEPT_ONLY, Play.LINGERING), HOOK),
        **dict.fromkeys((Play.SLOW_LOGIN, Play.QUOTA), LOOKS),
        **dict.fromkeys(
            (Play.REFUSE_RESUME, Play.RESUME_BROKEN),
            "there is no session: Meta posts each message until it is taken, for seven days",
        ),
        Play.TOKEN_HANG: "the access token is configured and never fetched",
        Play.FOREIGN_HOOK: "another callback address is another owner (REPLACED)",
        Play.IDENTITY_FAILS: "the number is configured, and no post comes from the bot itself",
        Play.SPLIT: "there is one callback address: it gets everything or nothing (REPLACED)",
        Play.HISTORY: "what was taken is not posted again",
        Play.SKEWED: "a post is signed over its body alone, without a date",
    },
)
