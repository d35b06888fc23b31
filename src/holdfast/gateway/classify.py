"""The cause of any error of an account, however adapters and agents misbehave."""

from __future__ import annotations

import logging
from collections.abc import Callable
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
    return cleaned(named(adapter.classify, error, adapter.platform), redaction_of(adapter))


def named(
    classify: Callable[[BaseException], Cause | None], error: BaseException, whose: str
) -> Cause:
    """What ``classify`` calls an error, or the first one of a group; else the shared default.

    A defect of ``classify`` is logged: it must not hide that something ended.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    try:
        cause = classify(error)
        if not isinstance(cause, Cause | None):
            raise TypeError(f"{cause!r} is no Cause")
    except Exception:
        log.exception("classify failed of=%s error=%r", whose, error)
        cause = None
    return cause or cause_of(error)


def cleaned(cause: Cause, redaction: Redaction) -> Cause:
    """The cause without secrets in its words, which anybody can write down."""
    return replace(
        cause,
        code=redaction.clean(cause.code),
        message=redaction.clean(cause.message),
        hint=redaction.clean(cause.hint),
    )
