"""A bot on python-telegram-bot that comes back: `python examples/supervised/telegram.py`.

When its token is refused once, the SDK ends its polling and the program goes on, deaf. The token
comes from TELEGRAM_TOKEN.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from telegram import Update
from telegram.error import InvalidToken
from telegram.ext import ApplicationBuilder, MessageHandler, filters
from telegram.request import HTTPXRequest

from holdfast.sdk import Life, supervise
from holdfast.supervision import Cause, Kind


async def echo(update: Update, context: Any) -> None:
    """One message of a user: say it back."""
    if update.message is not None:
        await update.message.reply_text(f"echo {update.message.text}")


async def start(life: Life) -> None:
    """Build the application and poll; every poll that is answered is proof of life."""

    class Polls(HTTPXRequest):
        async def do_request(self, *args: Any, **kwargs: Any) -> tuple[int, bytes]:
            status, body = await super().do_request(*args, **kwargs)
            if status == 200:
                life.alive()
            return status, body

    url = os.environ.get("TELEGRAM_API_URL", "https://api.telegram.org")
    builder = ApplicationBuilder().token(os.environ["TELEGRAM_TOKEN"]).base_url(f"{url}/bot")
    # A login that fails leaves the SDK's own clients open, so they are ours to close.
    async with Polls() as polls, HTTPXRequest() as calls:
        application = builder.get_updates_request(polls).request(calls).build()
        application.add_handler(MessageHandler(filters.TEXT, echo))
        async with application:
            assert application.updater is not None
            try:
                await application.start()
                await application.updater.start_polling()
                await asyncio.Event().wait()
            finally:
                if application.updater.running:
                    await application.updater.stop()
                if application.running:
                    await application.stop()


def classify(error: BaseException) -> Cause | None:
    """A refused token is for a person to mend."""
    if isinstance(error, InvalidToken):
        return Cause(Kind.CREDENTIALS, "telegram_unauthorized", "TELEGRAM_TOKEN is refused")
    return None


if __name__ == "__main__":
    asyncio.run(supervise("telegram", start, classify=classify).run())
