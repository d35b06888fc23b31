"""From the inbox to the outbox: one lane per chat, strictly in order, chats side by side.

A handler that hangs or fails holds its own lane only: it has a deadline, a few attempts, and then
its message becomes a dead letter with the reason. Intake never waits for a handler.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import Counter, deque
from collections.abc import Callable, Collection, Coroutine, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from holdfast import killpoints
from holdfast.adapter import Adapter, Traits
from holdfast.agents import Agent, Turn, usable
from holdfast.errors import StoreError
from holdfast.gateway.patience import Patience
from holdfast.gateway.stored import stored
from holdfast.gateway.suspects import Suspects
from holdfast.messages import Attachment, Inbound, Outbound, Reply
from holdfast.secrets import redaction_of
from holdfast.splitting import split
from holdfast.store.protocol import InboxState, Owed, Received, Store

log = logging.getLogger("holdfast.lanes")

RETRY_FIRST = 1.0
"""Seconds before a failed handler is tried again; doubles."""

TYPING_AFTER = 0.5
"""Seconds a handler may take before the chat is shown that an answer is being written."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of an agent's time one message may cost."""

    handlers: int = 64
    timeout: float = 120.0
    attempts: int = 3


class Lanes:
    """The lanes of one account."""

    def __init__(
        self,
        account: str,
        adapter: Adapter,
        agent: Agent,
        store: Store,
        limits: Limits,
        slots: asyncio.Semaphore,
        *,
        on_owed: Callable[[list[Owed]], None],
        can_type: Callable[[], bool],
    ) -> None:
        self.agent = agent
        self.failed = 0
        """Messages that became dead letters."""
        self._account, self._adapter, self._store = account, adapter, store
        self._name = f"{account} lane"
        self._limits, self._slots = limits, slots
        self._patience = Patience(limits.timeout)
        self._on_owed, self._can_type = on_owed, can_type
        self._waiting: dict[str, deque[Received]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._coming: Counter[str] = Counter()
        """Messages of each chat that are being stored."""
        self._expected: set[str] = set()
        """Ids of those whose first attempts are counted as they are stored. Each has a handler's
        place."""
        self._begun: set[int] = set()
        """Rows whose newest attempt is counted, or is being counted, and has not ended."""
        self._rows: set[int] = set()
        """Those that wait in a lane or are being handled."""
        self._suspects = Suspects(limits.attempts)
        self._stopping = self._over = False

    @property
    def depth(self) -> int:
        """Messages received and not yet answered."""
        return sum(len(lane) for lane in self._waiting.values())

    async def expect(self, messages: Iterable[Inbound]) -> set[str]:
        """Messages are about to be stored: the ids of those whose handlers can start at once.

        Their first attempts are to be counted in the commit that stores them, and a place is kept
        for each; `settle` must follow in any case. Not for a message behind another one of its
        chat: the death of a process in that one's handler is not its attempt. Not while all places
        are taken: it may have to wait for long. Not where one attempt is all there is: a death
        between commit and handler would use it up.
        """
        ids: set[str] = set()
        may = not self._stopping and self._limits.attempts > 1
        for message in messages:
            chat = message.chat
            first = chat not in self._tasks and chat not in self._coming
            if may and first and message.id not in self._expected and not self._slots.locked():
                await self._slots.acquire()  # one is free: this never waits
                ids.add(message.id)
                self._expected.add(message.id)
            self._coming[chat] += 1
        return ids

    async def settle(
        self, messages: Iterable[Inbound], expected: Collection[str], rows: Iterable[Received]
    ) -> None:
        """``messages`` were stored as ``rows``, or were not: take back the places and the attempts
        that nobody uses."""
        for message in messages:
            self._coming[message.chat] -= 1
            if not self._coming[message.chat]:
                del self._coming[message.chat]
        left = self._expected.intersection(expected)
        if left:
            self._expected -= left
            for _ in left:
                self._slots.release()
            await asyncio.gather(*(self._release(row) for row in rows if row.message.id in left))

    def put(self, rows: list[Received]) -> None:
        """Messages that are in the journal take their places in their lanes. Who has one already
        keeps it."""
        if self._stopping:
            return  # they stay in the journal and are handled after the restart
        rows = [row for row in rows if row.row not in self._rows]
        self._rows.update(row.row for row in rows)
        found = [
            row
            for row in rows
            if row.state is InboxState.HANDLING and row.message.id not in self._expected
        ]
        if found:
            self._suspects.accuse(found)
        for row in rows:
            chat = row.message.chat
            self._waiting.setdefault(chat, deque()).append(row)
            if chat not in self._tasks:
                if row.state is InboxState.HANDLING and row.message.id in self._expected:
                    self._expected.remove(row.message.id)
                    self._begun.add(row.row)
                task = asyncio.create_task(self._lane(chat), name=self._name)
                self._tasks[chat] = task

    async def stop(self, grace: float) -> None:
        """Let running handlers end within ``grace`` seconds, then cancel them. Nothing is lost.

        Whatever an agent that ignores this still answers, nothing is written afterwards.
        """
        self._stopping = True
        for lane in self._waiting.values():
            while len(lane) > 1:
                lane.pop()
        lanes = {task: self._waiting[chat][0] for chat, task in self._tasks.items()}
        if lanes:
            _, late = await asyncio.wait(lanes, timeout=grace)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1.0)
            self._over = True
            for task in late:  # an agent may have ignored the first one
                task.cancel()
            left = [lanes[task] for task in late if lanes[task].row in self._begun]
            await asyncio.gather(*map(self._release, left))

    async def _release(self, row: Received, failure: str | None = None) -> None:
        """An attempt is over without an answer; a handler that was stopped has not failed."""
        try:
            async with asyncio.timeout(1.0):
                await self._store.release(row.row, failure)
        except (StoreError, TimeoutError) as error:
            log.warning("attempt left open account=%s error=%s", self._account, error)

    async def _lane(self, chat: str) -> None:
        lane = self._waiting[chat]
        try:
            while lane:
                row = lane[0]
                try:
                    await self._next(row)
                except Exception as error:
                    await self._set_aside(row, error)
                lane.popleft()
                self._begun.discard(row.row)
                self._rows.discard(row.row)
        finally:
            del self._waiting[chat], self._tasks[chat]

    async def _next(self, row: Received) -> None:
        """Handle the first message of a lane, when it may be."""
        if row not in self._suspects:
            await self._one(row)
        elif self._suspects.convict(row):
            await self._bury(row, f"given up: the process died in attempt {row.attempts}")
        else:
            async with self._suspects.turn(row):
                await self._one(row)

    async def _set_aside(self, row: Received, error: Exception) -> None:
        """A defect, or a refusal of the journal: it ends with its own message."""
        log.error(
            "message set aside account=%s message=%s", self._account, row.message.id, exc_info=error
        )
        try:
            await self._bury(row, f"a defect: {type(error).__name__}, see the log")
        except Exception:
            log.exception("message left as it is account=%s in-%d", self._account, row.row)

    async def _one(self, row: Received) -> None:
        """Handle one message to its end: answered or buried, and so recorded."""
        tries = 0
        while await self._place(row):
            tries += 1
            try:
                attempt = await self._begin(row)
                answer = await self._ask(row.message, attempt)
            finally:
                self._slots.release()
            if self._over:
                return  # the message is another desk's, or the next process's
            if isinstance(answer, list):
                # The agent has answered: only the writing is repeated, never the asking.
                self._on_owed(await stored(self._account, self._store.finish, row.row, answer))
                return
            if attempt >= self._limits.attempts:
                await self._bury(row, self._reason(answer))
                return
            self._begun.discard(row.row)
            # Else a process that ends during the wait would seem to have died in the attempt.
            await self._release(row, self._reason(answer))
            await asyncio.sleep(min(RETRY_FIRST * 2 ** (tries - 1), 60.0))

    async def _place(self, row: Received) -> bool:
        """Take a handler's place, or the one that is kept; False when nothing is begun any more."""
        kept = row.row in self._begun
        if not kept:
            if self._stopping:
                return False
            await self._slots.acquire()
        if not self._stopping:
            return True
        self._slots.release()
        if kept:
            await self._release(row)
        return False

    async def _begin(self, row: Received) -> int:
        """The number of the attempt that begins, once it is counted."""
        if row.row in self._begun:
            return row.attempts
        self._begun.add(row.row)
        return await stored(self._account, self._store.begin, row.row)

    async def _ask(self, message: Inbound, attempt: int) -> list[Outbound] | Exception:
        """What the agent answers, or why the attempt has failed: an answer that nobody can keep is
        a failure like any other."""
        deadline = asyncio.get_running_loop().time() + self._limits.timeout
        turn = Turn(account=self._account, attempt=attempt, deadline=deadline)
        typing = _Typing(partial(self._typing, message))
        try:
            killpoints.reach("in-handler")
            answer = usable(await self._patience(self.agent(message, turn)))
            return compose(self._account, message, answer, self._adapter.traits)
        except Exception as error:
            log.warning(
                "handler failed account=%s message=%s attempt=%d reason=%s",
                self._account,
                message.id,
                attempt,
                self._reason(error),
                exc_info=None if isinstance(error, TimeoutError) else error,
            )
            return error
        finally:
            typing.stop()

    def _reason(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self._limits.timeout:g} s"
        try:
            said = f"{type(error).__name__}: {error}"
        except Exception:  # of the agent's author
            said = type(error).__name__
        # What an agent calls with the account's token, libraries quote.
        return redaction_of(self._adapter).clean(said)

    async def _bury(self, row: Received, reason: str) -> None:
        await stored(self._account, self._store.bury, row.row, reason)
        self.failed += 1
        log.error(
            "dead letter account=%s message=%s reason=%s", self._account, row.message.id, reason
        )

    async def _typing(self, message: Inbound) -> None:
        traits = self._adapter.traits
        while traits.typing and self._can_type():
            try:
                await self._adapter.typing(message.chat, message.thread)
            except Exception as error:
                log.debug("typing account=%s error=%s", self._account, error)
            await asyncio.sleep(traits.typing_every)


class _Typing:
    """Shows that an answer is being written, when that takes a while: most need no task."""

    def __init__(self, show: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._show = show
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(TYPING_AFTER, self._begin)

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._show(), name="typing")

    def stop(self) -> None:
        """The answer is there, or never will be."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


def compose(account: str, message: Inbound, answers: list[Reply], traits: Traits) -> list[Outbound]:
    """The messages that say an answer on this platform, each small enough for it.

    Keys depend only on the message answered and the position, so that no restart, and no new
    journal either, can send one answer under two keys.
    """
    pieces: list[Outbound] = []
    for answer in answers:
        texts = split(answer.text, traits.max_text, traits.text_unit) if answer.text else []
        bodies: list[tuple[str, tuple[Attachment, ...]]] = [(text, ()) for text in texts]
        bodies += [("", (attachment,)) for attachment in answer.attachments]
        quote = not message.private if answer.quote is None else answer.quote
        for number, (text, attachments) in enumerate(bodies):
            seq = len(pieces) + 1
            pieces.append(
                Outbound(
                    key=_key(account, message.id, seq),
                    chat=message.chat,
                    text=text,
                    attachments=attachments,
                    thread=message.thread,
                    reply_to=message.id if quote and number == 0 else None,
                    seq=seq,
                    context=message.context,
                )
            )
    return pieces


def _key(account: str, message_id: str, seq: int) -> str:
    digest = hashlib.blake2b(f"{account}\0{message_id}".encode(), digest_size=12).hexdigest()
    return f"{digest}-{seq}"
