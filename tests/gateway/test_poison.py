"""A message that kills the process: it is given up, and takes no other message with it."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.gateway.mortal import DEATH, heard

ROOT = Path(__file__).parents[2]
LIVES = 8
"""More than it may take."""


def lives(path: Path, how: str) -> list[int]:
    """How each process ended, until one of them had nothing left to do."""
    ends: list[int] = []
    while len(ends) < LIVES and 0 not in ends:
        command = [sys.executable, "-m", "tests.gateway.mortal", str(path), how]
        ends.append(subprocess.run(command, cwd=ROOT, timeout=20).returncode)
    return ends


@pytest.mark.slow
@pytest.mark.parametrize("how", ["expect", "begin"])
def test_it_is_given_up_unasked_after_two_deaths_and_dies_alone(tmp_path: Path, how: str) -> None:
    path = tmp_path / "j.db"
    assert lives(path, how) == [DEATH, DEATH, 0]
    db = sqlite3.connect(path)
    rows = {
        id: (state, attempts, reason)
        for id, state, attempts, reason in db.execute(
            "SELECT message, state, attempts, reason FROM inbox"
        )
    }
    answered = {key for (key,) in db.execute("SELECT payload FROM outbox")}
    db.close()
    assert rows.pop("poison") == ("dead", 2, "given up: the process died in attempt 2")
    assert {state for state, *_ in rows.values()} == {"done"}
    assert len(answered) == len(rows) == len(heard()) - 1
    # Those behind it were never tried before it was out of their way.
    assert {rows[id][1] for id in ("behind1", "behind2")} == {1}
