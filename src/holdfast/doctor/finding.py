"""What a check found, and how checks are run: side by side, each for a bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import msgspec

from holdfast.threads import DAEMONS

LIMIT = 5.0
"""Seconds for one check; they run side by side, so this is about what all of them take."""


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    """Nothing to do."""
    WARN = "warn"
    """It works, or will by itself; somebody should know."""
    FAIL = "fail"
    """It does not work until somebody does something."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that was found."""

    check: str
    """The check's name, such as ``dns``."""
    subject: str
    """What was examined: a server, an account, a file; empty for the machine."""
    verdict: Verdict
    what: str
    """What was found, in one sentence."""
    remedy: str = ""
    """What to do; empty exactly when there is nothing to do."""


Found = Iterable[Finding]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing to look at."""

    name: str
    subject: str
    look: Callable[[], Awaitable[Found]]

    def ok(self, what: str) -> Finding:
        """All is well."""
        return Finding(self.name, self.subject, Verdict.OK, what)


def in_thread(name: str, subject: str, look: Callable[[], Found]) -> Check:
    """A check that may block, such as on a disk that hangs; nobody has to wait for its thread."""

    async def threaded() -> Found:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(DAEMONS, partial(_listed, look))

    return Check(name, subject, threaded)


def _listed(look: Callable[[], Found]) -> list[Finding]:
    return list(look())


async def run_all(checks: Sequence[Check], limit: float = LIMIT) -> list[Finding]:
    """What all checks found, in their order. Never raises an error of a check."""
    found = await asyncio.gather(*(_bounded(check, limit) for check in checks))
    return [finding for findings in found for finding in findings]


async def _bounded(check: Check, limit: float) -> list[Finding]:
    try:
        async with asyncio.timeout(limit):
            return list(await check.look())
    except TimeoutError:
        what = f"no result within {limit:g} s"
        remedy = "what it asks hangs: look at the disk for a file, at the network for a server"
        return [Finding(check.name, check.subject, Verdict.WARN, what, remedy)]
    except Exception as error:
        # One defect, or one strange machine, must not hide what the others find.
        what = f"could not be examined: {type(error).__name__}: {error}"
        remedy = "tell the authors of Holdfast"
        return [Finding(check.name, check.subject, Verdict.WARN, what, remedy)]


def worst(findings: Iterable[Finding]) -> Verdict:
    """The worst verdict of all."""
    order = list(Verdict)
    return max((finding.verdict for finding in findings), key=order.index, default=Verdict.OK)
