"""B. Reconnect logic, continued: one connection at a time, what ends it, and how it starts."""

from __future__ import annotations

from typing import Final

from holdfast.lab.mode import Group, Mode
from holdfast.lab.modes.reconnecting import (
    BACK_AGAIN,
    HALF_AN_HOUR,
    HOUR,
    MINUTE,
    PROVEN,
    SLOW_CAP,
    WELL,
    cycles,
)
from holdfast.lab.steps import (
    SLACK,
    accounted_for,
    answered,
    attempts,
    blocked,
    connected,
    heal,
    network,
    noticed,
    order,
    platform,
    recovered,
    say,
    server,
    start,
    stays,
    stop,
    up,
    wait,
)
from holdfast.lab.steps_connecting import (
    ATTEMPT,
    climbs,
    end_connection,
    keeps_trying,
    met,
    one_link,
    one_up,
    resolver,
    stays_down,
)
from holdfast.lab.steps_delivery import counted, cut_off, flat, renewed
from holdfast.lab.terms import AT_ONCE, BACK, SILENCE, Expect, Play

DRAIN: Final = 15.0
"""Seconds in which a connection with a successor has ended."""

RUN: Final = 12.0
"""Seconds of a run that is called stable where a hundred connections are wanted."""

MODES = (
    Mode(
        id="double-connect",
        group=Group.RECONNECTING,
        what="Two reconnects run at once and both succeed.",
        variants={
            "lost while connecting": (
                *WELL,
                network("rst"),
                network("rst", fault=False),
                order("kick"),
                order("kick"),
                heal(),
                recovered(),
                say(3),
                accounted_for(),
                wait(DRAIN),
                one_link(),
            ),
            "a goodbye and an end": (
                *WELL,
                platform(Play.GOODBYE),
                network("rst", fault=False),
                order("kick"),
                heal(),
                recovered(),
                say(3),
                accounted_for(),
                wait(DRAIN),
                one_link(),
            ),
        },
        expect=Expect(recover=BACK),
        quick=True,
    ),
    Mode(
        id="stale-generation-cleanup",
        group=Group.RECONNECTING,
        what="Late news of the old connection acts on the new one.",
        variants={
            "the old link ends a minute later": (
                *WELL,
                network("hole"),
                # By whoever opens connections here: the account, or the users of its page. The
                # silence, a first wait of a second at most, and a login.
                up(SILENCE + 1.0 + SLACK),
                say(),
                accounted_for(),
                wait(MINUTE),
                heal(),
                stays("connected", MINUTE),
                say(),
                answered(),
            ),
        },
        expect=Expect(recover=None),
    ),
    Mode(
        id="orphan-tasks",
        group=Group.RECONNECTING,
        what="Tasks of a closed connection go on.",
        variants={
            "a hundred resets": (
                *WELL,
                wait(RUN),
                counted(),
                *cycles(100, cut_off(), heal(), recovered(), renewed(), wait(RUN)),
                flat(),
            ),
        },
        # Each of them is the first: the ladder is another mode's matter.
        policy={"stable_after": RUN - 2.0},
        expect=Expect(recover=BACK),
    ),
    Mode(
        id="closed-session-loop",
        group=Group.RECONNECTING,
        what="Retries use an object that can never work again.",
        variants={
            "the server comes back": (
                *WELL,
                server(up=False),
                noticed(),
                wait(MINUTE),
                server(up=True),
                heal(),
                *PROVEN,
            ),
            "stopped and started": (
                *WELL,
                stop(),
                say(),
                connected(),
                heal(),  # what was said until now may be in a gap
                accounted_for(),
                say(),
                answered(),
            ),
        },
        expect=Expect(recover=BACK),
        quick=True,
    ),
    Mode(
        id="cross-loop-objects",
        group=Group.RECONNECTING,
        what="Loops and futures are shared between accounts.",
        accounts=2,
        variants={
            "both are dropped": (
                *WELL,
                network("rst", everywhere=True),
                heal(),
                recovered(),
                say(),
                say(seat=1),
                accounted_for(),
            ),
        },
        expect=Expect(recover=BACK),
    ),
    Mode(
        id="fatal-retried-forever",
        group=Group.RECONNECTING,
        what="What only a person can mend is retried like a network error.",
        variants={
            "credentials revoked": (
                *WELL,
                platform(Play.REVOKE),
                end_connection(),
                blocked(),
                stays_down(HALF_AN_HOUR),
                # The loss, a login with a new token where tokens are fetched, the confirmation, and
                # a look after 5 and after 15 minutes (design).
                attempts(5),
                platform(Play.REPAIR, fault=False),
                heal(),
                order("kick"),
                recovered(),
                say(),
                answered(),
            ),
            "the login is forbidden": (
                *WELL,
                platform(Play.FORBID),
                end_connection(),
                blocked(),
                stays_down(HALF_AN_HOUR),
                # As above; but the credentials are found good, and so a login follows each look.
                attempts(7),
                heal(),
                order("kick"),
                recovered(),
                say(),
                answered(),
            ),
        },
        expect=Expect(recover=BACK, kinds=frozenset({"credentials", "refused"})),
    ),
    Mode(
        id="transient-treated-fatal",
        group=Group.RECONNECTING,
        what="A passing error stops the account for good.",
        # At the first login of all, which makes every call there is and has no good life behind
        # it. Within 10 s, where the first wait is one.
        variants={
            "a server error": (
                platform(Play.ERROR_ONCE),
                start(),
                climbs(1, spare=7.0),
                heal(),
                *PROVEN,
            ),
            "an answer that breaks off": (
                platform(Play.MALFORMED_ONCE),
                start(),
                climbs(1, spare=7.0),
                heal(),
                *PROVEN,
            ),
        },
        expect=Expect(recover=10.0),
        quick=True,
    ),
    Mode(
        id="token-refresh-failed",
        group=Group.RECONNECTING,
        what="The access token is not renewed, and sends or the socket die.",
        variants={
            "no token for five minutes": (
                *WELL,
                platform(Play.TOKEN_HANG, fault=False),
                wait(2 * HOUR),
                say(),
                wait(5 * MINUTE),
                heal(),
                accounted_for(2 * MINUTE),
                say(),
                answered(),
            ),
        },
        expect=Expect(recover=None),
    ),
    Mode(
        id="scheduled-session-expiry",
        group=Group.RECONNECTING,
        what="The platform ends every session on a schedule, and each end loses messages.",
        variants={
            "three ends": (
                *WELL,
                *(
                    say(),
                    wait(1.0),
                    platform(Play.EXPIRE),
                    say(),
                    heal(),
                    wait(1.0),
                    say(),
                    wait(1.0),
                    say(),
                    recovered(),
                    accounted_for(),
                    wait(30.0),
                )
                * 3,
            ),
        },
        expect=Expect(recover=AT_ONCE),
        quick=True,
    ),
    Mode(
        id="startup-network-down",
        group=Group.RECONNECTING,
        what="There is no network or name at the start, and the account stays down.",
        host="platform.test",
        variants={
            "no network": (network("refuse"), start(), wait(90.0), *BACK_AGAIN),
            "no name": (resolver("fail"), start(), wait(90.0), resolver("ok"), *BACK_AGAIN),
            "no answer to names": (
                resolver("hang"),
                start(),
                wait(90.0),
                resolver("ok"),
                *BACK_AGAIN,
            ),
        },
        expect=Expect(recover=BACK),
    ),
    Mode(
        id="startup-head-of-line",
        group=Group.RECONNECTING,
        what="One slow account delays all the others.",
        accounts=2,
        variants={
            "the first hangs": (
                network("cut"),
                start(),
                one_up(1, within=5.0),
                say(seat=1),
                answered(5.0),
                heal(),
                recovered(),
            ),
        },
        expect=Expect(recover=BACK),
    ),
    Mode(
        id="sdk-start-swallowed",
        group=Group.RECONNECTING,
        what="The start fails where nobody looks, and the account is called started.",
        variants={
            "bad credentials": (
                platform(Play.REVOKE),
                start(),
                blocked(),
                platform(Play.REPAIR, fault=False),
                heal(),
                order("kick"),
                recovered(),
                say(),
                answered(),
            ),
            "nobody listens": (
                server(up=False),
                start(),
                noticed(),
                wait(10.0),
                server(up=True),
                *BACK_AGAIN,
            ),
        },
        expect=Expect(detect=AT_ONCE, recover=BACK),
    ),
    Mode(
        id="premature-connected",
        group=Group.RECONNECTING,
        what="Connected is said before it is proven.",
        variants={
            "a login that takes its time": (
                platform(Play.STALL_LOGIN),
                start(),
                stays_down(MINUTE),
                heal(),
                met(),
                recovered(),
                say(),
                answered(),
            ),
        },
        expect=Expect(recover=SLOW_CAP + ATTEMPT),
        quick=True,
    ),
    Mode(
        id="handshake-stall",
        group=Group.RECONNECTING,
        what="The socket opens, and the login never ends.",
        variants={
            "no answer to the login": (
                *WELL,
                platform(Play.STALL_LOGIN),
                end_connection(),
                keeps_trying(3 * MINUTE),
                heal(),
                met(),
                *PROVEN,
            ),
            "the server stands still": (
                *WELL,
                network("freeze"),
                noticed(),
                keeps_trying(3 * MINUTE),
                *BACK_AGAIN,
            ),
            "nothing is read": (
                *WELL,
                network("cut"),
                noticed(),
                keeps_trying(3 * MINUTE),
                *BACK_AGAIN,
            ),
        },
        expect=Expect(detect=SILENCE, recover=SLOW_CAP + ATTEMPT),
    ),
)
