"""The port to the broker. One contract suite holds both implementations to it: `tests/contract/test_transport.py`.

Semantics are RabbitMQ's: a message goes to every queue with a matching binding; a queue hands each
message to one consumer, at most `prefetch` unacknowledged at a time; what is not acknowledged when
its consumer, channel or process goes away is delivered again with `redelivered` set.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from itertools import count
from types import TracebackType
from typing import Protocol, Self
from uuid import uuid4

from skillq.errors import MalformedMessage
from skillq.messages import SCHEMA_VERSION, Message, decode, encode, shorten
from skillq.runtime.clock import steady_clock
from skillq.topology import DEAD_LETTERS, Topology

REASON_HEADER = "x-skillq-reason"
QUEUE_HEADER = "x-skillq-queue"
EXCHANGE_HEADER = "x-skillq-exchange"
ROUTING_KEY_HEADER = "x-skillq-routing-key"
TIME_HEADER = "x-skillq-parked-at"  # seconds since the epoch
DEAD_LETTER_HEADERS = (REASON_HEADER, QUEUE_HEADER, EXCHANGE_HEADER, ROUTING_KEY_HEADER, TIME_HEADER)
MAX_REASON = 1000  # it may quote what came, of any length; headers must fit into one frame
MAX_KEPT_HEADERS = 64 * 1024  # bytes; half a frame
_HEADER_OVERHEAD = 16

HeaderValue = str | int

_DEFAULT_HEADERS: Mapping[str, HeaderValue] = {"schema_version": SCHEMA_VERSION}
_message_numbers = count(1)
_id_prefix = ""


def _new_id_prefix() -> None:
    global _id_prefix  # noqa: PLW0603 - one a process
    _id_prefix = uuid4().hex


_new_id_prefix()
if hasattr(os, "register_at_fork"):  # clients run where there is no fork, too
    os.register_at_fork(after_in_child=_new_id_prefix)


def new_message_id() -> str:
    """As good as a random one, and made of no system call."""
    return f"{_id_prefix}-{next(_message_numbers)}"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message on its way out: the body and what goes into its AMQP properties."""

    body: bytes
    type: str
    headers: Mapping[str, HeaderValue] = field(default_factory=lambda: _DEFAULT_HEADERS)
    message_id: str = field(default_factory=new_message_id)
    persistent: bool = True

    @classmethod
    def from_message(cls, message: Message, *, persistent: bool = True) -> Self:
        return cls(encode(message), message.type, persistent=persistent)


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """One handing-over of a message to this process. `token` is the transport's own.

    `unreadable` says what is wrong with properties that cannot be decoded; the body is as it came.
    """

    body: bytes
    type: str
    queue: str
    exchange: str
    routing_key: str
    redelivered: bool
    headers: Mapping[str, object]
    message_id: str
    app_id: str
    token: object
    unreadable: str = ""


class Consumer(Protocol):
    """Takes deliveries from one queue, on a channel of its own."""

    @property
    def live(self) -> bool:
        """Whether it has its queue now: not while the broker is away, and not while the queue is gone."""
        ...

    async def batch(self) -> list[Delivery]:
        """Wait for a delivery; return it with all others that have arrived, in order.

        Raises:
            QueueInUse: after a reconnect, somebody else had the queue exclusively (or our own connection that
                the broker does not know to be dead): this consumer is over.
            TransportError: this consumer was closed.
        """
        ...

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge; as one `multiple` acknowledgement where that says the same.

        A delivery from before a reconnect is passed over: the broker delivers it again.
        """
        ...

    async def nack(self, delivery: Delivery, *, requeue: bool) -> None:
        """Give one back to its queue, or (`requeue=False`) to the queue's dead-letter exchange."""
        ...

    async def close(self) -> None:
        """Stop consuming. What is unacknowledged goes back to the queue."""
        ...


class Transport(Protocol):
    """A process's way to the broker: an async context manager, open between enter and exit."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    @property
    def connected(self) -> bool:
        """Whether the broker can be reached now, for publishing and for consuming."""
        ...

    async def declare(self, topology: Topology) -> None:
        """Declare durable topic exchanges, durable queues and bindings; the same again is a no-op.

        A worker's queue with other arguments is deleted and made anew: an earlier release's.

        Raises:
            UsageError: something is there with other arguments; the message names it.
            Unreachable: our user may not declare it.
            TransportError: the broker could not be asked; repeat it.
        """
        ...

    async def publish(self, exchange: str, key: str, message: Outgoing) -> None:
        """Publish and wait for the broker's confirm. Concurrent calls are pipelined, in order.

        Raises:
            Unroutable: no queue is bound for the key.
            TransportError: not confirmed; it may have arrived all the same, in some queues or all
                (a broker also refuses a message while a queue it is bound for is being deleted).
        """
        ...

    async def publish_unconfirmed(self, exchange: str, key: str, message: Outgoing) -> None:
        """Publish what nobody has to hear, and wait for nothing. In order among themselves, not with `publish`.

        Raises:
            TransportError: it cannot be sent now.
        """
        ...

    async def consume(
        self,
        queue: str,
        *,
        prefetch: int,
        exclusive: bool = False,
        priority: int = 0,
        after: Consumer | None = None,
    ) -> Consumer:
        """Consume a queue that exists; of several consumers, the one of the highest priority that has room gets all.

        The consumer survives reconnects, broker restarts, and that its queue is deleted and declared again;
        each time, `after` another one of this transport has its own queue again.

        Raises:
            QueueNotFound: there is no such queue.
            QueueInUse: somebody consumes it exclusively, or it has a consumer and `exclusive` is asked for.
            Unreachable: our user may not consume it.
            TransportError: the broker could not be asked; repeat it.
        """
        ...

    async def subscribe(self, exchange: str, keys: Sequence[str]) -> Consumer:
        """Consume what is published from now on under these binding keys, from a queue of one's own.

        Acknowledge as ever: at most 1000 are outstanding. The queue goes when the consumer does;
        after a reconnect it is made anew, so that messages published in between are missed.
        """
        ...


class Browser(Protocol):
    """Looks at the messages of a queue, one after the other."""

    async def next_message(self) -> Delivery | None:
        """The next one that no consumer and no other browser has; None where there is no more.

        Raises:
            TransportError: the broker could not be asked.
        """
        ...

    async def remove(self, delivery: Delivery) -> None:
        """Take one that this browser was given out of the queue, for good.

        Raises:
            TransportError: the broker could not be told, and it stays.
        """
        ...


class Browsable(Protocol):
    """A transport through which people look into queues that nobody consumes."""

    async def message_count(self, queue: str) -> int:
        """How many messages wait in it that nobody has.

        Raises:
            QueueNotFound: there is no such queue.
            Unreachable: our user may not ask.
            TransportError: the broker could not be asked.
        """
        ...

    def browse(self, queue: str) -> AbstractAsyncContextManager[Browser]:
        """Look through a queue from its beginning. At the end all goes back to its place that was not removed.

        Until then nobody else gets what was looked at; afterwards it says that it is `redelivered`.

        Raises:
            QueueNotFound: (or the first look does) there is no such queue.
            Unreachable: (or the first look does) our user may not read it.
            TransportError: the broker could not be asked, or (at the end) what was removed may still be there.
        """
        ...


def read_message(delivery: Delivery) -> Message:
    """The message in a delivery.

    Raises:
        MalformedMessage: its properties or its body cannot be read.
    """
    if delivery.unreadable:
        raise MalformedMessage(delivery.unreadable)
    return decode(delivery.body)


def _kept_headers(headers: Mapping[str, object]) -> dict[str, HeaderValue]:
    """The plain ones, as many as leave room in the frame for the reason."""
    kept: dict[str, HeaderValue] = {}
    room = MAX_KEPT_HEADERS
    for name, value in headers.items():
        if isinstance(value, str | int):
            room -= len(name.encode()) + len(str(value).encode()) + _HEADER_OVERHEAD
            if room >= 0:
                kept[name] = value
    return kept


async def dead_letter(
    transport: Transport, consumer: Consumer, delivery: Delivery, reason: str
) -> None:
    """Move a delivery that cannot be handled to `skillq.dead-letters`; headers say why, and where it came from.

    Raises:
        TransportError: the broker did not confirm the copy; the delivery stays unacknowledged.
    """
    headers = _kept_headers(delivery.headers)
    copy = Outgoing(
        delivery.body,
        delivery.type,
        headers
        | {
            REASON_HEADER: shorten(reason, MAX_REASON),
            QUEUE_HEADER: delivery.queue,
            EXCHANGE_HEADER: delivery.exchange,
            ROUTING_KEY_HEADER: delivery.routing_key,
            TIME_HEADER: int(steady_clock()()),
        },
        delivery.message_id or new_message_id(),
    )
    await transport.publish(DEAD_LETTERS, delivery.queue, copy)
    await consumer.ack([delivery])
