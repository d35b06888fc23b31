"""The Socket Mode bot of slack-sdk's documentation (https://docs.slack.dev/tools/python-slack-sdk/).

It reacts to messages there; here it says them back. Its address is a setting of the library:
nothing is patched.
"""

import os
from threading import Event

from slack_sdk.socket_mode import SocketModeClient
from slack_sdk.socket_mode.request import SocketModeRequest
from slack_sdk.socket_mode.response import SocketModeResponse
from slack_sdk.web import WebClient


def process(client: SocketModeClient, request: SocketModeRequest) -> None:
    """One event: acknowledge it, and say back what a user said."""
    if request.type != "events_api":
        return
    client.send_socket_mode_response(SocketModeResponse(envelope_id=request.envelope_id))
    event = request.payload["event"]
    if event["type"] == "message" and event.get("subtype") is None and "bot_id" not in event:
        client.web_client.chat_postMessage(channel=event["channel"], text=f"echo {event['text']}")


def main() -> None:
    """Listen until told to stop."""
    web = WebClient(token=os.environ["SLACK_BOT_TOKEN"], base_url=os.environ["SLACK_API_URL"])
    client = SocketModeClient(app_token=os.environ["SLACK_APP_TOKEN"], web_client=web)
    client.socket_mode_request_listeners.append(process)
    client.connect()
    Event().wait()


if __name__ == "__main__":
    main()
