"""Each way in which a server can be out of reach, made on loopback, and its finding."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterable
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from aiohttp.abc import ResolveResult

from holdfast.doctor.finding import Finding, Verdict, run_all
from holdfast.doctor.network import Doors, Server, checks, servers, variables
from holdfast.lab.faults.backlog import FullBacklog, has_v6
from holdfast.lab.faults.dns import LabResolver
from holdfast.lab.faults.html import HtmlPortal
from holdfast.lab.faults.tls import Authority, Flaw
from tests.gateway.raw import head, raw

HOST = "platform.test"


@contextlib.asynccontextmanager
async def site(
    tls: ssl.SSLContext | None = None, status: int = 200, delay: float = 0.0, **headers: str
) -> AsyncIterator[int]:
    """A server; yields its port."""

    async def answer(request: web.BaseRequest) -> web.Response:
        await asyncio.sleep(delay)
        return web.Response(status=status, headers=headers)

    runner = web.ServerRunner(web.Server(answer, access_log=None), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def doors(resolver: LabResolver | None = None, **others: object) -> Doors:
    known = resolver or LabResolver({HOST: ["127.0.0.1"]})
    return Doors(resolver=known, **others)  # type: ignore[arg-type]


async def examined(url: str, through: Doors, proxy: str | None = "") -> dict[str, Finding]:
    """The findings on a server by check; each has a remedy unless all is well."""
    found = await run_all(list(checks(Server.at(url, proxy), through)))
    assert len({finding.check for finding in found}) == len(found)
    for finding in found:
        assert bool(finding.remedy) == (finding.verdict is not Verdict.OK), finding
    return {finding.check: finding for finding in found}


def verdicts(found: dict[str, Finding]) -> dict[str, str]:
    return {name: finding.verdict.value for name, finding in found.items()}


# -- all is well ----------------------------------------------------------------------------------


async def test_a_healthy_server_over_tls() -> None:
    authority = Authority()
    context = authority.server_context(names=(HOST,))
    async with site(context) as port:
        found = await examined(f"https://{HOST}:{port}/v1", doors(tls=authority.client_context()))
    assert verdicts(found) == dict.fromkeys(
        ("dns", "connect", "ipv6", "http", "proxy", "clock", "tls"), "ok"
    )
    assert "127.0.0.1" in found["dns"].what
    assert found["tls"].what == "verified, issued by Holdfast lab"
    assert found["dns"].subject == f"{HOST}:{port}"


def test_a_server_is_known_once_whatever_its_path() -> None:
    known = servers(
        [(f"https://{HOST}/a", ""), (f"https://{HOST}/b", ""), ("", ""), ("http://[::1]:8", "")]
    )
    assert [server.origin for server in known] == [f"https://{HOST}", "http://[::1]:8"]
    assert [server.name for server in known] == [HOST, "::1:8"]


# -- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(socket.EAI_AGAIN, "is the network up?"), (socket.EAI_NONAME, "is its name right?")],
)
async def test_a_name_that_is_not_found(code: int, remedy: str) -> None:
    resolver = LabResolver()
    resolver.fail(code)
    found = await examined(f"https://{HOST}", doors(resolver))
    assert verdicts(found) == {"dns": "fail"}  # what follows from it is not told again
    assert HOST in found["dns"].what
    assert found["dns"].remedy.startswith(remedy)


async def test_a_name_server_that_hangs_takes_5_s_at_most() -> None:
    resolver = LabResolver()
    resolver.hang()
    loop = asyncio.get_running_loop()
    began = loop.time()
    found = await examined(f"https://{HOST}", doors(resolver))
    assert loop.time() - began <= 5.0
    assert found["dns"].verdict is Verdict.FAIL
    assert "did not answer" in found["dns"].what


async def test_a_slow_name_server_is_told() -> None:
    class Slow(LabResolver):
        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
        ) -> list[ResolveResult]:
            await asyncio.sleep(1.5)
            return await super().resolve(host, port, family)

    async with site() as port:
        found = await examined(f"http://{HOST}:{port}", doors(Slow({HOST: ["127.0.0.1"]})))
    assert found["dns"].verdict is Verdict.WARN
    assert "1.5 s" in found["dns"].what


# -- addresses ------------------------------------------------------------------------------------


async def test_a_server_that_is_down() -> None:
    found = await examined("http://127.0.0.1:1", doors())
    assert verdicts(found) == {"dns": "ok", "connect": "fail"}
    assert found["connect"].what.endswith("127.0.0.1: Connection refused")
    assert "is it up?" in found["connect"].remedy


async def test_packets_that_are_swallowed() -> None:
    with FullBacklog() as dead:
        found = await examined(f"http://{HOST}:{dead.port}", doors())
    assert found["connect"].verdict is Verdict.FAIL
    assert "no answer within 4.5 s" in found["connect"].what
    assert "firewall" in found["connect"].remedy


@pytest.mark.skipif(not has_v6(), reason="this machine has no ::1")
async def test_an_ipv6_that_leads_nowhere() -> None:
    resolver = LabResolver()
    resolver.dead_v6_first(HOST)
    async with site() as port:
        with FullBacklog("::1", port):
            found = await examined(f"http://{HOST}:{port}", doors(resolver))
    assert found["connect"].verdict is Verdict.OK
    assert found["ipv6"].verdict is Verdict.WARN
    assert found["ipv6"].what.startswith("IPv6 leads nowhere, IPv4 works: ::1")


# -- TLS ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flaw", "what", "remedy"),
    [
        (Flaw.EXPIRED, "out of its time", "clock"),
        (Flaw.WRONG_NAME, "for another name", "portal"),
        (Flaw.UNKNOWN_ISSUER, "nobody this machine trusts", "intercepts"),
    ],
)
async def test_a_certificate_with_a_flaw(flaw: Flaw, what: str, remedy: str) -> None:
    authority = Authority()
    async with site(authority.server_context(flaw, names=(HOST,))) as port:
        found = await examined(f"https://{HOST}:{port}", doors(tls=authority.client_context()))
    assert found["tls"].verdict is Verdict.FAIL
    assert what in found["tls"].what
    assert remedy in found["tls"].remedy
    assert "http" not in found  # it is the same trouble


async def test_an_interception_that_this_machine_was_made_to_trust() -> None:
    company, world = Authority("Company proxy"), Authority()
    async with site(company.server_context(names=(HOST,))) as port:
        through = doors(tls=company.client_context(), public=world.client_context())
        found = await examined(f"https://{HOST}:{port}", through)
        alone = doors(tls=company.client_context(), public=company.client_context())
        assert (await examined(f"https://{HOST}:{port}", alone))["tls"].verdict is Verdict.OK
    assert found["tls"].verdict is Verdict.WARN
    assert "by Company proxy, whom only this machine trusts" in found["tls"].what


async def test_a_certificate_that_ends_soon() -> None:
    authority = Authority()
    in_six_days = time.time() + 6 * 86_400
    async with site(authority.server_context(names=(HOST,))) as port:
        through = doors(tls=authority.client_context(), wall=lambda: in_six_days)
        found = await examined(f"https://{HOST}:{port}", through)
    assert found["tls"].what == "the certificate ends in 1.0 days"


async def test_packets_that_are_swallowed_are_no_matter_of_tls() -> None:
    with FullBacklog() as dead:
        found = await examined(f"https://{HOST}:{dead.port}", doors())
    assert verdicts(found) == {"dns": "ok", "connect": "fail"}


async def test_a_handshake_that_hangs() -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with raw(mute) as server:
        port = urlsplit(server.url).port
        found = await examined(f"https://{HOST}:{port}", doors())
    assert found["connect"].verdict is Verdict.OK
    assert found["tls"].verdict is Verdict.FAIL
    assert "handshake did not end" in found["tls"].what


@pytest.mark.parametrize("first", ["127.0.0.1", "127.0.0.2"])
async def test_one_dead_address_is_no_matter_of_tls(first: str) -> None:
    authority = Authority()
    addresses = ["127.0.0.1", "127.0.0.2"]
    addresses.sort(key=lambda address: address != first)
    async with site(authority.server_context(names=(HOST,))) as port:
        with FullBacklog("127.0.0.2", port):
            through = doors(LabResolver({HOST: addresses}), tls=authority.client_context())
            found = await examined(f"https://{HOST}:{port}", through)
    assert found["tls"].verdict is Verdict.OK


async def test_what_does_not_speak_tls() -> None:
    async with HtmlPortal() as portal:
        found = await examined(f"https://{HOST}:{portal.port}", doors())
    assert found["tls"].verdict is Verdict.FAIL
    assert "does not speak TLS" in found["tls"].what


# -- answers --------------------------------------------------------------------------------------


async def test_a_server_that_accepts_and_says_nothing() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with raw(silent) as server:
        found = await examined(server.url, doors())
    assert found["http"].verdict is Verdict.FAIL
    assert "does not answer" in found["http"].what


@pytest.mark.parametrize(
    ("status", "check", "verdict"),
    [(404, "http", "ok"), (503, "http", "warn"), (511, "portal", "fail")],
)
async def test_what_an_answer_says(status: int, check: str, verdict: str) -> None:
    async with site(status=status) as port:
        found = await examined(f"http://{HOST}:{port}", doors())
    assert found[check].verdict == verdict


async def test_a_slow_answer_is_told() -> None:
    async with site(delay=2.5) as port:
        found = await examined(f"http://{HOST}:{port}", doors())
    assert found["http"].verdict is Verdict.WARN
    assert "2.5 s to answer" in found["http"].what


@pytest.mark.parametrize(
    ("ahead", "verdict", "what"),
    [
        (0, "ok", "less than a second"),
        (-40, "warn", "40 s behind"),
        (3600, "fail", "3600 s ahead of"),
    ],
)
async def test_the_clock_is_compared_with_the_servers(
    ahead: float, verdict: str, what: str
) -> None:
    date = "Wed, 04 Mar 2026 09:30:00 GMT"
    wall = 1_772_616_600.0 + 0.5 + ahead + (0.5 if ahead > 0 else -0.5 if ahead < 0 else 0)
    async with site(Date=date) as port:
        found = await examined(f"http://{HOST}:{port}", doors(wall=lambda: wall))
    assert found["clock"].verdict == verdict
    assert what in found["clock"].what
    assert ("timedatectl" in found["clock"].remedy) == (verdict != "ok")


# -- proxies --------------------------------------------------------------------------------------


async def test_a_proxy_of_the_configuration_that_leads_there() -> None:
    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        assert (await head(reader)).startswith(b"HEAD http://elsewhere.test/ ")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with raw(play) as proxy:
        found = await examined("http://elsewhere.test", doors(), proxy.url)
    assert found["proxy"].verdict is Verdict.OK
    assert "named by the configuration" in found["proxy"].what


async def test_a_dead_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://me:hunter2@127.0.0.1:1")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    found = await examined(f"https://{HOST}", doors(), None)
    assert "tls" not in found  # the proxy's connection is not the server's
    assert found["connect"].what.startswith("the proxy can not be reached")
    assert found["proxy"].verdict is Verdict.FAIL
    assert "127.0.0.1:1 of the environment" in found["proxy"].what
    assert not any("hunter2" in part for f in found.values() for part in (f.what, f.remedy))


@pytest.mark.parametrize(
    ("environ", "warned"),
    [
        ({"https_proxy": "http://a", "HTTPS_PROXY": "http://b"}, ["HTTPS_PROXY"]),
        ({"https_proxy": "http://a", "HTTPS_PROXY": "http://a", "NO_PROXY": "x"}, []),
    ],
)
def test_a_proxy_that_is_named_twice(environ: dict[str, str], warned: Iterable[str]) -> None:
    assert [f.remedy for f in variables(environ)] == [f"unset {name}" for name in warned]
