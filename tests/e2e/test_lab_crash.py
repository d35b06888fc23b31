"""`holdfast lab crash` as people run it: a short run whose end is the promise."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import pytest

from holdfast.killpoints import POINTS
from holdfast.lab.checker import Kind
from holdfast.lab.crash import crash, summary
from holdfast.lab.crash_plan import BREAKS

pytestmark = [pytest.mark.real_time, pytest.mark.slow, pytest.mark.timeout(480)]

SCATTERBRAIN = """
def answer(message):
    number = int(message.text.rpartition("-")[2])
    return [message.text] * {3: 0, 7: 2}.get(number % 10, 1)
"""
"""Forgets every tenth message, and answers another tenth twice."""

PLATFORMS = ("telegram", "qqbot", "slack", "dingtalk")

SEED = "13"
"""Its plan has kill points that are reached within a few passes, and silent holes."""


async def test_nothing_is_lost_or_doubled_while_the_gateway_dies_again_and_again() -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "holdfast.cli", "lab", "crash", "--json"),
        *("--minutes", "2", "--seed", SEED),
        *(word for platform in PLATFORMS for word in ("--platform", platform)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    told = json.loads(out)
    assert err == b""
    assert process.returncode == 0
    assert [told[key] for key in ("lost", "unreported", "out_of_order", "doubled")] == [0] * 4
    assert told["seed"] == int(SEED)
    assert told["accidents"] == 0
    assert told["platforms"].keys() == set(PLATFORMS)
    assert told["sent"] == told["answered"] + told["gap"] + told["dead"]
    # What was survived must have happened.
    assert told["sent"] > 2_500
    assert told["kills"] >= 20
    assert told["kill_points"].keys() <= {"random", *POINTS}
    assert told["kill_points"].keys() > {"random"}
    assert sum(told["faults"].get(name, 0) for name in BREAKS) >= 4
    assert all(one["answered"] > 20 for one in told["platforms"].values())


def number(token: str) -> int:
    """The number at the end of a token."""
    return int(token.rpartition("-")[2])


async def test_an_agent_that_forgets_and_repeats_itself_is_found_out(tmp_path: Path) -> None:
    (tmp_path / "scatterbrain.py").write_text(SCATTERBRAIN)
    agent = "python:scatterbrain:answer"
    async with crash(tmp_path, 4.0, 1, ["qqbot"], agent=agent) as run:
        (verdict,) = await run.run()
    told = summary(run, [verdict])
    lost = [found.question.token for found in verdict.bad if found.kind is Kind.LOST]
    doubled = [found.question.token for found in verdict.bad if found.kind is Kind.DOUBLED]
    assert told["lost"] == len(lost) > 0
    assert told["doubled"] == len(doubled) > 0
    assert {number(token) % 10 for token in lost} == {3}
    assert {number(token) % 10 for token in doubled} == {7}
    assert not verdict.good
    assert json.loads((tmp_path / "plan.json").read_text())["seed"] == 1
