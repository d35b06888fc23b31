"""What the tests of supervised SDKs share."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from holdfast.sdk import Supervised
from holdfast.supervision import Policy, State, View

EXAMPLES = Path(__file__).parents[2] / "examples" / "supervised"


def example(name: str) -> ModuleType:
    """The documented program for an SDK, as a module."""
    spec = importlib.util.spec_from_file_location(f"supervised_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def quick(label: str) -> Policy:
    """A policy for tests on the real clock."""
    return Policy(
        label=label, backoff_first=0.1, backoff_cap=1.0, quick_life=0.01, attempt_timeout=20.0
    )


async def up(bot: Supervised, generation: int) -> View:
    """Wait until a generation has proved its life."""
    async with asyncio.timeout(120):
        return await bot.until(lambda v: v.state is State.LIVE and v.generation >= generation)
