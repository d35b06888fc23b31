"""Breaks Holdfast on purpose, one bug at a time: each must be noticed by those it concerns.

The bugs are those of `tools.bugs`, each planted in a copy of the sources; text that is not found,
or more than once, is an error, so that the list can not rot. The core's tests must fail for what is
planted in the core; a play of the lab must fail for what names one, and its judge must say why. A
copy without a bug must satisfy all of them. Prints one line per bug; exits with 1 if one was
missed, 2 if a bug could not be planted.

    python tools/planted_bugs.py [NAME ...]
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.bugs import BUGS, Bug, CanNotPlant, Cell  # noqa: E402 - a script, run from anywhere

TESTS = Path("tests/supervision")
LIMIT = 60.0
"""Seconds for one run: a bug that makes the core spin counts as noticed."""

PLAY = """
import json, logging, os, sys
from holdfast.lab.score import Cell, play
logging.disable()
result = play(Cell(*sys.argv[1:], "holdfast"))
print(json.dumps([result.outcome, result.reasons]), flush=True)
os._exit(0)
"""
"""Plays one cell. It leaves at once: threads of a gateway that did not stop would keep it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What became of a bug, or of the copy without one."""

    name: str
    missed: tuple[str, ...]
    """Who did not notice it."""
    said: tuple[str, ...]
    """What those said who did."""
    seconds: float

    def __str__(self) -> str:
        caught = "NOT caught" if self.missed else "caught"
        told = "; ".join([*(f"missed by {who}" for who in self.missed), *self.said])
        return f"{caught}: {self.name} ({self.seconds:.1f} s): {told}"


def examine(bug: Bug) -> Finding:
    """Plant it in a copy, and ask everybody whom it concerns. Raises CanNotPlant."""
    began = time.monotonic()
    missed: list[str] = []
    said: list[str] = []
    with _copy() as root:
        bug.plant(root)
        if bug.in_core:
            (missed if _tests_pass(root) else said).append("the core's tests")
        if bug.cell is not None:
            reasons = _reasons(root, bug.cell)
            named = [reason for reason in reasons if bug.cell.words in reason]
            if named:
                said.append(f"{bug.cell}: {named[0]}")
            else:
                missed.append(f"{bug.cell}, which says: {'; '.join(reasons) or 'nothing'}")
    return Finding(bug.name, tuple(missed), tuple(said), time.monotonic() - began)


def healthy(bugs: Collection[Bug]) -> None:
    """Ask everybody about a copy without a bug. Raises CanNotPlant when somebody objects."""
    with _copy() as root, ThreadPoolExecutor(os.cpu_count()) as pool:
        cells = [bug.cell for bug in bugs if bug.cell is not None]
        plays = [pool.submit(_reasons, root, cell) for cell in cells]
        if any(bug.in_core for bug in bugs) and not _tests_pass(root):
            raise CanNotPlant("the core's tests fail without any bug")
        for cell, playing in zip(cells, plays, strict=True):
            if reasons := playing.result():
                raise CanNotPlant(f"{cell} fails without any bug: {'; '.join(reasons)}")


@contextlib.contextmanager
def _copy() -> Iterator[Path]:
    """The sources and the core's tests, in a directory of their own."""
    with tempfile.TemporaryDirectory(prefix="planted-") as name:
        root = Path(name)
        ignore = shutil.ignore_patterns("__pycache__")
        for part in ("src", TESTS):
            shutil.copytree(ROOT / part, root / part, ignore=ignore)
        shutil.copy(ROOT / "pyproject.toml", root)
        # The page of documentation is not part of the copy, and breaks with no bug.
        (root / TESTS / "test_docs.py").unlink()
        yield root


def _tests_pass(root: Path) -> bool:
    command = ["-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", str(TESTS)]
    try:
        done = _python(root, *command)
    except subprocess.TimeoutExpired:
        return False
    if done.returncode not in (0, 1):
        # 2 and above: pytest itself could not work, which says nothing about the bug.
        raise CanNotPlant(done.stdout[-2_000:] + done.stderr[-2_000:])
    return done.returncode == 0


def _reasons(root: Path, cell: Cell) -> list[str]:
    """Why a play failed; empty when it passed. Raises CanNotPlant when it could not be played."""
    try:
        done = _python(root, "-c", PLAY, cell.mode, cell.variant, cell.platform)
    except subprocess.TimeoutExpired as error:
        raise CanNotPlant(f"{cell} did not end within {LIMIT:g} s") from error
    if done.returncode:
        raise CanNotPlant(f"{cell} could not be played: {done.stderr[-2_000:]}")
    outcome, reasons = json.loads(done.stdout.splitlines()[-1])
    if outcome == "not applicable":
        raise CanNotPlant(f"{cell} can not be played: {reasons[0]}")
    return list(reasons)


def _python(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the interpreter on a copy. Raises subprocess.TimeoutExpired."""
    environment = os.environ | {"PYTHONPATH": str(root / "src"), "HYPOTHESIS_PROFILE": "quick"}
    return subprocess.run(
        [sys.executable, *words],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def main(names: list[str]) -> int:
    """Try the bugs of these names, or all; the exit code."""
    if unknown := sorted(set(names) - {bug.name for bug in BUGS}):
        known = ", ".join(bug.name for bug in BUGS)
        print(f"there is no bug {unknown[0]!r}; there are: {known}")
        return 2
    bugs = [bug for bug in BUGS if not names or bug.name in names]
    missed = 0
    try:
        healthy(bugs)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for finding in pool.map(examine, bugs):
                missed += bool(finding.missed)
                print(finding, flush=True)
    except CanNotPlant as error:
        print(f"can not plant: {error}")
        return 2
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
