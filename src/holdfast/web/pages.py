"""What browsers get: the program's own pages and files, with headers that let nothing else in."""

from __future__ import annotations

import hashlib
import html
import mimetypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from urllib.parse import parse_qs

import msgspec
from aiohttp import web

from holdfast.web.guard import KNOWN, STATIC, Guard, Refusal
from holdfast.web.openapi import document
from holdfast.web.routes import Operation

POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)
"""Files of our own and nothing else: no inline script or style, no other host, no frame."""

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Server": "holdfast",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}
"""On every answer: OWASP's secure headers, and no versions for who looks for holes."""

INDEX = "index.html"
"""The dashboard, among the files of `static`."""

SKETCH = (
    '<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
    '<meta name="viewport" content="width=device-width, initial-scale=1">'
    '<link rel="icon" href="/static/icon.svg"><link rel="stylesheet" href="/static/plain.css">'
    "<main><h1>{title}</h1>{body}</main></html>"
)

LOGIN = (
    '<form method="post" action="/login"><label for="token">Token of this gateway</label>'
    '<input id="token" name="token" type="password" autocomplete="current-password" required'
    " autofocus><button>Log in</button></form>{problem}"
)


@dataclass(frozen=True, slots=True)
class File:
    """A file of the program."""

    body: bytes
    mime: str
    tag: str


def files() -> dict[str, File]:
    """The files that may be asked for, by name: whatever else is asked for is not there."""
    found = {}
    for entry in resources.files("holdfast.web").joinpath("static").iterdir():
        if entry.is_file():
            body = entry.read_bytes()
            mime = mimetypes.guess_type(entry.name)[0] or "application/octet-stream"
            found[entry.name] = File(body, mime, hashlib.sha256(body).hexdigest()[:16])
    return found


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """A signal, so that streams have them too. Answers are for this caller and this moment."""
    response.headers.update(HEADERS)
    response.headers.setdefault("Cache-Control", "no-store")


class Pages:
    """The handlers of one server."""

    def __init__(self, guard: Guard, operations: Sequence[Operation]) -> None:
        self._guard = guard
        self._files: Mapping[str, File] = files()
        self._document = msgspec.json.encode(document(operations, guard.cookie))
        self._reference = reference(operations).encode()

    def add_to(self, app: web.Application) -> None:
        """Add the routes."""
        app.add_routes(
            [
                web.get("/", self._index),
                web.get(STATIC + "{file}", self._file),
                web.get("/login", self._login_page),
                web.post("/login", self._login),
                web.post("/logout", self._logout),
                web.get("/api/", self._api),
                web.get("/api/v1/openapi.json", self._openapi),
            ]
        )

    async def _index(self, request: web.Request) -> web.Response:
        if INDEX not in self._files:
            return web.Response(status=303, headers={"Location": "/api/"})
        return self._sent(request, self._files[INDEX])

    async def _file(self, request: web.Request) -> web.Response:
        found = self._files.get(request.match_info["file"])
        if found is None or found is self._files.get(INDEX):
            raise web.HTTPNotFound
        return self._sent(request, found)

    def _sent(self, request: web.Request, file: File) -> web.Response:
        headers = {"ETag": f'"{file.tag}"', "Cache-Control": "no-cache"}
        if request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        charset = "utf-8" if file.mime.startswith("text/") else None
        return web.Response(
            body=file.body, content_type=file.mime, charset=charset, headers=headers
        )

    # -- logging in ---------------------------------------------------------------------------

    async def _login_page(self, request: web.Request) -> web.Response:
        if request.get(KNOWN, False):
            return web.Response(status=303, headers={"Location": "/"})
        return _page("Holdfast", LOGIN.format(problem=""))

    async def _login(self, request: web.Request) -> web.Response:
        guard = self._guard
        if not guard.needs_token:
            return web.Response(status=303, headers={"Location": "/"})
        if wait := guard.wait(request):
            return guard.too_often(wait)
        if not guard.knock(request, await _token(request)):
            guard.refused[Refusal.TOKEN] += 1
            problem = '<p role="alert">That is not the token.</p>'
            return _page("Holdfast", LOGIN.format(problem=problem), status=401)
        response = web.Response(status=303, headers={"Location": "/"})
        guard.log_in(request, response)
        return response

    async def _logout(self, request: web.Request) -> web.Response:
        response = web.Response(status=303, headers={"Location": "/login"})
        self._guard.log_out(request, response)
        return response

    # -- the reference ------------------------------------------------------------------------

    async def _api(self, request: web.Request) -> web.Response:
        return web.Response(body=self._reference, content_type="text/html", charset="utf-8")

    async def _openapi(self, request: web.Request) -> web.Response:
        return web.Response(body=self._document, content_type="application/json")


def reference(operations: Sequence[Operation]) -> str:
    """The table of operations as a page."""
    rows = "".join(
        f"<tr><td>{one.method}</td><td><code>{html.escape(one.path)}</code>{_asked(one)}</td>"
        f"<td>{html.escape(one.about)}</td></tr>"
        for one in operations
    )
    body = (
        '<p>Types and fields: <a href="/api/v1/openapi.json">openapi.json</a> (OpenAPI 3.1). '
        'Beside it: <a href="/">dashboard</a>, <a href="/livez">/livez</a>, '
        '<a href="/readyz">/readyz</a>, <a href="/metrics">/metrics</a>.</p>'
        "<table><thead><tr><th>Method</th><th>Path</th><th>What it does</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>"
    )
    return SKETCH.format(title="Holdfast API", body=body)


def _asked(one: Operation) -> str:
    return "".join(
        f"<br><code>?{query.name}=</code> {html.escape(query.about)}" for query in one.query
    )


async def _token(request: web.Request) -> str:
    """What was typed into the form; empty for anything else."""
    try:
        fields = parse_qs((await request.read()).decode("utf-8", "replace"), max_num_fields=4)
    except ValueError:
        return ""
    return fields.get("token", [""])[0]


def _page(title: str, body: str, status: int = 200) -> web.Response:
    text = SKETCH.format(title=title, body=body)
    return web.Response(text=text, status=status, content_type="text/html")
