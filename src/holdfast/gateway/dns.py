"""Name resolution that can not hang: bounded, shared between callers, on threads we can leave."""

from __future__ import annotations

import asyncio
import socket

from aiohttp.abc import AbstractResolver, ResolveResult

from holdfast.threads import DAEMONS

LIMIT = 5.0
"""Seconds for one look-up."""


class Resolver(AbstractResolver):
    """getaddrinfo on daemon threads: a look-up that never returns delays neither loop nor exit.

    Equal look-ups under way are shared, so a dead name server costs one thread per name.
    """

    def __init__(self, limit: float = LIMIT) -> None:
        self._limit = limit
        self._running: dict[
            tuple[str, int, socket.AddressFamily], asyncio.Future[list[ResolveResult]]
        ] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Addresses of a host. Raises OSError, also when the limit has passed."""
        key = (host, port, family)
        future = self._running.get(key)
        if future is None:
            loop = asyncio.get_running_loop()
            future = loop.run_in_executor(DAEMONS, _addresses, host, port, family)
            self._running[key] = future
            future.add_done_callback(lambda done: self._settle(key, done))
        try:
            async with asyncio.timeout(self._limit):
                return await asyncio.shield(future)
        except TimeoutError:
            raise socket.gaierror(
                socket.EAI_AGAIN, f"no answer from the name server within {self._limit:g} s"
            ) from None
        except UnicodeError as error:
            raise socket.gaierror(socket.EAI_NONAME, f"not a host name: {error}") from error

    def _settle(
        self,
        key: tuple[str, int, socket.AddressFamily],
        future: asyncio.Future[list[ResolveResult]],
    ) -> None:
        if not future.cancelled():
            future.exception()  # whoever timed out no longer looks
        self._running.pop(key, None)

    async def close(self) -> None:
        """Nothing to release: the threads are daemons."""


def _addresses(host: str, port: int, family: socket.AddressFamily) -> list[ResolveResult]:
    infos = socket.getaddrinfo(
        host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
    )
    return [
        ResolveResult(
            hostname=host,
            host=str(address[0]),
            port=int(address[1]),
            family=found_family,
            proto=proto,
            flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
        )
        for found_family, _, proto, _, address in infos
    ]
