"""Accounts wake up within seconds of the network's return, and nobody hammers it meanwhile."""

from __future__ import annotations

import asyncio
import errno
import random
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from holdfast.gateway.dns import Resolver
from holdfast.gateway.gateway import Gateway
from holdfast.gateway.net import Net
from holdfast.gateway.reachability import (
    LIMIT,
    SETTLE,
    SLOWEST,
    Prober,
    Reachability,
    Turns,
)
from holdfast.lab.faults.forward_proxy import ForwardProxy
from holdfast.lab.faults.html import HtmlPortal
from holdfast.lab.faults.relay import Relay
from holdfast.supervision import Published
from tests.gateway.house import house, parrot, reach
from tests.gateway.parrot import Aviary
from tests.gateway.raw import hang, raw
from tests.gateway.tools import now


class Endpoint:
    """An endpoint that is up or down."""

    def __init__(self) -> None:
        self.up = False
        self.asked: list[float] = []

    async def probe(self, url: str) -> bool:
        """Ask it."""
        self.asked.append(now())
        return self.up


async def test_a_kick_follows_the_return_and_nothing_else() -> None:
    endpoint = Endpoint()
    kicks: list[float] = []
    endpoint.up = True
    prober = Prober("x", endpoint.probe, rand=lambda: 0.5)
    prober.wait("a", lambda: kicks.append(now()))
    await asyncio.sleep(60)
    assert kicks == []  # it was never down: whatever keeps the account down is elsewhere
    endpoint.up = False
    await asyncio.sleep(60)
    endpoint.up = True
    healed = now()
    await asyncio.sleep(60)
    assert len(kicks) == 1
    assert kicks[0] - healed <= SLOWEST
    prober.leave("a")


async def test_one_prober_asks_for_many_accounts_and_only_while_one_waits() -> None:
    endpoint = Endpoint()
    prober = Prober("x", endpoint.probe, rand=lambda: 0.5)
    for n in range(100):
        prober.wait(str(n), lambda: None)
    await asyncio.sleep(120)
    assert 25 <= len(endpoint.asked) <= 40
    gaps = [b - a for a, b in zip(endpoint.asked, endpoint.asked[1:], strict=False)]
    assert gaps[0] == pytest.approx(1.5, abs=0.6)
    assert max(gaps) == pytest.approx(SLOWEST)
    for n in range(100):
        prober.leave(str(n))
    asked = len(endpoint.asked)
    await asyncio.sleep(600)
    assert len(endpoint.asked) == asked


@pytest.mark.parametrize("endpoints", [1, 20])
@pytest.mark.parametrize("rand", [random.random, lambda: 0.0, lambda: 0.999])
async def test_kicks_are_spread(rand: Callable[[], float], endpoints: int) -> None:
    endpoint, turns = Endpoint(), Turns(rand)
    kicks: list[tuple[float, int]] = []
    probers = [Prober("x", endpoint.probe, turns=turns, rand=rand) for _ in range(endpoints)]
    for n in range(20):
        probers[n % endpoints].wait(str(n), partial(lambda n: kicks.append((now(), n)), n))
    await asyncio.sleep(30)
    endpoint.up = True
    await asyncio.sleep(30)
    assert sorted(n for _, n in kicks) == list(range(20))
    start = kicks[0][0]
    for offset in range(0, 100, 10):
        buckets = Counter(int((at - start + offset / 1_000) * 10) for at, _ in kicks)
        assert max(buckets.values()) <= 2
    assert kicks[-1][0] - start < 2
    for n in range(20):
        probers[n % endpoints].leave(str(n))


async def test_an_account_that_left_meanwhile_is_not_kicked() -> None:
    endpoint = Endpoint()
    kicks: list[str] = []
    prober = Prober("x", endpoint.probe, rand=lambda: 0.5)

    def kick(name: str) -> None:
        kicks.append(name)
        for other in "ab":
            if other != name:
                prober.leave(other)

    for name in "ab":
        prober.wait(name, partial(kick, name))
    await asyncio.sleep(10)
    endpoint.up = True
    await asyncio.sleep(10)
    assert len(kicks) == 1
    prober.leave(kicks[0])


async def test_news_of_the_network_hurry_the_next_probe() -> None:
    endpoint = Endpoint()
    kicks: list[float] = []
    prober = Prober("x", endpoint.probe, rand=lambda: 0.5)
    prober.wait("a", lambda: kicks.append(now()))
    await asyncio.sleep(60.5)
    endpoint.up = True
    prober.hurry()
    moment = now()
    await asyncio.sleep(0.2)
    assert kicks == [moment]
    prober.leave("a")


# -- what counts as an answer ---------------------------------------------------------------------


async def ask(url: str) -> tuple[bool, float]:
    """Whether an endpoint counts as up, and how long it took to know."""
    reachability = Reachability()
    began = now()
    up = await reachability._ask(Net(Resolver()), url + "/deep/path")
    took = now() - began
    await reachability.stop()
    return up, took


@pytest.mark.parametrize(("status", "up"), [(200, True), (404, True), (500, False), (503, False)])
async def test_a_broken_gateway_in_front_is_down(status: int, up: bool) -> None:
    async with HtmlPortal(status=status) as portal:
        assert (await ask(portal.url("http")))[0] is up
        assert [(a.method, a.path) for a in portal.asked] == [("HEAD", "/")]


async def test_alive_only_in_its_kernel_is_down() -> None:
    async with raw(hang) as server:
        up, took = await ask(server.url)
    assert not up
    assert took == pytest.approx(LIMIT, abs=0.1)


async def test_refused_is_down() -> None:
    assert not (await ask("http://127.0.0.1:9"))[0]


# -- the kernel's news ----------------------------------------------------------------------------


class News:
    """A netlink socket that says what a test wants."""

    def __init__(self, *says: bytes | OSError) -> None:
        self.says = list(says)

    def recv(self, size: int) -> bytes:
        """See `socket.socket.recv`."""
        if not self.says:
            raise BlockingIOError
        said = self.says.pop(0)
        if isinstance(said, OSError):
            raise said
        return said


@pytest.mark.parametrize(
    "news",
    [News(b"route"), News(OSError(errno.ENOBUFS, "too many"), b"x")],
    ids=["news", "overrun"],
)
async def test_the_kernels_news_reach_everybody(news: News) -> None:
    changes: list[str] = []
    reachability = Reachability()
    reachability._on_change = lambda: changes.append("change")
    reachability._netlink = news  # type: ignore[assignment]
    reachability._news()
    reachability._news()
    assert changes == [], "a dozen messages of the kernel are one change"
    await asyncio.sleep(SETTLE)
    assert changes == ["change"]
    reachability._netlink = None
    await reachability.stop()


# -- whole accounts -------------------------------------------------------------------------------


async def back_within(gateway: Gateway, name: str, limit: float) -> None:
    """The account is connected again in time."""
    began = now()
    await reach(gateway, name, Published.CONNECTED, limit)
    assert now() - began <= limit


OUTAGES = [
    *((fault, 10.0 + phase) for fault in ("refuse", "cut") for phase in (0.0, 1.3, 2.9, 7.0)),
    *(("cut", 600.0 + phase) for phase in (0.0, 2.9)),
    ("refuse", 600.0),
    pytest.param("cut", 7_200.0, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("fault", "seconds"), OUTAGES)
async def test_back_within_five_seconds_of_the_networks_return(
    tmp_path: Path, fault: str, seconds: float
) -> None:
    """Also when an attempt is hanging at the moment of healing (`cut`, any phase)."""
    async with Aviary(beat=5.0) as aviary:
        port = int(aviary.url.rpartition(":")[2])
        async with Relay("127.0.0.1", port) as relay:
            async with house(tmp_path, parrot("bot", relay.url("http"))) as gateway:
                await reach(gateway, "bot", Published.CONNECTED)
                getattr(relay, fault)()
                await reach(gateway, "bot", Published.RETRYING)
                await asyncio.sleep(seconds)
                assert gateway.desk("bot").account.view().published is Published.RETRYING
                relay.heal()
                await back_within(gateway, "bot", 5.0)


async def test_an_attempt_that_hangs_at_the_return_without_a_reset_is_restarted(
    tmp_path: Path,
) -> None:
    """A real network's return resets nothing: what hung goes on hanging until its own limit."""
    async with Aviary(beat=5.0) as aviary:
        port = int(aviary.url.rpartition(":")[2])
        async with Relay("127.0.0.1", port) as relay:
            async with house(tmp_path, parrot("bot", relay.url("http"))) as gateway:
                await reach(gateway, "bot", Published.CONNECTED)
                relay.cut()
                await reach(gateway, "bot", Published.RETRYING)
                account = gateway.desk("bot").account
                await account.until(lambda v: v.generation >= 4 and v.state.value == "connecting")
                await asyncio.sleep(1.5)
                relay.pass_()
                await back_within(gateway, "bot", 5.0)


async def test_each_account_is_probed_by_its_own_proxy(tmp_path: Path) -> None:
    """One whose proxy is back comes back, although the proxy of its neighbour stays dead."""
    async with (
        Aviary() as aviary,
        ForwardProxy() as ours,
        ForwardProxy() as theirs,
        house(
            tmp_path,
            parrot("ours", aviary.url, proxy=ours.url),
            parrot("theirs", aviary.url, proxy=theirs.url),
            parrot("direct", aviary.url, proxy=""),
        ) as gateway,
    ):
        names = ("ours", "theirs", "direct")
        for name in names:
            await reach(gateway, name, Published.CONNECTED)
        for proxy in (ours, theirs):
            proxy.hang()
        for name in names:
            gateway.kick(name)
        for name in names[:2]:
            await reach(gateway, name, Published.RETRYING)
        await reach(gateway, "direct", Published.CONNECTED)
        await asyncio.sleep(300)
        ours.ok()
        await back_within(gateway, "ours", 5.0)
        assert gateway.desk("theirs").account.view().published is Published.RETRYING
        theirs.ok()
        await back_within(gateway, "theirs", 5.0)


async def test_no_endpoint_is_asked_while_all_is_well(tmp_path: Path) -> None:
    async with Aviary() as aviary, house(tmp_path, parrot("bot", aviary.url)) as gateway:
        await reach(gateway, "bot", Published.CONNECTED)
        await asyncio.sleep(600)
        assert gateway._reachability._probers == {}


async def test_twenty_accounts_share_a_prober_and_come_back_spread(tmp_path: Path) -> None:
    async with Aviary() as aviary:
        port = int(aviary.url.rpartition(":")[2])
        async with Relay("127.0.0.1", port) as relay:
            names = [f"bot{n}" for n in range(20)]
            accounts = [parrot(name, relay.url("http")) for name in names]
            async with house(tmp_path, *accounts) as gateway:
                for name in names:
                    await reach(gateway, name, Published.CONNECTED)
                relay.refuse()
                await asyncio.sleep(300)
                assert len(gateway._reachability._probers) == 1
                relay.heal()
                for name in names:
                    await back_within(gateway, name, 6.0)
                opened = sorted(gateway.desk(name).account.view().since for name in names)
                for first, fourth in zip(opened, opened[4:], strict=False):
                    assert fourth - first > 0.1
