"""Whether a live connection still delivers: the platform's own history is asked, now and then.

Heartbeats prove that a connection lives, not that anybody routes events into it: platforms are
known to answer pings for hours over a connection they have forgotten. Where nothing came in for a
while, the adapter looks whether anything should have (`holdfast.adapter.Adapter.overlooked`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from math import inf
from typing import Any, Final

from holdfast.adapter import Adapter, Link
from holdfast.gateway.classify import classified
from holdfast.supervision import Cause, Kind

log = logging.getLogger("holdfast.deafness")

IN_FLIGHT: Final = 10.0
"""Seconds for which a message may be on its way: what is overlooked is so after them, too. They
are ours, whatever the platform's clock says."""

GRAIN: Final = 0.001
"""Seconds too short to be waited for: added to a clock's reading they may be nothing at all."""

LIMIT: Final = 15.0
"""Seconds for one look. Two of them, `IN_FLIGHT` and the wait before are below five minutes."""

HINT: Final = (
    "Nothing to do at first: Holdfast logs in afresh. If it comes again, look in the platform's "
    "console whether the bot is still subscribed to messages, and whether another program uses its "
    "credentials."
)


class DeafnessWatch:
    """Looks into the history whenever a connection has brought no message for a while.

    Without `Traits.history_check` it does nothing. ``spawn`` runs a look as a task that ends with
    the connection; ``deaf`` is told, once, why the connection must end and since when, on the
    loop's clock, it is not known to have delivered.
    """

    def __init__(
        self,
        adapter: Adapter,
        link: Link,
        account: str,
        *,
        spawn: Callable[[Callable[[], Coroutine[Any, Any, None]], str], None],
        deaf: Callable[[Cause, float], None],
    ) -> None:
        self._adapter, self._link, self._account = adapter, link, account
        self._spawn, self._deaf = spawn, deaf
        self._every = adapter.traits.history_check or inf
        self._heard_at = self._armed_after = -inf
        """When the last message came, and the same as it was when the timer was set."""
        self._timer: asyncio.TimerHandle | None = None
        self._failing = self._over = False

    def begin(self) -> None:
        """The connection is ready: from now on it should deliver."""
        if self._every < inf and self._timer is None:
            self.heard()
            self._arm(self._heard_at)

    def heard(self) -> None:
        """A message has come in."""
        self._heard_at = asyncio.get_running_loop().time()

    def stop(self) -> None:
        """The connection is over. Idempotent."""
        self._over = True
        if self._timer is not None:
            self._timer.cancel()

    def _arm(self, since: float) -> None:
        self._armed_after = self._heard_at
        if not self._over:  # an abandoned connection may have a look under way
            self._timer = asyncio.get_running_loop().call_at(since + self._every, self._due)

    def _due(self) -> None:
        # Not by the clock: a timer may come a hair early, and would be set anew for ever.
        if self._heard_at != self._armed_after:
            self._arm(self._heard_at)
        else:
            self._spawn(self._look, "look into the history")

    async def _look(self) -> None:
        """Deaf is who was not told twice, `IN_FLIGHT` apart, and of nothing else in between."""
        before = self._heard_at
        found = await self._ask()
        if found is not None:
            await asyncio.sleep(IN_FLIGHT)
            found = await self._ask()
        if found is None or self._heard_at != before:
            self._arm(asyncio.get_running_loop().time())
            return
        message = f"the connection lives, but does not deliver: it was never told of {found}"
        cause = Cause(Kind.SESSION, f"{self._adapter.platform}_deaf", message, HINT)
        self._deaf(cause, before)

    async def _ask(self) -> str | None:
        try:
            async with asyncio.timeout(LIMIT):
                found = await self._adapter.overlooked(self._link)
        except Exception as error:
            # No evidence either way; what keeps a look from succeeding is told once, not each time.
            if not self._failing:
                cause = classified(self._adapter, error)
                log.warning(
                    "no look into the history account=%s code=%s message=%r",
                    self._account,
                    cause.code,
                    cause.message,
                )
            self._failing = True
            return None
        self._failing = False
        return found
