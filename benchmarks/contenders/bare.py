"""The messages and commits of a skillq task with the least code: blocking sockets.

A message is an id. Its frames are prepared, only the body of a received message is read, and confirms are not waited
for. One task at a time, this is the time of broker, disk and four context switches.
"""

import sys
from collections.abc import Iterator
from itertools import cycle
from socket import IPPROTO_TCP, TCP_NODELAY, create_connection
from struct import Struct
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from pamqp import base, commands, constants, frame, header

from benchmarks.contenders.managed import QUORUM, RESULTS, SUBMISSIONS, WORKERS, open_store
from benchmarks.contenders.setting import DURABLE, PATIENCE, REPLIES, URL

CHANNEL = 1
END = bytes([constants.FRAME_END])
ID_BYTES = 32
_HEAD = Struct(">BHI")  # of a frame: its type, its channel, and the size of its payload
_DELIVER = Struct(">HH").pack(*divmod(commands.Basic.Deliver.index, 1 << 16))


class Channel:
    """A connection with one channel in confirm mode."""

    def __init__(self) -> None:
        url = urlsplit(URL)
        self._socket = create_connection((url.hostname, url.port), PATIENCE)
        self._socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        self._frames = self._read()
        self._socket.sendall(frame.marshal(header.ProtocolHeader(), 0))
        next(self._frames)  # Connection.Start
        credentials = f"\0{unquote(url.username or 'guest')}\0{unquote(url.password or 'guest')}"
        self._call(commands.Connection.StartOk({}, "PLAIN", credentials, "en_US"), 0)
        self._send(commands.Connection.TuneOk(CHANNEL, 131_072, 0), 0)
        self._call(commands.Connection.Open(unquote(url.path[1:])), 0)
        self._call(commands.Channel.Open())
        self._call(commands.Confirm.Select())

    def declare(self, name: str, *, quorum: bool = False) -> None:
        arguments = QUORUM if quorum and DURABLE else {}
        self._call(commands.Queue.Declare(queue=name, durable=True, arguments=arguments))

    def consume(self, name: str) -> None:
        self._call(commands.Basic.Consume(queue=name, consumer_tag=name))

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def deliveries(self) -> Iterator[tuple[str, bytes, bytes]]:
        """Yield the queue, the frame that acknowledges the message, and the body."""
        queue, ack = "", b""
        for frame_type, payload in self._frames:
            if frame_type == constants.FRAME_METHOD and payload.startswith(_DELIVER):
                tag_at = 5 + payload[4]
                queue = payload[5:tag_at].decode()
                tag = int.from_bytes(payload[tag_at : tag_at + 8])
                ack = frame.marshal(commands.Basic.Ack(tag), CHANNEL)
            elif frame_type == constants.FRAME_BODY:
                yield queue, ack, payload

    def _send(self, method: base.Frame, channel: int = CHANNEL) -> None:
        self.send(frame.marshal(method, channel))

    def _call(self, method: base.Frame, channel: int = CHANNEL) -> None:
        self._send(method, channel)
        next(self._frames)

    def _read(self) -> Iterator[tuple[int, bytes]]:
        """Yield the type and the payload of each received frame."""
        data = b""
        while True:
            at = 0
            while len(data) - at > _HEAD.size:
                frame_type, _, size = _HEAD.unpack_from(data, at)
                begin, end = at + _HEAD.size, at + _HEAD.size + size
                if end >= len(data):
                    break
                yield frame_type, data[begin:end]
                at = end + len(END)
            more = self._socket.recv(1 << 16)
            if not more:
                raise ConnectionError("the broker has closed the connection")
            data = data[at:] + more


def message_start(key: str, *, persistent: bool = True) -> bytes:
    """Return the bytes of a message to a queue that precede the id."""
    properties = commands.Basic.Properties(delivery_mode=2 if persistent else 1)
    return (
        frame.marshal(commands.Basic.Publish(routing_key=key), CHANNEL)
        + frame.marshal(header.ContentHeader(0, ID_BYTES, properties), CHANNEL)
        + _HEAD.pack(constants.FRAME_BODY, CHANNEL, ID_BYTES)
    )


def manage() -> None:
    store, channel = open_store(), Channel()
    store.isolation_level = None  # each statement is a transaction
    assignments = cycle([(worker, message_start(worker)) for worker in WORKERS])
    event = message_start(REPLIES, persistent=False)
    for name in (SUBMISSIONS, RESULTS):
        channel.declare(name, quorum=True)
        channel.consume(name)
    for queue, ack, id in channel.deliveries():
        if queue == SUBMISSIONS:
            worker, message = next(assignments)
            store.execute("INSERT INTO tasks VALUES (?, ?, NULL)", (id.decode(), worker))
        else:
            message = event
            store.execute(
                "UPDATE tasks SET output = 'ok' WHERE id = ? AND output IS NULL", (id.decode(),)
            )
        channel.send(message + id + END + ack)


def work(name: str) -> None:
    channel = Channel()
    channel.declare(name)
    channel.consume(name)
    result = message_start(RESULTS)
    for _, ack, id in channel.deliveries():
        channel.send(result + id + END + ack)


class Client:
    def __init__(self) -> None:
        self._channel = Channel()
        self._channel.declare(SUBMISSIONS, quorum=True)
        self._channel.declare(REPLIES)
        self._channel.consume(REPLIES)
        self._submission = message_start(SUBMISSIONS)
        self._events = self._channel.deliveries()

    def many(self, count: int) -> int:
        missing = {uuid4().hex.encode() for _ in range(count)}
        for id in missing:
            self._channel.send(self._submission + id + END)
        while missing:
            missing.discard(self._next_id())
        return count

    def one(self) -> None:
        id = uuid4().hex.encode()
        self._channel.send(self._submission + id + END)
        while self._next_id() != id:
            pass

    def _next_id(self) -> bytes:
        _, ack, id = next(self._events)
        self._channel.send(ack)
        return id


if __name__ == "__main__":
    work(sys.argv[1]) if sys.argv[1:] else manage()
