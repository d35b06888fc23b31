"""The cause of any error of an account, however adapters and agents misbehave."""

from __future__ import annotations

import logging
from dataclasses import replace

from holdfast.adapter import Adapter, cause_of
from holdfast.secrets import Redaction, redaction_of
from holdfast.supervision import Cause

log = logging.getLogger("holdfast.classify")


def classified(adapter: Adapter, error: BaseException) -> Cause:
    """The adapter's word for an error, else the shared default. Never raises.

    Of a group the first error counts. Whatever the peer quotes, the words hold no secret of the
    adapter: status, history, journal and alerts are made of them.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    try:
        cause = adapter.classify(error)
    except Exception:
        # A defect there must not hide that something ended.
        log.exception("classify failed platform=%s error=%r", adapter.platform, error)
        cause = None
    return cleaned(cause or cause_of(error), redaction_of(adapter))


def cleaned(cause: Cause, redaction: Redaction) -> Cause:
    """The cause without secrets in its words, which anybody can write down."""
    return replace(
        cause,
        code=redaction.clean(cause.code),
        message=redaction.clean(cause.message),
        hint=redaction.clean(cause.hint),
    )
