"""WhatsApp's web hook: whether it leads to us, and what comes by it.

Meta verifies a callback URL by calling it (hub.challenge), signs each post over its raw bytes, and
repeats it until 200 answers. Source:
https://developers.facebook.com/docs/graph-api/webhooks/getting-started.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Awaitable, Callable
from typing import Final

from holdfast.adapter import BadFrame, Continuity, Disconnect, HookRequest, Link, Secret, decode
from holdfast.adapters import whatsapp_wire as wire
from holdfast.adapters.whatsapp_fates import Fates, failure
from holdfast.adapters.whatsapp_watch import Deaf, Watch, WrongCallback
from holdfast.forgery import is_ours
from holdfast.messages import Inbound
from holdfast.supervision import Cause, Kind

BEAT, SILENCE = 29.0, 60.0
"""Seconds between two glances at the API, and the longest time without a good one."""

SUBSCRIPTION, WHOLE = 2, 20
"""Of so many glances one is at the subscription, too, and one at everything. That makes 198 calls
an hour of the business account's allowance of 200 (cloud-api/overview, rate limits)."""

HOLD: Final = 15.0
"""Seconds for which an attempt whose callback is not ours waits for Meta's verification."""

LOOK: Final = 10.0
"""Seconds for another look after that."""

RETENTION: Final = 7 * 86_400.0
"""Seconds for which Meta repeats what was not taken."""

STAMP_EVERY: Final = 3_600.0
"""Seconds between two stored stamps of a quiet account, which tell how long an outage was."""


class Hook:
    """The callback of one number. ``taken`` is told of each message once it is stored."""

    def __init__(
        self,
        path: str,
        number: str,
        secret: Secret,
        verify_token: Secret,
        *,
        claim: bool,
        fates: Fates,
        taken: Callable[[Inbound], None],
    ) -> None:
        self.path = path
        self._number, self._secret, self._verify_token = number, secret, verify_token
        self._claim, self._fates, self._taken = claim, fates, taken

    async def serve(self, link: Link, watch: Watch) -> None:
        """One connection. Meta verifies a callback by calling it, so we listen first."""
        asked = asyncio.Event()
        async with link.hooks(self.path) as requests, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._prove(link, watch, asked), name="whatsapp proof")
            async for request in requests:
                if request.method == "GET":
                    self._verify(link, request, asked)
                else:
                    await self._called(link, request)

    async def _prove(self, link: Link, watch: Watch, asked: asyncio.Event) -> None:
        """Find the callback to be ours, or have it become so, then declare ready."""
        try:
            await watch.look(link.step)
        except WrongCallback as wrong:
            await self._mend(link, watch, asked, wrong)
        except Deaf:
            await _deaf(link)
            raise
        number = itertools.count(1)

        async def beat() -> None:
            now = next(number)
            if now % WHOLE == 0:
                await _seen(link, watch.look())
            else:
                await _seen(link, watch.glance(subscription=now % SUBSCRIPTION == 0))

        link.on_beat(beat)
        link.on_probe(lambda: _seen(link, watch.glance(subscription=False)))
        link.ready(Continuity.RESUMED, beat=BEAT, silence=SILENCE)
        await _mind_the_gap(link)

    async def _mend(
        self, link: Link, watch: Watch, asked: asyncio.Event, wrong: WrongCallback
    ) -> None:
        """Take the callback over, or listen for a while to the operator setting it."""
        await _deaf(link)
        link.step("callback", HOLD + LOOK)
        if self._claim:
            await watch.take_over(self._verify_token.reveal())
        else:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HOLD):
                    await asked.wait()
        try:
            await watch.look(link.step)
        except WrongCallback as still:
            if asked.is_set():  # Meta may need a moment to put it in force
                message = "Meta has verified the callback URL, which is not in force yet"
                pending = Cause(Kind.UNREACHABLE, "whatsapp_callback_pending", message)
                raise Disconnect(pending) from still
            raise

    def _verify(self, link: Link, request: HookRequest, asked: asyncio.Event) -> None:
        """Answer Meta's question, which only who knows the verify token asks."""
        given = request.query.get("hub.verify_token", "")
        if is_ours(given, self._verify_token.reveal()):
            request.respond(200, request.query.get("hub.challenge", "").encode())
            asked.set()
        else:
            request.respond(403)
            link.skip("a verification without our verify token")

    async def _called(self, link: Link, request: HookRequest) -> None:
        given = request.headers.get("x-hub-signature-256", "")
        if not is_ours(given, wire.signature(self._secret.reveal(), request.body)):
            request.respond(401)
            link.skip("a post without a true signature", request.body)
            return
        link.alive()
        await self._take(link, request.body)
        request.respond(200)

    async def _take(self, link: Link, body: bytes) -> None:
        """Store all messages of a post at once. Raises StoreError.

        What can not be read is taken all the same: sent again it would be no better.
        """
        messages: list[Inbound] = []
        try:
            changes = [c for e in decode(wire.Body, body).entry for c in e.changes]
        except BadFrame as error:
            link.skip(f"post: {error.cause.message}", body)
            return
        for change in changes:
            if change.field != "messages":
                continue
            try:
                value = decode(wire.Value, bytes(change.value))
            except BadFrame as error:
                link.skip(f"change: {error.cause.message}", bytes(change.value))
                continue
            messages += self._read(link, value)
            await self._tell(link, value)
        if messages:
            await link.deliver(*messages)
        for message in messages:
            self._taken(message)

    def _read(self, link: Link, value: wire.Value) -> list[Inbound]:
        """The messages of a change; errors are counted."""
        if value.metadata.phone_number_id != self._number:
            number = value.metadata.phone_number_id[:40]
            link.skip(f"a post for another number ({number}), whose account should set `claim`")
            return []
        for error in value.errors:
            link.skip(f"WhatsApp reports: {error.text}")
        messages: list[Inbound] = []
        for raw in map(bytes, value.messages):
            try:
                message = wire.inbound(raw, value)
            except BadFrame as bad:
                link.skip(f"message: {bad.cause.message}", raw)
            else:
                messages += [message] if message is not None else []
        return messages

    async def _tell(self, link: Link, value: wire.Value) -> None:
        """What became of our messages. Raises StoreError."""
        if value.metadata.phone_number_id != self._number:
            return
        for raw in map(bytes, value.statuses):
            try:
                status = decode(wire.Status, raw)
            except BadFrame as bad:
                link.skip(f"status: {bad.cause.message}", raw)
                continue
            self._fates.tell(status)
            if not status.failed:
                continue
            cause = failure(status).cause
            if status.marker and status.recipient_type != "group":
                await link.undelivered(status.marker, status.id, cause)
            else:  # another program's, or lost to one member of a group
                link.skip(f"not delivered: {cause.message}", raw)


# -- how long we were deaf ------------------------------------------------------------------------


async def _seen(link: Link, looking: Awaitable[object]) -> None:
    """A look on a living connection; a good one is stamped, as the start of what may be lost."""
    try:
        await looking
    except Deaf:
        await _deaf(link)
        raise
    link.acked()
    await _stamp(link)


async def _stamp(link: Link) -> None:
    stored = link.cursor.get("stored_at", 0.0)
    link.cursor["seen_at"] = link.clock()
    if link.cursor["seen_at"] - stored > STAMP_EVERY:
        link.cursor["stored_at"] = link.cursor["seen_at"]
        await link.commit()


async def _deaf(link: Link) -> None:
    """From the last good look on, messages have gone elsewhere, or nowhere."""
    if "seen_at" in link.cursor and "deaf_since" not in link.cursor:
        link.cursor["deaf_since"] = link.cursor["seen_at"]
        await link.commit()


async def _mind_the_gap(link: Link) -> None:
    seen, deaf = link.cursor.get("seen_at"), link.cursor.pop("deaf_since", None)
    if deaf is not None:
        link.gap("WhatsApp did not call us: subscription or callback were not ours", deaf)
    elif seen is not None and link.clock() - seen > RETENTION:
        link.gap("Meta repeats messages for 7 days, and the outage was longer", seen)
    link.cursor["seen_at"] = link.cursor["stored_at"] = link.clock()
    await link.commit()
