"""What the chat page can play: its visitors are the only peers it has."""

from __future__ import annotations

import math

from holdfast.lab.injection import arm
from holdfast.lab.profile import Profile
from holdfast.lab.simulators.webchat import WebChatSimulator
from holdfast.lab.terms import Play

OWN = "the page is the gateway's own: no platform stands behind it that could do this"
CALLED = "the gateway is called: visitors beat, it answers, and a visitor who is gone comes back"
ONLY_CALLED = "the page is called by its visitors; the gateway calls nobody to serve it"
ONE_ADDRESS = "all pages of a gateway are served at one address, which is one cable here"
ANOTHER_PAGE = "a second gateway serves a page of its own, to visitors of its own"
IN_TURN = "a browser says the next thing only when the one before is stored"

COMING = "no connection is the gateway's to watch over: a visitor who loses his comes back himself"


def rename(webchat: WebChatSimulator, number: int) -> None:
    """Another page has another address."""
    webchat.path += str(number)


PROFILE = Profile(
    platform="webchat",
    replays=True,
    idempotent=math.inf,
    returns=11.0,  # the page's own back-off ends at 10 s, and dialling takes its time
    excused=dict.fromkeys(
        (
            "ghost-registration",
            "heartbeat-unacked",
            "network-path-change",
            "reader-not-woken",
            "task-hung-loop-alive",
            "watchdog-livelock",
            "watchdog-wrong-signal",
        ),
        COMING,
    )
    | dict.fromkeys(
        ("ipv6-blackhole", "proxy-mismatch", "tls-verify-failure", "captive-html"), ONLY_CALLED
    )
    | {"cross-account-state": ONE_ADDRESS, "conflict-two-pollers": ANOTHER_PAGE},
    links=lambda webchat: int(webchat.count("welcome")),
    rename=rename,
    plays={
        Play.HUGE_FRAME: arm("oversize_frame", times=1),
        Play.DUPLICATE: "dup_say",
        Play.ACK_LOST: arm("vanish_before_stored", times=1),
        Play.BAD_FRAME: arm("bad_frame", times=1),
        Play.LOSE_SEND_ANSWER: arm("vanish_before_seen", times=1),
    },
    lacks={
        **dict.fromkeys(
            set(Play)
            - {
                Play.HUGE_FRAME,
                Play.DUPLICATE,
                Play.ACK_LOST,
                Play.BAD_FRAME,
                Play.LOSE_SEND_ANSWER,
            },
            OWN,
        ),
        **dict.fromkeys((Play.NO_ACK, Play.ACK_LATE), CALLED),
        **dict.fromkeys((Play.REDELIVER, Play.REORDER), IN_TURN),
    },
)
