"""Proxies: by configuration, by environment, or none; and no password of another program's."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from holdfast.gateway.dns import Resolver
from holdfast.gateway.net import HttpClient, Net
from holdfast.gateway.proxy import Proxies
from tests.gateway.raw import head, raw

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment names no proxy but a test's."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def made(proxy: str | None = None) -> HttpClient:
    """A client."""
    return Net(Resolver(), proxy).client()


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("https://api.example.org/x", "http://secure:1"),
        ("wss://gate.example.org/x", "http://secure:1"),
        ("http://api.example.org", "http://plain:2"),
        ("ws://api.example.org", "http://plain:2"),
        ("http://inside.example.net/", None),
        ("http://127.0.0.1:8070/chat", None),
        ("ws://[::1]:8070/chat", None),
        ("http://localhost/", None),
    ],
)
def test_the_environment_decides_by_scheme_and_host(
    monkeypatch: pytest.MonkeyPatch, url: str, proxy: str | None
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://secure:1")
    monkeypatch.setenv("http_proxy", "http://plain:2")
    monkeypatch.setenv("no_proxy", "example.net")
    assert Proxies(None)(url) == proxy
    assert Proxies("http://own:3")(url) == "http://own:3"
    assert Proxies("")(url) is None


def test_one_proxy_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://all:4")
    assert Proxies(None)("wss://gate.example.org") == "http://all:4"


def test_without_any_it_is_direct() -> None:
    assert Proxies(None)("https://api.example.org") is None


async def test_a_request_goes_through_the_environments_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bytes] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await head(reader))
        writer.write(OK)
        await writer.drain()

    async with raw(play) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        client = made()
        reply = await client.request("GET", "http://parrot.invalid/path")
        await client.close()
    assert reply.body == b"ok"
    assert seen[0].startswith(b"GET http://parrot.invalid/path HTTP/1.1\r\n")


async def test_a_netrc_of_the_user_breaks_no_call_and_is_shown_to_nobody(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password private\n", encoding="utf-8")
    monkeypatch.setenv("NETRC", str(netrc))
    seen: list[bytes] = []

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(2):
            seen.append(await head(reader))
            writer.write(OK)
            await writer.drain()

    async with raw(play) as server:
        client = made()
        await client.request("GET", server.url, headers={"Authorization": "Bot polly"})
        await client.request("GET", server.url)
        await client.close()
    assert b"Authorization: Bot polly" in seen[0]
    assert b"authorization" not in seen[1].lower()
