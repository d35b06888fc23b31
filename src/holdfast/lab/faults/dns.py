"""T5 and T12: a name resolver for aiohttp's connector whose answers are the test's.

Names it was not told about do not exist: nothing ever leaves the machine. aiohttp does not ask a
resolver about URLs that contain an address instead of a name.
"""

from __future__ import annotations

import asyncio
import enum
import socket
from collections import Counter
from collections.abc import Mapping, Sequence

from aiohttp.abc import AbstractResolver, ResolveResult


class Mode(enum.Enum):
    """How the resolver answers."""

    OK = "ok"
    FAIL = "fail"
    HANG = "hang"


class LabResolver(AbstractResolver):
    """Give it to ``aiohttp.TCPConnector(resolver=..., use_dns_cache=False)``.

    ``addresses`` maps a host to its IPv4 and IPv6 addresses, answered in that order; the port is
    never changed. ``asked`` counts the questions by host.
    """

    def __init__(self, addresses: Mapping[str, Sequence[str]] | None = None) -> None:
        self.mode = Mode.OK
        self.asked: Counter[str] = Counter()
        self._addresses = {host: tuple(found) for host, found in (addresses or {}).items()}
        self._code = socket.EAI_AGAIN
        self._moved = asyncio.Event()

    # -- switches -----------------------------------------------------------------------------

    def point(self, host: str, *addresses: str) -> None:
        """Let a name have these addresses from now on; none means that it does not exist."""
        self._addresses[host] = addresses

    def dead_v6_first(self, host: str) -> None:
        """T12: ``::1`` first, ``127.0.0.1`` second. A FullBacklog on ::1 makes the first dead."""
        self.point(host, "::1", "127.0.0.1")

    def ok(self) -> None:
        """Answer; lookups that hang are answered now."""
        self._enter(Mode.OK)

    heal = ok

    def fail(self, code: int = socket.EAI_AGAIN) -> None:
        """Fail at once with ``gaierror``; EAI_AGAIN is a name server that cannot be reached."""
        self._code = code
        self._enter(Mode.FAIL)

    def hang(self) -> None:
        """Answer nothing until the mode changes."""
        self._enter(Mode.HANG)

    def _enter(self, mode: Mode) -> None:
        self.mode = mode
        self._moved.set()
        self._moved = asyncio.Event()

    # -- what aiohttp calls -------------------------------------------------------------------

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of ``host``. Raises socket.gaierror, which is an OSError."""
        self.asked[host] += 1
        while self.mode is Mode.HANG:
            await self._moved.wait()
        if self.mode is Mode.FAIL:
            raise socket.gaierror(self._code, _TEXTS.get(self._code, "lookup failed"))
        found = [
            _result(host, address, port)
            for address in self._addresses.get(host, ())
            if family in (socket.AF_UNSPEC, _family(address))
        ]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, _TEXTS[socket.EAI_NONAME])
        return found

    async def close(self) -> None:
        """Nothing is open; a closed resolver still answers, so that sessions can share one."""


_TEXTS: dict[int, str] = {
    socket.EAI_AGAIN: "Temporary failure in name resolution",
    socket.EAI_NONAME: "Name or service not known",
    socket.EAI_FAIL: "Non-recoverable failure in name resolution",
}
"""What glibc says, because programs match on it."""


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _result(host: str, address: str, port: int) -> ResolveResult:
    return ResolveResult(
        hostname=host,
        host=address,
        port=port,
        family=_family(address),
        proto=socket.IPPROTO_TCP,
        flags=socket.AI_NUMERICHOST,
    )
