"""Everything that works for one account: its connection, its lanes, its sender."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from holdfast.config import AccountConfig
from holdfast.gateway.account import Account
from holdfast.gateway.lanes import Lanes
from holdfast.gateway.opening import Opening
from holdfast.gateway.sender import Sender
from holdfast.supervision import State, View

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
    opening: Opening | None = None
    """How far it is opened; None once it is. A desk that makes room for another has the other's."""

    @property
    def broken(self) -> bool:
        """Its opening has failed for good: nothing of it will ever work."""
        return self.opening is not None and self.opening.broken

    def view(self) -> View:
        """What is told of the account now: stopped only when somebody wants that."""
        view = self.account.view()
        if self.opening is None or self.paused or view.state is not State.STOPPED:
            return view
        return self.opening.seen(view)

    async def stop(self, successor: Opening | None = None) -> None:
        """Stop all of it within 5 s; then the account stands as its ``successor`` does."""
        former, self.opening = self.opening, successor
        if former is not None:
            await former.cancel()
        await asyncio.gather(
            self.account.pause(), self.lanes.stop(HANDLER_GRACE), self.sender.stop(HANDLER_GRACE)
        )
        # Only now: it closes the client on which the last sends were under way.
        await self.account.stop()
