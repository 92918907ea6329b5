"""The frame reader gives messages to channel handlers, and all other bytes to the driver."""

import asyncio
import gc
import struct
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp import body, commands, frame, header, heartbeat
from pamqp.base import Frame
from pamqp.frame import FrameTypes

from skillq.transport.rabbitmq.fastpath import reader
from skillq.transport.rabbitmq.fastpath.reader import ChannelHandler, FrameReader

HANDLED, OTHER = 7, 8
PROPERTIES = commands.Basic.Properties(message_type="note")


class RecordingHandler(ChannelHandler):
    """Records the bodies of messages and the indexes of methods."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytes] = []
        self.answers: list[bytes] = []

    def handle_message(self, method: bytes, header: bytes, body: bytes) -> None:
        self.bodies.append(body)

    def handle_method(self, index: bytes, payload: bytes) -> bool:
        self.answers.append(index)
        return index == reader.method_index(commands.Basic.Ack)


def message(text: bytes, *parts: bytes, channel: int = HANDLED) -> bytes:
    whole = text + b"".join(parts)
    frames: list[FrameTypes] = [
        commands.Basic.Deliver("t", 1, False, "x", "k"),
        header.ContentHeader(0, len(whole), PROPERTIES),
        *(body.ContentBody(part) for part in (text, *parts) if part),
    ]
    return b"".join(frame.marshal(one, channel) for one in frames)


def method(one: Frame, channel: int = HANDLED) -> bytes:
    return frame.marshal(one, channel)


def read_by_driver(handler: RecordingHandler, *chunks: bytes) -> bytes:
    """Feed bytes to a reader with one handler; return the bytes that the driver reads."""

    async def run() -> bytes:
        reader = FrameReader()
        reader.handlers[HANDLED] = handler
        for chunk in chunks:
            reader.feed_data(chunk)
        reader.feed_eof()
        return await reader.read()

    return asyncio.run(run())


ITEMS = {
    "whole": message(b"one"),
    "in parts": message(b"two", b"and", b"more"),
    "empty": message(b""),
    "confirm": method(commands.Basic.Ack(1)),
    "answer": method(commands.Basic.QosOk()),
    "other": message(b"three", channel=OTHER),
    "heartbeat": frame.marshal(heartbeat.Heartbeat(), 0),
}
BODIES = {"whole": b"one", "in parts": b"twoandmore", "empty": b""}
FOR_DRIVER = ("answer", "other", "heartbeat")


@given(st.lists(st.sampled_from(sorted(ITEMS))), st.lists(st.integers(0, 400)))
def test_handler_and_driver_get_their_frames_in_order_however_the_bytes_are_split(
    names: list[str], cuts: list[int]
) -> None:
    data = b"".join(ITEMS[name] for name in names)
    ends = [*sorted(cuts), len(data)]
    chunks = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    handler = RecordingHandler()
    rest = read_by_driver(handler, *chunks)
    assert rest == b"".join(ITEMS[name] for name in names if name in FOR_DRIVER)
    assert handler.bodies == [BODIES[name] for name in names if name in BODIES]


@pytest.mark.parametrize(
    "last", [commands.Channel.Close(404, "no", 60, 40), commands.Channel.CloseOk()]
)
def test_after_a_channel_is_closed_its_handler_has_ended_and_frames_go_to_the_driver(
    last: Frame,
) -> None:
    handler = RecordingHandler()
    after = message(b"of another channel")
    rest = read_by_driver(handler, message(b"before") + method(last) + after)
    assert rest == method(last) + after
    assert (handler.bodies, handler.ended) == ([b"before"], True)


def test_a_broker_that_sends_only_messages_is_not_considered_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = iter([100.0, 100.5, 101.5, 102.0, 103.0, 103.5])
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr("skillq.transport.rabbitmq.fastpath.reader.time", clock)
    beat = frame.marshal(heartbeat.Heartbeat(), 0)
    handler = RecordingHandler()
    assert read_by_driver(handler, *[message(b"one")] * 5) == beat * 2
    assert len(handler.bodies) == 5


def test_an_incomplete_frame_at_the_end_of_the_stream_gives_the_driver_no_bytes() -> None:
    async def run() -> bytes:
        reader = FrameReader()
        reader.feed_data(b"\1\0\0")
        reader.feed_eof()
        return await reader.read()

    assert asyncio.run(run()) == b""


async def test_the_driver_gets_an_incomplete_read_error_when_the_connection_ends() -> None:
    """The driver first asks `at_eof`; if it is true, the driver ends without a reason."""
    reader = FrameReader()
    reader.feed_data(frame.marshal(heartbeat.Heartbeat(), 0))
    reader.feed_eof()
    await reader.read()
    assert not reader.at_eof()
    with pytest.raises(asyncio.IncompleteReadError):
        await reader.readexactly(1)


def test_a_handler_keeps_no_reference_to_a_handled_message() -> None:
    handler = RecordingHandler()
    read_by_driver(handler, message(b"one"))
    assert b"one" not in gc.get_referents(handler._parts)


def test_a_frame_without_a_valid_end_goes_to_the_driver() -> None:
    broken = message(b"one")[:-1] + b"\0"
    handler = RecordingHandler()
    assert read_by_driver(handler, broken).endswith(b"one\0")
    assert not handler.bodies


def test_a_protocol_header_of_another_version_goes_to_the_driver_unchanged() -> None:
    reply = b"AMQP" + struct.pack(">BBBB", 0, 0, 9, 1)
    assert read_by_driver(RecordingHandler(), reply) == reply
