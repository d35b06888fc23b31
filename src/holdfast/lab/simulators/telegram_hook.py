"""Delivery of updates to a bot's web hook, with the redelivery of the official server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp

from holdfast.lab.simulator import wall_clock
from holdfast.lab.simulators.telegram_wire import (
    HOOK_RETRY_AFTER_CAP,
    HOOK_TIMEOUT,
    Json,
    Update,
)


class WebHook:
    """Posts queued updates to a URL: in order within a chat, chats side by side, until taken.

    ``queue`` returns the unconfirmed updates, ``taken`` removes one and gets the hook's answer.
    """

    def __init__(
        self,
        url: str,
        secret: str | None,
        connections: int,
        *,
        queue: Callable[[], list[Update]],
        taken: Callable[[Update, bytes], None],
        note: Callable[..., None],
        ceiling: float,
    ) -> None:
        self.url, self.connections = url, connections
        self.last_error: tuple[int, str] | None = None
        self._headers = {"X-Telegram-Bot-Api-Secret-Token": secret} if secret else {}
        self._queue, self._taken, self._note = queue, taken, note
        self._ceiling = ceiling
        self._slots = asyncio.Semaphore(connections)
        self._workers: dict[int, asyncio.Task[None]] = {}

    def info(self) -> Json:
        """The part of ``WebhookInfo`` that is about the hook."""
        info: Json = {"url": self.url, "max_connections": self.connections}
        if self.last_error is not None:
            info["last_error_date"], info["last_error_message"] = self.last_error
        return info

    def serve(self) -> None:
        """Give every chat with updates a worker."""
        for chat_id in {update.chat_id for update in self._queue()} - set(self._workers):
            self._workers[chat_id] = asyncio.create_task(
                self._deliver(chat_id), name=f"telegram-hook-{chat_id}"
            )

    def cancel(self) -> list[asyncio.Task[None]]:
        """End the deliveries; returns the tasks that are about to end."""
        workers, self._workers = list(self._workers.values()), {}
        for worker in workers:
            worker.cancel()
        return workers

    async def _deliver(self, chat_id: int) -> None:
        delay = 1.0
        while mine := [update for update in self._queue() if update.chat_id == chat_id]:
            async with self._slots:
                wait = await self._post(mine[0])
            if wait is None:
                delay = 1.0
                continue
            await asyncio.sleep(max(wait, delay))
            delay = min(delay * 2, self._ceiling)
        del self._workers[chat_id]

    async def _post(self, update: Update) -> float | None:
        """Deliver once. Returns None when the bot took it, else its ``Retry-After`` or 0."""
        limit = aiohttp.ClientTimeout(total=HOOK_TIMEOUT)
        try:
            async with (
                aiohttp.ClientSession(timeout=limit, headers=self._headers) as session,
                session.post(
                    self.url, json=update.wire(), ssl=False, allow_redirects=False
                ) as response,
            ):
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            return self._failed(update, str(error) or type(error).__name__)
        if 200 <= response.status < 300:
            self._taken(update, body)
            self._note("hook-delivered", id=update.id)
            return None
        retry_after = response.headers.get("Retry-After", "")
        reason = f"Wrong response from the webhook: {response.status} {response.reason}"
        return self._failed(update, reason, int(retry_after) if retry_after.isdigit() else 0)

    def _failed(self, update: Update, reason: str, retry_after: float = 0.0) -> float:
        self.last_error = (int(wall_clock()), reason)
        self._note("hook-failed", id=update.id, reason=reason)
        return min(retry_after, HOOK_RETRY_AFTER_CAP)
