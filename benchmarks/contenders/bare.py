"""The four messages and two commits of a skillq task, and as little else as can be: sockets that block, no event loop.

A message is an id, its frames are made beforehand, of what comes only the body is looked at, and nobody waits for a
confirm. One at a time, it is what broker, disk and four changes of process take.
"""

import sys
from collections.abc import Iterator
from itertools import cycle
from socket import IPPROTO_TCP, TCP_NODELAY, create_connection
from struct import Struct
from urllib.parse import unquote, urlsplit
from uuid import uuid4

from pamqp import base, commands, constants, frame, header

from benchmarks.contenders.managed import RESULTS, SAFE, SUBMISSIONS, WORKERS, open_store
from benchmarks.contenders.setting import DURABLE, PATIENCE, REPLIES, URL

CHANNEL = 1
END = bytes([constants.FRAME_END])
ID_BYTES = 32
_HEAD = Struct(">BHI")  # of a frame: its kind, channel, and the size of what follows
_DELIVER = Struct(">HH").pack(*divmod(commands.Basic.Deliver.index, 1 << 16))


class Channel:
    """A connection with one channel; what is published there is confirmed."""

    def __init__(self) -> None:
        url = urlsplit(URL)
        self._socket = create_connection((url.hostname, url.port), PATIENCE)
        self._socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        self._frames = self._read()
        self._socket.sendall(frame.marshal(header.ProtocolHeader(), 0))
        next(self._frames)  # Connection.Start
        who = f"\0{unquote(url.username or 'guest')}\0{unquote(url.password or 'guest')}"
        self._ask(commands.Connection.StartOk({}, "PLAIN", who, "en_US"), 0)
        self._send(commands.Connection.TuneOk(CHANNEL, 131_072, 0), 0)
        self._ask(commands.Connection.Open(unquote(url.path[1:])), 0)
        self._ask(commands.Channel.Open())
        self._ask(commands.Confirm.Select())

    def declare(self, name: str, *, safe: bool = False) -> None:
        arguments = SAFE if safe and DURABLE else {}
        self._ask(commands.Queue.Declare(queue=name, durable=True, arguments=arguments))

    def consume(self, name: str) -> None:
        self._ask(commands.Basic.Consume(queue=name, consumer_tag=name))

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def deliveries(self) -> Iterator[tuple[str, bytes, bytes]]:
        """From which queue, what acknowledges it, and the body."""
        queue, ack = "", b""
        for kind, payload in self._frames:
            if kind == constants.FRAME_METHOD and payload.startswith(_DELIVER):
                tag_at = 5 + payload[4]
                queue = payload[5:tag_at].decode()
                tag = int.from_bytes(payload[tag_at : tag_at + 8])
                ack = frame.marshal(commands.Basic.Ack(tag), CHANNEL)
            elif kind == constants.FRAME_BODY:
                yield queue, ack, payload

    def _send(self, method: base.Frame, channel: int = CHANNEL) -> None:
        self.send(frame.marshal(method, channel))

    def _ask(self, method: base.Frame, channel: int = CHANNEL) -> None:
        self._send(method, channel)
        next(self._frames)

    def _read(self) -> Iterator[tuple[int, bytes]]:
        """The frames that come."""
        data = b""
        while True:
            at = 0
            while len(data) - at > _HEAD.size:
                kind, _, size = _HEAD.unpack_from(data, at)
                begin, end = at + _HEAD.size, at + _HEAD.size + size
                if end >= len(data):
                    break
                yield kind, data[begin:end]
                at = end + len(END)
            more = self._socket.recv(1 << 16)
            if not more:
                raise ConnectionError("the broker has closed the connection")
            data = data[at:] + more


def opening(key: str, *, persistent: bool = True) -> bytes:
    """All of a message to a queue that comes before an id."""
    properties = commands.Basic.Properties(delivery_mode=2 if persistent else 1)
    return (
        frame.marshal(commands.Basic.Publish(routing_key=key), CHANNEL)
        + frame.marshal(header.ContentHeader(0, ID_BYTES, properties), CHANNEL)
        + _HEAD.pack(constants.FRAME_BODY, CHANNEL, ID_BYTES)
    )


def manage() -> None:
    store, channel = open_store(), Channel()
    store.isolation_level = None  # a statement, a transaction
    assignments = cycle([(worker, opening(worker)) for worker in WORKERS])
    event = opening(REPLIES, persistent=False)
    for name in (SUBMISSIONS, RESULTS):
        channel.declare(name, safe=True)
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
    result = opening(RESULTS)
    for _, ack, id in channel.deliveries():
        channel.send(result + id + END + ack)


class Client:
    def __init__(self) -> None:
        self._channel = Channel()
        self._channel.declare(SUBMISSIONS, safe=True)
        self._channel.declare(REPLIES)
        self._channel.consume(REPLIES)
        self._submission = opening(SUBMISSIONS)
        self._events = self._channel.deliveries()

    def many(self, count: int) -> int:
        missing = {uuid4().hex.encode() for _ in range(count)}
        for id in missing:
            self._channel.send(self._submission + id + END)
        while missing:
            missing.discard(self._hear())
        return count

    def one(self) -> None:
        id = uuid4().hex.encode()
        self._channel.send(self._submission + id + END)
        while self._hear() != id:
            pass

    def _hear(self) -> bytes:
        _, ack, id = next(self._events)
        self._channel.send(ack)
        return id


if __name__ == "__main__":
    work(sys.argv[1]) if sys.argv[1:] else manage()
