"""What Slack can play."""

from __future__ import annotations

from functools import partial

from holdfast.lab.injection import arm
from holdfast.lab.profile import ASKED, Profile, Throttle
from holdfast.lab.simulators.slack import SlackSimulator
from holdfast.lab.simulators.slack_platform import Token
from holdfast.lab.simulators.slack_rules import APP
from holdfast.lab.terms import Play

SOCKET = "envelopes come over a socket: nothing is polled"
NO_SESSION = "a socket has no session: each begins with a new ticket and continues nothing"


async def remove(slack: SlackSimulator) -> None:
    """The app is removed from the workspace: no token is good, every socket is told."""
    for token in Token:
        slack.revoke(token)
    await slack.disable()


def reinstall(slack: SlackSimulator) -> None:
    """The app is back, with the same tokens."""
    for token in Token:
        slack.restore(token)
    slack.enable()


def fall_silent(slack: SlackSimulator) -> None:
    """Both heartbeats end: Slack's own, and its answers to ours."""
    slack.faults.arm("no_ping", times=None)
    slack.faults.arm("no_pong", times=None)


def pong_late(slack: SlackSimulator) -> None:
    """Slack's own next pings are left out, so that the bot asks; its ping is answered late."""
    slack.faults.arm("no_ping", times=6)
    slack.faults.arm("pong_late", times=1, delay=4.0)


def crowd(slack: SlackSimulator) -> None:
    """Other programs hold as many sockets of the app as Slack allows."""
    slack.faults.arm("disconnect_for_hello", times=None, reason="too_many_websockets")
    slack.drop_all()


def rename(slack: SlackSimulator, number: int) -> None:
    """The app's id is a part of its own token."""
    slack.app_token = slack.app_token.replace(APP, f"{APP}{number}")


PROFILE = Profile(
    platform="slack",
    ordered=False,  # what was not acknowledged is sent again
    redelivery=65.0,  # after 3 s at once, then after 60 s more
    beat=30.0,
    mend=reinstall,
    rename=rename,
    logins_throttled=Throttle(arm("open_429", retry_after=int(ASKED)), "open_429"),
    sends_throttled=Throttle(arm("send_429", retry_after=int(ASKED)), "send_429", granted="heard"),
    plays={
        Play.ZOMBIE: "mute",
        Play.NO_ACK: fall_silent,
        Play.ACK_LATE: pong_late,
        Play.HUGE_FRAME: arm("huge_frame", times=1),
        Play.GOODBYE: partial(SlackSimulator.goodbye, reason="refresh_requested"),
        Play.NOTICE: SlackSimulator.goodbye,
        Play.EXPIRE: partial(SlackSimulator.goodbye, reason="refresh_requested"),
        Play.STALL_LOGIN: "no_hello",
        Play.SLOW_LOGIN: arm("api_slow", times=1),
        Play.CLOSE_AT_ONCE: "close_after_hello",
        Play.ACCEPT_ONLY: "close_after_accept",
        Play.ERROR_ONCE: arm("open_500", times=1),
        Play.MALFORMED_ONCE: arm("malformed_json", times=1),
        Play.THROTTLE: arm("open_429", retry_after=30),
        Play.REVOKE: remove,
        Play.REPAIR: reinstall,
        Play.FORBID: arm("open_error", error="missing_scope"),
        Play.REPLACED: crowd,
        Play.LOGGED_OUT: arm("open_error", error="token_revoked"),
        Play.RESTART_CODE: partial(SlackSimulator.goodbye, reason="refresh_requested"),
        Play.IDENTITY_FAILS: arm("auth_error", times=1, error="internal_error"),
        Play.SPLIT: "split",
        Play.DUPLICATE: "dup_event",
        Play.REDELIVER: arm("ack_lost", times=1),
        Play.ACK_LOST: arm("ack_lost", times=1),
        Play.REORDER: arm("out_of_order", times=1),
        Play.BAD_FRAME: arm("bad_frame", times=1),
        Play.LOSE_SEND_ANSWER: arm("send_answer_lost", times=1),
        Play.SEND_THROTTLED: arm("send_429", times=1),
        Play.DOWN: SlackSimulator.stop,
    },
    lacks={
        **dict.fromkeys((Play.POLL_HANGS, Play.POLL_DRIPS, Play.POLL_FAILS), SOCKET),
        **dict.fromkeys((Play.REFUSE_RESUME, Play.RESUME_BROKEN), NO_SESSION),
        Play.QUOTA: "sockets are limited by the minute only (THROTTLE)",
        Play.LINGERING: "ten sockets may be open at once: a former one takes no other's place",
        Play.TOKEN_HANG: "both tokens are configured and never fetched",
        Play.FOREIGN_HOOK: "with Socket Mode on, no event goes to a request URL",
        Play.HISTORY: "a socket carries only what happens while it is open, and its retries",
        Play.SKEWED: "only web hooks are signed; nothing on the socket is judged by the date",
    },
)
