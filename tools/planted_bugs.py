"""Breaks the supervision core on purpose, one bug at a time: the tests must notice each.

Every bug is an exact replacement of text in a copy of the sources; text that is not found, or more
than once, is an error, so that the list can not rot. Prints one line per bug; exits with 1 if the
tests missed one, 2 if a bug could not be planted.

    python tools/planted_bugs.py [NAME ...]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORE = Path("src/holdfast/supervision")
TESTS = Path("tests/supervision")
LIMIT = 60.0
"""Seconds for one run: a bug that makes the core spin counts as noticed."""


class CanNotPlant(Exception):
    """The text to be replaced is not in the file exactly once."""


@dataclass(frozen=True, slots=True)
class Bug:
    """One mistake somebody could make."""

    name: str
    file: str
    old: str
    new: str

    def plant(self, root: Path) -> None:
        """Apply it below ``root``. Raises CanNotPlant."""
        path = root / CORE / self.file
        text = path.read_text(encoding="utf-8")
        if text.count(self.old) != 1:
            raise CanNotPlant(f"{self.name}: {text.count(self.old)} places in {self.file}")
        path.write_text(text.replace(self.old, self.new), encoding="utf-8")


BUGS = (
    Bug(
        "no generation check",
        "machine.py",
        "if isinstance(event, FromConnection) and event.generation != self._open:",
        "if isinstance(event, FromConnection) and self._open is None:",
    ),
    Bug(
        "no deadline in LIVE",
        "machine.py",
        "return min(self._proof_deadline(), self._stable_deadline())",
        "return inf",
    ),
    Bug(
        "counters reset on ready",
        "machine.py",
        "self._go(trigger, State.LIVE, now)",
        "self._tally.reset(); self._go(trigger, State.LIVE, now)",
    ),
    Bug(
        "no burst limit",
        "pace.py",
        "if len(self._opens) >= self.policy.opens_limit:",
        "if False:",
    ),
    Bug(
        "double start opens twice",
        "machine.py",
        "        elif self.state is State.STOPPED:\n            if memory is not None:",
        "        else:\n            self.state = State.STOPPED\n            if memory is not None:",
    ),
    Bug(
        "retry-after clamped",
        "pace.py",
        "max(self.wait_until, now + seconds)",
        "max(self.wait_until, now + min(seconds, 300.0))",
    ),
    Bug(
        "a kick lifts the server's wait",
        "machine.py",
        "self._retry_at = min(self._retry_at, self._earliest(now, now))",
        "self._retry_at = now",
    ),
    Bug(
        "stop ignored in back-off",
        "machine.py",
        "elif self.state in (State.BACKOFF, State.BLOCKED):\n            self._halt(now)",
        "elif self.state is State.BLOCKED:\n            self._halt(now)",
    ),
    Bug(
        "missed heartbeats not counted",
        "pulse.py",
        "        if self.awaiting:\n            self.missed += 1\n",
        "",
    ),
    Bug(
        "any byte acknowledges a heartbeat",
        "pulse.py",
        "        self.last = now\n\n    def ack",
        "        self.last = now\n        self.awaiting, self.missed = False, 0\n\n    def ack",
    ),
    Bug(
        "a late clock convicts",
        "machine.py",
        "late = now - self._proof_deadline() > self.policy.late_after",
        "late = False",
    ),
    Bug(
        "a refused resume waits out the ladder",
        "machine.py",
        "elif at_once and self._pace.recycle(now):",
        "elif at_once and not self._resuming and self._pace.recycle(now):",
    ),
    Bug(
        "a verdict blocks without confirmation",
        "verdict.py",
        "if verified or not self._was_well:",
        "if True:",
    ),
    Bug(
        "connected is a flag",
        "machine.py",
        "return Published.CONNECTED if now <= self._pulse.dead_at else Published.RETRYING",
        "return Published.CONNECTED",
    ),
    Bug(
        "quick lives not counted",
        "tally.py",
        "self.quick += quick",
        "self.quick += 0",
    ),
    Bug(
        "the outage clock is renewed by attempts",
        "machine.py",
        "if self._outage_since is None and not planned:",
        "if not planned:",
    ),
    Bug(
        "a failed kick shortens the back-off",
        "machine.py",
        "if planned is not None and planned > now:",
        "if False:",
    ),
    Bug(
        "no abort behind the close",
        "machine.py",
        "            self._aborted = True\n            self._attempt_by",
        "            self._attempt_by",
    ),
    Bug(
        "the old connection closes before its successor is ready",
        "machine.py",
        "        self._beside.dial(self.generation, now)\n",
        "        self._beside.dial(self.generation, now)\n"
        "        self._out.append(Close(self.generation - 1))\n",
    ),
    Bug(
        "a former connection is never closed",
        "overlap.py",
        "now + self.policy.drain_timeout)",
        "inf)",
    ),
    Bug(
        "stopped before the last connection has ended",
        "machine.py",
        "        if self._beside:\n            self._out += self._beside.close(now)\n",
        "        if False:\n            self._out += self._beside.close(now)\n",
    ),
    Bug(
        "logins of the storm are not budgeted",
        "pace.py",
        "        if fresh:\n            at = max(at, self._budgeted(now))\n",
        "",
    ),
)


def tests_fail(bug: Bug | None) -> bool:
    """Whether the core's tests fail with the bug planted. Raises CanNotPlant."""
    with tempfile.TemporaryDirectory(prefix="planted-") as name:
        root = Path(name)
        ignore = shutil.ignore_patterns("__pycache__")
        for part in ("src", TESTS):
            shutil.copytree(ROOT / part, root / part, ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", root)
        # The page of documentation is not part of the copy, and breaks with no bug.
        (root / TESTS / "test_docs.py").unlink()
        if bug is not None:
            bug.plant(root)
        return not _passes(root)


def _passes(root: Path) -> bool:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", str(TESTS)]
    environment = os.environ | {"PYTHONPATH": str(root / "src"), "HYPOTHESIS_PROFILE": "quick"}
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, timeout=LIMIT, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    if done.returncode not in (0, 1):
        # 2 and above: pytest itself could not work, which says nothing about the bug.
        raise CanNotPlant(done.stdout.decode()[-2_000:] + done.stderr.decode()[-2_000:])
    return done.returncode == 0


def main(names: list[str]) -> int:
    """Try the bugs of these names, or all; the exit code."""
    missed = 0
    try:
        if tests_fail(None):
            raise CanNotPlant("the tests fail without any bug")
        for bug in BUGS:
            if names and bug.name not in names:
                continue
            begin = time.monotonic()
            caught = tests_fail(bug)
            missed += not caught
            seconds = time.monotonic() - begin
            print(f"{'caught' if caught else 'NOT caught'}: {bug.name} ({seconds:.1f} s)")
    except CanNotPlant as error:
        print(f"can not plant: {error}")
        return 2
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
