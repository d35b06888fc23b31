"""From the inbox to the outbox: one lane per chat, strictly in order, chats side by side.

A handler that hangs or fails holds its own lane only: it has a deadline, a few attempts, and then
its message becomes a dead letter with the reason. Intake never waits for a handler.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

from holdfast import killpoints
from holdfast.adapter import Adapter, Traits
from holdfast.agents import Agent, Turn
from holdfast.errors import StoreError
from holdfast.gateway.patience import Patience
from holdfast.gateway.stored import stored
from holdfast.messages import Attachment, Inbound, Outbound, Reply
from holdfast.splitting import split
from holdfast.store.protocol import Owed, Received, Store

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
        self._limits, self._slots = limits, slots
        self._patience = Patience(limits.timeout)
        self._on_owed, self._can_type = on_owed, can_type
        self._waiting: dict[str, deque[Received]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping = False

    @property
    def depth(self) -> int:
        """Messages received and not yet answered."""
        return sum(len(lane) for lane in self._waiting.values())

    def put(self, rows: list[Received]) -> None:
        """Messages that are in the journal take their places in their lanes."""
        if self._stopping:
            return  # they stay in the journal and are handled after the restart
        for row in rows:
            chat = row.message.chat
            self._waiting.setdefault(chat, deque()).append(row)
            if chat not in self._tasks:
                task = asyncio.create_task(self._lane(chat), name=f"{self._account} lane")
                self._tasks[chat] = task
                task.add_done_callback(_surface)

    async def stop(self, grace: float) -> None:
        """Let running handlers end within ``grace`` seconds, then cancel them. Nothing is lost."""
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
            await asyncio.gather(*(self._release(lanes[task]) for task in late))

    async def _release(self, row: Received) -> None:
        """A handler that was stopped has not failed."""
        try:
            async with asyncio.timeout(1.0):
                await self._store.release(row.row)
        except (StoreError, TimeoutError) as error:
            log.warning("attempt counted account=%s error=%s", self._account, error)

    async def _lane(self, chat: str) -> None:
        lane = self._waiting[chat]
        try:
            while lane:
                await self._one(lane[0])
                lane.popleft()
        finally:
            del self._waiting[chat], self._tasks[chat]

    async def _one(self, row: Received) -> None:
        """Handle one message to its end: answered or buried, and so recorded."""
        tries = 0
        while not self._stopping:
            tries += 1
            try:
                async with self._slots:
                    if self._stopping:
                        return  # an attempt begun now would only be counted
                    attempt = await stored(self._account, self._store.begin, row.row)
                    if attempt > self._limits.attempts:
                        # Every earlier attempt failed, or took the whole process down with it.
                        await self._bury(row, f"given up after {attempt - 1} attempts")
                        return
                    answers = await self._ask(row.message, attempt)
            except Exception as error:
                if attempt >= self._limits.attempts:
                    await self._bury(row, self._reason(error))
                    return
                await asyncio.sleep(min(RETRY_FIRST * 2 ** (tries - 1), 60.0))
            else:
                owed = compose(self._account, row.message, answers, self._adapter.traits)
                # The agent has answered: only the writing is repeated, never the asking.
                self._on_owed(await stored(self._account, self._store.finish, row.row, owed))
                return

    async def _ask(self, message: Inbound, attempt: int) -> list[Reply]:
        deadline = asyncio.get_running_loop().time() + self._limits.timeout
        turn = Turn(account=self._account, attempt=attempt, deadline=deadline)
        typing = _Typing(partial(self._typing, message), f"{self._account} typing")
        try:
            killpoints.reach("in-handler")
            return await self._patience(self.agent(message, turn))
        except Exception as error:
            log.warning(
                "handler failed account=%s message=%s attempt=%d reason=%s",
                self._account,
                message.id,
                attempt,
                self._reason(error),
                exc_info=None if isinstance(error, TimeoutError) else error,
            )
            raise
        finally:
            typing.stop()

    def _reason(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"no answer within {self._limits.timeout:g} s"
        return f"{type(error).__name__}: {error}"

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

    def __init__(self, show: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        self._show, self._name = show, name
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(TYPING_AFTER, self._begin)

    def _begin(self) -> None:
        self._task = asyncio.create_task(self._show(), name=self._name)

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


def _surface(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        log.error("lane ended by a defect", exc_info=task.exception())
