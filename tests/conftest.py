"""Async tests run on virtual time by default; `@pytest.mark.real_time` gives them a real clock."""

from __future__ import annotations

import asyncio
import inspect
import os
import uuid
from collections import defaultdict
from itertools import chain

import pytest

from holdfast.gateway.claims import SPACE
from holdfast.testing import run_virtual

# Gateways that other tests run at this moment have nothing to do with ours.
os.environ[SPACE] = uuid.uuid4().hex  # of each worker, which inherits the one of its parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest modules first, by their own limits, dealt out to all workers.

    Each worker begins with a slice of the list; what came last would be ended by one of them while
    the others idle.
    """
    limits: dict[str, float] = defaultdict(float)
    for item in items:
        if (marker := item.get_closest_marker("timeout")) is not None:
            limits[_module(item)] = max(limits[_module(item)], float(marker.args[0]))
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slices: list[list[pytest.Item]] = [[] for _ in range(count)]
    for number, module in enumerate(sorted(limits, key=limits.__getitem__, reverse=True)):
        slices[number % count] += [item for item in items if _module(item) == module]
    rest = [item for item in items if _module(item) not in limits]
    for part in slices:
        room = max(0, len(items) // count - len(part))
        part += rest[:room]
        del rest[:room]
    items[:] = [*chain.from_iterable(slices), *rest]


def _module(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def test_...`: no plugin, one rule."""
    function = pyfuncitem.obj
    if not inspect.iscoroutinefunction(function):
        return None
    names = inspect.signature(function).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    if pyfuncitem.get_closest_marker("real_time"):
        asyncio.run(function(**arguments))
    else:
        run_virtual(function(**arguments))
    return True
