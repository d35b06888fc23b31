"""The server over streamable HTTP, on an address of its own.

Without a token it is for programs of this machine, and a Host or Origin of another is refused: no
web page can reach it by a name that it made point here. With a token nobody comes in without.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from holdfast.adapter import Secret
from holdfast.config import is_loopback
from holdfast.forgery import is_ours

PATH = "/mcp"

STOP_LIMIT = 2
"""Whole seconds that requests under way may take when the server stops."""

BACKLOG = 16
"""Callers that may wait to be accepted."""

NAMES = ("127.0.0.1", "localhost", "[::1]")


class Token:
    """Lets in who shows the token; everybody else learns that there is one."""

    def __init__(self, app: ASGIApp, token: Secret) -> None:
        self._app, self._expected = app, f"Bearer {token.reveal()}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the ASGI specification."""
        if scope["type"] != "lifespan":
            shown = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
            if not is_ours(shown, self._expected):
                refusal = JSONResponse(
                    {"error": "the token is missing or wrong", "hint": "Authorization: Bearer ..."},
                    status_code=401,
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await refusal(scope, receive, send)
                return
        await self._app(scope, receive, send)


def app(server: MCPServer[None], host: str, token: Secret | None) -> ASGIApp:
    """What answers on ``host``."""
    guarded = is_loopback(host)
    security = TransportSecuritySettings(
        # Behind a token any name is good: a browser that was lured here does not have it.
        enable_dns_rebinding_protection=guarded,
        allowed_hosts=[f"{name}:*" for name in NAMES],
        allowed_origins=[f"http://{name}:*" for name in NAMES],
    )
    made = server.streamable_http_app(
        streamable_http_path=PATH, stateless_http=True, transport_security=security
    )
    return made if token is None else Token(made, token)


def listen(host: str, port: int) -> socket.socket:
    """A bound socket. Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host.strip("[]"), port))
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def serve(
    server: MCPServer[None],
    host: str,
    port: int,
    token: Secret | None,
    ready: Callable[[str], None],
) -> None:
    """Serve until SIGINT or SIGTERM; ``ready`` hears the URL. Raises OSError for the address."""
    with listen(host, port) as sock:
        config = uvicorn.Config(
            app(server, host, token),
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=STOP_LIMIT,
        )
        ready(f"http://{host}:{sock.getsockname()[1]}{PATH}")
        uvicorn.Server(config).run(sockets=[sock])
