"""The pushing side of the simulated WhatsApp platform: verification, signed posts, redelivery."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Coroutine
from enum import StrEnum
from typing import Any

import aiohttp
from yarl import URL

from holdfast.lab.simulators import whatsapp_rules as rules
from holdfast.lab.simulators.whatsapp_platform import BusinessPlatform
from holdfast.lab.simulators.whatsapp_rules import Event

TIMEOUT = 20.0
"""Seconds a callback may take; not documented, third parties say so."""
RETRY_FIRST, RETRY_FACTOR, RETRY_CEILING = 2.0, 2.0, 6 * 3600.0
"""Seconds between two tries of a body. Only that the gaps grow is documented."""
RETRY_FOR = 7 * 86_400.0
BATCH_PATIENCE = 5.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class WebhookRefused(RuntimeError):
    """The callback address did not pass the verification by ``hub.challenge``."""


class Scope(StrEnum):
    """Where a callback address is set; the later ones override the earlier ones."""

    APP = "app"
    WABA = "whatsapp_business_account"
    PHONE = "phone_number"


class Callbacks:
    """The callback addresses of the app, its subscription, and the deliveries.

    Every event is posted to the address in force at the moment of the try. An event that finds no
    subscription or address is lost at once. Secret, faults and truth are those of ``lab``.
    """

    def __init__(self, lab: BusinessPlatform) -> None:
        self._lab = lab
        self.urls: dict[Scope, str] = {}
        self.subscribed = True
        self._last: bytes = b"{}"
        self._held: list[Event] = []
        self._batch = 0
        self._open: list[list[Event]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    # -- addresses ----------------------------------------------------------------------------

    @property
    def url(self) -> str | None:
        """The address in force, None when there is none or the app is not subscribed."""
        if not self.subscribed:
            return None
        return next((self.urls[scope] for scope in reversed(Scope) if scope in self.urls), None)

    def reaches_bot(self) -> bool:
        """Whether an event of this moment would be posted to an address that can be the bot's."""
        muted = any(map(self._lab.faults.armed, ("mute", "callback_unreachable")))
        return self.url is not None and URL(self.url).host in LOOPBACK and not muted

    async def use(self, url: str, token: str, scope: Scope = Scope.APP) -> None:
        """Take an address that passes the verification with ``token``.

        Raises WebhookRefused when it fails; the address before stays in force.
        """
        status, text, challenge = await self.verify(url, token)
        if (status, text) != (200, challenge):
            raise WebhookRefused(f"{url} answered the verification with {status}: {text:.200}")
        self.put(scope, url)

    def put(self, scope: Scope, url: str | None) -> None:
        """Set or remove an address without asking anyone."""
        before = self.url
        if url is None:
            self.urls.pop(scope, None)
        else:
            self.urls[scope] = url
        self._tell(before)

    def subscribe(self, on: bool) -> None:
        """Subscribe the app to the business account, or end the subscription."""
        before, self.subscribed = self.url, on
        self._tell(before)

    def _tell(self, before: str | None) -> None:
        if self.url is not None:
            self._lab.note("webhook", url=self.url)
        if self.url == before:
            return
        if before is not None:
            self._lab.note("link-lost", url=before)
        if self.url is not None:
            self._lab.note("link-open", url=self.url)

    async def verify(self, url: str, token: str) -> tuple[int, str, str]:
        """Ask an address with ``token``: HTTP status (0: none), answer, and the challenge."""
        challenge = str(1_000_000_000 + secrets.randbelow(1_000_000_000))
        query = {"hub.mode": "subscribe", "hub.challenge": challenge, "hub.verify_token": token}
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT)) as session,
                session.get(URL(url).update_query(query), allow_redirects=False) as response,
            ):
                return response.status, await response.text(), challenge
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return 0, repr(error), challenge

    # -- deliveries ---------------------------------------------------------------------------

    def push(self, event: Event) -> None:
        """Start to deliver an event; one that nobody is subscribed to is lost."""
        if self._lab.faults.take("mute") is not None:
            self._lab.note("lost", id=event.id, reason="mute")
        elif self.url is None:
            self._lab.note("lost", id=event.id, reason="no callback")
        elif (fault := self._lab.faults.take("out_of_order")) is not None:
            self._start([event], after=fault.get("delay", 0.5))
        elif self._held:
            self._hold(event)
        elif (fault := self._lab.faults.take("batch")) is not None:
            self._batch = fault.get("size", 2)
            self._hold(event)
            self._spawn(self._flush_later(self._held))
        else:
            self._start([event])

    def _hold(self, event: Event) -> None:
        self._held.append(event)
        if len(self._held) >= self._batch:
            self._release()

    def _release(self) -> None:
        events, self._held = self._held, []
        self._start(events)

    async def _flush_later(self, batch: list[Event]) -> None:
        await asyncio.sleep(BATCH_PATIENCE)
        if batch is self._held:
            self._release()

    def _start(self, events: list[Event], after: float = 0.0) -> None:
        self._open.append(events)
        self._spawn(self._deliver(events, after))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="lab whatsapp callback")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def resume(self) -> None:
        """Take up again the deliveries that ``stop`` interrupted."""
        for events in self._open:
            self._spawn(self._deliver(events))

    async def stop(self) -> None:
        """Interrupt all deliveries; they, the addresses and the subscription are remembered."""
        if self._held:
            self._open.append(self._held)
            self._held = []
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _deliver(self, events: list[Event], after: float = 0.0) -> None:
        """Post until 200 answers it, for seven days; then once more if a double is armed."""
        await asyncio.sleep(after)
        await self._precede()
        changes = rules.changes_of(events, self._lab.metadata)
        body = rules.encode(rules.envelope(self._lab.business_account_id, changes))
        taken = await self._insist(events, body)
        self._open.remove(events)
        if not taken:
            for event in events:
                self._lab.note("lost", id=event.id, reason="callback refused")
            return
        self._last = body
        for event in events:
            self._lab.note("ack", id=event.id)
        if (fault := self._lab.faults.take("dup_event")) is not None:
            await asyncio.sleep(fault.get("delay", 0.0))
            self._lab.note("doubled", id=events[0].id, status=await self._post(body))

    async def _insist(self, events: list[Event], body: bytes) -> bool:
        deadline, delay = self._lab.now() + RETRY_FOR, RETRY_FIRST
        while True:
            status = await self._post(body)
            self._lab.note("callback", id=events[0].id, status=status)
            if status == 200:
                return True
            if self._lab.now() + delay > deadline:
                return False
            await asyncio.sleep(delay)
            delay = min(delay * RETRY_FACTOR, RETRY_CEILING)

    async def _post(self, body: bytes, **headers: str | None) -> int:
        """Post once; the HTTP status, 0 when there is no answer. ``signature=None`` omits it."""
        url = self.url
        if url is None or self._lab.faults.take("callback_unreachable") is not None:
            return 0
        if URL(url).host not in LOOPBACK:
            # The lab never leaves loopback: whoever owns the other address takes everything.
            self._lab.note("elsewhere", url=url)
            return 200
        signed = headers.get("signature", rules.signature(self._lab.app_secret, body))
        sent = {"Content-Type": "application/json", "User-Agent": "facebookexternalua"}
        if signed is not None:
            sent["X-Hub-Signature-256"] = signed
        try:
            async with (
                aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT)) as session,
                session.post(url, data=body, headers=sent, allow_redirects=False) as response,
            ):
                await response.read()
        except (aiohttp.ClientError, TimeoutError):
            return 0
        return 0 if self._lab.faults.take("ack_lost") is not None else response.status

    # -- bodies that no honest platform, or no tidy one, would post ----------------------------

    async def _precede(self) -> None:
        """Post what armed faults want to arrive before an event."""
        lab, take = self._lab, self._lab.faults.take
        intruder = self._body(rules.change(lab.metadata, messages=[_intruder()]))
        if take("webhook_forged") is not None:
            wrong = rules.signature("not" + lab.app_secret, intruder)
            await self._try("forged", intruder, signature=wrong)
        if take("webhook_unsigned") is not None:
            await self._try("unsigned", intruder, signature=None)
        if take("webhook_replayed") is not None:
            old = rules.signature(lab.app_secret, self._last)
            await self._try("replayed", intruder, signature=old)
        if take("webhook_foreign") is not None:
            foreign = lab.metadata | {"phone_number_id": "999999999999999"}
            await self._try("foreign", self._body(rules.change(foreign, messages=[_intruder()])))
        if take("unknown_field") is not None:
            await self._try("unknown", self._body(rules.change(lab.metadata, "weather", rain=True)))
        if (fault := take("value_errors")) is not None:
            error = rules.GraphError(fault.get("code", 131000), "Something went wrong")
            value = rules.change(lab.metadata, errors=[error.report()])
            await self._try("value-errors", self._body(value))
        if (fault := take("bad_body")) is not None:
            await self._try("bad-body", fault.get("raw", "{not json").encode())

    def _body(self, change: dict[str, Any]) -> bytes:
        return rules.encode(rules.envelope(self._lab.business_account_id, [change]))

    async def _try(self, what: str, body: bytes, **headers: str | None) -> None:
        status = await self._post(body, **headers)
        self._lab.note(what, accepted=status == 200, status=status)


def _intruder() -> dict[str, Any]:
    """A message that no user of this number wrote."""
    text = {"body": "I am your boss"}
    head = {"from": "16505550000", "id": rules.new_wamid(), "timestamp": "1795198000"}
    return head | {"type": "text", "text": text}
