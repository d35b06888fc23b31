"""The journal for commands: through the running gateway, or by itself while none runs.

Holding the journal's lock proves that no gateway runs. What is changed then is taken up by the
next one at its start.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from holdfast.cli.control import Control, NotRunning
from holdfast.cli.exits import CommandFailed, Exit
from holdfast.config import state_dir_of
from holdfast.web.problem import Problem

if TYPE_CHECKING:
    from holdfast.adapter import Traits
    from holdfast.messages import Outbound
    from holdfast.store.protocol import Box, Entry, GapEntry, Owed, Store
    from holdfast.web.clerk import Clerk

T = TypeVar("T")

JOURNAL = "journal.db"
"""The journal's name in the state directory."""


@dataclass(frozen=True, slots=True)
class Answer(Generic[T]):
    """What was found or done, and where."""

    value: T
    source: str
    """``gateway`` or ``journal``."""


class Journal:
    """The journal of the gateway that a configuration describes."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._config: Path = args.config
        self._control = Control(state_dir_of(args.config))
        self._noted = False

    def look(
        self, ask: Callable[[Control], T], alone: Callable[[Clerk], Awaitable[T]]
    ) -> Answer[T]:
        """Ask the gateway, or the journal alone: one without messages, where there is none yet.

        Raises CommandFailed as `Control.ask` does.
        """
        return self._either(ask, alone, "this is from its journal")

    def change(
        self,
        order: Callable[[Control], T],
        alone: Callable[[Clerk], Awaitable[T]],
        *,
        begin: bool = False,
    ) -> Answer[T]:
        """Like `look`, for what changes the journal; ``begin`` makes one where there is none."""
        note = "its journal is changed, for the next one to take up"
        return self._either(order, alone, note, begin)

    def _either(
        self,
        ask: Callable[[Control], T],
        alone: Callable[[Clerk], Awaitable[T]],
        note: str,
        begin: bool = False,
    ) -> Answer[T]:
        try:
            return Answer(ask(self._control), "gateway")
        except NotRunning as failed:
            path = self._control.directory / JOURNAL
            there = _is_whole(path)
            value = self._alone(path if there or begin else None, alone)
            if not (there or begin):
                note = "it has no journal yet"
            if not self._noted:
                print(f"holdfast: {failed.problem}; {note}", file=sys.stderr)
                self._noted = True
            return Answer(value, "journal")

    def _alone(self, path: Path | None, work: Callable[[Clerk], Awaitable[T]]) -> T:
        import asyncio

        from holdfast.store.memory import MemoryStore
        from holdfast.store.sqlite import SqliteStore
        from holdfast.web.clerk import Clerk

        async def run() -> T:
            store = MemoryStore() if path is None else await SqliteStore.open(path)
            try:
                return await work(Clerk(Unattended(store, self._config)))
            finally:
                await store.close()

        try:
            return asyncio.run(run())
        except Problem as problem:
            raise CommandFailed(problem.error, problem.hint) from None


def _is_whole(path: Path) -> bool:
    """Whether there is a journal.

    Raises CommandFailed when part of it is gone: only a gateway tells all accounts.
    """
    from holdfast.store.opening import Lock, Place, loss_of

    if not path.exists() and not path.with_name(path.name + ".lock").exists():
        return False
    lock = Lock(path)
    try:
        missing = loss_of(Place(path=path), lock)
    finally:
        lock.release()
    if missing:
        raise CommandFailed(missing, "start the gateway, which reports what may be lost")
    return path.exists()


class Unattended:
    """`clerk.Hands` on the journal alone."""

    def __init__(self, store: Store, config: Path) -> None:
        self.store = store
        self._config = config

    def accounts(self) -> Collection[str]:
        """See `Hands`. Needs no secrets, unlike loading the configuration."""
        return self._platforms()

    def traits(self, account: str) -> Traits:
        """See `Hands`."""
        from holdfast.platforms import find

        return find(self._platforms()[account], f"{self._config}: [accounts.{account}]").traits

    def standing(self, account: str) -> tuple[str, int]:
        """See `Hands`."""
        return "stopped", 0

    async def retry(self, box: Box, row: int) -> Entry:
        """See `Hands`."""
        return await self.store.retry(box, row)

    async def post(self, account: str, messages: Sequence[Outbound]) -> list[Owed]:
        """See `Hands`."""
        return await self.store.post(account, messages)

    async def dismiss_gap(self, number: int) -> GapEntry:
        """See `Hands`."""
        return await self.store.dismiss_gap(number)

    def _platforms(self) -> dict[str, str]:
        """The accounts that a gateway would run, with their platforms."""
        import tomllib

        tables = tomllib.loads(self._config.read_text(encoding="utf-8-sig")).get("accounts", {})
        return {
            name: str(table.get("platform"))
            for name, table in tables.items()
            if isinstance(table, dict) and table.get("enabled", True)
        }


def usage(problem: str, hint: str = "") -> CommandFailed:
    """The command line is wrong in a way that its parser can not see."""
    return CommandFailed(problem, hint, Exit.USAGE)
