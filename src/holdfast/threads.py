"""Calls that may block for ever, on threads that nobody has to wait for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class DaemonExecutor(Executor):
    """A thread per call, none of which delays the exit of the process.

    The standard pools join their threads at exit, so one hanging name look-up or handler would
    hold up a stop for as long as it hangs. Callers bound the number of calls
    themselves, as `Calls` does.
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


class CallsHang(RuntimeError):
    """A call was not made: too many earlier ones have not returned."""


class Calls(DaemonExecutor):
    """Calls of one kind, of which few may hang at a time. Awaited on one loop."""

    def __init__(self, what: str, limit: int) -> None:
        """``limit`` is how many may go on after nobody waits for them any more."""
        self._what, self._limit = what, limit
        self._awaited = 0
        self._running: set[Future[Any]] = set()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """See `DaemonExecutor.submit`."""
        future = super().submit(fn, *args, **kwargs)
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        return future

    async def __call__(self, function: Callable[..., T], *args: Any) -> T:
        """The result of the call. Cancelled, it leaves the thread behind. Raises CallsHang."""
        hanging = len(self._running) - self._awaited
        if hanging >= self._limit:
            raise CallsHang(f"earlier calls of {self._what} have not returned ({hanging})")
        self._awaited += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self, function, *args)
        finally:
            self._awaited -= 1
