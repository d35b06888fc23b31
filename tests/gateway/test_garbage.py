"""The collector of cyclic garbage: what is there at the start is left alone."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
from holdfast.gateway import garbage

class Node:
    pass

kept = [Node() for _ in range(1_000)]
garbage.settle()
assert gc.get_freeze_count() > 1_000, "what is there is looked at again"
assert gc.isenabled()
looks = []
gc.callbacks.append(lambda phase, info: looks.append(phase))
kept += [Node() for _ in range(garbage.NEW_OBJECTS // 2)]
assert not looks, "it looks as often as before"
for _ in range(garbage.NEW_OBJECTS):
    node = Node()
    node.itself = node
assert looks, "cycles are never looked for"
"""


def test_what_is_there_at_the_start_is_never_looked_at_again() -> None:
    # In a process of its own: it is the process that is changed.
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert (ended.stderr, ended.returncode) == ("", 0)
