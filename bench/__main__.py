"""Run the benchmarks one after the other, each in a process of its own.

    python -m bench [NAME ...] > bench.jsonl

Without a name: every module of this package that has a ``main``. Each prints one JSON object, which
comes out as one line ``{"bench": name, "seconds": wall time, "result": ...}``; one that fails says
``"error"`` instead of ``"result"``, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import pkgutil
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def names() -> list[str]:
    """The benchmarks there are."""
    found = sorted(module.name for module in pkgutil.iter_modules([str(HERE)]))
    return [name for name in found if name != "__main__" and _is_bench(name)]


def _is_bench(name: str) -> bool:
    return hasattr(import_module(f"{HERE.name}.{name}"), "main")


def measure(name: str) -> dict[str, Any]:
    """Run one benchmark; it has the machine and a fresh interpreter to itself."""
    began = time.monotonic()
    command = [sys.executable, "-m", f"{HERE.name}.{name}"]
    ended = subprocess.run(command, cwd=HERE.parent, capture_output=True, text=True, check=False)
    line: dict[str, Any] = {"bench": name, "seconds": round(time.monotonic() - began, 1)}
    try:
        if ended.returncode == 0:
            return line | {"result": json.loads(ended.stdout)}
    except json.JSONDecodeError:
        return line | {"error": f"no JSON on standard output: {ended.stdout[:200]!r}"}
    return line | {"error": ended.stderr.strip() or f"exit status {ended.returncode}"}


def main() -> int:
    known = names()
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("name", nargs="*", help=", ".join(known))
    wanted = parser.parse_args().name or known
    for name in wanted:
        if name not in known:
            parser.error(f"there is no benchmark {name!r}; there are: {', '.join(known)}")
    failed = 0
    for name in wanted:
        line = measure(name)
        failed += "error" in line
        print(json.dumps(line), flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
