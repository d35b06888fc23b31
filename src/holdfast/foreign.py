"""Foreign code on our loop: what it raises must never end more than itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def contained(what: str) -> Iterator[None]:
    """What is meant to end the process (``sys.exit``) is a failure of ``what``: RuntimeError.

    asyncio lets such an exception through to whoever runs the loop. Errors and cancellations pass.
    """
    try:
        yield
    except (Exception, asyncio.CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        raise RuntimeError(f"{what} raised {error!r}") from error
