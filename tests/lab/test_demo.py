"""`holdfast demo`: every platform heals, the picture fits, and the exit code tells the truth."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace

import pytest
from rich.console import Console

from holdfast.adapters import BUILT_IN
from holdfast.config import Config
from holdfast.gateway.gateway import Gateway
from holdfast.gateway.notify import ServiceManager
from holdfast.lab.cast import CAST, Part
from holdfast.lab.demo import demo, report
from holdfast.lab.play import PULLED, REPERTOIRE, SETTLE, Demo, opening, repertoire
from holdfast.lab.show import picture
from holdfast.store.protocol import Store
from holdfast.supervision import Published
from tests.theatre import NoWatchdog

KEYS = {
    "account",
    "platform",
    "received",
    "answered",
    "doubled",
    "lost",
    "gap",
    "detection_s",
    "recovery_s",
    "lie_s",
    "healed",
    "faults",
}


def on_this_clock(config: Config, store: Store) -> Gateway:
    """A gateway whose wall clock passes as the loop's does."""
    loop = asyncio.get_running_loop()
    offset = time.time() - loop.time()
    return Gateway(
        config,
        store,
        rand=lambda: 0.5,
        clock=lambda: offset + loop.time(),
        service=ServiceManager({}),
        watchdog=NoWatchdog(),
    )


def only(*names: str) -> dict[str, Part]:
    """A smaller cast."""
    return {name: CAST[name] for name in names}


async def played(*names: str, seconds: float) -> Demo:
    """The demo of some platforms, played to its end."""
    async with demo(only(*names) if names else CAST, on_this_clock) as play:
        await play.play(seconds)
        return play


# -- the play -------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_every_platform_heals_from_faults_and_nothing_is_lost() -> None:
    play = await played(seconds=60)
    verdicts = {verdict.account: verdict for verdict in play.verdicts()}
    assert list(verdicts) == list(BUILT_IN)
    assert play.left_out == {}
    bad = {name: verdict for name, verdict in verdicts.items() if not verdict.good}
    assert bad == {}
    for name, verdict in verdicts.items():
        assert verdict.healed >= (2 if name == "dingtalk" else 3), verdict
        assert verdict.answered > 0
        assert verdict.received == verdict.answered + verdict.gap
        # DingTalk waits at least 10 s, for its users asked for that.
        assert (verdict.recovery_s or 0.0) < (20.5 if name == "dingtalk" else 6.0), verdict
    # What DingTalk does not hand out again must have been reported, and there was such a thing.
    assert {name for name, verdict in verdicts.items() if verdict.gap} == {"dingtalk"}
    assert play.conclusion().startswith("All ")


@pytest.mark.slow
async def test_a_short_demo_still_shows_every_platform_heal() -> None:
    play = await played("telegram", "qqbot", "matrix", seconds=15)
    assert [verdict.healed > 0 for verdict in play.verdicts()] == [True] * 3
    assert all(verdict.good for verdict in play.verdicts())


@pytest.mark.slow
async def test_an_agent_that_does_not_answer_is_no_success() -> None:
    async with demo(only("telegram"), on_this_clock) as play:
        desk = play.gateway.desk("telegram")
        play_on = asyncio.create_task(play.play(10))
        await desk.account.until(lambda view: view.published is Published.CONNECTED)
        await desk.sender.stop(0.0)
        await play_on
        (verdict,) = play.verdicts()
        assert verdict.lost > 0
        assert not verdict.good
        assert play.conclusion() == "Not as promised: telegram."


def test_faults_are_spread_over_platforms_and_kinds() -> None:
    assert {repertoire(number)[0] for number in range(3)} == set(REPERTOIRE)
    assert all(set(repertoire(number)) == set(REPERTOIRE) for number in range(10))
    openings = [opening(number, 10, None) for number in range(10)]
    assert openings == sorted(set(openings))
    assert openings[-1] < 12
    window = 20 - SETTLE
    assert opening(9, 10, window) + PULLED.seconds <= window


# -- what is missing ------------------------------------------------------------------------------


async def test_a_platform_without_its_library_is_left_out_and_said_so() -> None:
    needy = replace(CAST["matrix"], needs={"no_such_library.at_all": "feishu"})
    async with demo({**only("telegram"), "matrix": needy}, on_this_clock) as play:
        assert list(play.stages) == ["telegram"]
        why = "no_such_library.at_all is not installed (pip install 'holdfast[feishu]')"
        assert play.left_out == {"matrix": why}


def test_every_built_in_platform_has_a_part() -> None:
    assert set(BUILT_IN) <= set(CAST)


@pytest.mark.slow
def test_a_simulator_is_imported_only_when_it_is_played() -> None:
    code = (
        "import sys, holdfast.lab.demo\n"
        "lean = ('holdfast.lab.simulators', 'holdfast.adapters.', 'google', 'cryptography', 'rich')"
        "\nprint([name for name in sys.modules if name.startswith(lean)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- the picture and the numbers ------------------------------------------------------------------


@pytest.mark.slow
async def test_the_picture_fits_into_80_by_24() -> None:
    async with demo(CAST, on_this_clock) as play:
        showing = asyncio.create_task(play.play(None))
        await asyncio.sleep(25)
        console = Console(width=80, height=24, file=io.StringIO(), color_system=None)
        with console.capture() as captured:
            console.print(picture(play, "http://127.0.0.1:12345/api/v1/status", 24))
        showing.cancel()
        await asyncio.wait([showing])
    lines = captured.get().splitlines()
    assert len(lines) <= 23  # and the cursor's
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines[:3])
    first = Counter(line.split()[0] for line in lines if line.strip())
    for name in BUILT_IN:
        assert first[name] == 1
    for column in ("account", "state", "messages", "answered", "gap", "lost", "lied"):
        assert column in lines[1].split()
    assert any(" out " in line for line in lines)


@pytest.mark.slow
def test_the_command_ends_with_0_and_json_when_all_is_well() -> None:
    command = [sys.executable, "-m", "holdfast.cli", "demo", "--seconds", "1", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert told["left_out"] == {}
    assert [account["account"] for account in told["accounts"]] == list(BUILT_IN)
    assert all(set(account) == KEYS for account in told["accounts"])


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_an_interrupt_ends_it_in_order_and_with_a_verdict(options: list[str]) -> None:
    command = [sys.executable, "-m", "holdfast.cli", "demo", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as it:
        assert it.stdout is not None
        if options:
            time.sleep(8)  # nothing is printed: long enough for the first faults
        else:
            while "connection reset" not in it.stdout.readline():
                pass
        it.send_signal(signal.SIGINT)
        told, mistakes = it.communicate(timeout=60)
    assert (it.returncode, mistakes) == (0, "")
    last = told.splitlines()[-1]
    if options:
        assert [account["account"] for account in json.loads(last)["accounts"]] == list(BUILT_IN)
    else:
        assert "faults healed; nothing lost" in last


async def test_the_exit_code_is_1_when_anything_was_lost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with demo(only("telegram"), on_this_clock) as play:
        assert report(play, json=True) == 0
        play.stages["telegram"].say()  # and nobody has answered yet
        assert report(play, json=True) == 1
        assert report(play, json=False) == 1
    told = capsys.readouterr().out.splitlines()
    assert [json.loads(line)["accounts"][0]["lost"] for line in told[:2]] == [0, 1]
    assert told[2] == "Not as promised: telegram."
