"""The cable between account and platform: one relay outward, one for the platform's web hooks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from holdfast.lab.faults.relay import Mode, Relay


class Cable:
    """Two relays that fail together. Switches are those of `Relay`: ``cable(Relay.cut)``."""

    def __init__(self, server_port: int, hook_port: int) -> None:
        self._server_port = server_port
        self._out = Relay("127.0.0.1", server_port)
        self._in = Relay("127.0.0.1", hook_port)

    async def start(self) -> None:
        """Listen."""
        await self._out.start()
        await self._in.start()

    async def stop(self) -> None:
        """Reset what is open and stop listening."""
        await asyncio.gather(self._out.stop(), self._in.stop())

    def __call__(self, switch: Callable[..., None], *args: Any) -> None:
        """Throw one switch of both relays."""
        switch(self._out, *args)
        switch(self._in, *args)

    def heal(self) -> None:
        """Carry everything again; connections that lost bytes are reset."""
        self(Relay.heal)

    @property
    def broken(self) -> bool:
        """Whether the network is in a state in which nothing can be relied on."""
        return self._out.mode is not Mode.PASS

    @property
    def accepted(self) -> int:
        """How often the account has dialled."""
        return self._out.accepted

    @property
    def inbound(self) -> int:
        """Bytes that have reached the account, answers and web hooks together."""
        return self._out.to_client.delivered + self._in.to_server.delivered

    @property
    def hook_url(self) -> str:
        """The address of the account's web hook server, through the cable."""
        return self._in.url("http")

    def led(self, table: dict[str, Any], host: str = "127.0.0.1") -> dict[str, Any]:
        """An account's table with every address of the server led through the cable."""
        direct = f"127.0.0.1:{self._server_port}"
        led = f"{host}:{self._out.port}"
        return {
            key: value.replace(direct, led) if isinstance(value, str) else value
            for key, value in table.items()
        }
