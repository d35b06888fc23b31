"""Everything that works for one account: its connection, its lanes, its sender."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from holdfast.config import AccountConfig
from holdfast.gateway.account import Account
from holdfast.gateway.lanes import Lanes
from holdfast.gateway.sender import Sender

HANDLER_GRACE = 2.0
"""Seconds running handlers and sends get when the gateway stops; the promise is 5 s in all."""


@dataclass(slots=True)
class Desk:
    """One account of a gateway at work."""

    config: AccountConfig
    account: Account
    lanes: Lanes
    sender: Sender
    paused: bool = False
    opening: asyncio.Task[None] | None = None
    """Takes up what the journal holds, then connects; None at the gateway's start."""

    @property
    def broken(self) -> bool:
        """Its opening has failed for good: nothing of it will ever work."""
        task = self.opening
        return bool(task and task.done() and not task.cancelled() and task.exception())

    async def stop(self) -> None:
        """Stop all of it within 5 s."""
        if self.opening is not None:
            self.opening.cancel()
            await asyncio.wait([self.opening])
        await asyncio.gather(
            self.account.pause(), self.lanes.stop(HANDLER_GRACE), self.sender.stop(HANDLER_GRACE)
        )
        # Only now: it closes the client on which the last sends were under way.
        await self.account.stop()
