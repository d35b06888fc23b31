"""A disk whose fsync takes as long as it is told to (T9), for Python programs that use SQLite.

A process that is started with `SlowDisk.environ` waits at each commit of a transaction for as long
as the disk is stuck: in the thread that commits, and without the interpreter's lock, as at a real
fsync. Everything else is as on any disk.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

SHIM: Final = """
import os
import sqlite3
import time

connect = sqlite3.connect
stuck = {flag!r}


class Slow(sqlite3.Connection):
    def execute(self, statement, *more):
        while statement == "COMMIT" and os.path.exists(stuck):
            time.sleep(0.05)
        return super().execute(statement, *more)


sqlite3.connect = lambda *words, **more: connect(*words, factory=Slow, **more)
"""
"""What Python runs before anything else, as its ``sitecustomize``."""


class SlowDisk:
    """One disk, which begins as a quick one. ``home`` is an empty directory of its own."""

    def __init__(self, home: Path) -> None:
        self._home, self._flag = home, home / "stuck"
        (home / "sitecustomize.py").write_text(SHIM.format(flag=str(self._flag)), encoding="utf-8")

    @property
    def environ(self) -> dict[str, str]:
        """What a process must be started with, besides its environment."""
        path = [str(self._home), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {"PYTHONPATH": os.pathsep.join(path)}

    def stick(self) -> None:
        """No commit ends from now on."""
        self._flag.touch()

    def ok(self) -> None:
        """Commits end as quickly as they can."""
        self._flag.unlink(missing_ok=True)
