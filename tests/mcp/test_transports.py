"""`holdfast mcp` as a process, over stdio and streamable HTTP, by the package's own client."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import httpx2
import pytest
from mcp.client.streamable_http import streamable_http_client

from holdfast.cli import main
from holdfast.cli.exits import Exit
from mcp import Client
from tests.mcp.site import Model, over_http, over_stdio, place
from tests.web.gateway import connected
from tests.web.site import serving

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

TOKEN = "0123456789abcdef"


def holding(home: Path, text: str = TOKEN) -> str:
    path = home / "token"
    path.write_text(text + "\n")
    return str(path)


# -- standard input and output --------------------------------------------------------------------


async def test_over_stdio_a_bot_is_looked_after(tmp_path: Path) -> None:
    async with serving(place(tmp_path, polly="oak")) as site, over_stdio(tmp_path) as model:
        assert (await model.call("list_accounts"))["summary"] == "1 connected"
        await model.call("pause_account", account="polly")
        assert site.gateway.desk("polly").paused
        await model.call("resume_account", account="polly")
        await connected(site.gateway, "polly")
        assert (await model.read("holdfast://accounts/polly"))["account"]["state"] == "connected"


async def test_over_stdio_a_gateway_may_come_and_go(tmp_path: Path) -> None:
    config = place(tmp_path, polly="oak")
    async with over_stdio(tmp_path, "--read-only") as model:
        assert "no gateway is running" in await model.refused("list_accounts")
        async with serving(config):
            assert (await model.call("list_accounts"))["freshness"]["warning"] == ""
        answer = await model.call("list_accounts")
        assert answer["freshness"]["source"] == "status file"
        assert "The gateway did not answer" in answer["freshness"]["warning"]
        assert "Unknown tool" in await model.refused("pause_account", account="polly")


async def test_the_process_ends_with_its_input(tmp_path: Path) -> None:
    place(tmp_path, polly="oak")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "holdfast.cli", "--config", str(tmp_path / "holdfast.toml"), "mcp"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20):
        out, err = await process.communicate(b"")
    assert (process.returncode, out, err) == (0, b"", b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_process_ends_when_told(tmp_path: Path, number: signal.Signals) -> None:
    place(tmp_path, polly="oak")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "holdfast.cli", "--config", str(tmp_path / "holdfast.toml"), "mcp"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    try:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
        async with asyncio.timeout(20):
            await process.stdout.readline()
            process.send_signal(number)
            assert await process.wait() == -number
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


# -- streamable HTTP ------------------------------------------------------------------------------


async def test_over_http_a_bot_is_looked_after(tmp_path: Path) -> None:
    async with (
        serving(place(tmp_path, polly="oak")),
        over_http(tmp_path) as url,
        Client(url) as client,
    ):
        model = Model(client)
        assert (await model.call("list_accounts"))["summary"] == "1 connected"
        history = await model.read("holdfast://accounts/polly/history")
        assert history["changes"]


async def test_over_http_nobody_comes_in_without_the_token(tmp_path: Path) -> None:
    options = ("--token-file", holding(tmp_path))
    async with serving(place(tmp_path, polly="oak")), over_http(tmp_path, *options) as url:
        async with aiohttp.ClientSession() as session:
            for shown in ("", "Bearer", f"Bearer {TOKEN}0", f"Basic {TOKEN}", "Bearer \u00e9"):
                async with session.post(url, json={}, headers={"Authorization": shown}) as answer:
                    assert answer.status == 401
                    assert answer.headers["WWW-Authenticate"] == "Bearer"
                    assert TOKEN not in await answer.text()
        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            assert (await Model(client).call("list_accounts"))["summary"] == "1 connected"


async def test_over_http_no_web_page_of_elsewhere_comes_in(tmp_path: Path) -> None:
    request = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
    accept = {"Accept": "application/json, text/event-stream"}
    place(tmp_path, polly="oak")
    async with over_http(tmp_path) as url, aiohttp.ClientSession(headers=accept) as session:
        for headers, status in (
            ({"Host": "rebound.example"}, 421),
            ({"Host": "rebound.example:80"}, 421),
            ({"Origin": "https://elsewhere.example"}, 403),
        ):
            async with session.post(url, json=request, headers=headers) as answer:
                assert answer.status == status, headers
        async with session.post(url, json=request, headers={"Origin": "null"}) as answer:
            assert answer.status == 403
        async with session.post(url, json=request) as answer:
            assert answer.status == 200


# -- the command line -----------------------------------------------------------------------------


def run(home: Path, *options: str) -> int:
    return main(["--config", str(home / "holdfast.toml"), "mcp", *options])


def test_mistakes_are_told_before_anything_is_served(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place(tmp_path, polly="oak")
    short = holding(tmp_path, "short")
    for options, exit, problem in (
        (("--listen", "0.0.0.0:0"), Exit.USAGE, "there is no token (add --token-file FILE"),
        (("--listen", "8788"), Exit.USAGE, "'8788' is not HOST:PORT"),
        (("--listen", "127.0.0.1:99999"), Exit.USAGE, "is not HOST:PORT"),
        (("--token-file", short), Exit.FAILED, "is shorter than 16 characters"),
        (("--token-file", "/nowhere"), Exit.FAILED, "can not be read: No such file"),
    ):
        assert run(tmp_path, *options) == exit
        assert problem in capsys.readouterr().err
    assert run(tmp_path, "--token-file", holding(tmp_path)) == Exit.USAGE
    assert "--token-file is for --listen" in capsys.readouterr().err
    assert run(tmp_path / "nowhere") == Exit.CONFIG
    assert "make one with `holdfast init`" in capsys.readouterr().err


def test_an_address_that_is_taken_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from holdfast.mcp.http import listen

    place(tmp_path, polly="oak")
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert run(tmp_path, "--listen", f"127.0.0.1:{port}") == Exit.FAILED
    assert f"can not listen on 127.0.0.1:{port}: Address already in use" in capsys.readouterr().err


def test_without_the_package_it_says_what_to_install(tmp_path: Path) -> None:
    place(tmp_path, polly="oak")
    code = (
        "import importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *a: None if name == 'mcp' else find(name, *a)\n"
        "from holdfast.cli import main\n"
        f"sys.exit(main(['--config', {str(tmp_path / 'holdfast.toml')!r}, 'mcp']))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert ended.returncode == Exit.FAILED
    assert "pip install 'holdfast[mcp]'" in ended.stderr


def test_nothing_else_loads_the_package(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from holdfast.cli import main\n"
        "import holdfast.cli.run\n"
        "main(['version'])\n"
        "print(sorted({'mcp', 'pydantic', 'starlette', 'uvicorn'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=tmp_path,
        env={**os.environ},
    )
    assert done.stdout.splitlines()[-1] == "[]", done.stderr
