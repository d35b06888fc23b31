"""More words for modes: those about the world around the bot: names, proxies, TLS, clocks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from holdfast.lab.faults.backlog import FullBacklog
from holdfast.lab.faults.forward_proxy import ForwardProxy
from holdfast.lab.faults.html import HtmlPortal
from holdfast.lab.faults.tls import Flaw
from holdfast.lab.mode import Step
from holdfast.lab.scene import Scene
from holdfast.lab.terms import AT_ONCE, SILENCE, Ability

PROXY_SWITCHES: Final[Mapping[str, Callable[[ForwardProxy], None]]] = {
    "refuse": ForwardProxy.refuse,
    "hang": ForwardProxy.hang,
    "strip": ForwardProxy.strip_upgrades,
}
"""Name -> what a proxy can do to requests."""

VARIABLES: Final = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
"""What a proxy is named by in the environment; all are set, as the machine may have its own."""


# -- names and addresses ---------------------------------------------------------------------------


def dead_v6() -> Step:
    """T12: the platform's name has an IPv6 address first, whose connects hang, and a good IPv4."""

    async def do(scene: Scene) -> None:
        for seat in scene.seats.values():
            scene.aids.enter_context(FullBacklog("::1", seat.stage.cable.outward.port))
        scene.running.names("dead-v6")

    words = "the name leads to a dead IPv6 address first"
    return Step(words, do, frozenset({Ability.RESOLVER}))


def moved() -> Step:
    """The kernel tells the bot of a new address."""

    async def do(scene: Scene) -> None:
        scene.running.move()

    return Step("the machine gets another address", do, frozenset({Ability.SUSPEND}))


# -- what stands between ---------------------------------------------------------------------------


def impostor(status: int, *, retry_after: int | None = None, fault: bool = True) -> Step:
    """A web server answers in the platform's place, to everything, with a page; ``fault``: from
    now on the account is not well."""

    async def do(scene: Scene) -> None:
        headers = {} if retry_after is None else {"Retry-After": str(retry_after)}
        portal = HtmlPortal(status=status, headers=headers)
        await scene.aids.enter_async_context(portal)
        cable = scene.seat.stage.cable
        scene.seat.heal()
        cable.lead_astray(portal.port)
        scene.mends.append(lambda: cable.lead_astray(None))
        if fault:
            scene.strike(f"a page with status {status}")

    asking = "" if retry_after is None else f" and asks to wait {retry_after} s"
    return Step(f"a page with status {status} is the answer to everything{asking}", do)


def unquoted() -> Step:
    """Of a page that came instead of an answer, log and status hold the first words at most."""

    async def do(scene: Scene) -> None:
        reading = scene.running.read(scene.seat.name)
        told = scene.running.log() + (reading.message if reading else "")
        if any(tag in told.lower() for tag in ("<body", "<form", "<button")):
            scene.object("a page was quoted")

    return Step("no page is quoted", do, frozenset({Ability.LOG}))


def explains(*words: str) -> Step:
    """The status says in words what is wrong: one of these is among them."""

    async def do(scene: Scene) -> None:
        reading = scene.running.read(scene.seat.name)
        message = "" if reading is None else reading.message
        if not any(word in message.lower() for word in words):
            scene.object(f"the status says {message!r}, not {' or '.join(words)}")

    return Step(f"the status says: {' or '.join(words)}", do, frozenset({Ability.STATUS}))


def told_of() -> Step:
    """A loss that the network tells of is in the status at once; where no connection of the bot
    stands that could be lost, within the silence limit."""

    async def do(scene: Scene) -> None:
        limit = SILENCE if scene.seat.stage.called else AT_ONCE
        if not await scene.until(lambda: all(f.noticed for f in scene.open_faults()), limit):
            scene.object(f"not noticed within {limit:g} s")

    return Step("it is noticed at once", do, frozenset({Ability.STATUS}))


def proxied(by: str, *, alive: bool = True, besides: str = "") -> Step:
    """A proxy is named by the ``account`` or by the ``environment``; ``besides`` names what is to
    be reached without it."""

    async def do(scene: Scene) -> None:
        proxy = ForwardProxy()
        await scene.aids.enter_async_context(proxy)
        if not alive:
            await proxy.stop()
        scene.notes["proxy"] = proxy
        if by == "account":
            _settle(scene, proxy.url)
        else:
            named = dict.fromkeys(VARIABLES, proxy.url) | {"no_proxy": besides}
            scene.running.environ(named)

    what = f"a proxy{'' if alive else ' that is down'} is named by the {by}"
    but = f", but not for {besides}" if besides else ""
    return Step(what + but, do, frozenset({Ability.PROXY}))


def overridden() -> Step:
    """The account is told to use no proxy, while the bot runs or before."""

    async def do(scene: Scene) -> None:
        _settle(scene, "")
        if scene.seat.record.moments[-1].state not in (None, "stopped"):
            await scene.running.reload()

    words = "the account is told to use no proxy"
    return Step(words, do, frozenset({Ability.PROXY, Ability.CONTROL}))


def _settle(scene: Scene, proxy: str) -> None:
    for seat in scene.seats.values():
        seat.stage.settings = {**seat.stage.settings, "proxy": proxy}


def proxy(switch: str) -> Step:
    """The proxy misbehaves until the next healing: see `PROXY_SWITCHES`."""

    async def do(scene: Scene) -> None:
        made: ForwardProxy = scene.notes["proxy"]
        PROXY_SWITCHES[switch](made)
        scene.mends.append(made.ok)
        scene.strike(f"proxy: {switch}")

    return Step(f"proxy: {switch}", do, frozenset({Ability.PROXY}))


def by_proxy(expected: bool) -> Step:
    """Whether the platform is reached through the proxy."""

    async def do(scene: Scene) -> None:
        made: ForwardProxy = scene.notes["proxy"]
        asked = made.count > 0
        if asked is not expected:
            scene.object("the proxy was asked" if asked else "the proxy was never asked")

    return Step("it went through the proxy" if expected else "the proxy was not asked", do)


def certificate(flaw: Flaw) -> Step:
    """The platform shows such a certificate from now on; any but a good one until the healing."""

    async def do(scene: Scene) -> None:
        for seat in scene.seats.values():
            authority, context = seat.stage.authority, seat.simulator.tls
            assert authority is not None, "the mode is played over TLS"
            assert context is not None, "as its authority, its simulator has one"
            authority.certify(context, flaw, names=(seat.stage.host,))
            scene.notes["facts"] = len(seat.simulator.log)
            if flaw is not Flaw.GOOD:
                scene.strike(f"certificate: {flaw.value}", seat)

    return Step(f"the platform's certificate: {flaw.value}", do, frozenset({Ability.TRUST}))


def unheard() -> Step:
    """Since the certificate was shown the platform has not been told a word."""

    async def do(scene: Scene) -> None:
        facts = {fact.what for fact in scene.seat.simulator.log[scene.notes["facts"] :]}
        if facts:
            scene.object(f"the platform was spoken to: {', '.join(sorted(facts))}")

    return Step("nothing was said to the platform", do)


# -- clocks ----------------------------------------------------------------------------------------


def suspend(seconds: float) -> Step:
    """T7: the machine sleeps; wall and boot clock go on, the monotonic one does not."""

    async def do(scene: Scene) -> None:
        scene.running.suspend(seconds)
        scene.slept(seconds)

    words = f"the machine sleeps for {seconds / 3_600:g} h"
    return Step(words, do, frozenset({Ability.SUSPEND}))


def misdate(seconds: float) -> Step:
    """T7: the bot's wall clock is stepped; the world's goes on."""

    async def do(scene: Scene) -> None:
        scene.running.misdate(seconds)

    words = f"the wall clock is set {'forward' if seconds > 0 else 'back'} by {abs(seconds):g} s"
    return Step(words, do, frozenset({Ability.SUSPEND}))


def doubted(within: float) -> Step:
    """The status says that the connection is in doubt, or that it is lost."""

    async def do(scene: Scene) -> None:
        def told() -> bool:
            reading = scene.running.read(scene.seat.name)
            return reading is not None and (reading.suspect or reading.state != "connected")

        if not await scene.until(told, within):
            scene.object(f"not in doubt within {within:g} s")

    return Step(f"it is in doubt within {within:g} s", do, frozenset({Ability.STATUS}))
