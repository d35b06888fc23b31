"""The example with the real homeserver, run as its reader runs it; every figure is looked at."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from holdfast.lab.synapse import find_synapse

ROOT = Path(__file__).parents[2]

SCRIPT = ROOT / "examples" / "matrix_synapse.py"

LIMIT = 220.0
"""Seconds for the whole play, which takes about 75 on an idle machine."""

SILENCE = 20.0
"""The silence limit at the example's ``sync_timeout`` (docs/platforms/matrix.md)."""

SLACK = 1.0
"""Seconds for the status to be written and read."""

RECOVERY = 6.0
"""Seconds after a network's healing in which an account is back."""

pytestmark = [
    pytest.mark.real,
    pytest.mark.real_time,
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        find_synapse() is None,
        reason="no Synapse: see holdfast/lab/synapse.py for how to install it",
    ),
]

Figures = dict[str, Any]


async def perform() -> tuple[int | None, str, str]:
    """Run the example; returns its exit code and what it wrote. Nothing of it is left running."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        str(SCRIPT),
        "--json",
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(LIMIT):
            output, errors = await process.communicate()
    finally:
        if process.returncode is None:
            # Synapse and the gateway are in its session.
            os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return process.returncode, output.decode(), errors.decode()


async def test_the_story_ends_well() -> None:
    code, output, errors = await perform()
    assert output, errors
    figures: Figures = json.loads(output)
    assert (figures["good"], code) == (True, 0), figures | {"errors": errors}
    check_books(figures)
    chat, crash, freeze, gateway_502, lost, killed, revoked = figures["acts"]
    assert (chat["quoted"], chat["threaded"], chat["states"]) == (True, True, ["connected"])
    for act in (crash, freeze, gateway_502):
        assert act["states"] == ["connected", "retrying", "connected"], act
        assert 0 <= act["recovery_s"] <= RECOVERY, act
    check_detection(crash, deaf=4.0, limit=SLACK)
    check_detection(freeze, deaf=30.0, limit=SILENCE)
    check_detection(gateway_502, deaf=10.0, limit=SLACK)
    assert (lost["lost_answers"], lost["transaction_ids"]) == (3, 1)
    assert lost["states"] == ["connected"]
    check_detection(killed, deaf=2.0, limit=SLACK)
    assert killed["states"][:2] == ["connected", "unknown"]
    assert killed["recovery_s"] <= RECOVERY
    check_revoked(revoked)


def check_books(figures: Figures) -> None:
    """Many messages in many acts, and each answered once in its place."""
    assert figures["sent"] == figures["answered"] > 100
    assert (figures["lost"], figures["doubled"], figures["in_order"]) == (0, 0, True)
    assert (figures["lie_s"], figures["exit_code"]) == (0, 0)
    assert [act["lie_s"] for act in figures["acts"]] == [0.0] * 7
    assert {act["states"][-1] for act in figures["acts"]} == {"connected"}
    assert figures["seconds"] < 180


def check_detection(act: Figures, *, deaf: float, limit: float) -> None:
    """The bot was deaf for at least so long, and the status said so in time."""
    assert act["deaf_s"] >= deaf, act
    assert act["detection_s"] <= limit + SLACK, act


def check_revoked(act: Figures) -> None:
    """A person was asked, and nothing but the new token was needed."""
    assert (act["code"], act["who_acts"]) == ("matrix_unknown_token", "operator")
    assert "fatal" in act["states"]
    assert (act["reload"], act["same_process"]) == (0, True)
    # The poll under way ends well; the next one, and the check of its verdict, do not.
    check_detection(act, deaf=2.0, limit=POLL)
    assert act["recovery_s"] <= RECOVERY, act


POLL = 5.0
"""The example's ``sync_timeout``."""
