"""From the outbox to the platform: in order per chat, within its rates, for as long as it takes.

While the account is down its messages wait; they are never refused for that. What is known of a
failed try decides: not sent is tried again, refused becomes a dead letter, and what may have
arrived is repeated only as long as the platform recognises it, or where the account's policy says
so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from holdfast import killpoints
from holdfast.adapter import (
    Adapter,
    AdapterError,
    BadFrame,
    HttpFailed,
    Outcome,
    Rate,
    SendFailed,
)
from holdfast.errors import StoreError
from holdfast.gateway.classify import classified
from holdfast.gateway.patience import Patience
from holdfast.gateway.stored import stored
from holdfast.messages import Receipt
from holdfast.store.protocol import OutboxState, Owed, Store
from holdfast.supervision import Cause, Kind
from holdfast.supervision.backoff import jittered, rung

log = logging.getLogger("holdfast.sender")

SEND_LIMIT = 60.0
"""Seconds for one message, uploads included; the adapter's own limits are shorter."""

PROOF_LOOK = 1.0
"""Seconds between two looks for a sign of life."""

RESEND_LIMIT = 3
"""Tries of unknown fate after which even the policy `resend` asks a person."""


class Bucket:
    """A token bucket on the loop's clock."""

    def __init__(self, rate: Rate) -> None:
        self.rate = rate
        self._tokens = float(rate.burst)
        self._at = 0.0

    def take(self, now: float) -> float:
        """Take a token; the seconds to wait before using it (0 at once)."""
        self._tokens = min(
            float(self.rate.burst), self._tokens + (now - self._at) * self.rate.per_second
        )
        self._at = now
        self._tokens -= 1.0
        return max(0.0, -self._tokens / self.rate.per_second)


@dataclass(frozen=True, slots=True)
class Doubt:
    """When the first try began of which nobody knows whether it arrived.

    By both clocks, as one of them may tell too little: the loop's stands still while the machine
    sleeps, and the wall's can be set back.
    """

    loop: float
    wall: float

    def age(self, loop: float, wall: float) -> float:
        """Seconds since then at most."""
        return max(loop - self.loop, wall - self.wall)


class Sender:
    """The outbox of one account."""

    def __init__(
        self,
        account: str,
        adapter: Adapter,
        store: Store,
        *,
        ambiguous: str = "resend",
        clock: Callable[[], float] = time.time,
        rand: Callable[[], float] = random.random,
        on_credentials: Callable[[Cause], None] = lambda cause: None,
        proof: Callable[[], float | None] = lambda: None,
    ) -> None:
        """``on_credentials`` hears of every send that was refused for its credentials; ``proof``
        is when the platform last gave a sign of life, in seconds of the loop, if that is known."""
        self.sent = self.refused = self.unknown = 0
        """Messages accepted, refused for good, and of unknown fate, by this process."""
        self.last_sent: float | None = None
        """Unix seconds of the last acceptance."""
        self._account, self._adapter, self._store = account, adapter, store
        self._name = f"{account} sender"
        self._ambiguous, self._clock, self._rand = ambiguous, clock, rand
        self._on_credentials, self._proof = on_credentials, proof
        self._patience = Patience(SEND_LIMIT)
        self._up = asyncio.Event()
        self._back = asyncio.Event()
        self._chats: dict[str, deque[Owed]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._away: set[str] = set()
        """Chats of which the last try found nobody there."""
        self._rows: set[int] = set()
        """Those that wait in a queue or are being sent."""
        self._returned: dict[str, tuple[str, str]] = {}
        """Of keys that are being sent: the receipt of a try that did not arrive, and why not."""
        traits = adapter.traits
        self._total = Bucket(traits.rate_total) if traits.rate_total else None
        self._buckets: dict[str, Bucket] = {}
        self._stopping = self._over = False

    @property
    def depth(self) -> int:
        """Messages owed and not yet accepted."""
        return sum(len(queue) for queue in self._chats.values())

    @property
    def away(self) -> int:
        """Those of them that wait for nothing but their recipient."""
        return sum(len(self._chats[chat]) for chat in self._away)

    def connected(self, up: bool) -> None:
        """The account is up or down; it may have been before."""
        if not up:
            self._up.clear()
        elif not self._up.is_set():
            self._up.set()
            self.recipient_back()

    def recipient_back(self) -> None:
        """Whoever waits out a failure need not wait any longer, unless the server said so."""
        self._back.set()
        self._back = asyncio.Event()

    def put(self, rows: list[Owed]) -> None:
        """Messages that are in the journal take their places. Who has one already keeps it."""
        for row in rows:
            if self._stopping or row.state not in (OutboxState.OWED, OutboxState.SENDING):
                continue
            if row.row in self._rows:
                continue
            self._rows.add(row.row)
            chat = row.message.chat
            self._chats.setdefault(chat, deque()).append(row)
            if chat not in self._tasks:
                task = asyncio.create_task(self._drain(chat), name=self._name)
                self._tasks[chat] = task

    async def undelivered(self, key: str, receipt: str, cause: Cause) -> None:
        """What the platform accepted did not arrive after all: a dead letter. Raises StoreError."""
        reason = _words(self._cause(AdapterError(cause)))
        if key in self._returned:
            self._returned[key] = receipt, reason  # its acceptance is not recorded yet
        else:
            await self._take_back(key, receipt, reason)

    async def stop(self, grace: float) -> None:
        """Let tries under way end within ``grace`` seconds, then cancel. The rest stays owed.

        Whatever becomes of a try that ignores this, nothing is written afterwards.
        """
        self._stopping = True
        self._up.clear()
        busy = [task for task in self._tasks.values() if not task.done()]
        if busy:
            await asyncio.wait(busy, timeout=grace)
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks.values()), timeout=1.0)
        self._over = True
        for task in self._tasks.values():  # an adapter may have ignored the first one
            task.cancel()

    async def _drain(self, chat: str) -> None:
        queue = self._chats[chat]
        try:
            while queue and not self._stopping:
                key = queue[0].message.key
                self._returned[key] = "", ""
                try:
                    await self._deliver(queue[0])
                except Exception as error:
                    await self._set_aside(queue[0], error)
                finally:
                    self._returned.pop(key, None)
                if self._stopping:
                    return
                self._away.discard(chat)
                self._rows.discard(queue.popleft().row)
        finally:
            self._away.discard(chat)
            del self._chats[chat], self._tasks[chat]
            if not queue:
                self._forget(chat)

    async def _set_aside(self, row: Owed, error: Exception) -> None:
        """A defect, or a refusal of the journal: it ends with its own message."""
        log.error(
            "message set aside account=%s key=%s", self._account, row.message.key, exc_info=error
        )
        if isinstance(error, StoreError) and error.code == "store_wrong_state":
            return  # somebody else has settled it
        reason = f"a defect: {type(error).__name__}, see the log"
        try:
            await stored(self._account, self._store.hold, row.row, reason)
        except Exception:
            log.exception("message left as it is account=%s out-%d", self._account, row.row)
        else:
            self.unknown += 1

    def _forget(self, chat: str) -> None:
        if len(self._buckets) > 1_000:
            self._buckets.pop(chat, None)

    async def _deliver(self, row: Owed) -> None:
        """Try until the message is accepted, refused or held."""
        failures = 0
        loop = asyncio.get_running_loop()
        # Waits run on the loop's clock: a wall clock that is set back must not prolong them.
        ready_at, binding = loop.time() + self._wait_left(row), True
        doubt = self._left_in_doubt(row)
        unknowns = row.attempts if row.maybe_doubled else int(doubt is not None)
        tries, failed_at = 0, 0.0  # of unknown fate, in this process
        back = self._back
        reason = "the process ended while its fate was open"
        while not self._stopping:
            if doubt is not None and not self._recognised(doubt):
                if await stored(self._account, self._doubtful, row, reason, unknowns):
                    return
                doubt = None
            if tries > 1 and doubt is None:
                await self._sign_of_life(failed_at)
            await self._turn(row.message.chat, ready_at, binding, back)
            if self._stopping:
                return
            if doubt is not None and not self._recognised(doubt):
                continue  # it took too long to come to this
            back = self._back  # whoever comes back from here on is not to be waited for
            began = Doubt(loop.time(), self._clock())
            try:
                receipt = await self._try(row)
            except StoreError:
                raise  # the journal's word, not the platform's
            except Exception as error:
                if self._over:
                    return
                failures += 1
                self._note_away(row.message.chat, error)
                cause = self._cause(error)
                if cause.kind is Kind.CREDENTIALS:
                    self._on_credentials(cause)
                delay = self._delay(cause, failures)
                ready_at, binding = loop.time() + delay, cause.retry_after is not None
                not_before, words = self._clock() + delay, _words(cause)
                if _outcome(error) is Outcome.UNKNOWN:
                    failed_at, reason = loop.time(), words
                    if doubt is None:
                        doubt, unknowns, tries = began, unknowns + 1, tries + 1
                    if not self._recognised(doubt, delay):
                        doubt = None
                in_doubt = doubt is not None
                failed = (row, error, words, unknowns, not_before, in_doubt)
                if await stored(self._account, self._failed, *failed):
                    return
                continue
            if self._over:
                return  # the message is another desk's, which has found it in the middle of a try
            await stored(self._account, self._accepted, row, receipt)
            return

    def _wait_left(self, row: Owed) -> float:
        """Seconds that a former try has to wait for; what a clock noted that was ahead is void."""
        now = self._clock()
        return row.not_before - now if row.created_at <= now else 0.0

    def _left_in_doubt(self, row: Owed) -> Doubt | None:
        """Found on its way: a former process ended before it knew whether a try had arrived.

        The journal does not say when that try began, but when the message was first owed.
        """
        if row.state is not OutboxState.SENDING:
            return None
        age = self._clock() - row.created_at
        # A clock that was set back can not tell how long ago.
        age = age if age >= 0 else math.inf
        return Doubt(asyncio.get_running_loop().time() - age, row.created_at)

    def _recognised(self, doubt: Doubt, wait: float = 0.0) -> bool:
        """Whether the platform still knows the message by its key, in ``wait`` seconds from now.

        A try may take `SEND_LIMIT` to get there.
        """
        age = doubt.age(asyncio.get_running_loop().time(), self._clock())
        return age + wait + SEND_LIMIT <= self._adapter.traits.idempotent

    async def _try(self, row: Owed) -> Receipt:
        # A try that a crash hides is no harm where it is recognised for ever.
        if self._adapter.traits.idempotent < math.inf:
            await stored(self._account, self._store.sending, row.row)
        killpoints.reach("before-send")
        receipt = await self._patience(self._adapter.send(row.message))
        killpoints.reach("after-send-before-record")
        return receipt

    async def _sign_of_life(self, since: float) -> None:
        """Wait for one that is newer than a try of unknown fate, or for the account to go down.

        Two such tries tell of a network that is dead and not yet known to be: a third would be
        wasted on it, and a person be asked about a message that nobody can have received.
        """
        while self._up.is_set() and not self._stopping:
            proof = self._proof()
            if proof is None or proof > since:
                return
            await asyncio.sleep(PROOF_LOOK)

    async def _turn(self, chat: str, ready_at: float, binding: bool, back: asyncio.Event) -> None:
        """Wait for the connection, the server's wait and the rate limits.

        A wait that the server did not ask for (not ``binding``) ends early when the account
        comes ``back``, or has come since the try that failed.
        """
        loop = asyncio.get_running_loop()
        wait = ready_at - loop.time()
        if wait > 0 and binding:
            await asyncio.sleep(wait)
        elif wait > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(ready_at):
                    await back.wait()
        await self._up.wait()
        rate = self._adapter.traits.rate_chat
        now = loop.time()
        delay = self._total.take(now) if self._total is not None else 0.0
        if rate is not None:
            delay = max(delay, self._buckets.setdefault(chat, Bucket(rate)).take(now))
        if delay > 0:
            await asyncio.sleep(delay)

    async def _accepted(self, row: Owed, receipt: Receipt) -> bool:
        await self._store.sent(row.row, receipt)
        returned, reason = self._returned.get(row.message.key, ("", ""))
        if reason and returned == receipt.id:
            await self._take_back(row.message.key, returned, reason)
        self._returned.pop(row.message.key, None)
        self.sent += 1
        self.last_sent = self._clock()
        return True

    async def _take_back(self, key: str, receipt: str, reason: str) -> None:
        """From accepted to dead. Of an earlier try, or long ago, it is only logged."""
        if await self._store.undelivered(self._account, key, receipt, reason):
            self.refused += 1
            log.error("dead letter account=%s key=%s %s", self._account, key, reason)
        else:
            log.warning("not delivered account=%s key=%s %s", self._account, key, reason)

    async def _failed(
        self,
        row: Owed,
        error: Exception,
        reason: str,
        unknowns: int,
        not_before: float,
        in_doubt: bool,
    ) -> bool:
        """Record a failed try; True when the message is no longer owed.

        ``in_doubt`` says that a try may have arrived, and that repeating it is free.
        """
        match _outcome(error):
            case Outcome.REFUSED:
                await self._store.refuse(row.row, reason)
                self.refused += 1
                log.error(
                    "dead letter account=%s key=%s %s", self._account, row.message.key, reason
                )
                return True
            case Outcome.UNKNOWN if not in_doubt:
                return await self._doubtful(row, reason, unknowns, not_before)
            case _:
                await self._store.postpone(row.row, not_before, reason, in_doubt=in_doubt)
                return False

    async def _doubtful(
        self, row: Owed, reason: str, unknowns: int, not_before: float = 0.0
    ) -> bool:
        """It may have arrived; True when the account's policy is not to send it again."""
        self.unknown += 1
        if self._ambiguous == "resend" and unknowns < RESEND_LIMIT:
            await self._store.postpone(row.row, not_before, reason, maybe_doubled=True)
            return False
        if self._ambiguous != "drop":
            await self._store.hold(row.row, reason)
        else:
            await self._store.refuse(row.row, f"may have arrived, dropped by policy: {reason}")
        log.warning(
            "ambiguous account=%s key=%s policy=%s %s",
            self._account,
            row.message.key,
            self._ambiguous,
            reason,
        )
        return True

    def _note_away(self, chat: str, error: Exception) -> None:
        if isinstance(error, SendFailed) and error.away:
            self._away.add(chat)
        else:
            self._away.discard(chat)

    def _cause(self, error: Exception) -> Cause:
        return classified(self._adapter, error)

    def _delay(self, cause: Cause, failures: int) -> float:
        """Seconds until the next try: the ladder, with the server's wait as a floor."""
        delay = jittered(rung(failures, first=1.0, factor=2.0, cap=60.0), self._rand())
        if cause.retry_after is not None:
            delay = max(delay, cause.retry_after)
        return delay


def _words(cause: Cause) -> str:
    """What happened, and what a person can do about it, for the journal and the log."""
    words = f"{cause.code}: {cause.message}" if cause.message else cause.code
    return f"{words.removesuffix('.')}. {cause.hint}" if cause.hint else words


def _outcome(error: Exception) -> Outcome:
    match error:
        case SendFailed():
            return error.outcome
        case HttpFailed():
            return Outcome.UNKNOWN if error.sent else Outcome.NOT_SENT
        case BadFrame():
            return Outcome.UNKNOWN  # it was answered, but nobody can say what
        case AdapterError():
            return Outcome.NOT_SENT  # no token, no permission: the account's trouble, not its own
        case _:
            return Outcome.UNKNOWN
