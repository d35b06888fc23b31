"""The simulators as processes: what is said on standard input is answered by a gateway."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from holdfast.adapters import BUILT_IN
from holdfast.lab.configured import free_port
from holdfast.observe.status import FILE_NAME, read
from tests.cli.gateway import Place

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

LIMIT = 30.0
"""Seconds for what takes two on an idle machine."""


@contextlib.asynccontextmanager
async def process(platform: str, *options: str, stdin: int | None = PIPE) -> AsyncIterator[Process]:
    """A simulator; killed at the end if a test left it running."""
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", f"holdfast.lab.simulators.{platform}", *options),
        stdin=stdin,
        stdout=PIPE,
        stderr=PIPE,
    )
    try:
        async with asyncio.timeout(LIMIT):
            yield program
    finally:
        with contextlib.suppress(ProcessLookupError):
            program.kill()
        await program.communicate()


async def line(program: Process) -> dict[str, Any]:
    """The next line that it prints."""
    assert program.stdout is not None
    found: dict[str, Any] = json.loads(await program.stdout.readline())
    return found


async def says(program: Process, text: str) -> None:
    """Write a line to it."""
    assert program.stdin is not None
    program.stdin.write(f"{text}\n".encode())
    await program.stdin.drain()


async def connected(place: Place) -> None:
    """Wait until every account is: what was said before, some platforms hand out to nobody."""

    def all_connected() -> bool:
        accounts = read(place.state / FILE_NAME).accounts.values()
        return all(account.state == "connected" for account in accounts)

    while not all_connected():  # noqa: ASYNC110  another process sets no event
        await asyncio.sleep(0.1)


async def test_whoever_speaks_on_any_platform_is_answered(tmp_path: Path) -> None:
    hooks = free_port()
    here = f"http://127.0.0.1:{hooks}"
    place = Place(tmp_path, settings={"hook_listen": f"127.0.0.1:{hooks}", "hook_url": here})
    async with contextlib.AsyncExitStack() as stack:
        programs = {
            name: await stack.enter_async_context(process(name, "--hooks", here))
            for name in BUILT_IN
        }
        ready = {name: await line(program) for name, program in programs.items()}
        assert all(told["account"]["platform"] == name for name, told in ready.items())
        place.write(**{name: told["account"] for name, told in ready.items()})
        await stack.enter_async_context(place.gateway())
        await connected(place)
        for program in programs.values():
            await says(program, "ann: hello")
        for name, program in programs.items():
            answer = await line(program)
            assert (answer["chat"], answer["text"]) == ("ann", "echo: hello"), name
        for name, program in programs.items():
            program.send_signal(signal.SIGINT)
            assert await program.wait() == 0, name
            _, errors = await program.communicate()
            assert errors == b"", name


async def test_the_example_of_the_labs_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = str(free_port())
    page = (Path(__file__).parents[2] / "docs/lab.md").read_text(encoding="utf-8")
    page = page.replace("8081", port)
    (session,) = re.findall(r"```console\n\$ python -m holdfast.lab.(.*?)```", page, re.DOTALL)
    (configuration,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    command, ready, typed, answer = session.splitlines()
    place = Place(tmp_path)
    place.config.write_text(f'{configuration}[web]\nlisten = ""\n')
    monkeypatch.setenv("TELEGRAM_TOKEN", configuration.split("# ")[-1].split()[0])
    platform, *options = command.removeprefix("simulators.").split()
    async with process(platform, *options) as program:
        told = await line(program)
        assert told == json.loads(ready) | {"pid": program.pid}
        async with place.gateway():
            await connected(place)
            await says(program, typed)
            heard, said = await line(program), json.loads(answer)
            assert heard == said | {"id": heard["id"], "at": heard["at"]}


async def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        async with process("telegram", "--port", port) as program:
            out, errors = await program.communicate()
    assert program.returncode == 1
    assert out == b""
    assert errors.decode() == f"can not listen on 127.0.0.1:{port}: Address already in use\n"


async def test_help_is_given() -> None:
    async with process("telegram", "--help") as program:
        out, errors = await program.communicate()
    assert program.returncode == 0
    assert b"--port" in out
    assert errors == b""


async def test_a_wrong_port_is_a_wrong_command_line() -> None:
    async with process("telegram", "--port", "70000") as program:
        _, errors = await program.communicate()
    assert program.returncode == 2
    assert b"'70000' is not a port" in errors


async def test_a_line_without_a_name_is_told_and_the_end_of_the_input_ends_nothing() -> None:
    async with process("telegram") as program:
        await line(program)
        await says(program, "hello")
        assert program.stderr is not None
        assert b"NAME: TEXT" in await program.stderr.readline()
        assert program.stdin is not None
        program.stdin.close()
        await asyncio.sleep(0.2)
        assert program.returncode is None
        program.terminate()
        assert await program.wait() == 0


async def test_it_runs_without_any_input() -> None:
    async with process("telegram", stdin=asyncio.subprocess.DEVNULL) as program:
        await line(program)
        program.terminate()
        assert await program.wait() == 0
        _, errors = await program.communicate()
        assert errors == b""
