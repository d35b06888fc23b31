"""Attempts against the HTTP side, one by one: refused, counted, the accounts undisturbed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from holdfast.cli.logs import Repeats
from holdfast.config import Config
from holdfast.gateway import door
from holdfast.web import events, guard, sessions
from holdfast.web.guard import MAX_BODY
from holdfast.web.pages import HEADERS
from holdfast.web.server import MOST
from tests.web.http import BEARER, TOKEN, Site, flock, guarded, serving

EVERYWHERE = ("/api/v1/status", "/api/v1/openapi.json", "/api/v1/events", "/metrics", "/api/", "/")


@contextlib.asynccontextmanager
async def attacked(config: Config, **counted: int) -> AsyncIterator[Site]:
    """A site under attack: at its end exactly this was refused, and no account noticed."""
    async with serving(config) as site:
        yield site
        assert await site.refused() == counted
        assert site.generations() == {1}
        states = {account.state for account in site.gateway.status().accounts.values()}
        assert states == {"connected"}


# -- tokens ---------------------------------------------------------------------------------------


async def test_nothing_is_told_without_the_token(tmp_path: Path) -> None:
    async with attacked(guarded(tmp_path), anonymous=len(EVERYWHERE) + 1) as site:
        for path in EVERYWHERE:
            status, body = await site.ask(path)
            assert (status, body["error"]) == (401, "this needs the token of [web]")
        status, _ = await site.ask("/api/v1/accounts/polly/kick", "POST")
        assert status == 401


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("Bearer wrong", "token"),
        ("Bearer ", "token"),
        (f"Bearer {TOKEN}x", "token"),
        (f"Basic {TOKEN}", "anonymous"),
        (TOKEN, "anonymous"),
    ],
)
async def test_a_wrong_token_opens_nothing(
    tmp_path: Path, header: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with attacked(guarded(tmp_path), **{reason: 1}) as site:
        headers = {"Authorization": header}
        async with site.session.get(site.url + "/api/v1/status", headers=headers) as answer:
            assert answer.status == 401
            assert answer.headers["WWW-Authenticate"] == "Bearer"
    # Whoever is told of guesses finds the address in the log.
    assert caplog.text.count("wrong token address=127.0.0.1") == (reason == "token")


async def test_a_scanner_guesses_no_token(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with attacked(guarded(tmp_path), anonymous=30) as site:
        for number in range(30):
            assert (await site.ask(f"/wp-login{number}.php"))[0] == 401
    assert caplog.text == ""


async def test_the_token_opens_everything(tmp_path: Path) -> None:
    async with serving(guarded(tmp_path)) as site:
        assert set((await site.get("/status", **BEARER))["accounts"]) == {"polly", "jack"}
        status, body = await site.ask("/api/v1/accounts/polly/pause", "POST", headers=BEARER)
        assert (status, body["done"]) == (200, "paused")
        assert await site.refused() == {}


async def test_guesses_are_slowed_down(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    wrong = {"Authorization": "Bearer wrong"}
    async with attacked(guarded(tmp_path), token=sessions.PER_ADDRESS, guesses=2) as site:
        for _ in range(sessions.PER_ADDRESS):
            assert (await site.ask("/api/v1/status", headers=wrong))[0] == 401
        # From now on even the right one is not looked at.
        for headers in (wrong, BEARER):
            status, body = await site.ask("/api/v1/status", headers=headers)
            assert (status, body["error"]) == (429, "too many wrong tokens")
        await asyncio.sleep(sessions.WINDOW)
        assert (await site.ask("/api/v1/status", headers=BEARER))[0] == 200
    assert caplog.text.count("wrong token address=127.0.0.1") == sessions.PER_ADDRESS
    assert "Bearer" not in caplog.text


async def test_an_open_session_outlives_the_guesses_of_others(tmp_path: Path) -> None:
    async with attacked(guarded(tmp_path), token=sessions.PER_ADDRESS, guesses=1) as site:
        await log_in(site)
        for _ in range(sessions.PER_ADDRESS + 1):
            await site.ask("/api/v1/status", headers={"Authorization": "Bearer wrong"})
        assert (await site.ask("/api/v1/status"))[0] == 200


# -- logging in -----------------------------------------------------------------------------------


async def log_in(site: Site, token: str = TOKEN, **headers: str) -> tuple[int, str]:
    """The status of a log-in, and the cookie it sets."""
    async with site.session.post(
        site.url + "/login", data={"token": token}, headers=headers, allow_redirects=False
    ) as answer:
        return answer.status, answer.headers.get("Set-Cookie", "")


async def test_browsers_log_in_and_out(tmp_path: Path) -> None:
    async with attacked(guarded(tmp_path), anonymous=1) as site:
        browser = {"Accept": "text/html"}
        async with site.session.get(site.url + "/", headers=browser) as answer:
            assert str(answer.url) == site.url + "/login"
            assert 'type="password"' in await answer.text()
        status, cookie = await log_in(site)
        assert status == 303
        for flag in ("HttpOnly", "SameSite=Strict", "Path=/"):
            assert flag in cookie
        assert "Secure" not in cookie
        assert TOKEN not in cookie
        assert (await site.ask("/api/v1/status"))[0] == 200
        own = {"Origin": site.url}
        kept = {c.key: c.value for c in site.session.cookie_jar}
        async with site.session.post(site.url + "/logout", headers=own) as answer:
            assert str(answer.url) == site.url + "/login"
        # The server forgets it, whatever a thief has kept.
        status, _ = await site.ask("/api/v1/status", cookies=kept)
        assert status == 401


async def test_the_cookie_is_secure_behind_https(tmp_path: Path) -> None:
    async with attacked(guarded(tmp_path, url="https://bots.example.org")) as site:
        status, cookie = await log_in(site, Host="bots.example.org")
        assert status == 303
        assert cookie.startswith("__Host-holdfast=")
        assert "Secure" in cookie


async def test_a_session_ends(tmp_path: Path) -> None:
    async with attacked(guarded(tmp_path), anonymous=1) as site:
        _, cookie = await log_in(site)
        kept = dict([cookie.partition(";")[0].split("=", 1)])
        assert (await site.ask("/api/v1/status", cookies=kept))[0] == 200
        open_until = sessions.SESSION_LIFE
        site.server.guard.sessions._clock = lambda: asyncio.get_running_loop().time() + open_until
        assert (await site.ask("/api/v1/status", cookies=kept))[0] == 401


async def test_log_in_is_rate_limited(tmp_path: Path) -> None:
    async with attacked(guarded(tmp_path), token=sessions.PER_ADDRESS, guesses=1) as site:
        for number in range(sessions.PER_ADDRESS):
            assert (await log_in(site, f"guess {number}"))[0] == 401
        assert (await log_in(site))[0] == 429
        await asyncio.sleep(sessions.WINDOW)
        assert (await log_in(site))[0] == 303


@pytest.mark.parametrize("body", [b"token=" + b"%ff" * 10, b"a=1&b=2&c=3&d=4&e=5", b"{}", b""])
async def test_a_form_that_is_none_is_a_wrong_token(tmp_path: Path, body: bytes) -> None:
    async with attacked(guarded(tmp_path), token=1) as site:
        async with site.session.post(site.url + "/login", data=body) as answer:
            assert answer.status == 401
            assert 'role="alert"' in await answer.text()


# -- foreign pages --------------------------------------------------------------------------------


FOREIGN: list[dict[str, str]] = [
    {"Origin": "https://evil.example"},
    {"Origin": "null"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "http://["},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "none"},
]


@pytest.mark.parametrize("headers", FOREIGN)
async def test_a_foreign_page_changes_nothing(tmp_path: Path, headers: dict[str, str]) -> None:
    async with attacked(flock(tmp_path), origin=1) as site:
        status, body = await site.ask("/api/v1/accounts/polly/kick", "POST", headers=headers)
        assert (status, body["error"]) == (403, "this comes from a foreign page")


@pytest.mark.parametrize("headers", [*FOREIGN, {}])
async def test_a_session_acts_for_our_own_pages_only(
    tmp_path: Path, headers: dict[str, str]
) -> None:
    async with attacked(guarded(tmp_path), origin=1) as site:
        await log_in(site)
        status, _ = await site.ask("/api/v1/accounts/polly/kick", "POST", headers=headers)
        assert status == 403


async def test_our_own_page_and_programs_may_act(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site:
        for headers in ({"Origin": site.url}, {"Sec-Fetch-Site": "same-origin"}, {}):
            status, _ = await site.ask("/api/v1/accounts/polly/kick", "POST", headers=headers)
            assert status == 200
        assert await site.refused() == {}


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8787", "127.0.0.1.evil.example"])
async def test_a_name_that_was_rebound_is_refused(tmp_path: Path, host: str) -> None:
    async with attacked(flock(tmp_path), host=1) as site:
        status, body = await site.ask("/api/v1/status", headers={"Host": host})
        assert (status, body["error"]) == (421, f"{host!r} is not a name of this gateway")


@pytest.mark.parametrize("host", ["", "[", "[::1"])
async def test_a_broken_host_is_refused(tmp_path: Path, host: str) -> None:
    async with attacked(flock(tmp_path), host=1) as site:
        answer = await site.raw(f"GET /livez HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
        assert answer.startswith("HTTP/1.1 421 ")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "[::1]:8787", "127.0.0.1"])
async def test_our_own_names_are_known(tmp_path: Path, host: str) -> None:
    async with attacked(flock(tmp_path)) as site:
        assert (await site.ask("/api/v1/status", headers={"Host": host}))[0] == 200


async def test_nothing_is_allowed_across_origins(tmp_path: Path) -> None:
    async with serving(flock(tmp_path)) as site:
        asked = {
            "Origin": "https://evil.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        }
        path = site.url + "/api/v1/accounts/polly/send"
        async with site.session.options(path, headers=asked) as answer:
            assert answer.status == 403
            assert not [name for name in answer.headers if name.startswith("Access-Control")]


@pytest.mark.parametrize(
    "path", ["/", "/api/", "/api/v1/status", "/login", "/static/plain.css", "/livez", "/nowhere"]
)
async def test_every_answer_shuts_the_browser(tmp_path: Path, path: str) -> None:
    async with serving(flock(tmp_path)) as site:
        async with site.session.get(site.url + path) as answer:
            for name, value in HEADERS.items():
                assert answer.headers[name] == value
            assert answer.headers["Cache-Control"] in ("no-store", "no-cache")


# -- paths and bodies -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/..%2fserver.py",
        "/static/%2e%2e/server.py",
        "/static//etc/passwd",
        "/static/",
        "/static/..",
        "/static/plain.css%00",
        "/../../etc/passwd",
        "/api/v1/../../static/index.html",
    ],
)
async def test_no_path_leads_out(tmp_path: Path, path: str) -> None:
    async with serving(flock(tmp_path)) as site:
        answer = await site.raw(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        assert answer.startswith(("HTTP/1.1 404 ", "HTTP/1.1 400 "))
        assert "root:" not in answer
        assert "import" not in answer
        refused = await site.refused()
        assert refused.get("path", 0) == answer.startswith("HTTP/1.1 404 ")


async def test_a_body_that_is_too_large_is_refused(tmp_path: Path) -> None:
    async with attacked(flock(tmp_path), body=2) as site:
        path = "/api/v1/accounts/polly/send"
        status, body = await site.ask(path, "POST", data=b"x" * (MAX_BODY + 1))
        assert (status, body["error"]) == (413, f"the body is larger than {MAX_BODY} bytes")

        async def without_length() -> AsyncIterator[bytes]:
            for _ in range(MAX_BODY // 1024 + 1):
                yield b"x" * 1024

        status, _ = await site.ask(path, "POST", data=without_length())
        assert status == 413


async def test_a_body_that_does_not_come_is_refused(tmp_path: Path) -> None:
    async with attacked(flock(tmp_path), body=1) as site:
        began = asyncio.get_running_loop().time()
        answer = await site.raw(
            "POST /api/v1/messages/drop HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx"
        )
        assert answer.startswith("HTTP/1.1 408 ")
        assert asyncio.get_running_loop().time() - began < guard.BODY_LIMIT + 3


async def test_who_leaves_before_the_body_came_is_refused_without_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with attacked(flock(tmp_path), body=20) as site:
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
            writer.write(b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx")
            await asyncio.sleep(0.01)
            writer.transport.abort()
            await asyncio.sleep(0.01)
    assert caplog.text == ""


BROKEN = [
    "Transfer-Encoding: chunked\r\n\r\nnot a number\r\n",
    "Content-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
    "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "Content-Length: -1\r\n\r\n",
    "Long: " + "x" * 20_000 + "\r\n\r\n",
    "".join(f"H{number}: x\r\n" for number in range(500)) + "\r\n",
    "no colon\r\n\r\n",
]


@pytest.mark.parametrize("rest", BROKEN)
async def test_what_is_no_http_is_refused(
    tmp_path: Path, rest: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with attacked(flock(tmp_path), http=1) as site:
        answer = await site.raw("POST /api/v1/messages/drop HTTP/1.1\r\nHost: localhost\r\n" + rest)
        assert " 400 " in answer.splitlines()[0]
    assert "Traceback" not in caplog.text


# -- connections ----------------------------------------------------------------------------------


async def test_a_head_that_comes_letter_by_letter_is_cut_off(tmp_path: Path) -> None:
    async with attacked(flock(tmp_path), slow=1) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
        began = asyncio.get_running_loop().time()
        writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: ")
        while not writer.transport.is_closing() and not reader.at_eof():
            writer.write(b"y")
            await asyncio.sleep(0.5)
        took = asyncio.get_running_loop().time() - began
        assert door.HEAD_LIMIT <= took <= door.HEAD_LIMIT + 2 * door.SWEEP_EVERY + 2
        writer.close()


async def test_five_hundred_idle_connections_hurt_nobody(tmp_path: Path) -> None:
    more = 500 - MOST
    async with attacked(flock(tmp_path), connections=more + 1, slow=MOST - 1) as site:
        ends = [await asyncio.open_connection("127.0.0.1", site.server.port) for _ in range(500)]
        await asyncio.sleep(0.01)
        assert len(site.server.door) == MOST
        assert (await site.ask("/livez"))[0] == 200
        assert len(site.server.door) == MOST
        await asyncio.sleep(door.HEAD_LIMIT + 2 * door.SWEEP_EVERY)
        assert len(site.server.door) == 0
        for _, writer in ends:
            writer.close()


@pytest.mark.parametrize("config", [flock, guarded])
async def test_requests_whose_bodies_never_come_keep_nobody_out(
    tmp_path: Path, config: Callable[[Path], Config]
) -> None:
    async with serving(config(tmp_path)) as site:
        head = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n"
        ends = []
        for _ in range(MOST + 44):
            ends.append(await asyncio.open_connection("127.0.0.1", site.server.port))
            ends[-1][1].write(head)
        await asyncio.sleep(0.01)
        began = asyncio.get_running_loop().time()
        assert (await site.ask("/livez"))[0] == 200
        assert asyncio.get_running_loop().time() - began < 1
        assert (await ends[0][0].read(), ends[MOST][0].at_eof()) == (b"", False)
        for reader, _ in ends[45:]:
            assert (await reader.readline()).split()[1] == b"408"
        assert site.generations() == {1}
        for _, writer in ends:
            writer.close()


async def test_when_all_are_busy_a_new_connection_is_refused(tmp_path: Path) -> None:
    async with attacked(flock(tmp_path), connections=1) as site:
        site.server.door.most = 1
        async with site.session.get(site.url + "/api/v1/events") as stream:
            assert (await stream.content.readline()).startswith(b"retry")
            reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            assert (await stream.content.readuntil(b"}")) != b""
        await asyncio.sleep(events.HEARTBEAT + 1)  # by then it is known that nobody reads


async def test_a_connection_is_kept_for_the_next_request_a_while(tmp_path: Path) -> None:
    async with attacked(flock(tmp_path)) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.server.port)
        for _ in range(2):
            writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert (await reader.readuntil(b"}")).endswith(b'{"alive":true}')
            await asyncio.sleep(door.IDLE_LIMIT - 5)
        began = asyncio.get_running_loop().time()
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        assert asyncio.get_running_loop().time() - began < 10
        writer.close()


async def test_an_address_that_is_taken_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with serving(flock(tmp_path, listen=f"127.0.0.1:{port}")) as site:
        assert (site.server.port, site.server.url) == (0, "")
        assert site.generations() == {1}
        await asyncio.sleep(25.0)
        warnings = [r for r in caplog.records if r.levelno == logging.WARNING]
        assert [f"127.0.0.1:{port}" in r.getMessage() for r in warnings] == [True]
        server.close()
        await server.wait_closed()
        await asyncio.sleep(11.0)
        assert site.server.port == port
        assert (await site.ask("/livez"))[0] == 200


async def test_it_can_be_left_out(tmp_path: Path) -> None:
    async with serving(flock(tmp_path, listen="")) as site:
        assert site.server.port == 0
        assert site.generations() == {1}


async def test_a_defect_that_anybody_can_call_up_is_thinned_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken:
        def add_to(self, app: web.Application) -> None:
            app.router.add_get("/broken/{name}", self.broken)

        async def broken(self, request: web.Request) -> web.Response:
            raise LookupError

    async with serving(flock(tmp_path), [Broken()]) as site:
        for name in "abcdefgh":
            assert (await site.ask(f"/broken/{name}"))[0] == 500
    filter = Repeats()
    failed = [one for one in caplog.records if "request failed" in one.getMessage()]
    assert len([one for one in failed if filter.filter(one)]) == 4  # of 1, 2, 4 and 8


async def test_what_is_served_beside_is_guarded_too(tmp_path: Path) -> None:
    class Beside:
        def add_to(self, app: web.Application) -> None:
            app.router.add_get("/beside", self.beside)

        async def beside(self, request: web.Request) -> web.Response:
            return web.Response(text="here I am")

    async with serving(guarded(tmp_path), [Beside()]) as site:
        async with site.session.get(site.url + "/beside") as answer:
            assert answer.status == 401
        headers: Any = BEARER
        async with site.session.get(site.url + "/beside", headers=headers) as answer:
            assert await answer.text() == "here I am"
