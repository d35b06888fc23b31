"""Log lines: ``key=value`` or JSON on standard error, never with a secret in them.

One event is one line, whoever logs it. A traceback is told once for each distinct place it comes
from; what repeats itself is counted.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import time
from collections import OrderedDict
from enum import StrEnum
from types import TracebackType
from typing import Any

from holdfast.secrets import Redaction

__all__ = ["FORMATS", "Format", "JsonLines", "Lines", "Redaction", "Repeats", "set_up"]

log = logging.getLogger("holdfast")

REMEMBERED = 512
"""Lines and places of tracebacks that are remembered; the oldest are forgotten first."""

HOUR = 3600.0
"""Seconds after the first of them in which repetitions are counted together."""

LONGEST = 200
"""Characters of a message that tell it from others."""

UNCOUNTED = frozenset({"holdfast", "holdfast.run", "holdfast.web"})
"""Loggers of which every line counts: changes of accounts, which bound themselves, and what
operators did."""

_NUMBER = re.compile(r"\d+")

_CONVERSION = re.compile(r"(?:(?P<key>\w+)=)?%[-+ #0]*[\d.]*(?P<type>[a-zA-Z%])")
"""A conversion of the message's template, with the key in front of it."""


class Format(StrEnum):
    """How a line is written."""

    KV = "kv"
    JSON = "json"


# -- repetitions ----------------------------------------------------------------------------------


class Repeats(logging.Filter):
    """Lets the 1st, 2nd, 4th, 8th ... of lines that differ in numbers alone pass within an hour,
    with how many there were, and every traceback once.

    `UNCOUNTED` loggers are left alone. So are debug lines, which somebody asked for.
    """

    def __init__(self) -> None:
        super().__init__()
        self._seen: OrderedDict[tuple[object, ...], tuple[float, int]] = OrderedDict()
        self._traced: OrderedDict[tuple[object, ...], str] = OrderedDict()
        self._guard = threading.Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`. Called on any thread."""
        with self._guard:
            is_due = self._is_due(record)
            return self._is_new(record) or is_due

    def _is_due(self, record: logging.LogRecord) -> bool:
        if record.name in UNCOUNTED or record.levelno <= logging.DEBUG:
            return True
        account = str(_pairs(record).get("account", ""))
        key = (record.name, account, _NUMBER.sub("0", record.getMessage()[:LONGEST]))
        first, count = self._seen.get(key, (record.created, 0))
        if not 0.0 <= record.created - first < HOUR:
            first, count = record.created, 0
        count += 1
        _remember(self._seen, key, (first, count))
        if count > 2:
            record.repeats = count
        return count & (count - 1) == 0

    def _is_new(self, record: logging.LogRecord) -> bool:
        """Whether it has a traceback that was not told; one that was is taken from it."""
        if not record.exc_info or record.exc_info[0] is None:
            return False
        key = (record.name, record.exc_info[0], *_place(record.exc_info[2]))
        told = self._traced.get(key)
        if told is None:
            _remember(self._traced, key, _stamp(record.created))
            return True
        kind, error, _ = record.exc_info
        record.error = f"{kind.__name__}: {error}"
        record.traceback_at = told
        record.exc_info = record.exc_text = None
        return False


def _remember(memory: OrderedDict[Any, Any], key: object, value: object) -> None:
    memory[key] = value
    memory.move_to_end(key)
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)


def _place(trace: TracebackType | None) -> list[tuple[str, int]]:
    """Where a traceback leads through, without what changes from time to time."""
    found = []
    while trace is not None:
        found.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    return found


# -- lines ----------------------------------------------------------------------------------------

ADDED = ("repeats", "error", "traceback_at")
"""What `Repeats` may add to a record."""


class Lines(logging.Formatter):
    """``time level logger event`` and the event's own ``key=value`` pairs.

    What follows the first line of a message or a traceback is indented: no text of a platform can
    look like a line of ours.
    """

    def __init__(self, redaction: Redaction) -> None:
        super().__init__("time=%(asctime)s level=%(level)s logger=%(name)s event=%(event_text)s")
        self._redaction = redaction

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """UTC with milliseconds."""
        return _stamp(record.created)

    def format(self, record: logging.LogRecord) -> str:
        """See `logging.Formatter`."""
        record.level = record.levelname.lower()
        record.event_text = " ".join([_told(record), *_added(record)])
        whole = self._redaction.clean(super().format(record))
        return whole.rstrip("\n").replace("\n", "\n  ")


def _told(record: logging.LogRecord) -> str:
    """The message with its event in quotes, if that is more than one word."""
    message, event = record.getMessage(), _event(record)
    if " " not in event:
        return message
    return f"{json.dumps(event, ensure_ascii=False)}{message[len(event) :]}"


def _added(record: logging.LogRecord) -> list[str]:
    values = ((key, getattr(record, key, None)) for key in ADDED)
    return [f"{key}={_quoted(value)}" for key, value in values if value is not None]


def _quoted(value: object) -> str:
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if " " in text else text


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
        line |= {key: getattr(record, key) for key in ADDED if hasattr(record, key)}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return self._redaction.clean(json.dumps(line, ensure_ascii=False, default=str))


FORMATS: dict[str, type[Lines] | type[JsonLines]] = {Format.KV: Lines, Format.JSON: JsonLines}


# -- set-up ---------------------------------------------------------------------------------------


def set_up(level: str, format: str) -> Redaction:
    """Send all logging, and what ends the process or a thread, to standard error.

    Returns what hides the secrets, in tracebacks too.
    """
    redaction = Redaction()
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FORMATS[format](redaction))
    handler.addFilter(Repeats())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # What asyncio says at debug level is about itself.
    logging.getLogger("asyncio").setLevel(max(logging.INFO, root.level))
    sys.excepthook = _crashed
    threading.excepthook = _thread_crashed
    return redaction


def _crashed(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("crashed error=%s", kind.__name__, exc_info=(kind, error, trace))


def _thread_crashed(args: threading.ExceptHookArgs) -> None:
    name = "" if args.thread is None else args.thread.name
    error = args.exc_value or args.exc_type()
    trace = (args.exc_type, error, args.exc_traceback)
    log.critical("thread crashed thread=%r error=%s", name, args.exc_type.__name__, exc_info=trace)


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
