"""What comes over the HTTP server's connections and is no HTTP."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

from holdfast.web.guard import Refusal

log = logging.getLogger("holdfast.web")


class Wire(logging.Logger):
    """Takes what aiohttp says of requests that can not be parsed: each would be a traceback.

    Nothing else gets there as an error, since our own middleware explains what handlers raise.
    """

    def __init__(self, refused: Counter[Refusal]) -> None:
        super().__init__("holdfast.web.wire", logging.CRITICAL)
        self._refused = refused

    def exception(self, msg: object, *args: object, **how: Any) -> None:
        """Count it."""
        self._refused[Refusal.HTTP] += 1
        log.debug("not HTTP error=%r", how.get("exc_info"))
