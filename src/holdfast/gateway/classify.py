"""The cause of any error of an account, however adapters and agents misbehave."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import TypeVar

from holdfast.adapter import Adapter, cause_of
from holdfast.supervision import Cause

log = logging.getLogger("holdfast.classify")

T = TypeVar("T")


class CancelledInside(RuntimeError):
    """Foreign code ended in a cancellation that nobody asked it for."""


async def not_cancelled(work: Awaitable[T]) -> T:
    """Await foreign code; a cancellation that is not ours is a failure like any other.

    Passed on, it would end the caller's task as if that had been told to stop. Raises
    CancelledInside.
    """
    task = asyncio.current_task()
    assert task is not None
    before = task.cancelling()
    try:
        return await work
    except asyncio.CancelledError as error:
        if task.cancelling() > before:
            raise
        raise CancelledInside("cancelled by something inside it") from error


def classified(adapter: Adapter, error: BaseException) -> Cause:
    """The adapter's word for an error, else the shared default. Never raises.

    Of a group the first error counts.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    try:
        cause = adapter.classify(error)
    except Exception:
        # A defect there must not hide that something ended.
        log.exception("classify failed platform=%s error=%r", adapter.platform, error)
        cause = None
    return cause or cause_of(error)
