"""What became of our messages: statuses, which also settle sends whose answer was lost.

WhatsApp knows no idempotency keys, but echoes ``biz_opaque_callback_data`` in every status
(https://developers.facebook.com/docs/whatsapp/cloud-api/reference/messages).
"""

from __future__ import annotations

import asyncio
from typing import Final

from holdfast.adapter import SendFailed
from holdfast.adapters.whatsapp_api import verdict
from holdfast.adapters.whatsapp_wire import Error, Status
from holdfast.messages import Receipt

REMEMBERED: Final = 1000
"""Sends whose latest status is kept; a doubtful one is tried again within minutes."""

PATIENCE: Final = 10.0
"""Seconds in which the first status of a message comes, if it was accepted. Undocumented."""


class Fates:
    """The latest status of each send, by its key."""

    def __init__(self) -> None:
        self._known: dict[str, Status] = {}
        self._awaited: dict[str, asyncio.Event] = {}

    def tell(self, status: Status) -> None:
        """A status has come; they may come twice and in any order."""
        key = status.marker
        before = self._known.get(key)
        if not key or (before is not None and before.id == status.id and before.failed):
            return
        self._known.pop(key, None)
        self._known[key] = status
        if len(self._known) > REMEMBERED:
            del self._known[next(iter(self._known))]
        if key in self._awaited:
            self._awaited[key].set()

    def settled(self, key: str) -> Receipt | None:
        """The receipt of a send that an earlier try has brought to WhatsApp after all."""
        status = self._known.get(key)
        if status is None:
            return None
        if status.failed:
            del self._known[key]  # the next try has a fate of its own
            return None
        return Receipt(status.id)

    async def settle(self, key: str, doubt: Exception) -> Receipt:
        """Wait for the status of a send whose answer was lost.

        Raises SendFailed when it failed, and ``doubt`` when nothing is heard in time.
        """
        self._awaited[key] = arrived = asyncio.Event()
        try:
            if key not in self._known:
                async with asyncio.timeout(PATIENCE):
                    await arrived.wait()
        except TimeoutError:
            raise doubt from None
        finally:
            del self._awaited[key]
        status = self._known[key]
        if status.failed:
            raise failure(status)
        return Receipt(status.id)


def failure(status: Status) -> SendFailed:
    """Why a message that was accepted did not arrive."""
    error = next(iter(status.errors), Error(code=131000))
    return SendFailed(*verdict(error, f"message {status.id}"))
