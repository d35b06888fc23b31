"""An adapter says what happened and nothing else: no sleeping, retrying, catching all, logging.

It dates by the gateway's clock (`Link.clock`, `Tools.clock`), never by one of its own.
Nor does it know another one: files share a platform's first word or do not import each other.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ADAPTERS = Path(__file__).parent.parent / "src/holdfast/adapters"
MAX_LINES = 400
TASKS = {"sleep", "create_task", "ensure_future"}
CLOCKS = {"time", "time_ns", "monotonic"}


def problems(path: Path) -> list[str]:
    """What a file does that is not an adapter's business."""
    text = path.read_text(encoding="utf-8")
    found = []
    if text.count("\n") > MAX_LINES:
        found.append(f"{path.name}: more than {MAX_LINES} lines")
    own = path.stem.split("_")[0]
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.ImportFrom(module="holdfast.adapters", names=names):
                foreign = [n.name for n in names if n.name.split("_")[0] != own]
                what: str | None = f"import of {foreign}" if foreign else None
            case ast.ImportFrom(module=str(module)) if module.startswith("holdfast.adapters."):
                other = module.split(".")[2].split("_")[0]
                what = f"import of {module}" if other != own else None
            case ast.Attribute(value=ast.Name(id="asyncio"), attr=name) if name in TASKS:
                what = f"asyncio.{name}"
            case ast.Attribute(value=ast.Name(id="time"), attr=name) if name in CLOCKS:
                what = f"time.{name}: there is one clock, the gateway's"
            case ast.ImportFrom(module="time"):
                what = "from time import: there is one clock, the gateway's"
            case ast.While(test=ast.Constant(value=True)):
                what = "while True"
            case ast.ExceptHandler(type=None | ast.Name(id="Exception" | "BaseException")):
                what = "a handler for every exception"
            case ast.Import(names=[ast.alias(name="logging" | "random"), *_]):
                what = f"import {node.names[0].name}"
            case _:
                what = None
        if what:
            found.append(f"{path.name}:{getattr(node, 'lineno', 0)}: {what}")
    return found


def main() -> int:
    """Print every problem; 1 if there is one."""
    files = [path for path in sorted(ADAPTERS.glob("*.py")) if path.stem != "__init__"]
    found = [line for path in files for line in problems(path)]
    for line in found:
        print(line)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
