"""Encoding of a message as the frames that publish it: the driver's bytes, in less time.

See docs/adr/0018-pass-messages-by-the-driver.md.
"""

import struct
import time
from typing import Any

from pamqp import constants, encode
from pamqp.commands import Basic

from skillq.messages import SCHEMA_VERSION
from skillq.transport.base import Outgoing
from skillq.transport.rabbitmq.fastpath.reader import make_frame, method_index

_HEADER = struct.Struct(">HHQH")  # class, weight, size of the body, flags of the properties
_TIMESTAMP = struct.Struct(">Q")
_PUBLISH = method_index(Basic.Publish) + b"\0\0"
_FLAGS = Basic.Properties.flags
_PROPERTIES_OF_ALL = ("content_type", "headers", "delivery_mode", "message_id", "timestamp")

# Nearly all messages have these headers.
DEFAULT_HEADERS: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
DEFAULT_HEADER_TABLE = encode.field_table(DEFAULT_HEADERS)


def _short_string(text: str) -> bytes:
    raw = text.encode()
    return bytes([len(raw)]) + raw


_CONTENT_TYPE = _short_string("application/json")


class Encoder:
    """Encodes messages as frames, all with the same application and user."""

    def __init__(self, app_id: str, user_id: str | None) -> None:
        sender = {"user_id": user_id, "app_id": app_id}
        names = [name for name in sender if sender[name]]
        self._sender = b"".join(_short_string(str(sender[name])) for name in names)
        self._flags = sum(_FLAGS[name] for name in (*_PROPERTIES_OF_ALL, *names))

    def publish(
        self,
        channel: int,
        max_payload: int,
        exchange: str,
        key: str,
        message: Outgoing,
        *,
        mandatory: bool,
    ) -> bytes:
        """Return the frames of a message; a frame holds at most `max_payload` bytes of the body.

        Raises:
            ValueError: The exchange, the key or a property is longer than 255 bytes.
        """
        method = _PUBLISH + _short_string(exchange) + _short_string(key) + bytes([mandatory])
        body = message.body
        frames = [
            make_frame(constants.FRAME_METHOD, channel, method),
            make_frame(constants.FRAME_HEADER, channel, self._header(message)),
        ]
        frames += [
            make_frame(constants.FRAME_BODY, channel, body[start : start + max_payload])
            for start in range(0, len(body), max_payload)
        ]
        return b"".join(frames)

    def _header(self, message: Outgoing) -> bytes:
        flags = self._flags | (_FLAGS["message_type"] if message.type else 0)
        is_default = message.headers == DEFAULT_HEADERS
        parts = (
            _HEADER.pack(Basic.frame_id, 0, len(message.body), flags),
            _CONTENT_TYPE,
            DEFAULT_HEADER_TABLE if is_default else encode.field_table(dict(message.headers)),
            b"\2" if message.persistent else b"\1",
            _short_string(message.message_id),
            _TIMESTAMP.pack(int(time.time())),  # noqa: TID251 (a shell)
            _short_string(message.type) if message.type else b"",
            self._sender,
        )
        return b"".join(parts)
