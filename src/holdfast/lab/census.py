"""T17: what a process has in use: tasks, threads, sockets, descriptors, memory (Linux)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import threading
from pathlib import Path

from holdfast.lab.subjects import Left

PAGE = os.sysconf("SC_PAGE_SIZE")


def here() -> Left:
    """What this process has in use; needs a running loop."""
    gc.collect()
    links = _links(Path("/proc/self/fd"))
    return Left(
        # The lab's own tasks bear its name: a browser that was opened meanwhile stays open.
        tasks=sum(not task.get_name().startswith("lab ") for task in asyncio.all_tasks()),
        threads=threading.active_count(),
        sockets=sum(link.startswith("socket:") for link in links),
        descriptors=len(links),
        memory=_resident(Path("/proc/self")),
    )


def of(pid: int) -> Left:
    """What another process has in use; nothing at all if it is gone."""
    folder = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError):
        links = _links(folder / "fd")
        return Left(
            threads=len(list((folder / "task").iterdir())),
            sockets=sum(link.startswith("socket:") for link in links),
            descriptors=len(links),
            memory=_resident(folder),
        )
    return Left()


def first_free(pid: int) -> int:
    """The number that the next descriptor of a process gets. Raises OSError when it is gone."""
    held = {int(entry.name) for entry in Path(f"/proc/{pid}/fd").iterdir()}
    return next(number for number in itertools.count() if number not in held)


def _links(folder: Path) -> list[str]:
    found: list[str] = []
    for entry in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # the folder's own descriptor is gone by now
            found.append(str(entry.readlink()))
    return found


def _resident(folder: Path) -> int:
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int((folder / "statm").read_text().split()[1]) * PAGE
    return 0
