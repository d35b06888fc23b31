"""The platforms. One file each; a file is imported only when a configuration names it.

Third-party adapters are found by the entry-point group ``holdfast.adapters``, again only when a
configuration names them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from holdfast.errors import ConfigError

if TYPE_CHECKING:
    from holdfast.adapter import Adapter

BUILT_IN = {
    "telegram": "holdfast.adapters.telegram:Telegram",
    "qqbot": "holdfast.adapters.qqbot:QQBot",
    "matrix": "holdfast.adapters.matrix:Matrix",
}
"""Platform name -> where its adapter lives."""

ENTRY_POINTS = "holdfast.adapters"


def find(platform: str, where: str) -> type[Adapter]:
    """The adapter of a platform. Raises ConfigError naming ``where`` and the known platforms."""
    # Not above: the command line wants the names alone, and this costs twice what all of it does.
    from holdfast.adapter import Adapter

    if platform in BUILT_IN:
        module, _, name = BUILT_IN[platform].partition(":")
        adapter: object = getattr(import_module(module), name)
    else:
        from importlib import metadata

        others = metadata.entry_points(group=ENTRY_POINTS)
        if platform not in others.names:
            known = ", ".join(sorted({*BUILT_IN, *others.names}))
            raise ConfigError(where, f"unknown platform {platform!r}", f"known are: {known}")
        adapter = others[platform].load()
    if not (isinstance(adapter, type) and issubclass(adapter, Adapter)):
        raise ConfigError(where, f"the entry point of {platform!r} is not an Adapter")
    if adapter.traits.liveness.every <= 0:
        raise ConfigError(where, f"the adapter of {platform!r} declares no proof of life")
    return adapter
