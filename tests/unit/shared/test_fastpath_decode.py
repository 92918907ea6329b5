"""Any properties and routing keys become a delivery, marked unreadable if invalid."""

import os
import struct
from contextlib import suppress

from hypothesis import example, given
from hypothesis import strategies as st
from pamqp import commands, header
from pamqp.base import Frame

from skillq.messages import SCHEMA_VERSION
from skillq.transport import Delivery, Outgoing
from skillq.transport.rabbitmq.fastpath.decode import read_delivery
from skillq.transport.rabbitmq.fastpath.encode import Encoder

DELIVER = struct.pack(">I", commands.Basic.Deliver.index) + b"\x01t"
GET_OK = struct.pack(">I", commands.Basic.GetOk.index)
short = st.binary(max_size=255).map(lambda one: bytes([len(one)]) + one)


def decode_delivery(
    properties: bytes = b"\0\0", start: bytes = DELIVER, address: bytes = b"\1x\1k"
) -> Delivery:
    method = start + struct.pack(">Q?", 2**40, True) + address
    tag, delivery = read_delivery(
        method, struct.pack(">HHQ", 60, 0, 1) + properties, b"{", "q", None
    )
    assert (tag, delivery.redelivered) == (2**40, True)
    assert (delivery.body, delivery.queue, delivery.token) == (b"{", "q", (None, tag))
    return delivery


def read_by_driver(
    into: Frame | header.ContentHeader, data: bytes
) -> Frame | header.ContentHeader | None:
    with suppress(Exception):
        into.unmarshal(data)
        return into
    return None


# Flags of properties and plausible values: random bytes would hardly ever be a message.
FLAGS = st.integers(0, 2**14 - 1).map(lambda bits: struct.pack(">H", bits << 2))
TABLES = st.sampled_from([b"\0\0\0\0", b"\0\0\0\4\1at\1", b"\0\0\0\3\1\xfft"])


@given(FLAGS, st.lists(short | TABLES | st.binary(max_size=12), max_size=8).map(b"".join))
@example(b"\0\0", b"")
@example(struct.pack(">H", 1 << 6), struct.pack(">Q", 2**63))
def test_any_properties_are_decoded_as_by_the_driver_or_marked_unreadable(
    flags: bytes, rest: bytes
) -> None:
    got = decode_delivery(flags + rest)
    read = read_by_driver(header.ContentHeader(), bytes(12) + flags + rest)
    assert (not got.unreadable) is (read is not None)
    if isinstance(read, header.ContentHeader):
        expected = read.properties
        assert (got.type, got.app_id) == (expected.message_type or "", expected.app_id or "")
        assert (got.message_id, got.headers) == (expected.message_id or "", expected.headers or {})


@given(st.binary(max_size=400))
@example(b"\0\x80\xff" + b"\xc3" * 255)  # a message id
def test_any_bytes_become_a_delivery_that_fits_into_the_dead_letter_queue(
    properties: bytes,
) -> None:
    got = decode_delivery(properties)
    assert all(len(text.encode()) <= 255 for text in (got.type, got.message_id, got.app_id))
    if got.unreadable:
        assert all(isinstance(value, str | int) for value in got.headers.values())


def test_more_flags_than_properties_make_a_delivery_unreadable() -> None:
    more = struct.pack(">HH", 1 << 5 | 1, 0)
    assert "more than there are" in decode_delivery(more + b"\4note").unreadable


def test_after_a_fork_each_process_makes_message_ids_of_its_own() -> None:
    read, write = os.pipe()
    if not (child := os.fork()):
        os.write(write, Outgoing(b"", "note").message_id.encode())
        os._exit(0)
    os.waitpid(child, 0)
    child_id, own_id = os.read(read, 100).decode(), Outgoing(b"", "note").message_id
    assert child_id.partition("-")[0] != own_id.partition("-")[0]


@given(short, short, st.booleans())
def test_any_routing_key_is_decoded_as_by_the_driver_or_marked_unreadable(
    exchange: bytes, key: bytes, is_get_ok: bool
) -> None:
    got = decode_delivery(start=GET_OK if is_get_ok else DELIVER, address=exchange + key)
    try:
        texts = (exchange[1:].decode(), key[1:].decode())
    except UnicodeDecodeError:
        assert "is not UTF-8" in got.unreadable
        assert len(got.routing_key.encode()) <= 255
    else:
        assert (got.exchange, got.routing_key, got.unreadable) == (*texts, "")


def test_an_encoded_message_is_decoded_unchanged_with_headers_of_its_own() -> None:
    frames = Encoder("app", "user").publish(
        1, 100, "x", "k", Outgoing(b"", "note", message_id="7"), mandatory=True
    )
    properties = frames[frames.index(b"\xce") + 1 + 7 + 12 : -1]
    first, second = decode_delivery(properties), decode_delivery(properties)
    assert (first.type, first.message_id, first.app_id) == ("note", "7", "app")
    assert first.headers == {"schema_version": SCHEMA_VERSION}
    assert first.headers is not second.headers
