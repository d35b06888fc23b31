"""The gateway's web hook server as the world sees it: only through a cable."""

from __future__ import annotations

from holdfast.gateway.hooks import HookServer
from holdfast.lab.cable import Cable


class CabledHooks(HookServer):
    """A web hook server that nobody reaches but through a cable, not even the account itself."""

    cable: Cable | None = None

    @property
    def url(self) -> str:
        """See `HookServer.url`."""
        return super().url if self.cable is None else self.cable.hook_url
