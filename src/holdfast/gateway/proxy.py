"""Which proxy leads to a URL: the configured one, none, or the one the environment names.

The HTTP library could ask the environment itself, but does so for each request, in a thread, and
with it reads the user's netrc: passwords meant for other programs must not reach a platform.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass

_SCHEMES = {"ws": "http", "wss": "https"}


class Proxies:
    """Reads the environment once, when it is made (``http_proxy``, ``https_proxy``, ``all_proxy``,
    ``no_proxy``, in lower or upper case)."""

    def __init__(self, configured: str | None) -> None:
        """``configured`` is a proxy's URL, "" for none, or None for what the environment says."""
        self._configured = configured
        self._environment = getproxies_environment() if configured is None else {}
        self._known: dict[tuple[str, str], str | None] = {}

    def __call__(self, url: str) -> str | None:
        """The proxy's URL, None for a direct connection."""
        if not self._environment:
            return self._configured or None
        parts = urlsplit(url)
        place = parts.scheme, parts.netloc
        if place not in self._known:
            self._known[place] = self._ask(parts.scheme, parts.hostname or "", parts.netloc)
        return self._known[place]

    def _ask(self, scheme: str, host: str, netloc: str) -> str | None:
        if _is_loopback(host) or proxy_bypass(netloc.rpartition("@")[2]):
            return None
        environment = self._environment
        return environment.get(_SCHEMES.get(scheme, scheme)) or environment.get("all")


def _is_loopback(host: str) -> bool:
    """This machine is never reached through a proxy that somebody set for the world outside."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
