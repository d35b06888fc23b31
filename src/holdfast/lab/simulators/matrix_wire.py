"""How a homeserver answers over HTTP: well, with an error of the specification, or not at all."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from holdfast.lab.simulators.matrix_rooms import Json


class MatrixError(Exception):
    """A standard error answer: status, errcode, text, and what else the body says."""

    def __init__(self, status: int, errcode: str, text: str, **extra: Any) -> None:
        super().__init__(text)
        self.status = status
        self.body = {"errcode": errcode, "error": text, **extra}

    def response(self) -> web.Response:
        """The answer; a rate limit is told in the header as well, in whole seconds."""
        headers = {}
        if "retry_after_ms" in self.body:
            headers["Retry-After"] = str(math.ceil(self.body["retry_after_ms"] / 1000))
        return web.json_response(self.body, status=self.status, headers=headers)


def forbidden(text: str) -> MatrixError:
    """403: who asks may not do this."""
    return MatrixError(403, "M_FORBIDDEN", text)


def unknown_token(*, soft: bool) -> MatrixError:
    """401: the token is invalid, or (soft) has only expired."""
    text = "Access token has expired" if soft else "Invalid access token passed."
    return MatrixError(401, "M_UNKNOWN_TOKEN", text, soft_logout=soft)


def too_many(params: Mapping[str, Any]) -> MatrixError:
    """429, told in body and header."""
    wait = params.get("retry_after_ms", 1500)
    return MatrixError(429, "M_LIMIT_EXCEEDED", "Too Many Requests", retry_after_ms=wait)


async def body_of(request: web.Request) -> Json:
    """The JSON object of a request; nothing at all counts as an empty one."""
    try:
        body = json.loads(await request.read() or b"{}")
    except ValueError:
        raise MatrixError(400, "M_NOT_JSON", "Content not JSON.") from None
    if not isinstance(body, dict):
        raise MatrixError(400, "M_BAD_JSON", "Content must be a JSON object.")
    return body


def number(request: web.Request, name: str, default: int) -> int:
    """A whole number from the query."""
    text = request.query.get(name, str(default))
    if not text.isdecimal():
        problem = f"Query parameter {name} must be an integer"
        raise MatrixError(400, "M_INVALID_PARAM", problem)
    return int(text)


def html(status: int, text: str) -> web.Response:
    """What a proxy or a captive portal says."""
    page = f"<html><body><h1>{text}</h1></body></html>"
    return web.Response(status=status, text=page, content_type="text/html")


def reset(request: web.Request) -> web.Response:
    """Cut the connection under a request; the answer that is returned goes nowhere."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


async def drip(request: web.Request, interval: float) -> None:
    """Start an answer and send one harmless byte now and then, until the client goes away."""
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(interval)
