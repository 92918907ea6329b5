"""What is said of a message that came: what of it can be decoded, and complaints of the rest.

Anybody who may publish chooses the bytes of a message's properties and of its routing key. Whatever they are, it
becomes a delivery that can be parked: what nobody takes the broker delivers again, and so for ever.
"""

import struct
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from pamqp import decode
from pamqp.commands import Basic

from skillq.transport.base import Delivery
from skillq.transport.rabbitmq.fastpath.encode import USUAL_HEADERS, USUAL_TABLE
from skillq.transport.rabbitmq.fastpath.reader import index_of

_DELIVER = index_of(Basic.Deliver)
_DELIVERED = struct.Struct(">Q?")  # tag, and whether it was delivered before
_FLAGS = struct.Struct(">12xH")  # behind class, weight and size of the body
_MORE_FLAGS = 1  # follow
_MAX_SHORT = 255


def read_delivery(
    method: bytes, header: bytes, body: bytes, queue: str, giver: object
) -> tuple[int, Delivery]:
    """A delivery's tag, and the delivery; its token is the giver and the tag."""
    at = len(_DELIVER)
    if method.startswith(_DELIVER):
        at += 1 + method[at]  # its consumer's name
    tag, redelivered = _DELIVERED.unpack_from(method, at)
    told = ParsedFields()
    told.read(method, at + _DELIVERED.size, _ADDRESS)
    told.read_properties(header)
    found = told.found
    return tag, Delivery(
        body=body,
        type=found.get("type", ""),
        queue=queue,
        exchange=found["exchange"],
        routing_key=found["routing key"],
        redelivered=redelivered,
        headers=found.get("headers", {}),
        message_id=found.get("message_id", ""),
        app_id=found.get("app_id", ""),
        token=(giver, tag),
        unreadable="; ".join(told.complaints),
    )


def read_return(method: bytes, header: bytes) -> tuple[str, str, str]:
    """Exchange, routing key and message id of a message that came back."""
    at = len(_DELIVER) + 2  # behind the reply's code
    at += 1 + method[at]
    told = ParsedFields()
    told.read(method, at, _ADDRESS)
    told.read_properties(header)
    return told.found["exchange"], told.found["routing key"], told.found.get("message_id", "")


class ParsedFields:
    """What was found in the fields of a message, by their names."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}
        self.complaints: list[str] = []

    def read_properties(self, header: bytes) -> None:
        try:
            (flags,) = _FLAGS.unpack_from(header)
            if flags & _MORE_FLAGS:
                self.complaints.append("its properties are more than there are")
                return
            self.read(header, _FLAGS.size, _present(flags))
        except (struct.error, IndexError):
            self.complaints.append("its properties end too soon")
        if self.complaints and (headers := self.found.get("headers")):
            self.found["headers"] = {k: v for k, v in headers.items() if isinstance(v, str | int)}

    def read(self, data: bytes, at: int, fields: "Iterable[_Field]") -> None:
        for name, read in fields:
            at = read(self, name, data, at)

    def short(self, name: str, data: bytes, at: int) -> int:
        end = at + 1 + data[at]
        raw = data[at + 1 : end]
        try:
            self.found[name] = raw.decode()
        except UnicodeDecodeError:
            self.found[name] = _escaped(raw)
            self.complaints.append(f"its {name} {repr(raw[:60])[1:]} is not UTF-8")
        return end

    def table(self, name: str, data: bytes, at: int) -> int:
        end = at + 4 + int.from_bytes(data[at : at + 4])
        raw = data[at:end]
        try:
            usual = raw == USUAL_TABLE
            self.found[name] = dict(USUAL_HEADERS) if usual else decode.field_table(raw)[1]
        except Exception as error:  # noqa: BLE001 - whatever it is, they cannot be read
            self.complaints.append(f"its {name} cannot be decoded ({_cause(error)})")
        return end

    def timestamp(self, name: str, data: bytes, at: int) -> int:
        end = at + 8
        try:
            decode.timestamp(data[at:end])
        except Exception:  # noqa: BLE001 - whatever it is, it is no time
            number = struct.unpack_from(">Q", data, at)[0]
            self.complaints.append(f"its {name} {number} is out of range")
        return end

    def octet(self, name: str, data: bytes, at: int) -> int:
        self.found[name] = data[at]
        return at + 1


_Field = tuple[str, Callable[[ParsedFields, str, bytes, int], int]]
_ADDRESS: list[_Field] = [("exchange", ParsedFields.short), ("routing key", ParsedFields.short)]
_READERS = {
    "shortstr": ParsedFields.short,
    "table": ParsedFields.table,
    "timestamp": ParsedFields.timestamp,
    "octet": ParsedFields.octet,
}


@lru_cache(maxsize=64)
def _present(flags: int) -> list[_Field]:
    """The properties that there are, in order."""
    kinds = Basic.Properties
    return [
        ("type" if name == "message_type" else name, _READERS[kinds.amqp_type(name)])
        for name in kinds.attributes()
        if flags & kinds.flags[name]
    ]


def _escaped(raw: bytes) -> str:
    """As long as a short string may be: so it takes more room."""
    text = raw.decode(errors="backslashreplace")
    return text.encode()[:_MAX_SHORT].decode(errors="ignore")


def _cause(error: Exception) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__
