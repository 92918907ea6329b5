"""The port to the broker: messages, and the protocols that each transport implements.

One contract suite tests both implementations: `tests/contract/test_transport_*.py`. Semantics are RabbitMQ's:
a message goes to every queue with a matching binding; a queue delivers each message to one consumer, at most
`prefetch` unacknowledged at a time; a message that is not acknowledged when its consumer, channel or process
goes away is delivered again with `redelivered` set.
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
from skillq.messages import SCHEMA_VERSION, Message, decode, encode
from skillq.topology import Topology

HeaderValue = str | int

_DEFAULT_HEADERS: Mapping[str, HeaderValue] = {"schema_version": SCHEMA_VERSION}
_message_numbers = count(1)
_id_prefix = ""


def _new_id_prefix() -> None:
    global _id_prefix  # noqa: PLW0603 - one prefix for each process
    _id_prefix = uuid4().hex


_new_id_prefix()
if hasattr(os, "register_at_fork"):  # not on Windows, where clients may run
    os.register_at_fork(after_in_child=_new_id_prefix)


def new_message_id() -> str:
    """Return a message id that is unique like a random one; making it takes no system call."""
    return f"{_id_prefix}-{next(_message_numbers)}"


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish: the body and the values of its AMQP properties."""

    body: bytes
    type: str
    headers: Mapping[str, HeaderValue] = field(default_factory=lambda: _DEFAULT_HEADERS)
    message_id: str = field(default_factory=new_message_id)
    persistent: bool = True

    @classmethod
    def from_message(cls, message: Message, *, persistent: bool = True) -> Self:
        """Return the message, encoded, with the default headers."""
        return cls(encode(message), message.type, persistent=persistent)


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """One delivery of a message to this process. `token` belongs to the transport.

    `unreadable` says what is wrong with properties that cannot be decoded; the body is unchanged.
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
    """Receives deliveries from one queue, on a channel of its own."""

    @property
    def live(self) -> bool:
        """Whether the consumer has its queue: false while the broker or the queue is away."""
        ...

    async def batch(self) -> list[Delivery]:
        """Wait for a delivery; return that delivery with all others that have arrived, in order.

        Raises:
            QueueInUse: after a reconnect, another consumer had the queue exclusively (it may be our own
                connection that the broker does not know to be dead): this consumer has ended.
            TransportError: this consumer was closed.
        """
        ...

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge deliveries; with one `multiple` acknowledgement if the effect is the same.

        A delivery from before a reconnect is ignored: the broker delivers the message again.
        """
        ...

    async def nack(self, delivery: Delivery, *, requeue: bool) -> None:
        """Reject a delivery: requeue it, or (`requeue=False`) send it to the dead-letter exchange."""
        ...

    async def close(self) -> None:
        """Stop consuming. Unacknowledged messages go back to the queue."""
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
        """Declare durable topic exchanges, durable queues and bindings; a repetition is a no-op.

        A worker's queue with other arguments, from an earlier release, is deleted and declared again.

        Raises:
            UsageError: an exchange or a queue exists with other arguments; the message names it.
            Unreachable: our user may not declare it.
            TransportError: the broker did not answer; repeat the call.
        """
        ...

    async def publish(self, exchange: str, key: str, message: Outgoing) -> None:
        """Publish and wait for the broker's confirm. Concurrent calls are pipelined, in order.

        Raises:
            UnroutableMessage: no queue is bound for the key.
            TransportError: not confirmed; the message may have arrived all the same, in some queues or in all
                (a broker also refuses a message while a queue that it is bound for is being deleted).
        """
        ...

    async def publish_unconfirmed(self, exchange: str, key: str, message: Outgoing) -> None:
        """Publish a message that may be lost, without waiting for a confirm.

        Such messages stay in order among themselves, not with those of `publish`.

        Raises:
            TransportError: the message cannot be sent now.
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
        """Consume a queue that exists.

        Of several consumers, the one of the highest priority that has room gets all messages. The consumer
        survives reconnects, broker restarts, and that its queue is deleted and declared again. Each time it
        waits until the consumer `after`, of the same transport, has its own queue again.

        Raises:
            QueueNotFound: there is no such queue.
            QueueInUse: another consumer has the queue exclusively, or `exclusive` is set and the queue has a consumer.
            Unreachable: our user may not consume the queue.
            TransportError: the broker did not answer; repeat the call.
        """
        ...

    async def subscribe(self, exchange: str, keys: Sequence[str]) -> Consumer:
        """Consume messages that are published from now on under these binding keys.

        They are to be acknowledged as usual: at most 1000 are outstanding. The temporary queue is deleted with its
        consumer; after a reconnect there is a new queue, so that messages published in between are missed.
        """
        ...


class Browser(Protocol):
    """Reads the messages of a queue one after the other, without consuming them."""

    async def next_message(self) -> Delivery | None:
        """Return the next message that no consumer or other browser has; None at the end.

        Raises:
            TransportError: the broker did not answer.
        """
        ...

    async def remove(self, delivery: Delivery) -> None:
        """Remove from the queue, for good, a message that this browser has returned.

        Raises:
            TransportError: the broker could not be reached, and the message stays.
        """
        ...


class Browsable(Protocol):
    """A transport through which operators look into queues that nobody consumes."""

    async def message_count(self, queue: str) -> int:
        """Return how many messages wait in a queue: those that no consumer and no browser has.

        Raises:
            QueueNotFound: there is no such queue.
            Unreachable: our user may not ask for the number.
            TransportError: the broker did not answer.
        """
        ...

    def browse(self, queue: str) -> AbstractAsyncContextManager[Browser]:
        """Browse a queue from its beginning.

        At the end, all messages that were not removed go back to their positions.

        Until then nobody else gets the messages that were read; afterwards they are marked `redelivered`.

        Raises:
            QueueNotFound: there is no such queue (or the first `next_message` raises this).
            Unreachable: our user may not read the queue (or the first `next_message` raises this).
            TransportError: the broker did not answer; or, at the end, a removed message may still be there.
        """
        ...


def read_message(delivery: Delivery) -> Message:
    """Return the message in a delivery.

    Raises:
        MalformedMessage: the properties or the body of the delivery cannot be read.
    """
    if delivery.unreadable:
        raise MalformedMessage(delivery.unreadable)
    return decode(delivery.body)
