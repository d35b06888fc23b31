"""Log lines: ``key=value`` or JSON on standard error, never with a secret in them."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Any

import msgspec

from holdfast.adapter import Secret
from holdfast.config import Config

HIDDEN = "***"

_CONVERSION = re.compile(r"(?:(?P<key>\w+)=)?%[-+ #0]*[\d.]*(?P<type>[a-zA-Z%])")
"""A conversion of the message's template, with the key in front of it."""


class Redaction:
    """Hides the secrets of the configuration in whatever is logged, libraries included.

    Adapters do not log secrets; this is for the line nobody thought of.
    """

    def __init__(self) -> None:
        self._secrets: set[str] = set()

    def hide(self, config: Config) -> None:
        """From now on hide this configuration's secrets too."""
        for account in config.accounts.values():
            for info in msgspec.structs.fields(type(account.settings)):
                value = getattr(account.settings, info.name)
                if isinstance(value, Secret) and value:
                    plain = value.reveal()
                    escaped = json.dumps(plain, ensure_ascii=False)[1:-1]
                    self._secrets |= {plain, escaped}

    def clean(self, line: str) -> str:
        """A line without secrets."""
        for secret in self._secrets:
            line = line.replace(secret, HIDDEN)
        return line


class Lines(logging.Formatter):
    """``time level logger message``; our messages are an event and ``key=value`` pairs."""

    def __init__(self, redaction: Redaction) -> None:
        super().__init__("time=%(asctime)s level=%(level)s logger=%(name)s event=%(message)s")
        self._redaction = redaction

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """UTC with milliseconds."""
        return _stamp(record.created)

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        record.level = record.levelname.lower()
        return self._redaction.clean(super().format(record))


class JsonLines(logging.Formatter):
    """One object a line; the ``key=%s`` pairs of the message are members of their own."""

    def __init__(self, redaction: Redaction) -> None:
        super().__init__()
        self._redaction = redaction

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        line = {
            "time": _stamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": _event(record),
            "text": record.getMessage(),
        }
        line = _pairs(record) | line
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return self._redaction.clean(json.dumps(line, ensure_ascii=False, default=str))


def set_up(level: str, as_json: bool) -> Redaction:
    """Send all logging to standard error; returns what hides the secrets."""
    redaction = Redaction()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(redaction) if as_json else Lines(redaction))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # What asyncio says at debug level is about itself.
    logging.getLogger("asyncio").setLevel(max(logging.INFO, root.level))
    return redaction


def _stamp(created: float) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(created))
    return f"{whole}.{int(created % 1 * 1000):03d}Z"


def _event(record: logging.LogRecord) -> str:
    """The message's words before its first pair."""
    return re.split(r"\s*\b\w+=", record.getMessage(), maxsplit=1)[0]


def _pairs(record: logging.LogRecord) -> dict[str, Any]:
    """The pairs of the message's template with their arguments, unformatted."""
    if not isinstance(record.args, tuple) or not isinstance(record.msg, str):
        return {}
    found = [m for m in _CONVERSION.finditer(record.msg) if m["type"] != "%"]
    pairs = zip(found, record.args, strict=False)
    return {match["key"]: value for match, value in pairs if match["key"]}
