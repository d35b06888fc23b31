"""When Python's collector of cyclic garbage looks, and at what.

By default it looks at the newest objects after each 700 that are new, which under load is every
other message, and from time to time at all there are: the modules, once more and for nothing, while
the event loop stands still. Nearly all garbage here is no cycle and needs no collector.
"""

from __future__ import annotations

import gc

NEW_OBJECTS = 10_000
"""More objects than before (containers only) after which the newest are looked at: some megabytes
at most wait for that."""


def settle() -> None:
    """To be called once the program has come up: what is there now is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(NEW_OBJECTS)
