"""The cable between a gateway and a platform: a relay outward, and one for the platform's calls.

Platforms without a connection of their own (web hooks, a chat page) come to the gateway. A cable
that was pulled only on the way out would leave them a way in, and the truth would be a lie.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from holdfast.lab.faults.relay import Mode, Relay

HOST = "127.0.0.1"


class Cable:
    """Two relays that fail together. Switches are those of `Relay`: ``cable(Relay.cut)``.

    ``outward`` leads to the server, ``inward`` to the account's web hooks, whose port may become
    known later than the cable must listen (`lead_hooks`).
    """

    def __init__(self, server_port: int, hook_port: int = 0) -> None:
        self._server_port = server_port
        self.outward = Relay(HOST, server_port)
        self.inward = Relay(HOST, hook_port)

    async def start(self) -> None:
        """Listen."""
        await self.outward.start()
        await self.inward.start()

    async def stop(self) -> None:
        """Reset what is open and stop listening."""
        await asyncio.gather(self.outward.stop(), self.inward.stop())

    def lead_hooks(self, port: int) -> None:
        """Where the account's web hook server listens; whoever called before was reset."""
        self.inward.retarget(HOST, port)

    # -- faults -------------------------------------------------------------------------------

    def __call__(self, switch: Callable[..., None], *args: Any) -> None:
        """Throw one switch of both relays."""
        switch(self.outward, *args)
        switch(self.inward, *args)

    def heal(self) -> None:
        """Carry everything again; connections that lost bytes are reset."""
        self(Relay.heal)

    def lead_astray(self, port: int | None) -> None:
        """Let another server on this machine take the platform's place; None: the platform.

        Whoever is connected is reset. What the platform calls is where it was.
        """
        self.outward.retarget(HOST, self._server_port if port is None else port)
        self.outward.rst()

    @property
    def broken(self) -> bool:
        """Whether the network is in a state in which nothing can be relied on."""
        return any(relay.mode is not Mode.PASS for relay in (self.outward, self.inward))

    # -- what goes through it -----------------------------------------------------------------

    @property
    def accepted(self) -> int:
        """How often the account has dialled."""
        return self.outward.accepted

    @property
    def inbound(self) -> int:
        """Bytes that have reached the account, answers and web hooks together."""
        return self.outward.to_client.delivered + self.inward.to_server.delivered

    @property
    def hook_url(self) -> str:
        """The address of the account's web hook server, through the cable."""
        return self.inward.url("http")

    def led(self, table: dict[str, Any], host: str = HOST) -> dict[str, Any]:
        """An account's table with every address of the server led through the cable."""
        direct = f"{HOST}:{self._server_port}"
        led = f"{host}:{self.outward.port}"
        return {
            key: value.replace(direct, led) if isinstance(value, str) else value
            for key, value in table.items()
        }
