"""Writing to the journal for as long as that takes, and saying so without filling the disk more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from itertools import count
from typing import ParamSpec, TypeVar

from holdfast.errors import StoreError

log = logging.getLogger("holdfast.journal")

P = ParamSpec("P")
T = TypeVar("T")

RETRY = 2.0
"""Seconds before the journal is asked again when it could not be written."""

TELL_EVERY = 150
"""Failed tries between two log lines: five minutes of them."""


async def stored(
    account: str, write: Callable[P, Awaitable[T]], *args: P.args, **kw: P.kwargs
) -> T:
    """The result of a write, repeated until the journal takes it.

    Raises StoreError when it never will (`final`). Cancelling is as safe as cancelling the write
    itself.
    """
    for failures in count():
        try:
            result = await write(*args, **kw)
        except StoreError as error:
            if error.final:
                raise
            if failures % TELL_EVERY == 0:
                log.error("journal account=%s failures=%d error=%s", account, failures + 1, error)
            await asyncio.sleep(RETRY)
        else:
            if failures:
                log.info("journal writes again account=%s failures=%d", account, failures)
            return result
    raise AssertionError("count() is endless")
