"""The witnesses of a crash run: the users of each account, and the journal at the end."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from holdfast.lab.checker import Answer, History, Question, Row
from holdfast.lab.crash_plan import Role
from holdfast.lab.stage import Stage
from holdfast.store.protocol import Box, Store
from holdfast.store.sqlite import GAPS_KEPT, SqliteStore

PAGE: Final = 1_000
"""Rows of the journal that are read at a time."""


@dataclass(slots=True)
class Users:
    """The users of one account, and what they remember."""

    stage: Stage
    role: Role
    replays: bool
    ordered: bool
    said: list[Question] = field(default_factory=list)
    heard: list[Answer] = field(default_factory=list)
    waiting: set[tuple[str, str]] = field(default_factory=set)
    """Chat and token of what was not answered yet."""
    _read: int = 0

    def say(self, chat: str) -> None:
        """Somebody says something that was never said before."""
        group = chat in self.role.groups
        token = f"{self.role.account}-{len(self.said) + 1}"
        self.said.append(Question(token=token, chat=chat, at=time.time()))
        self.waiting.add((chat, token))
        sender = "ann" if group else chat
        self.stage.simulator.say(f"number {token}", chat=chat, sender=sender, group=group)

    def listen(self) -> None:
        """Take note of the answers that have come since the last look."""
        heard = self.stage.simulator.heard
        for one in heard[self._read :]:
            answer = Answer(token=token_of(one.text), chat=one.chat)
            self.heard.append(answer)
            self.waiting.discard((answer.chat, answer.token))
        self._read = len(heard)

    def history(self, journal: Journal) -> History:
        """All that is known of the account."""
        self.listen()
        name = self.role.account
        return History(
            account=name,
            said=self.said,
            heard=self.heard,
            rows=journal.rows.get(name, ()),
            gaps=journal.gaps.get(name, ()),
            replays=self.replays,
            ordered=self.ordered,
        )


def token_of(text: str) -> str:
    """The last word: platforms put names and marks before what was said, never after."""
    return text.split()[-1] if text.strip() else ""


@dataclass(frozen=True, slots=True)
class Journal:
    """What the journal has at the end, by account."""

    rows: Mapping[str, list[Row]]
    gaps: Mapping[str, list[tuple[float, float]]]

    @classmethod
    async def read(cls, path: Path, accounts: Collection[str]) -> Journal:
        """Read it once its gateway has ended. Raises StoreError."""
        store = await SqliteStore.open(path)
        try:
            rows: dict[str, list[Row]] = {name: [] for name in accounts}
            for box in Box:
                async for account, row in _rows(store, box):
                    rows[account].append(row)
            gaps = {name: await store.gaps(name, GAPS_KEPT) for name in accounts}
        finally:
            await store.close()
        return cls(rows, {n: [(gap.since, gap.until) for gap in all_] for n, all_ in gaps.items()})


async def _rows(store: Store, box: Box) -> AsyncIterator[tuple[str, Row]]:
    before: int | None = None
    while page := await store.entries(box, before=before, limit=PAGE):
        for entry in page:
            before = entry.row
            yield (
                entry.account,
                Row(
                    box=box,
                    row=entry.row,
                    token=token_of(entry.message.text),
                    state=entry.state,
                    maybe_doubled=entry.maybe_doubled,
                ),
            )
