"""A real gateway process against a simulated platform, operated by real commands."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from holdfast.cli.exits import Exit
from holdfast.lab.simulators.telegram import TelegramSimulator
from holdfast.observe.status import Status, read
from tests.cli.gateway import LIMIT, Place

pytestmark = [pytest.mark.real_time, pytest.mark.slow]

NOBODY = {"platform": "telegram", "token": "77:nobody", "base_url": "http://127.0.0.1:1"}


async def until(place: Place, condition: Callable[[Status], bool]) -> Status:
    """Wait until the status file satisfies a condition."""
    async with asyncio.timeout(LIMIT):
        while True:
            if (place.state / "gateway_state.json").exists():
                status = read(place.state / "gateway_state.json")
                if condition(status):
                    return status
            await asyncio.sleep(0.02)


async def connected(place: Place, name: str = "bot", generation: int = 1) -> Status:
    """Wait until an account is connected."""

    def is_so(status: Status) -> bool:
        account = status.accounts.get(name)
        return (
            account is not None
            and account.state == "connected"
            and account.generation >= generation
        )

    return await until(place, is_so)


def output(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


async def test_a_day_of_an_operator(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = Place(tmp_path)
    async with TelegramSimulator() as sim:
        place.write(bot=sim.account())
        async with place.gateway() as process:
            await connected(place)
            assert await place.command("status", "--json") == Exit.OK
            status = output(capsys)
            assert (status["source"], status["doubt"]) == ("gateway", "")
            assert status["pid"] == process.process.pid
            assert status["accounts"]["bot"]["believed"] == "connected"

            assert await place.command("explain", "bot") == Exit.OK
            assert "connected: is connected, since" in capsys.readouterr().out

            assert await place.command("kick", "bot") == Exit.OK
            assert "bot: kicked" in capsys.readouterr().out
            await connected(place, generation=2)

            assert await place.command("pause", "bot", "--json") == Exit.OK
            (paused,) = output(capsys)
            assert (paused["done"], paused["status"]["state"]) == ("paused", "stopped")
            assert await place.command("kick", "bot") == Exit.FAILED
            assert "holdfast resume bot" in capsys.readouterr().err
            assert await place.command("kick", "--all") == Exit.FAILED
            assert "every account is paused" in capsys.readouterr().err
            sim.say("while paused")

            assert await place.command("resume", "bot") == Exit.OK
            await sim.until(lambda: len(sim.heard) == 1, LIMIT)
            assert sim.heard[0].text == "echo: while paused"

            assert await place.command("kick", "--all", "--json") == Exit.OK
            capsys.readouterr()
            assert await place.command("history", "bot", "--json") == Exit.OK
            states = [line["state"] for line in output(capsys)]
            assert states[0] == "connecting"
            assert "stopped" in states

            assert await place.command("explain", "bto") == Exit.FAILED
            assert "there is no account 'bto'; there are: bot" in capsys.readouterr().err

            process.signal(signal.SIGTERM)
            began = asyncio.get_running_loop().time()
            assert await process.ended() == Exit.OK
            assert asyncio.get_running_loop().time() - began < 5.0
    assert await place.command("history", "--json", "--limit", "2") == Exit.OK
    assert [line["state"] for line in output(capsys)][-1] == "stopped"


async def test_a_kick_takes_up_the_repaired_secret_of_a_fatal_account(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path)
    secret = tmp_path / "token"
    secret.write_text("42:wrong")
    async with TelegramSimulator() as sim, TelegramSimulator(token="77:well") as other:
        bot = {**sim.account(), "token": {"file": str(secret)}}
        place.write(bot=bot, well=other.account())
        async with place.gateway():
            await until(place, lambda status: status.accounts["bot"].state == "fatal")
            await connected(place, "well")
            # Still wrong: the kick is an honest try, and the account stays fatal.
            assert await place.command("kick", "bot") == Exit.OK
            await until(place, lambda s: s.accounts["bot"].generation >= 2)
            await until(place, lambda s: s.accounts["bot"].state == "fatal")
            # A broken file must not hinder the kick of what is running.
            whole = place.config.read_text()
            place.config.write_text(whole.replace("base_url", "base_urll"))
            assert await place.command("kick", "bot") == Exit.OK
            place.config.write_text(whole)
            secret.write_text(sim.account()["token"])
            capsys.readouterr()
            assert await place.command("kick", "bot") == Exit.OK
            assert "bot: kicked" in capsys.readouterr().out
            await until(place, lambda status: status.accounts["bot"].state == "connected")
            status = await connected(place, "well")
            assert status.accounts["well"].generation == 1


async def test_no_secret_leaves_the_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path)
    secret = "87654:a-secret-that-must-not-leak-123"
    async with TelegramSimulator(token=secret) as sim:
        lost = NOBODY | {"token": "99:a-secret-that-must-not-leak-456"}
        place.write(bot=sim.account(), lost=lost, again=lost | {"enabled": False})
        async with place.gateway("--log-level", "debug", "--log-format", "json") as process:
            await connected(place)
            await until(place, lambda status: status.accounts["lost"].state == "retrying")
            sim.revoke_token()
            assert await place.command("kick", "bot") == Exit.OK
            await until(place, lambda status: status.accounts["bot"].state == "fatal")
            assert await place.command("status") == Exit.ATTENTION
            for line in ("status --json", "explain bot", "history", "reload", "dead list", "gaps"):
                await place.command(*line.split())
            assert await place.command("check") == Exit.FAILED
            process.signal(signal.SIGINT)
            assert await process.ended() == Exit.OK
    shown = capsys.readouterr()
    texts = [shown.out, shown.err, process.log]
    files = [path for path in place.state.rglob("*") if path.is_file()]
    assert len(files) >= 3
    texts += [path.read_bytes().decode("latin-1") for path in files]
    assert all("that-must-not-leak" not in text for text in texts)
    for line in process.log.splitlines():
        assert {"time", "level", "logger", "event", "text"} <= set(json.loads(line))


async def test_hangup_reloads_and_spares_the_untouched(tmp_path: Path) -> None:
    place = Place(tmp_path)
    async with TelegramSimulator() as sim, TelegramSimulator(token="5:another") as other:
        place.write(bot=sim.account())
        async with place.gateway() as process:
            first = await connected(place)
            place.write(bot=sim.account(), second=other.account())
            process.signal(signal.SIGHUP)
            await process.logged("reload second: added")
            status = await connected(place, "second")
            assert status.accounts["bot"].generation == 1
            assert status.accounts["bot"].since == pytest.approx(
                first.accounts["bot"].since, abs=0.5
            )
            place.config.write_text("[accounts.bot]\n")
            process.signal(signal.SIGHUP)
            await process.logged("reload refused, nothing was changed")
            status = await connected(place, "second")
            assert status.accounts["second"].generation == 1


async def test_reload_by_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = Place(tmp_path)
    place.write(bot=NOBODY, other=NOBODY | {"token": "78:x"})
    async with place.gateway("--no-uvloop"):
        assert await place.command("reload") == Exit.OK
        assert "nothing has changed" in capsys.readouterr().out
        place.write(bot=NOBODY)
        assert await place.command("reload", "--json") == Exit.OK
        assert output(capsys)["done"] == ["other: removed"]
        place.write(bot=NOBODY | {"tokne": "x"})
        assert await place.command("reload") == Exit.CONFIG
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "did you mean `token`?" in error


async def test_a_killed_gateway_is_told_as_not_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path)
    async with TelegramSimulator() as sim:
        place.write(bot=sim.account())
        async with place.gateway() as process:
            await connected(place)
            process.signal(signal.SIGKILL)
            assert await process.ended() == -signal.SIGKILL
            assert await place.command("status") == Exit.UNANSWERED
            text = capsys.readouterr().out
            assert "no gateway is running" in text
            assert "unknown (last: connected)" in text
            assert f"the gateway (pid {process.process.pid}) is gone" in text
            assert await place.command("explain", "bot", "--json") == Exit.UNANSWERED
            assert output(capsys)["believed"] == "unknown"
            for command in (["kick", "bot"], ["pause", "bot"], ["resume", "bot"], ["reload"]):
                assert await place.command(*command) == Exit.UNANSWERED
                assert "holdfast run" in capsys.readouterr().err
        async with place.gateway():
            await connected(place)
            assert await place.command("status") == Exit.OK


async def test_a_frozen_gateway_is_told_as_not_answering(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place(tmp_path)
    place.write(bot=NOBODY)
    async with place.gateway() as process:
        await until(place, lambda status: status.accounts["bot"].state == "retrying")
        process.signal(signal.SIGSTOP)
        began = asyncio.get_running_loop().time()
        assert await place.command("status") == Exit.UNANSWERED
        assert asyncio.get_running_loop().time() - began < 10.0
        text = capsys.readouterr().out
        assert "does not answer: nothing within 2 s" in text
        assert "retrying" in text
        process.signal(signal.SIGCONT)
        assert await place.command("status") == Exit.OK


@pytest.mark.parametrize("gone", ["control.sock", ""])
async def test_a_gateway_whose_files_are_gone_is_told_as_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    place = Place(tmp_path)
    place.write(bot=NOBODY)
    async with place.gateway() as process:
        await until(place, lambda status: status.accounts["bot"].state == "retrying")
        if gone:
            (place.state / gone).unlink()
        else:
            shutil.rmtree(place.state)
        runs = f"process {process.process.pid} runs on {place.state}, and has no control socket"
        for command in ("status", "explain bot", "kick bot", "send bot 1 x --anyway", "dead list"):
            assert await place.command(*command.split()) == Exit.UNANSWERED
            told = capsys.readouterr()
            assert runs in told.out + told.err
        assert await place.command("doctor") == Exit.FAILED
        assert f"process {process.process.pid} has the journal" in capsys.readouterr().out


async def test_a_second_gateway_on_the_same_state_is_refused(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write(bot=NOBODY)
    async with place.gateway() as first:
        second = await place.start()
        assert await second.ended() == Exit.IN_USE
        assert f"is in use by process {first.process.pid}" in second.log
        assert "Traceback" not in second.log
        assert await place.command("status") == Exit.OK


async def test_a_second_gateway_with_the_same_account_is_refused(tmp_path: Path) -> None:
    one, two = Place(tmp_path / "one"), Place(tmp_path / "two")
    for place in (one, two):
        place.state.parent.mkdir(exist_ok=True)
        place.write(bot=NOBODY)
    async with one.gateway() as first:
        second = await two.start()
        assert await second.ended() == Exit.IN_USE
        assert f"process {first.process.pid} on this machine uses the same" in second.log
        assert "Traceback" not in second.log
    async with two.gateway():
        assert await two.command("status") == Exit.OK


STUBBORN = """
import pathlib
import time

async def answer(message):
    pathlib.Path(__file__).with_name("begun").touch()
    while True:
        time.sleep(0.1)
"""


@pytest.mark.parametrize(
    ("signals", "least", "most", "why"),
    [
        ([signal.SIGTERM], 4.5, 7.0, "not stopped within 5 s"),
        ([signal.SIGTERM, signal.SIGINT], 0.0, 2.0, "a second signal"),
    ],
)
async def test_an_agent_that_blocks_the_loop_does_not_hinder_the_stop(
    tmp_path: Path, signals: list[signal.Signals], least: float, most: float, why: str
) -> None:
    place = Place(tmp_path)
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    async with TelegramSimulator() as sim:
        place.write(bot=sim.account() | {"agent": "python:stubborn:answer"})
        async with place.gateway() as process:
            await connected(place)
            sim.say("hello")
            async with asyncio.timeout(LIMIT):
                while not (tmp_path / "begun").exists():  # noqa: ASYNC110  another process's file
                    await asyncio.sleep(0.02)
            began = asyncio.get_running_loop().time()
            for number in signals:
                process.signal(number)
            assert await process.ended() == Exit.FAILED
            assert least <= asyncio.get_running_loop().time() - began < most
            assert f"left at once: {why}" in process.log


LEAVER = """
import asyncio
import sys

async def leave(): sys.exit(78)

async def answer(message):
    if message.text == "later":
        asyncio.create_task(leave())
        await asyncio.Event().wait()
    sys.exit(78)
"""


async def test_an_agent_that_calls_exit_has_failed_and_the_gateway_goes_on(tmp_path: Path) -> None:
    place = Place(tmp_path)
    (tmp_path / "leaver.py").write_text(LEAVER)
    async with TelegramSimulator() as sim:
        place.write(bot=sim.account() | {"agent": "python:leaver:answer"})
        async with place.gateway() as process:
            await connected(place)
            sim.say("now")
            await process.logged('event="handler failed" account=bot')
            await process.logged("SystemExit(78)")
            sim.say("later", chat="bob")  # in a task of its own, where nothing can hold it back
            assert await process.ended() == Exit.FAILED
            assert "asked to leave" in process.log
            assert "leaver.py" in process.log
            assert "event=stopped account=bot" in process.log


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        ({"platform": "telegram", "tokne": "1:x"}, ["`tokne`", "did you mean `token`"]),
        ({"platform": "telegram", "token": "1:x", "agent": "eccho"}, ["agent", "echo"]),
        (
            {"platform": "telegram", "token": "1:x", "agent": "python:missing_module:f"},
            ["missing_module", "beside the configuration"],
        ),
        (NOBODY | {"policy": {"backoff_cap": 0.5}}, ["backoff_first", "must not exceed"]),
    ],
)
async def test_a_configuration_that_can_not_be_used(
    tmp_path: Path, table: dict[str, Any], parts: list[str]
) -> None:
    place = Place(tmp_path)
    place.write(bot=table)
    process = await place.start("--log-level", "error")
    assert await process.ended() == Exit.CONFIG
    assert process.log.count("\n") == 1
    assert process.log.startswith(f"holdfast: {place.config}: [accounts.bot]")
    for part in parts:
        assert part in process.log


async def test_a_state_directory_that_is_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A service manager must not start it for ever."""
    place = Place(tmp_path)
    place.write(bot=NOBODY)
    place.state.touch()
    process = await place.start("--log-level", "error")
    assert await process.ended() == Exit.CONFIG
    told = f"holdfast: {place.config}: [gateway] state_dir: {place.state} is no directory ("
    assert process.log.startswith(told)
    assert await place.command("check") == Exit.CONFIG
    assert capsys.readouterr().err.startswith(told)
    assert await place.command("status") == Exit.UNANSWERED
    assert f"no gateway is running on {place.state}" in capsys.readouterr().err


async def test_two_accounts_with_one_token(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.write(one=NOBODY, two=NOBODY)
    process = await place.start("--log-level", "error")
    assert await process.ended() == Exit.CONFIG
    assert process.log.count("\n") == 1
    assert "[accounts.two]" in process.log
    assert "[accounts.one]" in process.log
    assert "nobody" not in process.log
    assert not (place.state / "gateway_state.json").exists()
