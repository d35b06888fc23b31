"""The cause of any error of an account, whatever its adapter's own classification does."""

from __future__ import annotations

import logging

from holdfast.adapter import Adapter, cause_of
from holdfast.supervision import Cause

log = logging.getLogger("holdfast.classify")


def classified(adapter: Adapter, error: BaseException) -> Cause:
    """The adapter's word for an error, else the shared default. Never raises.

    Of a group the first error counts.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    try:
        cause = adapter.classify(error)
    except Exception:
        # A defect there must not hide that something ended.
        log.exception("classify failed platform=%s error=%r", adapter.platform, error)
        cause = None
    return cause or cause_of(error)
