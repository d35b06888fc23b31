"""A model that says back what it was last told, behind an endpoint compatible with OpenAI's.

Peers that put a model between hearing and answering get this one: it is always there, answers at
once and costs nothing, so that what is measured is the peer's way to its platforms.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "echo"


def start() -> str:
    """Start it as a process of this one's group, which ends with it; returns its base address."""
    child = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    return f"http://127.0.0.1:{child.stdout.readline().strip()}/v1"


def last_words(messages: list[dict[str, Any]]) -> str:
    """The text of the newest message of a user."""
    content = next(m["content"] for m in reversed(messages) if m["role"] == "user")
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content if part["type"] == "text")


class Endpoint(BaseHTTPRequestHandler):
    """The two calls that are made of it."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Which models there are."""
        if self.path != "/v1/models":
            return self.send_error(404)
        self._answer({"object": "list", "data": [{"id": MODEL, "object": "model"}]})

    def do_POST(self) -> None:
        """A completion, whole or in parts."""
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/chat/completions":
            return self.send_error(404)
        text = f"echo {last_words(asked['messages'])}"
        if asked.get("stream"):
            self._stream(text)
        else:
            message = {"role": "assistant", "content": text}
            self._answer(self._chunk("chat.completion", {"message": message}, "stop"))

    def _answer(self, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, text: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        kind, delta = "chat.completion.chunk", {"role": "assistant", "content": text}
        for chunk in (
            self._chunk(kind, {"delta": delta}, None),
            self._chunk(kind, {"delta": {}}, "stop"),
        ):
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    @staticmethod
    def _chunk(kind: str, what: dict[str, Any], finish: str | None) -> dict[str, Any]:
        return {
            "id": "chatcmpl-echo",
            "object": kind,
            "created": int(time.time()),
            "model": MODEL,
            "choices": [{"index": 0, "finish_reason": finish, **what}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }

    def log_message(self, *args: Any) -> None:
        """Nothing: what is of interest is what users hear."""


if __name__ == "__main__":
    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        sys.stdout.write(f"{server.server_port}\n")
        sys.stdout.flush()
        server.serve_forever()
