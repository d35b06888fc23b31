"""A bot on slack-sdk that comes back: `python examples/supervised/slack.py`.

Tokens come from SLACK_APP_TOKEN (xapp-) and SLACK_BOT_TOKEN (xoxb-).
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from slack_sdk.errors import SlackApiError
from slack_sdk.socket_mode.aiohttp import SocketModeClient
from slack_sdk.socket_mode.response import SocketModeResponse
from slack_sdk.web.async_client import AsyncWebClient

from holdfast.sdk import Life, supervise
from holdfast.supervision import Cause, Kind

FATAL = {"invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired"}


async def echo(client: Any, request: Any) -> None:
    """One event: acknowledge it, and say back what a user said."""
    await client.send_socket_mode_response(SocketModeResponse(envelope_id=request.envelope_id))
    event = request.payload.get("event", {})
    if event.get("type") == "message" and "bot_id" not in event:
        text = f"echo {event['text']}"
        await client.web_client.chat_postMessage(channel=event["channel"], text=text)


async def start(life: Life) -> None:
    """Build the client, connect, and watch: every frame and every new pong is proof of life."""

    async def heard(message: Any) -> None:
        life.alive()

    web = AsyncWebClient(os.environ["SLACK_BOT_TOKEN"], base_url=os.environ["SLACK_API_URL"])
    client = SocketModeClient(
        os.environ["SLACK_APP_TOKEN"], web_client=web, on_message_listeners=[heard]
    )
    client.socket_mode_request_listeners.append(echo)
    try:
        # `connect` alone would hide a refused token, and try again for ever.
        client.wss_uri = await client.issue_new_wss_url()
        await client.connect()  # type: ignore[no-untyped-call]
        pong = None
        while True:
            await asyncio.sleep(client.ping_interval)
            # The first value is the moment of a ping, which proves nothing; a change is a pong.
            before, pong = pong, client.last_ping_pong_time
            if None not in (before, pong) and before != pong:
                life.alive()
    finally:
        await client.close()  # type: ignore[no-untyped-call]


def classify(error: BaseException) -> Cause | None:
    """Refused tokens are for a person to mend."""
    if isinstance(error, SlackApiError) and error.response["error"] in FATAL:
        return Cause(Kind.CREDENTIALS, f"slack_{error.response['error']}", "a token is refused")
    return None


if __name__ == "__main__":
    os.environ.setdefault("SLACK_API_URL", "https://slack.com/api/")
    asyncio.run(supervise("slack", start, classify=classify).run())
