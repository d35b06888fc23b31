"""The frames of Feishu's long connection: a protobuf envelope around the JSON of web hooks.

Sources: the message class and the client of the official SDK ``lark-oapi`` 1.7.5 (package
``pbbp2``, proto2).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from importlib import import_module
from typing import Any

from holdfast.adapter import BadFrame, Disconnect
from holdfast.supervision import Cause, Kind

PARTS = 256
"""Frames a single event may come in."""

PENDING_BYTES = 8 * 2**20
"""Bytes held of events that are not complete yet."""

PENDING_LIFE = 10.0
"""Seconds the parts of an event wait for the others (official Node SDK; the Python SDK: 5)."""


class Method(IntEnum):
    """``Frame.method``."""

    CONTROL = 0
    DATA = 1


class Type(StrEnum):
    """The header ``type``."""

    EVENT = "event"
    PING = "ping"
    PONG = "pong"


@dataclass(frozen=True, slots=True)
class Frame:
    """What a received frame says; ``original`` is all of it, for the acknowledgement."""

    method: int
    headers: Mapping[str, str]
    payload: bytes
    original: Any = field(repr=False)

    @property
    def type(self) -> str:
        """What kind of control or data it is; see `Type`."""
        return self.headers.get("type", "")


class Codec:
    """Frames from and to bytes."""

    def __init__(self, message: Any, error: type[Exception]) -> None:
        self._message, self._error = message, error

    def decode(self, raw: str | bytes) -> Frame:
        """A received frame. Raises BadFrame."""
        if isinstance(raw, str):
            raise BadFrame("a text where a binary frame was expected")
        try:
            original = self._message.FromString(raw)
        except self._error as error:
            raise BadFrame(f"not a frame: {error}") from error
        if not original.IsInitialized():  # an acknowledgement could not be encoded
            raise BadFrame("a frame without its required fields")
        headers = {header.key: header.value for header in original.headers}
        return Frame(original.method, headers, original.payload, original)

    def ping(self, service: int) -> bytes:
        """The heartbeat. Raises BadFrame for a ``service`` that is no int32."""
        try:
            frame = self._message(SeqID=0, LogID=0, service=service, method=Method.CONTROL)
        except ValueError as error:
            raise BadFrame(f"service_id {service} is out of range") from error
        frame.headers.add(key="type", value=Type.PING)
        return bytes(frame.SerializeToString())

    def acknowledgement(self, frame: Frame, took: int) -> bytes:
        """The frame given back as handled, after ``took`` milliseconds."""
        answer = self._message()
        answer.CopyFrom(frame.original)
        answer.headers.add(key="biz_rt", value=str(took))
        answer.payload = b'{"code":200}'
        return bytes(answer.SerializeToString())


@functools.cache
def _codec() -> Codec:
    # The package has no annotations of its own; imported by name, its modules are Any.
    descriptor_pb2, descriptor_pool, message, message_factory = (
        import_module(f"google.protobuf.{name}")
        for name in ("descriptor_pb2", "descriptor_pool", "message", "message_factory")
    )
    kind = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="frame.proto", package="feishu")
    file.syntax = "proto2"

    def declare(name: str, *fields: tuple[str, int, int]) -> None:
        declared = file.message_type.add(name=name)
        for number, (label, rule, of) in enumerate(fields, 1):
            one = declared.field.add(name=label, number=number, label=rule, type=of)
            if of == kind.TYPE_MESSAGE:
                one.type_name = ".feishu.Header"

    required, optional, repeated = kind.LABEL_REQUIRED, kind.LABEL_OPTIONAL, kind.LABEL_REPEATED
    declare("Header", ("key", required, kind.TYPE_STRING), ("value", required, kind.TYPE_STRING))
    declare(
        "Frame",
        ("SeqID", required, kind.TYPE_UINT64),
        ("LogID", required, kind.TYPE_UINT64),
        ("service", required, kind.TYPE_INT32),
        ("method", required, kind.TYPE_INT32),
        ("headers", repeated, kind.TYPE_MESSAGE),
        ("payload_encoding", optional, kind.TYPE_STRING),
        ("payload_type", optional, kind.TYPE_STRING),
        ("payload", optional, kind.TYPE_BYTES),
        ("LogIDNew", optional, kind.TYPE_STRING),
    )
    # A pool of its own: the default one is shared with whatever else runs in this process.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName("feishu.Frame"))
    return Codec(made, message.DecodeError)


def codec() -> Codec:
    """The codec. Raises Disconnect without the ``protobuf`` package."""
    try:
        return _codec()
    except ImportError as error:
        text = "long connections speak protobuf, and the package for it is missing"
        hint = "Run `pip install protobuf`, or set `mode` to webhook."
        raise Disconnect(Cause(Kind.LOCAL, "feishu_no_protobuf", text, hint)) from error


# -- events in several frames -----------------------------------------------------------------


@dataclass(slots=True)
class _Pending:
    since: float
    total: int
    parts: dict[int, bytes] = field(default_factory=dict)


class Parts:
    """Puts events together that come in several frames, in any order. Bounded in space and time.

    What is given up is not lost: it was never acknowledged, so Feishu sends it again.
    """

    def __init__(self) -> None:
        self._pending: dict[str, _Pending] = {}
        self._held = 0

    def add(self, frame: Frame, now: float) -> bytes | None:
        """The whole payload once it is complete; None before. ``now`` in seconds.

        Raises BadFrame for headers that contradict each other.
        """
        total, place = _number(frame, "sum", 1), _number(frame, "seq", 0)
        key = frame.headers.get("message_id", "")
        if total == 1:
            return frame.payload
        if not (key and total <= PARTS and place < total):
            raise BadFrame(f"part {place} of {total} of message {key!r}")
        pending = self._pending.setdefault(key, _Pending(now, total))
        if pending.total != total:
            self._drop(key)
            raise BadFrame(f"message {key!r} was to have {pending.total} parts, then {total}")
        self._held += len(frame.payload) - len(pending.parts.get(place, b""))
        pending.parts[place] = frame.payload
        if len(pending.parts) < total:
            return None
        self._drop(key)
        return b"".join(pending.parts[place] for place in range(total))

    def overdue(self, now: float) -> list[str]:
        """Give up what waits too long or takes too much room; the message ids given up."""
        late = []
        for key, pending in list(self._pending.items()):  # the oldest first
            if now - pending.since >= PENDING_LIFE or self._held > PENDING_BYTES:
                self._drop(key)
                late.append(key)
        return late

    def _drop(self, key: str) -> None:
        self._held -= sum(map(len, self._pending.pop(key).parts.values()))


def _number(frame: Frame, name: str, default: int) -> int:
    """A header that counts. Raises BadFrame."""
    text = frame.headers.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and len(text) <= 9) or (name, text) == ("sum", "0"):
        raise BadFrame(f"the header {name} is {text!r:.40}")
    return int(text)
