"""The way to each server: name, addresses, TLS, proxy, and whether the server itself answers.

Only servers that the configuration names are contacted, and nothing secret is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from urllib.parse import urlsplit

from aiohttp.abc import AbstractResolver

from holdfast.adapter import HttpFailed, HttpReply
from holdfast.doctor import clock
from holdfast.doctor.finding import LIMIT, Check, Finding, Found, Verdict
from holdfast.gateway.dns import Resolver
from holdfast.gateway.net import Net
from holdfast.gateway.proxy import Proxies

STEP_LIMIT = LIMIT * 0.9
"""Seconds for what a check waits for, so that it can say itself what has hung."""

HANDSHAKE_LIMIT = STEP_LIMIT / 2
"""Seconds of them for TLS with a server that has been reached: else time that was lost on the way
there would be blamed on the handshake."""

SLOW_NAME = 1.0
"""Seconds for a name from which reconnects are noticeably slow; resolvers take milliseconds."""

SLOW_ANSWER = 2.0
"""Seconds for an answer from which the 10 s of a login's step become tight on a bad day."""

RENEW = 2 * 86_400.0
"""Seconds before its end from which a certificate should have been renewed: even those that live
for six days are by then."""

CERTIFICATES = (
    "install the authority's certificate on this machine, or name a file of trusted ones in "
    "SSL_CERT_FILE; Holdfast never connects unverified"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """How the doctor reaches the world."""

    resolver: AbstractResolver = field(default_factory=Resolver)
    tls: ssl.SSLContext | None = None
    """What the gateway trusts; None for the system's authorities."""
    public: ssl.SSLContext | None = None
    """What trusts the public authorities alone; None when these are not known here."""
    wall: Callable[[], float] = time.time


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A server of the configuration, and the proxy on the way there."""

    origin: str
    """Scheme, host and port, for example ``https://api.example.org``."""
    host: str
    port: int
    tls: bool
    proxy: str | None = None
    proxy_from: str = ""
    """Who named the proxy: ``the configuration`` or ``the environment``."""

    @property
    def name(self) -> str:
        """Host and, where it is not the usual one, port."""
        usual = 443 if self.tls else 80
        return self.host if self.port == usual else f"{self.host}:{self.port}"

    @classmethod
    def at(cls, url: str, proxy: str | None) -> Server:
        """The server of a URL; ``proxy`` as in the configuration."""
        parts = urlsplit(url)
        host, tls = parts.hostname or "", parts.scheme == "https"
        place = f"[{host}]" if ":" in host else host
        origin = f"{parts.scheme}://{place}" + (f":{parts.port}" if parts.port else "")
        return cls(
            origin=origin,
            host=host,
            port=parts.port or (443 if tls else 80),
            tls=tls,
            proxy=Proxies(proxy)(origin),
            proxy_from="the environment" if proxy is None else "the configuration",
        )

    def next_hop(self) -> tuple[str, int]:
        """Host and port to which a connection is made: the proxy's, if there is one."""
        if self.proxy is None:
            return self.host, self.port
        parts = urlsplit(self.proxy)
        return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def checks(server: Server, doors: Doors) -> Iterator[Check]:
    """All that is to be checked on the way to a server."""
    looks = {"dns": _name, "connect": _connect, "http": _answer}
    if server.tls and server.proxy is None:
        looks["tls"] = _certificate
    for name, look in looks.items():
        yield Check(name, server.name, partial(look, server, doors))


# -- names and addresses --------------------------------------------------------------------------


async def _addresses(server: Server, doors: Doors) -> list[str]:
    """The next hop's addresses, IPv4 first. Raises OSError."""
    host, port = server.next_hop()
    with contextlib.suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    found = await doors.resolver.resolve(host, port, socket.AF_UNSPEC)
    addresses = dict.fromkeys(result["host"] for result in found)
    return sorted(addresses, key=_is_v6)


def _is_v6(address: str) -> bool:
    return ":" in address


async def _name(server: Server, doors: Doors) -> Found:
    host, _ = server.next_hop()
    loop = asyncio.get_running_loop()
    began = loop.time()
    find = partial(Finding, "dns", server.name)
    try:
        async with asyncio.timeout(STEP_LIMIT):
            found = await _addresses(server, doors)
    except TimeoutError:
        what = f"the name server did not answer about {host} within {STEP_LIMIT:g} s"
        return [find(Verdict.FAIL, what, "try another name server: /etc/resolv.conf")]
    except OSError as error:
        again = isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN
        what = f"{host}: {error.strerror or error}"
        remedy = "is the network up? see /etc/resolv.conf" if again else "is its name right?"
        return [find(Verdict.FAIL, what, remedy)]
    if found == [host]:
        return [find(Verdict.OK, "an address: no name has to be found")]
    took = loop.time() - began
    if took >= SLOW_NAME:
        what = f"{host} took {took:.1f} s"
        return [find(Verdict.WARN, what, "the first name server may be dead: /etc/resolv.conf")]
    return [find(Verdict.OK, f"{host} has {', '.join(found)}")]


async def _connect(server: Server, doors: Doors) -> Found:
    """Each address of the next hop; of a name that does not resolve ``dns`` tells."""
    _, port = server.next_hop()
    try:
        addresses = await _addresses(server, doors)
    except OSError:
        return []
    troubles = await asyncio.gather(*(_dial(address, port) for address in addresses))
    return list(_reached(server, dict(zip(addresses, troubles, strict=True))))


async def _dial(address: str, port: int) -> str:
    """Connect and leave; why it failed, or nothing."""
    try:
        async with asyncio.timeout(STEP_LIMIT):
            _, writer = await asyncio.open_connection(address, port)
    except TimeoutError:
        return f"no answer within {STEP_LIMIT:g} s"
    except OSError as error:
        # The library's own text repeats the address.
        return os.strerror(error.errno) if error.errno else str(error)
    writer.transport.abort()
    return ""


def _reached(server: Server, troubles: Mapping[str, str]) -> Iterator[Finding]:
    """What it means which addresses can be reached."""
    hop = "the proxy" if server.proxy else "the server"
    v6 = {address: why for address, why in troubles.items() if _is_v6(address)}
    bad = {address: why for address, why in troubles.items() if why}
    if len(bad) == len(troubles):
        what = f"{hop} can not be reached: {_listed(bad)}"
        hung = any("no answer" in why for why in bad.values())
        remedy = (
            "a firewall swallows the packets, or the route is dead"
            if hung
            else f"is {hop}'s address right, and is it up?"
        )
        yield Finding("connect", server.name, Verdict.FAIL, what, remedy)
        return
    yield Finding("connect", server.name, Verdict.OK, f"{hop} can be reached")
    if any(v6.values()):
        what = f"IPv6 leads nowhere, IPv4 works: {_listed({a: w for a, w in v6.items() if w})}"
        remedy = "repair IPv6, or turn it off: every connection begins with a dead address"
        yield Finding("ipv6", server.name, Verdict.WARN, what, remedy)
    elif v6:
        yield Finding("ipv6", server.name, Verdict.OK, "IPv6 works")
    elif not all(":" in address for address in troubles):
        yield Finding("ipv6", server.name, Verdict.OK, "not used: IPv4 alone")


def _listed(troubles: Mapping[str, str]) -> str:
    return "; ".join(f"{address}: {why}" for address, why in troubles.items())


# -- TLS ------------------------------------------------------------------------------------------


async def _certificate(server: Server, doors: Doors) -> Found:
    """The server's certificate; of a server that can not be reached ``connect`` tells."""
    find = partial(Finding, "tls", server.name)
    try:
        shown = await _handshake(server, doors, doors.tls or ssl.create_default_context())
    except ssl.SSLCertVerificationError as error:
        what, remedy = _distrusted(error)
        return [find(Verdict.FAIL, what, remedy)]
    except ssl.SSLError as error:
        what = f"what answers there does not speak TLS: {error.reason or error}"
        return [find(Verdict.FAIL, what, "a portal, a proxy or a wrong port: look at base_url")]
    except TimeoutError:
        what = f"the TLS handshake did not end within {HANDSHAKE_LIMIT:g} s"
        return [find(Verdict.FAIL, what, "something on the way inspects or swallows TLS")]
    except OSError:
        return []
    issuer = _issuer(shown)
    if doors.public is not None:
        try:
            await _handshake(server, doors, doors.public)
        except ssl.SSLCertVerificationError:
            what = f"the certificate is by {issuer}, whom only this machine trusts"
            remedy = "your own authority? Else somebody on the way reads along: use another network"
            return [find(Verdict.WARN, what, remedy)]
        except (OSError, TimeoutError):
            pass  # it has just worked: a matter for another day
    left = _seconds_left(shown, doors.wall())
    if left < RENEW:
        what = f"the certificate ends in {left / 86_400:.1f} days"
        return [find(Verdict.WARN, what, "its operator must renew it")]
    return [find(Verdict.OK, f"verified, issued by {issuer}")]


async def _handshake(server: Server, doors: Doors, context: ssl.SSLContext) -> Mapping[str, object]:
    """The verified certificate. Raises OSError, of which SSL's errors are; TimeoutError only when
    the server was reached and the handshake did not end."""
    try:
        async with asyncio.timeout(STEP_LIMIT - HANDSHAKE_LIMIT):
            sock = await _reach(await _addresses(server, doors), server.port)
    except TimeoutError:  # the kernel's own, too
        raise ConnectionError("not reached in time") from None
    try:
        async with asyncio.timeout(HANDSHAKE_LIMIT):
            _, writer = await asyncio.open_connection(
                sock=sock, ssl=context, server_hostname=server.host
            )
    except BaseException:
        sock.close()
        raise
    shown: Mapping[str, object] = writer.get_extra_info("peercert") or {}
    writer.transport.abort()
    return shown


async def _reach(addresses: Iterable[str], port: int) -> socket.socket:
    """A connection to the first of the addresses that answers. Raises OSError when none does."""
    waiting = {asyncio.create_task(_dialled(address, port)) for address in addresses}
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            reached = [one.result() for one in done if one.exception() is None]
            for spare in reached[1:]:
                spare.close()
            if reached:
                return reached[0]
        raise ConnectionError("no address answers")
    finally:
        for one in waiting:
            one.cancel()


async def _dialled(address: str, port: int) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if _is_v6(address) else socket.AF_INET)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock


def _distrusted(error: ssl.SSLCertVerificationError) -> tuple[str, str]:
    """What a refused certificate means, by OpenSSL's number (openssl-verify(1))."""
    said = error.verify_message
    match error.verify_code:
        case 9 | 10:
            return (
                f"the certificate is out of its time: {said}",
                "is this machine's clock right? Else its operator must renew it",
            )
        case 62 | 64:
            return (
                f"the certificate is for another name: {said}",
                "a portal or a proxy answers in its place, or base_url names the wrong host",
            )
        case _:
            return (
                f"the certificate is by nobody this machine trusts: {said}",
                "something on the way intercepts TLS (a company's proxy, a virus scanner), or the "
                f"authority is your own: {CERTIFICATES}",
            )


def _issuer(shown: Mapping[str, object]) -> str:
    parts = shown.get("issuer")
    names: dict[str, str] = {}
    for part in parts if isinstance(parts, tuple) else ():
        names |= dict(part)
    return names.get("organizationName") or names.get("commonName") or "an unnamed authority"


def _seconds_left(shown: Mapping[str, object], now: float) -> float:
    try:
        return ssl.cert_time_to_seconds(str(shown["notAfter"])) - now
    except (KeyError, ValueError):
        return float("inf")


# -- the server's own answer ----------------------------------------------------------------------


async def _answer(server: Server, doors: Doors) -> Found:
    """One request by the very client the gateway uses; nothing but the host is told."""
    client = Net(doors.resolver, server.proxy or "", doors.tls).client()
    loop = asyncio.get_running_loop()
    began, sent = loop.time(), doors.wall()
    try:
        reply = await client.request("HEAD", f"{server.origin}/", timeout=STEP_LIMIT - 1.0)
    except HttpFailed as failed:
        return _unanswered(server, failed)
    finally:
        await client.close()
    return [
        *_via(server),
        *_in_time(server, reply, loop.time() - began),
        *_portal(server, reply),
        *_clock(server, reply, sent, doors.wall()),
    ]


_TOLD_BY_OTHERS = frozenset({"dns", "tls", "connect_timeout", "unreachable"})
"""Codes of failures that have a check of their own, unless a proxy stands in between."""


def _unanswered(server: Server, failed: HttpFailed) -> Found:
    cause = failed.cause
    if server.proxy is not None:
        host, port = server.next_hop()
        what = (
            f"the proxy {host}:{port} of {server.proxy_from} does not lead there: {cause.message}"
        )
        remedy = 'mend or unset it: proxy = "" for an account, no_proxy in the environment'
        return [Finding("proxy", server.name, Verdict.FAIL, what, remedy)]
    if cause.code in _TOLD_BY_OTHERS:
        return []
    what = f"it accepts connections and does not answer: {cause.message or cause.code}"
    remedy = "the server hangs, or something on the way swallows what is sent"
    return [Finding("http", server.name, Verdict.FAIL, what, remedy)]


def _via(server: Server) -> Found:
    if server.proxy is None:
        return [Finding("proxy", server.name, Verdict.OK, "none: connections are direct")]
    host, port = server.next_hop()
    what = f"{host}:{port}, named by {server.proxy_from}, leads there"
    return [Finding("proxy", server.name, Verdict.OK, what)]


def _in_time(server: Server, reply: HttpReply, took: float) -> Found:
    find = partial(Finding, "http", server.name)
    if reply.status >= 500 and reply.status != 511:
        what = f"it answers HTTP {reply.status}"
        return [find(Verdict.WARN, what, "its operator's matter; Holdfast keeps trying")]
    if took >= SLOW_ANSWER:
        what = f"it took {took:.1f} s to answer"
        return [find(Verdict.WARN, what, "look at the line; logins may run into their time-outs")]
    return [find(Verdict.OK, f"it answered in {took * 1000:.0f} ms")]


def _portal(server: Server, reply: HttpReply) -> Found:
    """RFC 6585 has a status for portals. That others show a page tells an adapter's own check."""
    if reply.status != 511:
        return []
    what = "a login portal answers in the server's place (HTTP 511)"
    return [Finding("portal", server.name, Verdict.FAIL, what, SIGN_IN)]


SIGN_IN = "open a web page on this network and sign in, or use another network"


def _clock(server: Server, reply: HttpReply, sent: float, received: float) -> Found:
    headers = reply.headers
    ahead = clock.skew(headers.get("date", ""), headers.get("age", ""), sent, received)
    return [] if ahead is None else [clock.against_server(server.name, ahead)]


# -- the environment ------------------------------------------------------------------------------


def variables(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Proxies that the environment names in two ways: which one counts differs by program."""
    for lower in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        upper = lower.upper()
        values = {environ[name] for name in (lower, upper) if environ.get(name)}
        if len(values) > 1:
            what = f"{lower} and {upper} name different things; {lower} counts"
            yield Finding("proxy", "", Verdict.WARN, what, f"unset {upper}")


def servers(places: Iterable[tuple[str, str | None]]) -> list[Server]:
    """Each server once, from pairs of URL and configured proxy; those without a URL have none."""
    return list(dict.fromkeys(Server.at(url, proxy) for url, proxy in places if url))
