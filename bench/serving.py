"""A gateway with its history and its pages, started and stopped in the order of `holdfast run`."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from holdfast.gateway.gateway import Gateway
from holdfast.observe.history import History
from holdfast.web.server import HttpServer


@contextlib.asynccontextmanager
async def serving(gateway: Gateway, history: History, server: HttpServer) -> AsyncIterator[None]:
    """All three, up. Accounts are on their way, not connected."""
    async with contextlib.AsyncExitStack() as stack:
        await history.start()
        stack.push_async_callback(history.stop)
        gateway.listeners.append(history.report)
        await gateway.start()
        stack.push_async_callback(gateway.stop)
        await server.start()
        stack.push_async_callback(server.stop)
        yield
