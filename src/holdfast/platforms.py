"""Finds the adapter of a platform; its module is imported only when a configuration names it.

Other people's adapters are found by the entry-point group ``holdfast.adapters``, again only when a
configuration names them.
"""

from __future__ import annotations

from importlib import import_module, metadata

from holdfast.adapter import Adapter
from holdfast.adapters import BUILT_IN
from holdfast.errors import ConfigError

ENTRY_POINTS = "holdfast.adapters"


def find(platform: str, where: str) -> type[Adapter]:
    """The adapter of a platform. Raises ConfigError naming ``where`` and the known platforms."""
    if platform in BUILT_IN:
        module, _, name = BUILT_IN[platform].partition(":")
        adapter: object = getattr(import_module(module), name)
    else:
        others = metadata.entry_points(group=ENTRY_POINTS)
        if platform not in others.names:
            known = ", ".join(sorted({*BUILT_IN, *others.names}))
            raise ConfigError(where, f"unknown platform {platform!r}", f"known are: {known}")
        try:
            adapter = others[platform].load()
        except (Exception, SystemExit) as error:  # it is somebody else's module
            what = f"the package of {platform!r} can not be loaded: {type(error).__name__}: {error}"
            raise ConfigError(where, what, "Install it anew, or ask its author.") from error
    if not (isinstance(adapter, type) and issubclass(adapter, Adapter)):
        raise ConfigError(where, f"the entry point of {platform!r} is not an Adapter")
    missing = [name for name in ("traits", "Settings") if not hasattr(adapter, name)]
    missing += sorted(adapter.__abstractmethods__)
    if missing:
        raise ConfigError(where, f"the adapter of {platform!r} has no {', '.join(missing)}")
    if adapter.traits.liveness.every <= 0:
        raise ConfigError(where, f"the adapter of {platform!r} declares no proof of life")
    return adapter
