"""What is told of an account while its desk is not open: it is wanted, and can not connect yet.

Its supervisor is stopped as long as the journal was not read, and by itself would say just that,
as if somebody wanted it so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace

from holdfast.errors import StoreError
from holdfast.gateway.stored import RETRY
from holdfast.supervision import Cause, Kind, Published, Report, View

log = logging.getLogger("holdfast.account")

LIMIT = 10.0
"""Seconds after which a journal that does not answer is called unreadable: those of a login's
step."""

TRIGGER = "opening"
"""What moves an account that is not open, as the history tells it."""


class Opening:
    """The opening of one desk, as it stands. Belongs to the running event loop."""

    def __init__(self, account: str, changed: Callable[[], None]) -> None:
        """``changed`` is called with every change; it must not raise."""
        self.account = account
        self.task: asyncio.Task[None] | None = None
        """Opens a desk of a running gateway; None at the gateway's start."""
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._published = Published.CONNECTING
        self._cause: Cause | None = None
        self._since = self._loop.time()
        self._retry_at: float | None = None
        self._timer = self._loop.call_later(LIMIT, self._hangs)
        self._told: tuple[Published, Cause | None] | None = None

    @property
    def told(self) -> bool:
        """Whether anything was reported of it."""
        return self._told is not None

    @property
    def broken(self) -> bool:
        """It has failed for good."""
        return self._published is Published.FATAL

    def seen(self, view: View) -> View:
        """A stopped supervisor's reading, as the account stands in truth."""
        down = self._published is not Published.CONNECTING
        return replace(
            view,
            published=self._published,
            since=self._since,
            retry_at=self._retry_at,
            cause=self._cause,
            attention=self.broken,
            outage_since=self._since if down else None,
        )

    def news(self, view: View) -> Report | None:
        """The report of a reading, or None when that was told before, or is no news."""
        told = view.published, view.cause
        first = self._told is None
        if told == self._told or (first and view.published is Published.STOPPED):
            return None
        self._told = told
        return Report(view, TRIGGER)

    async def attempt(self, work: Callable[[], Awaitable[None]]) -> None:
        """One try. Raises what it raises."""
        try:
            await work()
        except StoreError as error:
            if not error.final:
                self._retry_at = self._loop.time() + RETRY
                self._unreadable(error.problem, error.hint)
            raise

    async def watch(self, work: Awaitable[None]) -> None:
        """All tries. Raises what ends them for good."""
        try:
            await work
        except Exception as error:
            log.exception("not opened account=%s", self.account)
            self._retry_at = None
            message = f"the account could not be opened: {type(error).__name__}: {error}"
            hint = "Run `holdfast reload` to try again, and please report it with the log."
            cause = Cause(Kind.LOCAL, "opening_failed", message, hint, final=True)
            self._becomes(Published.FATAL, cause)
            raise

    def end(self) -> None:
        """It is open, or given up: nothing changes any more."""
        self._timer.cancel()

    async def cancel(self) -> None:
        """Give it up."""
        self.end()
        if self.task is not None:
            self.task.cancel()
            await asyncio.wait([self.task])

    def _hangs(self) -> None:
        if self._cause is None:
            self._unreadable(f"the journal has not answered for {LIMIT:g} s")

    def _unreadable(self, message: str, hint: str = "") -> None:
        self._becomes(Published.RETRYING, Cause(Kind.LOCAL, "journal_unreadable", message, hint))

    def _becomes(self, published: Published, cause: Cause) -> None:
        self._timer.cancel()
        if published is not self._published:
            self._since = self._loop.time()
        self._published, self._cause = published, cause
        self._changed()
