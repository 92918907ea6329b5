"""What the driver cannot decode, made readable, so that it is parked.

Anybody who may publish chooses the bytes of a message's properties and of its routing key. The driver gives
its whole connection up over a string that is not UTF-8 or a timestamp out of range; the broker delivers the
message again, and so for ever. `FrameReader` stands between the socket and the driver: it lets pass what the
driver can decode, and rewrites the frame it cannot, with the complaint in a header and the body as it came.
"""

import asyncio
import struct
from typing import Any

from pamqp import constants, decode, frame
from pamqp.commands import Basic
from pamqp.header import ContentHeader

UNREADABLE_HEADER = "x-skillq-unreadable"

_HEAD = struct.Struct(">BHI")  # kind, channel, size of the payload
_CONTENT = struct.Struct(">HHQ")  # class, weight, size of the body
_DELIVER = struct.pack(">I", Basic.Deliver.index)
_DELIVERIES: dict[bytes, type[Basic.Deliver | Basic.GetOk]] = {
    _DELIVER: Basic.Deliver,
    struct.pack(">I", Basic.GetOk.index): Basic.GetOk,
}
_MAX_SHORT = 255
_KEPT = {"message_type": "type", "message_id": "message_id", "app_id": "app_id"}


class FrameReader:
    """A stream reader, as the driver uses one, that hands out frames the driver can decode."""

    def __init__(self, stream: asyncio.StreamReader) -> None:
        self._stream = stream
        self._ready = b""
        self._complaints: dict[int, str] = {}  # by channel: of the delivery whose header comes next

    def at_eof(self) -> bool:
        return not self._ready and self._stream.at_eof()

    async def read(self) -> bytes:
        rest, self._ready = self._ready + await self._stream.read(), b""
        return rest

    async def readexactly(self, count: int) -> bytes:
        while len(self._ready) < count:
            self._ready += await self._frame()
        wanted, self._ready = self._ready[:count], self._ready[count:]
        return wanted

    async def _frame(self) -> bytes:
        head = await self._stream.readexactly(_HEAD.size)
        if head.startswith(constants.AMQP):
            return head  # no frame: the broker speaks another version
        kind, channel, size = _HEAD.unpack(head)
        payload = await self._stream.readexactly(size + 1)
        if kind == constants.FRAME_METHOD and payload[:4] in _DELIVERIES:
            return self._delivery(channel, payload[:-1]) or head + payload
        if kind == constants.FRAME_HEADER:
            return self._header(channel, payload[:-1]) or head + payload
        return head + payload

    def _delivery(self, channel: int, payload: bytes) -> bytes | None:
        """The same delivery with a key that can be decoded; None where it can be as it is."""
        index, rest = payload[:4], payload[4:]
        if payload.isascii() or _decodes(_DELIVERIES[index](), rest):
            return None
        tag = b""
        if index == _DELIVER:  # to the consumer of this tag, and not to whoever has asked for one
            tag, rest = _short(rest)
            tag = _again(tag)
        number, rest = rest[:9], rest[9:]  # and whether it was delivered before
        exchange, rest = _short(rest)
        key, rest = _short(rest)
        self._complaints[channel] = f"its routing key {_shown(key)} is not UTF-8"
        # By hand: the driver's own encoder knows exchanges only by the names that it likes.
        readable = index + tag + number + _again(exchange) + _again(key) + rest
        head = _HEAD.pack(constants.FRAME_METHOD, channel, len(readable))
        return head + readable + constants.FRAME_END_CHAR

    def _header(self, channel: int, payload: bytes) -> bytes | None:
        """The same header with properties that can be decoded; None where it can be as it is."""
        complaint = self._complaints.pop(channel, None)
        if complaint is None and _decodes(ContentHeader(), payload):
            return None
        _, weight, size = _CONTENT.unpack(payload[: _CONTENT.size])
        kept, complaints = _recover(payload[_CONTENT.size :])
        said = "; ".join([complaint, *complaints] if complaint else complaints)
        headers = kept.pop("headers", {}) | {
            UNREADABLE_HEADER: said or "its properties cannot be decoded"
        }
        return frame.marshal(
            ContentHeader(weight, size, Basic.Properties(headers=headers, **kept)), channel
        )


def _decodes(into: Basic.Deliver | Basic.GetOk | ContentHeader, payload: bytes) -> bool:
    try:
        into.unmarshal(payload)
    except Exception:  # noqa: BLE001 - whatever it is, the driver would fail on it
        return False
    return True


def _recover(data: bytes) -> tuple[dict[str, Any], list[str]]:
    """What of the properties can be read and is of use, and what is wrong with the others."""
    kept: dict[str, Any] = {}
    complaints: list[str] = []
    try:
        flags, data = struct.unpack(">H", data[:2])[0], data[2:]
        for name in Basic.Properties.attributes():
            if flags & Basic.Properties.flags[name]:
                data = _property(name, data, kept, complaints)
    except (struct.error, IndexError):
        complaints.append("its properties end too soon")
    return kept, complaints


def _property(name: str, data: bytes, kept: dict[str, Any], complaints: list[str]) -> bytes:
    """Read one property; return what comes after it."""
    match Basic.Properties.amqp_type(name):
        case "shortstr":
            raw, rest = _short(data)
            if name in _KEPT:
                kept[name] = _text(raw)
            if not _is_utf8(raw):
                complaints.append(f"its {_KEPT.get(name, name)} {_shown(raw)} is not UTF-8")
        case "table":
            rest = data[4 + struct.unpack(">I", data[:4])[0] :]
            try:
                kept[name] = {k: v for k, v in decode.field_table(data)[1].items() if _plain(v)}
            except Exception as error:  # noqa: BLE001 - whatever it is, they cannot be read
                complaints.append(f"its headers cannot be decoded ({_cause(error)})")
        case "timestamp":
            rest = data[8:]
            try:
                decode.timestamp(data)
            except Exception:  # noqa: BLE001 - whatever it is, it is no time
                number = struct.unpack(">Q", data[:8])[0]
                complaints.append(f"its timestamp {number} is out of range")
        case _:
            rest = data[1:]  # an octet
    return rest


def _plain(value: object) -> bool:
    return isinstance(value, str | int)


def _short(data: bytes) -> tuple[bytes, bytes]:
    """A short string, and what comes after it."""
    end = 1 + data[0]
    return data[1:end], data[end:]


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _text(raw: bytes) -> str:
    """As a short string may be: what is not UTF-8 is escaped, and takes more room."""
    text = raw.decode(errors="backslashreplace")
    return text.encode()[:_MAX_SHORT].decode(errors="ignore")


def _again(raw: bytes) -> bytes:
    """The short string as it can be decoded."""
    text = _text(raw).encode()
    return bytes([len(text)]) + text


def _shown(raw: bytes) -> str:
    return repr(raw[:60])[1:]


def _cause(error: Exception) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__
