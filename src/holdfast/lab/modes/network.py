"""C. Network and host: names, proxies, certificates, clocks, and what else stands between."""

from __future__ import annotations

from typing import Final

from holdfast.lab.faults.tls import Flaw
from holdfast.lab.mode import Group, Mode, Step
from holdfast.lab.steps import (
    accounted_for,
    answered,
    beats,
    connected,
    heal,
    network,
    noticed,
    recovered,
    say,
    stall,
    start,
    stays,
    untouched,
    up,
    wait,
)
from holdfast.lab.steps_connecting import end_connection, resolver, stays_down
from holdfast.lab.steps_delivery import never
from holdfast.lab.steps_world import (
    by_proxy,
    certificate,
    dead_v6,
    doubted,
    explains,
    impostor,
    misdate,
    moved,
    overridden,
    proxied,
    proxy,
    suspend,
    told_of,
    unheard,
    unquoted,
)
from holdfast.lab.terms import AT_ONCE, BACK, NAME, SILENCE, Expect

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0

PROMPT: Final = 5.0
"""Seconds in which news of the clocks or of the kernel must be in the status."""

Steps = tuple[Step, ...]

WELL: Final[Steps] = (connected(), say(), answered())
"""A connection that has proven itself both ways."""

PARTING: Final[Steps] = (say(), answered())
"""The proof that it is well again."""

HEALED: Final[Steps] = (heal(), recovered(), accounted_for(), *PARTING)


def _bad_proxy(switch: str) -> Steps:
    """The proxy that has been good turns bad while the connection is made anew."""
    return (
        proxied("account"),
        *WELL,
        by_proxy(True),
        proxy(switch),
        end_connection(),
        say(3),
        wait(MINUTE),
        never("fatal"),
        *HEALED,
    )


def _bad_certificate(flaw: Flaw) -> Steps:
    """From the first handshake on, for ten minutes."""
    return (
        certificate(flaw),
        start(),
        noticed(within=AT_ONCE),
        stays_down(10 * MINUTE),
        explains("certificate"),
        never("fatal"),
        unheard(),
        certificate(Flaw.GOOD),
        heal(),
        recovered(),
        *PARTING,
    )


def _page(status: int) -> Steps:
    """Every endpoint answers with a page, for a minute."""
    return (
        *WELL,
        impostor(status),
        noticed(),
        say(3),
        wait(MINUTE),
        explains("web page", f"http {status}"),
        unquoted(),
        never("fatal"),
        *HEALED,
    )


def _misdated(seconds: float) -> Steps:
    """The clock is wrong while messages come and connections are made."""
    return (
        *WELL,
        misdate(seconds),
        *PARTING,
        stays("connected", 10 * MINUTE),
        network("rst"),
        wait(1.0),  # what is lost now would be in a gap that is dated by the wrong clock
        heal(),
        recovered(),
        *PARTING,
        misdate(-seconds),
        stays("connected", 10 * MINUTE),
        *PARTING,
    )


MODES = (
    Mode(
        id="ipv6-blackhole",
        group=Group.NETWORK,
        what="The name has an IPv6 address, its packets vanish, and IPv4 is never tried.",
        host=NAME,
        variants={
            "at the start": (dead_v6(), connected(AT_ONCE), *PARTING),
            "later": (
                *WELL,
                dead_v6(),
                network("rst"),
                heal(),
                recovered(),
                say(3),
                accounted_for(),
                *PARTING,
            ),
        },
        quick=True,
    ),
    Mode(
        id="proxy-mismatch",
        group=Group.NETWORK,
        what="A proxy is inherited, ignored, dead, or breaks what is not a plain request.",
        host=NAME,
        variants={
            "a tunnel": (
                proxied("account"),
                *WELL,
                by_proxy(True),
                network("rst"),
                *HEALED,
            ),
            "the environment's": (proxied("environment"), *WELL, by_proxy(True)),
            "left out by the environment": (
                proxied("environment", alive=False, besides=NAME),
                *WELL,
                by_proxy(False),
            ),
            "a dead one, and an override": (
                proxied("environment", alive=False),
                overridden(),
                *WELL,
                by_proxy(False),
            ),
            "a dead one, and an override without a restart": (
                proxied("environment", alive=False),
                start(),
                stays_down(MINUTE),
                overridden(),
                up(BACK),
                *PARTING,
            ),
            "refuses": _bad_proxy("refuse"),
            "hangs after CONNECT": _bad_proxy("hang"),
            "knows no WebSockets": _bad_proxy("strip"),
        },
        tls=("a tunnel", "the environment's", "refuses", "hangs after CONNECT"),
        expect=Expect(recover=10.0, ladder=True),
    ),
    Mode(
        id="network-path-change",
        group=Group.NETWORK,
        what="The way changes under a connection: its packets go nowhere, new ones arrive.",
        variants={
            "without a word": (
                *WELL,
                network("hole"),
                say(3),
                noticed(),
                up(BACK),
                heal(),
                accounted_for(),
                *PARTING,
            ),
            # Doubted at once; lost when the probe is not answered: 20 s at most (the design's).
            "with the kernel's notice": (
                *WELL,
                network("hole"),
                say(3),
                moved(),
                doubted(PROMPT),
                noticed(within=20.0),
                up(BACK),
                heal(),
                accounted_for(),
                *PARTING,
            ),
            # An interface more, as of a container: whoever is asked for proof can give it.
            "with the kernel's notice of another way": (
                *WELL,
                moved(),
                doubted(PROMPT),
                beats(),
                stays("connected", 2 * MINUTE),
                untouched(),
                *PARTING,
            ),
        },
        expect=Expect(detect=SILENCE),
        quick=True,
    ),
    Mode(
        id="sleep-wake",
        group=Group.NETWORK,
        what="The machine sleeps: sockets die, timers jump, and the network is late.",
        host=NAME,
        variants={
            "8 h, and no names for 20 s": (
                *WELL,
                network("hole"),
                resolver("fail"),
                suspend(8 * HOUR),
                doubted(PROMPT),
                wait(20.0),
                resolver("ok"),
                heal(),
                recovered(),
                say(3),
                accounted_for(),
                *PARTING,
            ),
            "stopped for 5 min": (
                *WELL,
                say(3),
                network("hole"),
                stall(5 * MINUTE),
                up(20.0 + BACK),
                heal(),
                say(3),
                accounted_for(),
                *PARTING,
            ),
            "200 ms of each minute": (
                *WELL,
                *(stall(MINUTE), wait(0.2)) * 10,
                up(20.0 + BACK),
                say(3),
                accounted_for(),
                *PARTING,
            ),
        },
        expect=Expect(recover=10.0),
        quick=True,
    ),
    Mode(
        id="tls-verify-failure",
        group=Group.NETWORK,
        what="The certificate can not be trusted: endless storms, or a check that is switched off.",
        variants={
            "expired": _bad_certificate(Flaw.EXPIRED),
            "another name": _bad_certificate(Flaw.WRONG_NAME),
            "an unknown issuer": _bad_certificate(Flaw.UNKNOWN_ISSUER),
            "expired under way": (
                *WELL,
                certificate(Flaw.EXPIRED),
                end_connection(),
                say(3),
                wait(10 * MINUTE),
                certificate(Flaw.GOOD),
                *HEALED,
            ),
        },
        tls=("expired", "another name", "an unknown issuer", "expired under way"),
        expect=Expect(recover=300.0, kinds=frozenset({"unreachable"})),
    ),
    Mode(
        id="clock-skew",
        group=Group.NETWORK,
        what="The wall clock is wrong, or is stepped: what is signed, dated or aged breaks.",
        variants={
            "10 min ahead": _misdated(10 * MINUTE),
            "10 min behind": _misdated(-10 * MINUTE),
            "a day ahead": _misdated(DAY),
            "a day behind": _misdated(-DAY),
            "set back by an hour": (
                *WELL,
                misdate(-HOUR),
                stays("connected", HOUR),
                *PARTING,
            ),
        },
        expect=Expect(recover=BACK),
    ),
    Mode(
        id="captive-html",
        group=Group.NETWORK,
        what="A portal or firewall answers with a page where JSON or a WebSocket is expected.",
        variants={f"status {status}": _page(status) for status in (200, 403, 502)},
        expect=Expect(detect=SILENCE, recover=10.0, ladder=True),
        quick=True,
    ),
    Mode(
        id="peer-restart-rst",
        group=Group.NETWORK,
        what="The server restarts: a reset, refusals, a proxy's 503, and then it is well.",
        variants={
            "45 s, and 503 for half a minute": (
                *WELL,
                network("refuse"),
                told_of(),
                say(3, every=5.0),
                wait(35.0),
                impostor(503, retry_after=20, fault=False),
                wait(30.0),
                *HEALED,
            ),
        },
        # What a server asks to wait for is never shortened: 20 s may have begun just before.
        expect=Expect(detect=SILENCE, recover=20.0 + BACK),
        quick=True,
    ),
)
