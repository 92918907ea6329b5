"""Whatever bytes come as properties or as a routing key: a delivery, and a complaint of what is wrong."""

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


def delivered(
    properties: bytes = b"\0\0", start: bytes = DELIVER, address: bytes = b"\1x\1k"
) -> Delivery:
    method = start + struct.pack(">Q?", 2**40, True) + address
    tag, delivery = read_delivery(
        method, struct.pack(">HHQ", 60, 0, 1) + properties, b"{", "q", None
    )
    assert (tag, delivery.redelivered) == (2**40, True)
    assert (delivery.body, delivery.queue, delivery.token) == (b"{", "q", (None, tag))
    return delivery


def as_the_driver_reads(
    into: Frame | header.ContentHeader, data: bytes
) -> Frame | header.ContentHeader | None:
    with suppress(Exception):
        into.unmarshal(data)
        return into
    return None


# Some property, and something for it: bytes at random would hardly ever be a message.
FLAGS = st.integers(0, 2**14 - 1).map(lambda bits: struct.pack(">H", bits << 2))
TABLES = st.sampled_from([b"\0\0\0\0", b"\0\0\0\4\1at\1", b"\0\0\0\3\1\xfft"])


@given(FLAGS, st.lists(short | TABLES | st.binary(max_size=12), max_size=8).map(b"".join))
@example(b"\0\0", b"")
@example(struct.pack(">H", 1 << 6), struct.pack(">Q", 2**63))
def test_any_properties_are_read_as_the_driver_reads_them_or_complained_of(
    flags: bytes, rest: bytes
) -> None:
    got = delivered(flags + rest)
    read = as_the_driver_reads(header.ContentHeader(), bytes(12) + flags + rest)
    assert (not got.unreadable) is (read is not None)
    if isinstance(read, header.ContentHeader):
        said = read.properties
        assert (got.type, got.app_id) == (said.message_type or "", said.app_id or "")
        assert (got.message_id, got.headers) == (said.message_id or "", said.headers or {})


@given(st.binary(max_size=400))
@example(b"\0\x80\xff" + b"\xc3" * 255)  # a message id
def test_any_bytes_at_all_become_a_delivery_that_can_be_parked(properties: bytes) -> None:
    got = delivered(properties)
    assert all(len(text.encode()) <= 255 for text in (got.type, got.message_id, got.app_id))
    if got.unreadable:
        assert all(isinstance(value, str | int) for value in got.headers.values())


def test_more_flags_than_there_are_properties_are_complained_of() -> None:
    more = struct.pack(">HH", 1 << 5 | 1, 0)
    assert "more than there are" in delivered(more + b"\4note").unreadable


def test_after_a_fork_each_process_has_names_of_its_own() -> None:
    read, write = os.pipe()
    if not (child := os.fork()):
        os.write(write, Outgoing(b"", "note").message_id.encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs, ours = os.read(read, 100).decode(), Outgoing(b"", "note").message_id
    assert theirs.partition("-")[0] != ours.partition("-")[0]


@given(short, short, st.booleans())
def test_any_routing_key_is_read_as_the_driver_reads_it_or_complained_of(
    exchange: bytes, key: bytes, asked: bool
) -> None:
    got = delivered(start=GET_OK if asked else DELIVER, address=exchange + key)
    try:
        texts = (exchange[1:].decode(), key[1:].decode())
    except UnicodeDecodeError:
        assert "is not UTF-8" in got.unreadable
        assert len(got.routing_key.encode()) <= 255
    else:
        assert (got.exchange, got.routing_key, got.unreadable) == (*texts, "")


def test_what_we_publish_is_read_as_it_was_sent_and_its_headers_are_its_own() -> None:
    frames = Encoder("app", "user").publish(
        1, 100, "x", "k", Outgoing(b"", "note", message_id="7"), mandatory=True
    )
    properties = frames[frames.index(b"\xce") + 1 + 7 + 12 : -1]
    first, second = delivered(properties), delivered(properties)
    assert (first.type, first.message_id, first.app_id) == ("note", "7", "app")
    assert first.headers == {"schema_version": SCHEMA_VERSION}
    assert first.headers is not second.headers
