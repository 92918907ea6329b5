"""A message as the frames that publish it: the bytes that the driver would make, with less ado."""

import struct
import time
from typing import Any

from pamqp import constants, encode
from pamqp.commands import Basic

from skillq.messages import SCHEMA_VERSION
from skillq.transport.base import Outgoing
from skillq.transport.rabbitmq.fastpath.reader import frame, index_of

_HEADER = struct.Struct(">HHQH")  # class, weight, size of the body, which properties there are
_TIMESTAMP = struct.Struct(">Q")
_PUBLISH = index_of(Basic.Publish) + b"\0\0"
_FLAGS = Basic.Properties.flags
_ALWAYS = ("content_type", "headers", "delivery_mode", "message_id", "timestamp")

# Those of nearly all messages.
USUAL_HEADERS: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
USUAL_TABLE = encode.field_table(USUAL_HEADERS)


def _short(text: str) -> bytes:
    raw = text.encode()
    return bytes([len(raw)]) + raw


_CONTENT_TYPE = _short("application/json")


class Encoder:
    """Makes frames of messages. All that a process sends says the same of who sends it."""

    def __init__(self, app_id: str, user_id: str | None) -> None:
        sender = {"user_id": user_id, "app_id": app_id}
        said = [name for name in sender if sender[name]]
        self._sender = b"".join(_short(str(sender[name])) for name in said)
        self._flags = sum(_FLAGS[name] for name in (*_ALWAYS, *said))

    def publish(
        self,
        channel: int,
        room: int,
        exchange: str,
        key: str,
        message: Outgoing,
        *,
        mandatory: bool,
    ) -> bytes:
        """The frames of a message, each with `room` bytes of its body at most."""
        method = _PUBLISH + _short(exchange) + _short(key) + bytes([mandatory])
        body = message.body
        frames = [
            frame(constants.FRAME_METHOD, channel, method),
            frame(constants.FRAME_HEADER, channel, self._header(message)),
        ]
        frames += [
            frame(constants.FRAME_BODY, channel, body[at : at + room])
            for at in range(0, len(body), room)
        ]
        return b"".join(frames)

    def _header(self, message: Outgoing) -> bytes:
        flags = self._flags | (_FLAGS["message_type"] if message.type else 0)
        usual = message.headers == USUAL_HEADERS
        parts = (
            _HEADER.pack(Basic.frame_id, 0, len(message.body), flags),
            _CONTENT_TYPE,
            USUAL_TABLE if usual else encode.field_table(dict(message.headers)),
            b"\2" if message.persistent else b"\1",
            _short(message.message_id),
            _TIMESTAMP.pack(int(time.time())),  # noqa: TID251 (a shell)
            _short(message.type) if message.type else b"",
            self._sender,
        )
        return b"".join(parts)
