"""Calls that may block for ever, on threads that nobody has to wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonExecutor(Executor):
    """A thread per call, none of which delays the exit of the process.

    The standard pools join their threads at exit, so one hanging name look-up or handler would
    hold up a stop for as long as it hangs. Callers bound the number of calls themselves.
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run the call on a daemon thread."""
        future: Future[T] = Future()

        def work() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result: Any = fn(*args, **kwargs)
            except StopIteration as error:  # no asyncio future takes it: a wait without end
                future.set_exception(RuntimeError(f"it raised {error!r}"))
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

        name = getattr(fn, "__qualname__", type(fn).__name__)
        threading.Thread(target=work, name=f"call {name}", daemon=True).start()
        return future


DAEMONS = DaemonExecutor()
"""Stateless, so one is enough."""
