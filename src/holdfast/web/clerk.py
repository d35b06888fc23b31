"""What an operator does with the journal: look, retry, drop, send, dismiss, copy.

The same clerk works at a running gateway, over HTTP, and on the journal alone while none runs; the
two differ in their `Hands`. Whatever an operator changes is a line of the account's history.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from holdfast.adapter import Traits
from holdfast.errors import StoreError
from holdfast.messages import Outbound
from holdfast.splitting import split
from holdfast.store.protocol import Box, Entry, GapEntry, Owed, Store, Transition, name_of
from holdfast.web.letters import (
    DEAD,
    STATES,
    Copy,
    Filter,
    GapLine,
    Letter,
    Letters,
    Mended,
    check_states,
    gap_line,
    letter,
    letters,
    place_of,
)
from holdfast.web.problem import Problem

T = TypeVar("T")

log = logging.getLogger("holdfast.clerk")

Act = Callable[[Box, int], Awaitable[Entry]]
"""What is done to the message of a row."""

NAMED = 5
"""Messages named in one line of the history; of more, their number is told."""


class Hands(Protocol):
    """Who carries out what the clerk is asked for."""

    @property
    def store(self) -> Store:
        """The journal."""

    def accounts(self) -> Collection[str]:
        """The accounts there are."""

    def traits(self, account: str) -> Traits:
        """What an account's platform can do."""

    def standing(self, account: str) -> tuple[str, int]:
        """The published state of an account, whether there is one or not, and its generation."""

    async def retry(self, box: Box, row: int) -> Entry:
        """Like `Store.retry`, and somebody takes it up. Raises Problem for a lost account."""

    async def post(self, account: str, messages: Sequence[Outbound]) -> list[Owed]:
        """Like `Store.post`, and somebody sends it."""

    async def dismiss_gap(self, number: int) -> GapEntry:
        """Like `Store.dismiss_gap`, and the status forgets it."""


class Clerk:
    """Raises Problem for what can not be done, StoreError when the journal fails."""

    def __init__(self, hands: Hands, clock: Callable[[], float] = time.time) -> None:
        self._hands, self._clock = hands, clock

    # -- looking ------------------------------------------------------------------------------

    async def box(self, box: Box, wanted: Filter, limit: int, before: str | None = None) -> Letters:
        """The newest messages of a box, or the newest of those before ``before``."""
        check_states(wanted.states, STATES[box])
        row = None
        if before is not None:
            place, row = place_of(before)
            if place is not box:
                raise Problem(
                    400,
                    f"{before} is in the {place.value}, not in the {box.value}",
                    "`before` is a name that this list has given",
                )
        found = await self._entries(box, wanted, limit + 1, row)
        return letters(self._known(found, wanted.account), limit)

    async def dead(self, wanted: Filter, limit: int) -> Letters:
        """The newest messages of both boxes that wait for a person."""
        check_states(wanted.states, dict.fromkeys(state for box in DEAD for state in DEAD[box]))
        found: list[Entry] = []
        for box, waiting in DEAD.items():
            states = tuple(state for state in waiting if state in (wanted.states or waiting))
            if states:
                narrowed = msgspec.structs.replace(wanted, states=states)
                found += await self._entries(box, narrowed, limit + 1, None)
        found.sort(key=lambda entry: (entry.at, entry.row), reverse=True)
        return letters(self._known(found, wanted.account), limit)

    def _known(self, found: list[T], account: str | None) -> list[T]:
        """What was found; nothing at all of an account that there is not is a mistake."""
        if not found and account is not None:
            self._check_account(account)
        return found

    def _check_account(self, account: str) -> None:
        known = self._hands.accounts()
        if account not in known:
            names = ", ".join(sorted(known)) or "none"
            raise Problem(404, f"there is no account {account!r}; there are: {names}")

    async def _entries(
        self, box: Box, wanted: Filter, limit: int, before: int | None
    ) -> list[Entry]:
        return await self._hands.store.entries(
            box,
            account=wanted.account,
            states=wanted.states,
            chat=wanted.chat,
            before=before,
            limit=limit,
        )

    async def letter(self, name: str) -> Letter:
        """One message with all of its text."""
        box, row = place_of(name)
        entry = await self._hands.store.entry(box, row)
        if entry is None:
            raise Problem(
                404,
                f"there is no message {name}",
                f"`holdfast {box.value} list` names those there are; settled ones are forgotten",
            )
        return letter(entry)

    async def history(self, account: str | None, limit: int) -> list[Transition]:
        """The newest transitions of an account or of all, the newest last."""
        return await self._hands.store.history(account, limit)

    # -- mending ------------------------------------------------------------------------------

    async def retry(self, names: Iterable[str]) -> list[Mended]:
        """Give messages to the agents or the sender once more, each by itself, in this order."""
        return await self._mend(names, self._hands.retry, "retried")

    async def drop(self, names: Iterable[str]) -> list[Mended]:
        """Give messages up, each by itself."""
        return await self._mend(names, self._hands.store.drop, "dropped")

    async def _mend(self, names: Iterable[str], act: Act, done: str) -> list[Mended]:
        results = [await _mended(name, act) for name in dict.fromkeys(names)]
        changed: dict[str, list[str]] = {}
        for result in results:
            if result.message is not None:
                changed.setdefault(result.message.account, []).append(result.name)
        for account, theirs in changed.items():
            await self._note(account, f"{done} {_listed(theirs)}")
        return results

    # -- sending ------------------------------------------------------------------------------

    async def send(self, account: str, chat: str, text: str, anyway: bool = False) -> list[Letter]:
        """Owe a text to a chat; it is durable on return. Several messages when it is too long.

        The chat must be one of the journal's, unless it is to be tried ``anyway``.
        """
        self._check_account(account)
        if not chat.strip():
            hint = f"`holdfast inbox list --account {account}` shows chats"
            raise Problem(400, "there is no chat to send to", hint)
        traits = self._hands.traits(account)
        texts = split(text, traits.max_text, traits.text_unit)
        if not texts:
            raise Problem(400, "there is no text to send", "a text has more than blanks")
        if not anyway and not await self._knows(account, chat):
            raise Problem(
                404,
                f"account {account!r} has no message of a chat {chat!r}",
                f"`holdfast inbox list --account {account}` shows chats; --anyway tries it",
            )
        base = secrets.token_hex(12)
        messages = [
            Outbound(key=f"{base}-{seq}", chat=chat, text=part, seq=seq)
            for seq, part in enumerate(texts, 1)
        ]
        owed = await self._hands.post(account, messages)
        names = [name_of(Box.OUTBOX, one.row) for one in owed]
        await self._note(account, f"queued {_listed(names)}")
        return [letter(Entry.of_owed(one, None)) for one in owed]

    async def _knows(self, account: str, chat: str) -> bool:
        wanted = Filter(account=account, chat=chat)
        for box in Box:
            if await self._entries(box, wanted, 1, None):
                return True
        return False

    # -- gaps ---------------------------------------------------------------------------------

    async def gaps(self, account: str | None, limit: int) -> list[GapLine]:
        """The newest gaps that nobody has dismissed, the newest last."""
        found = await self._hands.store.gap_entries(account, limit)
        return [gap_line(entry) for entry in self._known(found, account)]

    async def dismiss(self, number: int) -> GapLine:
        """Somebody has seen to a gap: it is told no more."""
        entry = await self._hands.dismiss_gap(number)
        await self._note(entry.account, f"dismissed gap {number}")
        return gap_line(entry)

    # -- copying ------------------------------------------------------------------------------

    async def backup(self, path: str) -> Copy:
        """Copy the journal to a new file, while everything goes on."""
        if not Path(path).is_absolute():
            raise Problem(400, f"{path!r} is not an absolute path", "begin it with /")
        return Copy(path=path, bytes=await self._hands.store.backup(Path(path)))

    # -- telling ------------------------------------------------------------------------------

    async def _note(self, account: str, what: str) -> None:
        """What was done is done, whether or not its line can be written."""
        log.info("%s account=%s by=operator", what, account)
        state, generation = self._hands.standing(account)
        line = Transition(
            account=account,
            at=self._clock(),
            state=state,
            trigger=f"operator: {what}",
            generation=generation,
        )
        try:
            await self._hands.store.record(line)
        except StoreError as error:
            log.warning("history not written account=%s error=%s", account, error)


async def _mended(name: str, act: Act) -> Mended:
    try:
        entry = await act(*place_of(name))
    except Problem as problem:
        return Mended(name=name, error=problem.error, hint=problem.hint)
    except StoreError as error:
        return Mended(name=name, error=error.problem, hint=error.hint)
    return Mended(name=name, message=letter(entry))


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
