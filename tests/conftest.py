"""Async tests run on virtual time by default; `@pytest.mark.real_time` gives them a real clock."""

from __future__ import annotations

import asyncio
import inspect
import os
import uuid

import pytest

from holdfast.gateway.claims import SPACE
from holdfast.testing import run_virtual

# Gateways that other tests run at this moment have nothing to do with ours.
os.environ[SPACE] = uuid.uuid4().hex  # of each worker, which inherits the one of its parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first, by their own limits: else one worker ends them, and the others idle."""
    items.sort(key=_limit, reverse=True)


def _limit(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker else 0.0


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
