"""What of the bytes that come is for the lanes, and what is the driver's."""

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

OURS, OTHER = 7, 8
PROPERTIES = commands.Basic.Properties(message_type="note")


class Kept(ChannelHandler):
    """Keeps the bodies of what came."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies: list[bytes] = []
        self.answers: list[bytes] = []

    def handle_message(self, method: bytes, header: bytes, body: bytes) -> None:
        self.bodies.append(body)

    def handle_method(self, index: bytes, payload: bytes) -> bool:
        self.answers.append(index)
        return index == reader.method_index(commands.Basic.Ack)


def message(text: bytes, *parts: bytes, channel: int = OURS) -> bytes:
    whole = text + b"".join(parts)
    frames: list[FrameTypes] = [
        commands.Basic.Deliver("t", 1, False, "x", "k"),
        header.ContentHeader(0, len(whole), PROPERTIES),
        *(body.ContentBody(part) for part in (text, *parts) if part),
    ]
    return b"".join(frame.marshal(one, channel) for one in frames)


def method(one: Frame, channel: int = OURS) -> bytes:
    return frame.marshal(one, channel)


def read(lane: Kept, *chunks: bytes) -> bytes:
    """What the driver reads of it."""

    async def run() -> bytes:
        reader = FrameReader()
        reader.handlers[OURS] = lane
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
DRIVERS = ("answer", "other", "heartbeat")


@given(st.lists(st.sampled_from(sorted(ITEMS))), st.lists(st.integers(0, 400)))
def test_however_the_bytes_are_cut_each_gets_what_is_its_own_in_order(
    names: list[str], cuts: list[int]
) -> None:
    data = b"".join(ITEMS[name] for name in names)
    ends = [*sorted(cuts), len(data)]
    chunks = [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    lane = Kept()
    left = read(lane, *chunks)
    assert left == b"".join(ITEMS[name] for name in names if name in DRIVERS)
    assert lane.bodies == [BODIES[name] for name in names if name in BODIES]


@pytest.mark.parametrize(
    "last", [commands.Channel.Close(404, "no", 60, 40), commands.Channel.CloseOk()]
)
def test_once_a_channel_is_closed_its_lane_has_ended_and_its_number_is_the_drivers(
    last: Frame,
) -> None:
    lane = Kept()
    after = message(b"of another channel")
    left = read(lane, message(b"before") + method(last) + after)
    assert left == method(last) + after
    assert (lane.bodies, lane.ended) == ([b"before"], True)


def test_a_broker_that_sends_nothing_but_messages_is_not_taken_for_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = iter([100.0, 100.5, 101.5, 102.0, 103.0, 103.5])
    clock = SimpleNamespace(monotonic=lambda: next(seconds))
    monkeypatch.setattr("skillq.transport.rabbitmq.fastpath.reader.time", clock)
    beat = frame.marshal(heartbeat.Heartbeat(), 0)
    lane = Kept()
    assert read(lane, *[message(b"one")] * 5) == beat * 2
    assert len(lane.bodies) == 5


def test_before_any_channel_is_open_the_driver_is_told_nothing_that_did_not_come() -> None:
    async def run() -> bytes:
        reader = FrameReader()
        reader.feed_data(b"\1\0\0")
        reader.feed_eof()
        return await reader.read()

    assert asyncio.run(run()) == b""


async def test_where_the_connection_ends_in_a_frame_the_driver_is_told_so() -> None:
    """It asks first whether there is more, and where there is none ends without a reason."""
    reader = FrameReader()
    reader.feed_data(frame.marshal(heartbeat.Heartbeat(), 0))
    reader.feed_eof()
    await reader.read()
    assert not reader.at_eof()
    with pytest.raises(asyncio.IncompleteReadError):
        await reader.readexactly(1)


def test_a_lane_keeps_no_message_that_it_has_handed_over() -> None:
    lane = Kept()
    read(lane, message(b"one"))
    assert b"one" not in gc.get_referents(lane._parts)


def test_a_frame_that_does_not_end_as_frames_do_is_for_the_driver_to_complain_of() -> None:
    broken = message(b"one")[:-1] + b"\0"
    lane = Kept()
    assert read(lane, broken).endswith(b"one\0")
    assert not lane.bodies


def test_what_a_broker_of_another_version_says_reaches_the_driver_as_it_is() -> None:
    said = b"AMQP" + struct.pack(">BBBB", 0, 0, 9, 1)
    assert read(Kept(), said) == said
