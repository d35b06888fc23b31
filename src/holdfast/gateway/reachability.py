"""Notices that a network is back, so that no account sleeps through it in its back-off.

While accounts are down for want of a connection, one prober per endpoint and proxy (not per
account) asks for any sign of life. When an endpoint that was unreachable answers again, the
accounts waiting for it are kicked once each, spread out so that thousands do not log in at the same
instant.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import urlsplit

from holdfast.adapter import HttpFailed
from holdfast.gateway.net import HttpClient, Net
from holdfast.supervision import Kind, Published, State, View
from holdfast.supervision.causes import OF_THE_NETWORK

log = logging.getLogger("holdfast.reachability")

FIRST = 1.0
"""Seconds between the starts of two probes at first; grows by half each time."""

SLOWEST = 4.0
"""Seconds between the starts of two probes in a long outage: the recovery bound less the login."""

IDLE = 60.0
"""Seconds between two probes while the endpoint answers and the trouble is another: only an
endpoint seen down can come back."""

SETTLE = 1.0
"""Seconds of the kernel's news taken as one change: an interface comes up in a dozen messages."""

LIMIT = 3.0
"""Seconds a probe may take; a peer that is alive only in its kernel is not alive."""

SPREAD = 0.06
"""Seconds between two kicks: two in 100 ms, and with one whose own wait ends meanwhile three."""


class Turns:
    """Lets one after the other through, `SPREAD` apart, whatever endpoint each was waiting for."""

    def __init__(self, rand: Callable[[], float] = random.random) -> None:
        self._rand = rand
        self._free_at = float("-inf")

    async def wait(self) -> None:
        """Wait for one's turn. A cancelled caller's turn is not given to anybody else."""
        now = asyncio.get_running_loop().time()
        turn = max(now, self._free_at)
        self._free_at = turn + SPREAD * (0.9 + 0.2 * self._rand())
        await asyncio.sleep(turn - now)


class Prober:
    """Probes one endpoint while somebody waits for it."""

    def __init__(
        self,
        url: str,
        probe: Callable[[str], Awaitable[bool]],
        *,
        turns: Turns | None = None,
        rand: Callable[[], float] = random.random,
    ) -> None:
        self.url = url
        self.probes = 0
        self._probe, self._rand = probe, rand
        self._turns = turns or Turns(rand)
        self._waiting: dict[str, Callable[[], None]] = {}
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()

    def wait(self, name: str, kick: Callable[[], None]) -> None:
        """An account waits for this endpoint; it is kicked when the endpoint is back."""
        self._waiting[name] = kick
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name=f"prober {self.url}")

    def leave(self, name: str) -> None:
        """The account no longer waits."""
        self._waiting.pop(name, None)
        if not self._waiting and self._task is not None:
            self._task.cancel()
            self._task = None

    def hurry(self) -> None:
        """Something about the network changed: look now."""
        self._hurry.set()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        was_down = False
        gap = FIRST
        while self._waiting:
            began = loop.time()
            self.probes += 1
            up = await self._probe(self.url)
            if up and was_down:
                gap = FIRST
                await self._kick_all()
            was_down = not up
            self._hurry.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, began + gap - loop.time())):
                    await self._hurry.wait()
                    gap = FIRST
            gap = min(gap * 1.5, IDLE if up else SLOWEST)

    async def _kick_all(self) -> None:
        names = sorted(self._waiting, key=lambda _: self._rand())
        log.info("endpoint is back url=%s accounts=%d", self.url, len(names))
        for name in names:
            if name in self._waiting:
                await self._turns.wait()
            if name in self._waiting:  # still
                self._waiting[name]()


class Reachability:
    """All probers of a gateway, and the kernel's own news of the network.

    Accounts share a prober when they go to the same endpoint by the same proxy: a proxy that is
    dead says nothing about the road of others.
    """

    def __init__(self, *, rand: Callable[[], float] = random.random) -> None:
        self._rand = rand
        self._turns = Turns(rand)
        self._probers: dict[tuple[str, Net], Prober] = {}
        self._clients: dict[Net, HttpClient] = {}
        self._netlink: socket.socket | None = None
        self._settling: asyncio.TimerHandle | None = None
        self._on_change: Callable[[], None] = lambda: None

    def start(self, on_change: Callable[[], None]) -> None:
        """Listen to the kernel's route and address news, where it has any (Linux)."""
        self._on_change = on_change
        with contextlib.suppress(OSError, AttributeError):
            news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            news.setblocking(False)
            news.bind((0, _LINK | _IPV4_ADDRESS | _IPV4_ROUTE | _IPV6_ADDRESS | _IPV6_ROUTE))
            self._netlink = news
            asyncio.get_running_loop().add_reader(news, self._news)

    async def stop(self) -> None:
        """End every probe."""
        for prober in self._probers.values():
            for name in list(prober._waiting):
                prober.leave(name)
        if self._settling is not None:
            self._settling.cancel()
            self._settling = None
        if self._netlink is not None:
            asyncio.get_running_loop().remove_reader(self._netlink)
            self._netlink.close()
            self._netlink = None
        await asyncio.gather(*(client.close() for client in self._clients.values()))

    def report(
        self, name: str, endpoint: str, net: Net, view: View, kick: Callable[[], None]
    ) -> None:
        """Look at an account's new state: it begins or ends to wait for its endpoint.

        ``net`` is how the account reaches it, and how it is asked.
        """
        if not endpoint:
            return
        prober = self._probers.get((endpoint, net))
        kind = view.cause.kind if view.cause is not None else None
        if view.published is Published.RETRYING and kind in OF_THE_NETWORK:
            if prober is None:
                ask = partial(self._ask, net)
                prober = Prober(endpoint, ask, turns=self._turns, rand=self._rand)
                self._probers[endpoint, net] = prober
            prober.wait(name, kick)
            if view.state is State.BACKOFF and kind in (Kind.UNREACHABLE, Kind.TIMEOUT):
                prober.hurry()
        elif prober is not None:
            prober.leave(name)

    async def _ask(self, net: Net, url: str) -> bool:
        """Whether anything that speaks HTTP answers there and is not itself broken."""
        client = self._clients.get(net)
        if client is None:
            client = self._clients[net] = net.client()
        parts = urlsplit(url)
        try:
            reply = await client.request(
                "HEAD",
                f"{parts.scheme}://{parts.netloc}/",
                headers={"Connection": "close"},
                timeout=LIMIT,
            )
        except HttpFailed:
            return False
        return reply.status < 500

    def _news(self) -> None:
        assert self._netlink is not None
        # ENOBUFS is news too: so many that the kernel dropped some.
        with contextlib.suppress(OSError):
            while self._netlink.recv(65_536):
                pass
        if self._settling is None:
            self._settling = asyncio.get_running_loop().call_later(SETTLE, self._changed)

    def _changed(self) -> None:
        self._settling = None
        for prober in self._probers.values():
            prober.hurry()
        self._on_change()


# Multicast groups of rtnetlink(7).
_LINK, _IPV4_ADDRESS, _IPV4_ROUTE, _IPV6_ADDRESS, _IPV6_ROUTE = 0x1, 0x10, 0x40, 0x100, 0x400
