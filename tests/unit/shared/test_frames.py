"""Whatever bytes come as properties or as a routing key, the driver decodes what it is given."""

import asyncio
import struct

from hypothesis import given
from hypothesis import strategies as st
from pamqp import commands, frame, header

from skillq.transport.frames import UNREADABLE_HEADER, FrameReader


def raw(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, 7, len(payload)) + payload + b"\xce"


def through(*frames: bytes) -> list[bytes]:
    """The frames as the driver reads them."""

    async def read() -> list[bytes]:
        stream = asyncio.StreamReader()
        stream.feed_data(b"".join(frames))
        stream.feed_eof()
        reader = FrameReader(stream)
        taken = []
        while not reader.at_eof():
            head = await reader.readexactly(1) + await reader.readexactly(6)
            size = frame.frame_parts(head)[2]
            assert size is not None
            taken.append(head + await reader.readexactly(size + 1))
        return taken

    return asyncio.run(read())


@given(st.binary(max_size=400))
def test_any_properties_become_a_header_that_the_driver_decodes(given: bytes) -> None:
    sent = raw(2, struct.pack(">HHQ", 60, 0, 5) + given)
    (got,) = through(sent)
    _, channel, read = frame.unmarshal(got)
    assert isinstance(read, header.ContentHeader)
    assert (channel, read.body_size) == (7, 5)
    assert (got == sent) is (UNREADABLE_HEADER not in (read.properties.headers or {}))


short = st.binary(max_size=255).map(lambda one: bytes([len(one)]) + one)


@given(short, short)
def test_a_message_that_was_asked_for_is_decoded_whatever_its_routing_key(
    exchange: bytes, key: bytes
) -> None:
    got_one = struct.pack(">IQ?", commands.Basic.GetOk.index, 2**40, True)
    got_one += exchange + key + struct.pack(">I", 3)
    _, _, read = frame.unmarshal(through(raw(1, got_one))[0])
    assert isinstance(read, commands.Basic.GetOk)
    assert (read.delivery_tag, read.redelivered, read.message_count) == (2**40, 1, 3)


@given(short, short)
def test_any_routing_key_becomes_a_delivery_that_the_driver_decodes(
    exchange: bytes, key: bytes
) -> None:
    deliver = struct.pack(">I", commands.Basic.Deliver.index)
    deliver += b"\x01t" + struct.pack(">Q?", 2**40, True) + exchange + key
    content = struct.pack(">HHQ", 60, 0, 0) + b"\0\0"
    sent = [raw(1, deliver), raw(2, content)]
    got = through(*sent)
    _, _, delivery = frame.unmarshal(got[0])
    _, _, read = frame.unmarshal(got[1])
    assert isinstance(delivery, commands.Basic.Deliver)
    assert isinstance(read, header.ContentHeader)
    assert (delivery.consumer_tag, delivery.delivery_tag, delivery.redelivered) == ("t", 2**40, 1)
    assert (got == sent) is (UNREADABLE_HEADER not in (read.properties.headers or {}))


def test_what_a_broker_of_another_version_says_reaches_the_driver_as_it_is() -> None:
    async def read() -> bytes:
        stream = asyncio.StreamReader()
        stream.feed_data(b"AMQP\0\0\x09\x01")
        stream.feed_eof()
        reader = FrameReader(stream)
        head = await reader.readexactly(1) + await reader.readexactly(6)
        return head + await reader.read()

    assert asyncio.run(read()) == b"AMQP\0\0\x09\x01"
