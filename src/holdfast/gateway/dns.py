"""Name resolution that can not hang: bounded, shared between callers, on threads we can leave."""

from __future__ import annotations

import asyncio
import socket
import threading

from aiohttp.abc import AbstractResolver, ResolveResult

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
            future = self._running[key] = self._look_up(host, port, family)
            future.add_done_callback(lambda _: self._running.pop(key, None))
        try:
            async with asyncio.timeout(self._limit):
                return await asyncio.shield(future)
        except TimeoutError:
            self._running.pop(key, None)
            raise socket.gaierror(
                socket.EAI_AGAIN, f"no answer from the name server within {self._limit:g} s"
            ) from None

    def _look_up(
        self, host: str, port: int, family: socket.AddressFamily
    ) -> asyncio.Future[list[ResolveResult]]:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[ResolveResult]] = loop.create_future()

        def settle(result: list[ResolveResult] | OSError) -> None:
            if future.done():
                return
            if isinstance(result, OSError):
                future.set_exception(result)
                future.exception()  # whoever timed out no longer looks
            else:
                future.set_result(result)

        def work() -> None:
            try:
                found: list[ResolveResult] | OSError = _addresses(host, port, family)
            except OSError as error:
                found = error
            except UnicodeError as error:
                found = socket.gaierror(socket.EAI_NONAME, f"not a host name: {error}")
            try:
                loop.call_soon_threadsafe(settle, found)
            except RuntimeError:
                return  # the loop is closed; nobody waits

        threading.Thread(target=work, name=f"dns {host}", daemon=True).start()
        return future

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
