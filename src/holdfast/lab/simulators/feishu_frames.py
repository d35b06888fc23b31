"""The frames of Feishu's long connection: one protobuf message, and how events are split.

Field numbers and types are those of package ``pbbp2`` in the official SDK (proto2; the required
fields are on the wire even when they are 0). The library ``protobuf`` is imported with the first
frame, not before.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

LABELS = {"optional": 1, "required": 2, "repeated": 3}
TYPES = {"int32": 5, "uint64": 4, "string": 9, "message": 11, "bytes": 12}
"""Numbers of ``FieldDescriptorProto.Label`` and ``.Type`` (descriptor.proto)."""

HEADER_FIELDS = (("key", 1, "required", "string"), ("value", 2, "required", "string"))
FRAME_FIELDS = (
    ("SeqID", 1, "required", "uint64"),
    ("LogID", 2, "required", "uint64"),
    ("service", 3, "required", "int32"),
    ("method", 4, "required", "int32"),
    ("headers", 5, "repeated", "message"),
    ("payload_encoding", 6, "optional", "string"),
    ("payload_type", 7, "optional", "string"),
    ("payload", 8, "optional", "bytes"),
    ("LogIDNew", 9, "optional", "string"),
)


class BadFrame(ValueError):
    """Bytes that are no complete frame."""


class Method(IntEnum):
    """What a frame is for."""

    CONTROL = 0
    DATA = 1


def _protobuf(module: str) -> Any:
    return importlib.import_module(f"google.protobuf.{module}")


@functools.cache
def _message() -> Any:
    """The class of the protobuf message, in a pool of its own: the SDK has the same names."""
    file = _protobuf("descriptor_pb2").FileDescriptorProto(
        name="lab.proto", package="lab", syntax="proto2"
    )
    for name, fields in (("Header", HEADER_FIELDS), ("Frame", FRAME_FIELDS)):
        message = file.message_type.add(name=name)
        for label, number, rule, kind in fields:
            entry: Any = message.field.add(name=label, number=number)
            entry.label, entry.type = LABELS[rule], TYPES[kind]
            if kind == "message":
                entry.type_name = ".lab.Header"
    pool = _protobuf("descriptor_pool").DescriptorPool()
    pool.Add(file)
    return _protobuf("message_factory").GetMessageClass(pool.FindMessageTypeByName("lab.Frame"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One binary WebSocket message."""

    method: int
    service: int
    headers: tuple[tuple[str, str], ...] = ()
    payload: bytes | None = None
    seq_id: int = 0
    log_id: int = 0

    def header(self, key: str) -> str:
        """The value of a header, empty when it is absent."""
        return next((value for name, value in self.headers if name == key), "")

    def json(self) -> Any:
        """The payload. Raises BadFrame."""
        try:
            return json.loads(self.payload or b"")
        except ValueError as error:
            raise BadFrame(f"payload is no JSON: {error}") from error

    def encode(self) -> bytes:
        """The frame on the wire."""
        message = _message()(
            SeqID=self.seq_id, LogID=self.log_id, service=self.service, method=self.method
        )
        for key, value in self.headers:
            message.headers.add(key=key, value=value)
        if self.payload is not None:
            message.payload = self.payload
        return bytes(message.SerializeToString())

    @classmethod
    def decode(cls, data: bytes) -> Frame:
        """The frame in bytes of the wire. Raises BadFrame."""
        message = _message()()
        try:
            message.ParseFromString(data)
        except _protobuf("message").DecodeError as error:
            raise BadFrame(str(error)) from error
        if not message.IsInitialized():
            raise BadFrame("a required field is missing")
        return cls(
            method=message.method,
            service=message.service,
            headers=tuple((header.key, header.value) for header in message.headers),
            payload=message.payload if message.HasField("payload") else None,
            seq_id=message.SeqID,
            log_id=message.LogID,
        )

    def answers(self, sent: Frame) -> bool:
        """Whether this is ``sent`` given back: only payload and further headers may differ."""
        mine = (self.method, self.service, self.seq_id, self.log_id)
        theirs = (sent.method, sent.service, sent.seq_id, sent.log_id)
        return mine == theirs and set(sent.headers) <= set(self.headers)


def control(kind: str, service: int, payload: bytes | None = None) -> Frame:
    """A ping or pong."""
    headers = (("type", kind),)
    return Frame(method=Method.CONTROL, service=service, headers=headers, payload=payload)


def event_frames(
    payload: bytes,
    *,
    message_id: str,
    service: int,
    number: int,
    moment: str,
    parts: int = 1,
    kind: str = "event",
) -> Sequence[Frame]:
    """A payload in ``parts`` data frames, in order. All share ``message_id`` and SeqID."""
    size = -(-len(payload) // parts)
    common = (("type", kind), ("message_id", message_id), ("sum", str(parts)))
    return [
        Frame(
            method=Method.DATA,
            service=service,
            headers=(
                *common,
                ("seq", str(index)),
                ("trace_id", f"trace-{message_id}"),
                ("timestamp", moment),
                ("instance_id", f"instance-{number}"),
            ),
            payload=payload[index * size : (index + 1) * size],
            seq_id=number,
            log_id=number + 1_000_000,
        )
        for index in range(parts)
    ]
