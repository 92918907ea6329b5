"""Decoding of a delivery's address and properties, with a list of unreadable fields.

A publisher can put any bytes into the properties and the routing key of a message. Every message becomes a
delivery, so that an unreadable message can be moved to the dead-letter queue. Otherwise the broker would
deliver the message again and again.

See docs/adr/0018-pass-messages-by-the-driver.md.
"""

import struct
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from pamqp import decode
from pamqp.commands import Basic

from skillq.transport.base import Delivery
from skillq.transport.rabbitmq.fastpath.encode import DEFAULT_HEADER_TABLE, DEFAULT_HEADERS
from skillq.transport.rabbitmq.fastpath.reader import method_index

_DELIVER = method_index(Basic.Deliver)
_TAG_AND_REDELIVERED = struct.Struct(">Q?")
_FLAGS = struct.Struct(">12xH")  # after class, weight and size of the body
_MORE_FLAGS = 1  # more flags follow: AMQP has no property that needs them
_MAX_SHORT = 255


def read_delivery(
    method: bytes, header: bytes, body: bytes, queue: str, source: object
) -> tuple[int, Delivery]:
    """Decode a delivered message; return the delivery tag and the delivery.

    `source` is the session or browser that received the message. The delivery's token is (source, tag).
    """
    offset = len(_DELIVER)
    if method.startswith(_DELIVER):
        offset += 1 + method[offset]  # skip the consumer tag
    tag, redelivered = _TAG_AND_REDELIVERED.unpack_from(method, offset)
    fields = ParsedFields()
    fields.read_fields(method, offset + _TAG_AND_REDELIVERED.size, _ADDRESS_FIELDS)
    fields.read_properties(header)
    values = fields.values
    return tag, Delivery(
        body=body,
        type=values.get("type", ""),
        queue=queue,
        exchange=values["exchange"],
        routing_key=values["routing key"],
        redelivered=redelivered,
        headers=values.get("headers", {}),
        message_id=values.get("message_id", ""),
        app_id=values.get("app_id", ""),
        token=(source, tag),
        unreadable="; ".join(fields.problems),
    )


def read_return(method: bytes, header: bytes) -> tuple[str, str, str]:
    """Return exchange, routing key and message id of a message that was unroutable."""
    offset = len(_DELIVER) + 2  # after the reply code
    offset += 1 + method[offset]
    fields = ParsedFields()
    fields.read_fields(method, offset, _ADDRESS_FIELDS)
    fields.read_properties(header)
    return (
        fields.values["exchange"],
        fields.values["routing key"],
        fields.values.get("message_id", ""),
    )


class ParsedFields:
    """Decoded fields by name in `values`; `problems` lists the unreadable fields."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.problems: list[str] = []

    def read_properties(self, header: bytes) -> None:
        """Read the properties from a content header."""
        try:
            (flags,) = _FLAGS.unpack_from(header)
            if flags & _MORE_FLAGS:
                self.problems.append("its properties are more than there are")
                return
            self.read_fields(header, _FLAGS.size, _fields_present(flags))
        except (struct.error, IndexError):
            self.problems.append("its properties end too soon")
        if self.problems and (headers := self.values.get("headers")):
            self.values["headers"] = {k: v for k, v in headers.items() if isinstance(v, str | int)}

    def read_fields(self, data: bytes, offset: int, fields: "Iterable[_Field]") -> None:
        """Read the given fields, in order, from `offset` on.

        A reader of one field takes the field's name, the data and its offset; it returns the next offset.
        """
        for name, read in fields:
            offset = read(self, name, data, offset)

    def read_short_string(self, name: str, data: bytes, offset: int) -> int:
        end = offset + 1 + data[offset]
        raw = data[offset + 1 : end]
        try:
            self.values[name] = raw.decode()
        except UnicodeDecodeError:
            self.values[name] = _escaped_text(raw)
            self.problems.append(f"its {name} {repr(raw[:60])[1:]} is not UTF-8")
        return end

    def read_table(self, name: str, data: bytes, offset: int) -> int:
        end = offset + 4 + int.from_bytes(data[offset : offset + 4])
        raw = data[offset:end]
        try:
            is_default = raw == DEFAULT_HEADER_TABLE
            self.values[name] = dict(DEFAULT_HEADERS) if is_default else decode.field_table(raw)[1]
        except Exception as error:  # noqa: BLE001 - the decoder may raise any exception
            self.problems.append(f"its {name} cannot be decoded ({_error_text(error)})")
        return end

    def read_timestamp(self, name: str, data: bytes, offset: int) -> int:
        end = offset + 8
        try:
            decode.timestamp(data[offset:end])
        except Exception:  # noqa: BLE001 - the decoder may raise any exception
            number = struct.unpack_from(">Q", data, offset)[0]
            self.problems.append(f"its {name} {number} is out of range")
        return end

    def read_octet(self, name: str, data: bytes, offset: int) -> int:
        self.values[name] = data[offset]
        return offset + 1


_Field = tuple[str, Callable[[ParsedFields, str, bytes, int], int]]
_ADDRESS_FIELDS: list[_Field] = [
    ("exchange", ParsedFields.read_short_string),
    ("routing key", ParsedFields.read_short_string),
]
_READERS = {
    "shortstr": ParsedFields.read_short_string,
    "table": ParsedFields.read_table,
    "timestamp": ParsedFields.read_timestamp,
    "octet": ParsedFields.read_octet,
}


@lru_cache(maxsize=64)
def _fields_present(flags: int) -> list[_Field]:
    """Return name and reader of each property that is present, in the order of the header."""
    properties = Basic.Properties
    return [
        ("type" if name == "message_type" else name, _READERS[properties.amqp_type(name)])
        for name in properties.attributes()
        if flags & properties.flags[name]
    ]


def _escaped_text(raw: bytes) -> str:
    """Return bytes that are not UTF-8 as escaped text, cut to the length of a short string."""
    text = raw.decode(errors="backslashreplace")
    return text.encode()[:_MAX_SHORT].decode(errors="ignore")


def _error_text(error: Exception) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__
