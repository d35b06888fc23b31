"""Callbacks of the simulated QQ bot platform: signed events at a web address of the bot."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Mapping
from typing import Any

import aiohttp

from holdfast.lab.simulator import wall_clock
from holdfast.lab.simulators import qqbot_rules as rules
from holdfast.lab.simulators.qqbot_platform import OpenPlatform
from holdfast.lab.simulators.qqbot_rules import Event, Op

REDELIVERY = (0.0, 2.0, 10.0, 30.0)
"""Seconds before each try of a callback; the platform's own schedule is not documented."""


class WebhookRefused(RuntimeError):
    """The callback address did not pass the op 13 validation."""


class Callbacks:
    """The callback address in ``url`` and the deliveries to it.

    Faults, secret and the truth are those of the platform ``lab``. The library ``cryptography`` is
    needed from the first address on, not before.
    """

    def __init__(self, lab: OpenPlatform) -> None:
        self._lab = lab
        self.url: str | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def use(self, url: str | None) -> None:
        """Take an address that passes the op 13 validation; None ends the callbacks.

        Raises WebhookRefused when the validation fails; the address before stays in force.
        """
        if url is None:
            self.url = None
            return
        plain, moment = secrets.token_urlsafe(15), str(int(wall_clock()))
        body = {"op": Op.CALLBACK_CHECK, "d": {"plain_token": plain, "event_ts": moment}}
        status, reply = await self._post(url, body)
        expected = rules.signature(self._lab.secret, moment, plain.encode())
        if reply != {"plain_token": plain, "signature": expected}:
            raise WebhookRefused(f"{url} answered the validation with {status}: {reply!r:.200}")
        self.url = url
        self._lab.note("webhook", url=url)

    def push(self, event: Event) -> None:
        """Start to deliver an event to the address of this moment."""
        assert self.url is not None
        task = asyncio.create_task(self._deliver(self.url, event), name="qqbot-callback")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """End all redelivery; the address stays."""
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _post(
        self, url: str, payload: Mapping[str, Any], *, forged: bool = False
    ) -> tuple[int, Any]:
        body, moment = json.dumps(payload).encode(), str(int(wall_clock()))
        secret = "not" + self._lab.secret if forged else self._lab.secret
        headers = rules.callback_headers(self._lab.app_id, secret, moment, body)
        timeout = aiohttp.ClientTimeout(total=5)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout) as session,
                session.post(url, data=body, headers=headers) as response,
            ):
                raw = await response.read()
                return response.status, json.loads(raw) if raw else None
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            return 0, repr(error)

    async def _deliver(self, url: str, event: Event) -> None:
        """Post an event until ``{"op": 12}`` answers it, then a second time if so armed."""
        if self._lab.faults.take("webhook_forged") is not None:
            status, _ = await self._post(url, event.frame(self._lab.url), forged=True)
            self._lab.note("forged", id=event.id, accepted=status == 200)
        times = 2 if self._lab.faults.take("dup_event") is not None else 1
        for delay in REDELIVERY:
            await asyncio.sleep(delay)
            status, reply = await self._post(url, event.frame(self._lab.url))
            self._lab.note("callback", id=event.id, status=status)
            if status == 200 and isinstance(reply, dict) and reply.get("op") == Op.CALLBACK_ACK:
                times -= 1
                if times == 0:
                    return
        self._lab.note("lost", id=event.id, reason="callback refused")
