"""A secret in GNOME's keyring, as on a desktop: `keyring set` stores it, the gateway reads it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import shutil
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from holdfast.cli.exits import Exit
from holdfast.lab.simulators.telegram import TelegramSimulator
from tests.e2e.process import LIMIT, LOOK, Home

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.slow,
    pytest.mark.skipif(
        not (shutil.which("dbus-daemon") and shutil.which("gnome-keyring-daemon")),
        reason="no dbus-daemon or no gnome-keyring-daemon on this machine",
    ),
    pytest.mark.skipif(
        importlib.util.find_spec("secretstorage") is None,
        reason="no keyring library: pip install 'holdfast[keyring]'",
    ),
]

ENTRY = {"keyring": "holdfast/bot"}

BUS = """
<busconfig>
  <type>session</type>
  <listen>unix:dir={directory}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*"/>
    <allow eavesdrop="false"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""
"""A session's bus that starts nothing by itself: neither a second keyring nor a question to a
person who is not there."""


@dataclass(frozen=True, slots=True)
class Told:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str


async def run(*arguments: str, given: str = "") -> Told:
    """Run a Python module to its end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(LIMIT):
        out, err = await process.communicate(given.encode())
    assert process.returncode is not None
    return Told(process.returncode, out.decode(), err.decode())


async def holdfast(home: Home, *arguments: str) -> Told:
    """Run a command of ours."""
    return await run("holdfast.cli", "--config", str(home.config), *arguments)


@contextlib.asynccontextmanager
async def desktop(directory: Path, patch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """A session of its own with an empty keyring, which is unlocked."""
    config = directory / "bus.conf"
    config.write_text(BUS.format(directory=directory))
    for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME"):
        patch.setenv(name, str(directory))
    command = ("dbus-daemon", f"--config-file={config}", "--nofork", "--print-address")
    async with daemon(*command) as bus:
        assert bus.stdout is not None
        patch.setenv("DBUS_SESSION_BUS_ADDRESS", (await bus.stdout.readline()).decode().strip())
        command = ("gnome-keyring-daemon", "--foreground", "--components=secrets", "--unlock")
        async with daemon(*command) as keyring:
            assert keyring.stdin is not None
            keyring.stdin.write(b"the password of the session")
            keyring.stdin.close()
            async with asyncio.timeout(LIMIT):
                while not _answers():  # noqa: ASYNC110  the bus sets no event
                    await asyncio.sleep(LOOK)
            yield


@contextlib.asynccontextmanager
async def daemon(*command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A program that runs until the end of the block."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        await process.communicate()


def _answers() -> bool:
    import secretstorage

    with contextlib.closing(secretstorage.dbus_init()) as bus:
        return secretstorage.check_service_availability(bus)


def lock() -> None:
    """As a desktop does after a while, if it is told to."""
    import secretstorage

    with contextlib.closing(secretstorage.dbus_init()) as bus:
        collection = secretstorage.get_default_collection(bus)
        collection.lock()
        assert collection.is_locked()


async def test_a_stored_token_is_what_the_gateway_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    async with desktop(tmp_path, monkeypatch), TelegramSimulator() as simulator:
        account = simulator.account()
        home.write(account, token=ENTRY)
        missing = await holdfast(home, "check")
        assert missing.code == Exit.CONFIG
        assert "no entry holdfast/bot (run: keyring set holdfast bot)" in missing.err
        stored = await run("keyring", "set", *ENTRY["keyring"].split("/"), given=account["token"])
        assert stored.code == 0, stored.err
        checked = await holdfast(home, "check")
        assert checked.code == Exit.OK, checked
        async with home.running() as gateway:
            await gateway.connected()
            assert (await gateway.terminate()).code == Exit.OK
        assert account["token"] not in checked.out + checked.err + gateway.stderr


@pytest.mark.parametrize("command", ["check", "run"])
async def test_a_locked_keyring_is_told_as_such(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path)
    async with desktop(tmp_path, monkeypatch), TelegramSimulator() as simulator:
        account = simulator.account()
        home.write(account, token=ENTRY)
        stored = await run("keyring", "set", *ENTRY["keyring"].split("/"), given=account["token"])
        assert stored.code == 0, stored.err
        await asyncio.to_thread(lock)
        refused = await holdfast(home, command)
    assert refused.code == Exit.CONFIG
    assert "[accounts.bot] token: the system keyring is locked (unlock it; a service" in refused.err
    assert "Traceback" not in refused.err
