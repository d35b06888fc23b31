"""Messages that a process died with: one of them may have killed it, and would kill the next.

Nobody can tell which one. So their next attempts begin one after the other: what kills the process
again was, as a rule, the only suspect being handled, and is given up before its third attempt.
Where several were, each of them gets its further attempts quite alone.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

from holdfast.store.protocol import Received

DEATHS = 2
"""Attempts in which the process died before the only message it died with is given up: one death
is bad luck. What has a reason besides has failed in an attempt, and so died in fewer of them."""

HEAD_START = 0.25
"""Seconds by which a suspect's attempt is ahead of the next one's. What kills does so at once, as a
rule, and an agent that thinks for long must not keep all others waiting for so long."""


class Suspects:
    """Those of one account. For one event loop."""

    def __init__(self, attempts: int) -> None:
        """``attempts``: how many a message has in all."""
        self._attempts = attempts
        self._deaths: dict[int, int] = {}
        """Row -> attempts, of which the newest ended with the process."""
        self._turn = asyncio.Lock()

    def accuse(self, rows: Sequence[Received]) -> None:
        """These were found in the middle of an attempt when the process started."""
        self._deaths.update((row.row, row.attempts) for row in rows)
        again = [row.row for row in rows if row.attempts >= DEATHS and not row.reason]
        if len(again) == 1:
            self._deaths[again[0]] = max(self._attempts, self._deaths[again[0]])

    def __contains__(self, row: Received) -> bool:
        return row.row in self._deaths

    def convict(self, row: Received) -> bool:
        """Whether it is given up, unasked; a person may have it tried anew."""
        guilty = self._deaths[row.row] >= self._attempts
        if guilty:
            del self._deaths[row.row]
        return guilty

    @contextlib.asynccontextmanager
    async def turn(self, row: Received) -> AsyncIterator[None]:
        """Wait for its turn to be tried again; afterwards it is a message like any other."""
        alone = self._deaths.pop(row.row) >= min(DEATHS, self._attempts - 1)
        await self._turn.acquire()
        pending = True

        def let_next() -> None:
            nonlocal pending
            if pending:
                self._turn.release()
            pending = False

        timer = None if alone else asyncio.get_running_loop().call_later(HEAD_START, let_next)
        try:
            yield
        finally:
            if timer is not None:
                timer.cancel()
            let_next()
