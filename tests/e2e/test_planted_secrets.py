"""A gateway with a marked secret in every field that can hold one: none leaves it by any way.

What looks at it here are outsiders: browsers and scrapers over HTTP, commands, a language model,
whoever reads its log or its files.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from holdfast.cli.exits import Exit
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.web.server import table
from mcp import MCPError
from tests.cli.gateway import Place
from tests.mcp.site import over_stdio
from tests.theatre import toml
from tests.web.test_run import address

pytestmark = [pytest.mark.real_time, pytest.mark.slow, pytest.mark.timeout(120)]

MARK = "must-not-leak"

TOKEN = f"{MARK}-web-token"

BEARER = {"Authorization": f"Bearer {TOKEN}"}

PATHS = (
    "/",
    "/api/",
    "/api/v1/openapi.json",
    "/metrics",
    "/livez",
    "/readyz",
    "/login",
    "/nowhere",
)

AGENT = """
from pathlib import Path

def answer(message):
    token = Path(__file__).with_name("token").read_text()
    kind = LookupError if "again" in message.text else RuntimeError
    raise kind(f"401 for https://api.telegram.org/bot{token}/getFile")
"""
"""As an HTTP library tells of a request of the agent's own, with the account's token."""

OTHERS = """
[gateway]
handler_attempts = 1
hook_listen = "127.0.0.1:0"
proxy = "http://gate:{mark}-gateway-proxy@{echo_host}"
[web]
listen = "127.0.0.1:0"
token = "{mark}-web-token"
url = "https://me:{mark}-web-url@bots.example.org"
[alerts]
after = "1s"
group_window = 0
[[alerts.to]]
url = "{echo}/services/{mark}-path?token={mark}-query"
secret = "{mark}-signing-key"
[[alerts.to]]
url = "http://owner:{mark}-userinfo@{echo_host}/hook"
[[alerts.to]]
command = ["sh", "-c", "printf '%0150d' 0 >&2; echo $0 $TOKEN >&2; exit 1", "{mark}-argument"]
[[alerts.to]]
account = "bot"
chat = "1"
"""


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[str]:
    """A server that refuses everything and quotes all it was sent."""

    async def refuse(request: web.Request) -> web.Response:
        sent = f"{request.method} {request.url} {dict(request.headers)} {await request.text()}"
        return web.json_response({"errcode": "M_UNKNOWN_TOKEN", "error": sent}, status=401)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", refuse)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass(slots=True)
class Spy:
    """All that got out, by the place where it did."""

    heard: dict[str, str] = field(default_factory=dict)

    def hears(self, where: str, *told: object) -> None:
        """Note it."""
        self.heard[where] = self.heard.get(where, "") + " ".join(map(str, told))

    def leaks(self) -> dict[str, str]:
        """What surrounds the first mark of each place that has one."""
        around = re.compile(f".{{0,80}}{MARK}.{{0,30}}", re.DOTALL)
        found = {where: around.search(text) for where, text in self.heard.items()}
        return {where: match[0] for where, match in found.items() if match is not None}


async def over_http(spy: Spy, url: str, session: aiohttp.ClientSession) -> None:
    """Every question, known and unknown, with and without the token; every mistake."""
    names = {"name": "bot", "message": "in-1", "number": "1"}
    asked = [
        (told.method, re.sub(r"\{(\w+)\}", lambda found: names[found[1]], told.path))
        for told in table()
        if not told.local
    ]
    mistakes = [
        ("GET", "/api/v1/accounts/nobody"),
        ("GET", "/api/v1/gaps?limit=x"),
        ("POST", "/api/v1/status"),
    ]
    for method, path in [*asked, *(("GET", path) for path in PATHS), *mistakes]:
        await ask(spy, session, method, url + path, BEARER)
        await ask(spy, session, method, url + path, {})
    await ask(spy, session, "GET", url + "/api/v1/status", {**BEARER, "Host": "evil.example"})
    # Last, for after five of them nobody from here gets an answer for a minute.
    await ask(spy, session, "POST", url + "/login", {})
    for number in range(5):
        wrong = {"Authorization": f"Bearer {number}"}
        await ask(spy, session, "GET", url + "/api/v1/status", wrong)


async def ask(
    spy: Spy, session: aiohttp.ClientSession, method: str, url: str, headers: dict[str, str]
) -> None:
    """One request; of a stream its first events."""
    where = f"{method} {url.partition('127.0.0.1:')[2].partition('/')[2]}"
    async with session.request(method, url, headers=headers, allow_redirects=False) as answer:
        if answer.content_type == "text/event-stream":
            body = b"".join([await answer.content.readline() for _ in range(8)]).decode()
        else:
            body = await answer.text(errors="replace")
        if headers == BEARER:
            assert answer.status not in (401, 421, 429), (where, body)
        spy.hears(where, answer.status, dict(answer.headers), body)


async def by_commands(
    spy: Spy, place: Place, shown: pytest.CaptureFixture[str], *lines: Iterable[str]
) -> None:
    """What commands print, as people and as programs ask for it."""
    for line in lines:
        shown.readouterr()
        await place.command(*line)
        told = shown.readouterr()
        spy.hears(" ".join(line), told.out, told.err)


LOOKS = (
    ["status"],
    ["explain", "bot"],
    ["explain", "quoted"],
    ["history"],
    ["history", "--incidents"],
    ["dead", "list"],
    ["inbox", "list"],
    ["outbox", "list"],
    ["gaps"],
    ["alerts", "test"],
    ["check"],
    ["doctor"],
    ["service", "install", "--user", "--dry-run"],
)


async def by_a_model(spy: Spy, place: Place) -> None:
    """What a language model is told."""
    calls: list[tuple[str, dict[str, Any]]] = [
        ("list_accounts", {}),
        ("explain_account", {"account": "quoted"}),
        ("explain_account", {"account": "nobody"}),
        ("account_history", {}),
        ("list_dead_letters", {}),
        ("retry_dead_letters", {"names": ["in-1", "in-999"]}),
        ("kick_account", {"account": "quoted"}),
        ("send_message", {"account": "bot", "chat": "1", "text": "hi"}),
    ]
    async with over_stdio(place.directory) as model:
        for tool, arguments in calls:
            spy.hears(f"MCP {tool}", await model.client.call_tool(tool, arguments))
        for uri in ("accounts", "accounts/quoted", "accounts/quoted/history", "accounts/nobody"):
            with contextlib.suppress(MCPError):
                spy.hears(f"MCP {uri}", await model.read(f"holdfast://{uri}"))


async def test_no_secret_leaves_by_any_way(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, spy = Place(tmp_path), Spy()
    first, second = f"77:{MARK}-token", f"77:{MARK}-second-token"
    monkeypatch.setenv("TOKEN", first)
    (tmp_path / "agent.py").write_text(AGENT)
    (tmp_path / "token").write_text(first)
    async with (
        TelegramSimulator(token=first) as sim,
        echoing() as echo,
        aiohttp.ClientSession() as session,
    ):
        token = {"token": {"file": "token"}, "agent": "python:agent:answer", "proxy": ""}
        accounts = {
            "bot": sim.account() | token,
            "quoted": {
                "platform": "matrix",
                "user_id": "@bot:b",
                "access_token": f"{MARK}-access",
                "homeserver": echo,
                "proxy": "",
            },
            "hidden": sim.account()
            | {"token": f"80:{MARK}", "proxy": f"http://u:{MARK}-proxy@127.0.0.1:1"},
        }
        others = OTHERS.format(mark=MARK, echo=echo, echo_host=echo.partition("//")[2])
        place.config.write_text(others + toml(accounts))
        place.config.chmod(0o600)
        async with place.gateway("--log-level", "debug") as process:
            url = await address(process)
            sim.say("hello")
            await process.logged('event="dead letter" account=bot message=')
            await process.logged('event="alert not taken"')
            await over_http(spy, url, session)
            await by_commands(spy, place, capsys, *LOOKS, *([*line, "--json"] for line in LOOKS))
            await by_a_model(spy, place)
            # A secret that is replaced while it runs is as hidden as the first.
            (tmp_path / "token").write_text(second)
            sim.set_token(second)
            await by_commands(spy, place, capsys, ["reload"], ["kick", "bot"])
            sim.say("hello again")
            await process.logged("LookupError: 401 for")
            # A configuration that can not be used is quoted, but not what is secret in it.
            place.config.write_text(others.replace("http://gate", "gate") + toml(accounts))
            await by_commands(spy, place, capsys, ["reload"], ["check"], ["doctor"])
            process.signal(signal.SIGHUP)
            await process.logged("reload refused")
            process.signal(signal.SIGTERM)
            assert await process.ended() == Exit.OK
        spy.hears("log", process.log)
    for path in place.state.iterdir():
        spy.hears(path.name, path.read_bytes() if path.is_file() else "")
    assert spy.leaks() == {}
    # All of it was there to be told.
    assert "401 for https://api.telegram.org/bot***/getFile" in spy.heard["dead list --json"]
    assert "'Authorization': 'Bearer ***'" in spy.heard["explain quoted"]
    assert "*** ***" in spy.heard["alerts test"]
    assert "'***@127.0.0.1:" in spy.heard["check"]
    assert "holdfast_account_up" in spy.heard["GET metrics"]
    assert "event: status" in spy.heard["GET api/v1/events"]
