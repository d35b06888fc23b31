"""The chat page as it is served, and which pages may talk to the gateway."""

from __future__ import annotations

import base64
import functools
import hashlib
import re
from collections.abc import Mapping
from importlib import resources

from holdfast.forgery import netloc_of

_INLINE = {
    "style-src": re.compile(rb"<style>(.*?)</style>", re.DOTALL),
    "script-src": re.compile(rb"<script>(.*?)</script>", re.DOTALL),
}


@functools.cache
def page() -> bytes:
    """The page: one file without a reference to any other."""
    return resources.files("holdfast.adapters").joinpath("webchat_page.html").read_bytes()


@functools.cache
def headers() -> Mapping[str, str]:
    """What the browser must hold the page to: its own style and script, its own server, no frame.

    Content Security Policy 3 (https://www.w3.org/TR/CSP3/), inline parts allowed by their hashes;
    ``connect-src 'self'`` includes the WebSocket of the same host.
    """
    inline = (f"{name} {_hash(part)}" for name, part in _INLINE.items())
    rules = (
        "default-src 'none'",
        *inline,
        "img-src blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return {
        "Content-Security-Policy": "; ".join(rules),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",  # the address may carry the token
        "Cache-Control": "no-cache",
    }


def admitted(origin: str, host: str, public: str | None, allowed: tuple[str, ...]) -> bool:
    """Whether a page from ``origin`` may open a WebSocket.

    Without it any site could talk to the bot in the name of whoever looks at that site, for
    browsers let a page open WebSockets to everywhere (RFC 6455, section 10.2). ``host`` is the
    request's Host header, ``public`` our own address as the configuration tells it.
    """
    if allowed:
        return origin.lower() in {entry.lower().rstrip("/") for entry in allowed}
    ours = {host.lower(), netloc_of(public or "")}
    return bool(netloc := netloc_of(origin)) and netloc in ours


def _hash(part: re.Pattern[bytes]) -> str:
    """The source expression of the page's one such element."""
    (text,) = part.findall(page())
    return f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
