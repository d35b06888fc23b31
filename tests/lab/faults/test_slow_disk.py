"""A disk that sticks: commits wait, and nothing else does."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from holdfast.lab.faults.slow_disk import SlowDisk

WRITER = """
import sqlite3
db = sqlite3.connect("journal.db", isolation_level=None)
db.execute("CREATE TABLE IF NOT EXISTS said (word)")
db.execute("BEGIN IMMEDIATE")
db.execute("INSERT INTO said VALUES ('it')")
print("written", flush=True)
db.execute("COMMIT")
print("durable", flush=True)
"""


def test_a_commit_waits_for_as_long_as_the_disk_is_stuck(tmp_path: Path) -> None:
    (tmp_path / "shim").mkdir()
    disk = SlowDisk(tmp_path / "shim")
    disk.stick()
    with subprocess.Popen(
        [sys.executable, "-c", WRITER],
        cwd=tmp_path,
        env=os.environ | disk.environ,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "written\n"
        os.set_blocking(child.stdout.fileno(), False)
        assert child.stdout.readline() == ""
        os.set_blocking(child.stdout.fileno(), True)
        disk.ok()
        assert child.stdout.readline() == "durable\n"
    assert child.returncode == 0


def test_a_disk_that_was_never_stuck_is_mended_all_the_same(tmp_path: Path) -> None:
    SlowDisk(tmp_path).ok()
