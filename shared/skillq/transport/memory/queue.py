"""The queues of the memory broker, and their consumers and browsers."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Protocol

from skillq.errors import TransportError
from skillq.topology import Argument
from skillq.transport.base import Delivery, Outgoing

# The delivery limit is accepted but not enforced: brokers differ in what counts as a delivery.
KNOWN_ARGUMENTS = frozenset(
    {
        "x-queue-type",
        "x-delivery-limit",
        "x-expires",
        "x-dead-letter-exchange",
        "x-dead-letter-routing-key",
        "x-max-length",
        "x-overflow",
        "x-message-ttl",
    }
)
_tags = count(1)


@dataclass(frozen=True, slots=True)
class QueuedMessage:
    """A published message. `died_in` names queues that it left because of age or length."""

    outgoing: Outgoing
    app_id: str
    exchange: str
    routing_key: str
    died_in: frozenset[str] = frozenset()


@dataclass(slots=True)
class StoredMessage:
    """A message in one queue. It keeps its `position` when it is requeued."""

    message: QueuedMessage
    position: int
    deadline: float | None
    redelivered: bool = False


def dead_lettered_copy(
    message: QueuedMessage, queue: str, reason: str, exchange: str, key: str
) -> QueuedMessage:
    """Return the copy of a message that goes from a queue to the queue's dead-letter exchange."""
    death_headers = {
        "x-first-death-reason": reason,
        "x-first-death-queue": queue,
        "x-first-death-exchange": message.exchange,
    }
    outgoing = replace(message.outgoing, headers=death_headers | dict(message.outgoing.headers))
    died_in = frozenset[str]() if reason == "rejected" else message.died_in | {queue}
    return QueuedMessage(outgoing, message.app_id, exchange, key, died_in)


class QueueOwner(Protocol):
    """The broker of a queue, as the queue and its consumers use it."""

    def dead_letter(self, message: QueuedMessage, queue: "MemoryQueue", reason: str) -> None: ...

    def delete_queue(self, name: str) -> None: ...

    def remove_consumer(self, consumer: "MemoryConsumer", queue: "MemoryQueue") -> None: ...


class MemoryQueue:
    """A queue that delivers each message to one consumer that has room, in order, round robin."""

    def __init__(self, broker: QueueOwner, name: str, arguments: Mapping[str, Argument]):
        self.name = name
        self.arguments = dict(arguments)
        self.consumers: deque[MemoryConsumer] = deque()
        self.temporary = False
        self._has_priorities = False  # its consumers have different priorities
        self._broker = broker
        self._ready: deque[StoredMessage] = deque()
        self._positions = count()
        self._max_length = _int_argument(arguments, "x-max-length")
        self._ttl = _int_argument(arguments, "x-message-ttl")
        self._expires = _int_argument(arguments, "x-expires")
        self._ttl_timer: asyncio.TimerHandle | None = None
        self._expires_timer: asyncio.TimerHandle | None = None
        self.restart_expiry()

    def put(self, message: QueuedMessage) -> None:
        """Deliver a message to a consumer that has room, or store it at the end of the queue."""
        deadline = None if self._ttl is None else _now() + self._ttl / 1000
        stored = StoredMessage(message, next(self._positions), deadline)
        if not self._ready and (consumer := self._free_consumer()):
            consumer.add_message(stored, next(_tags))
            return
        self._ready.append(stored)
        if self._max_length is not None and len(self._ready) > self._max_length:
            self._broker.dead_letter(self._ready.popleft().message, self, "maxlen")
        self._schedule_ttl()

    def requeue(self, returned: list[StoredMessage]) -> None:
        """Store delivered messages again at their positions, marked as redelivered."""
        for stored in sorted(returned, key=lambda one: one.position, reverse=True):
            stored.redelivered = True
            self._insert(stored)
        if returned:
            self._schedule_ttl()

    def _insert(self, stored: StoredMessage) -> None:
        ready = self._ready
        index = next(
            (i for i, other in enumerate(ready) if other.position > stored.position), len(ready)
        )
        ready.insert(index, stored)

    def __len__(self) -> int:
        """Return how many messages no consumer and no browser has."""
        return len(self._ready)

    def get(self) -> StoredMessage | None:
        """Remove and return the first message, for a browser; None if there is none."""
        self.restart_expiry()
        self._drop_expired()
        return self._ready.popleft() if self._ready else None

    def dispatch(self) -> None:
        """Deliver stored messages while a consumer has room."""
        self._drop_expired()
        while self._ready and (consumer := self._free_consumer()):
            consumer.add_message(self._ready.popleft(), next(_tags))

    def _free_consumer(self) -> "MemoryConsumer | None":
        """Return the next consumer, in turn, of the highest priority that has room, or None."""
        chosen: MemoryConsumer | None = None
        for _ in range(len(self.consumers)):
            consumer = self.consumers[0]
            self.consumers.rotate(-1)
            if consumer.has_room and (chosen is None or consumer.priority > chosen.priority):
                chosen = consumer
                if not self._has_priorities:
                    break
        return chosen

    def add_consumer(self, consumer: "MemoryConsumer") -> None:
        """Add a consumer, and deliver stored messages to it."""
        self.consumers.append(consumer)
        self._has_priorities = len({one.priority for one in self.consumers}) > 1
        self.restart_expiry()
        self.dispatch()

    def _drop_expired(self) -> None:
        if self._ttl is None or not self._ready:
            return
        now = _now()
        while self._ready and (deadline := self._ready[0].deadline) is not None and deadline <= now:
            self._broker.dead_letter(self._ready.popleft().message, self, "expired")

    def _schedule_ttl(self) -> None:
        if (
            self._ttl_timer is None
            and self._ready
            and (deadline := self._ready[0].deadline) is not None
        ):
            self._ttl_timer = asyncio.get_running_loop().call_at(deadline, self._on_ttl_timer)

    def _on_ttl_timer(self) -> None:
        self._ttl_timer = None
        self._drop_expired()
        self._schedule_ttl()

    def restart_expiry(self) -> None:
        """Start again the time after which an unused queue is deleted (`x-expires`)."""
        if self._expires_timer is not None:
            self._expires_timer.cancel()
            self._expires_timer = None
        if self._expires is not None and not self.consumers:
            self._expires_timer = asyncio.get_running_loop().call_later(
                self._expires / 1000, self._broker.delete_queue, self.name
            )

    def cancel_timers(self) -> None:
        """Cancel the timers of a queue that is deleted."""
        for timer in (self._ttl_timer, self._expires_timer):
            if timer is not None:
                timer.cancel()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _int_argument(arguments: Mapping[str, Argument], name: str) -> int | None:
    value = arguments.get(name)
    return value if isinstance(value, int) else None


class MemoryConsumer:
    """Implements `skillq.transport.base.Consumer`."""

    def __init__(
        self,
        broker: QueueOwner,
        queue: MemoryQueue,
        prefetch: int,
        exclusive: bool,
        priority: int = 0,
    ):
        self._broker = broker
        self._queue = queue
        self._prefetch = prefetch
        self.exclusive = exclusive
        self.priority = priority
        self._unacked: dict[int, StoredMessage] = {}
        self._arrived: list[Delivery] = []
        self._changed = asyncio.Event()
        self._closed = False
        self.has_lost_queue = False  # the queue was deleted, and not declared again
        queue.add_consumer(self)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def live(self) -> bool:
        return not (self._closed or self.has_lost_queue)

    @property
    def has_room(self) -> bool:
        """Whether `prefetch` allows one more unacknowledged message."""
        return not self._prefetch or len(self._unacked) < self._prefetch

    def add_message(self, stored: StoredMessage, tag: int) -> None:
        """Receive a message from the queue."""
        self._unacked[tag] = stored
        self._arrived.append(_to_delivery(stored, self._queue.name, tag))
        self._changed.set()

    async def batch(self) -> list[Delivery]:
        if self._arrived:
            # Without a pause, a busy consumer would block the event loop for all others.
            await asyncio.sleep(0)
        while not self._arrived:
            if self._closed:
                raise TransportError(f"the consumer of {self._queue.name} was closed")
            await self._changed.wait()
        batch, self._arrived = self._arrived, []
        if not self._closed:
            self._changed.clear()
        return batch

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        for delivery in deliveries:
            self._unacked.pop(_tag(delivery), None)
        self._queue.dispatch()

    async def nack(self, delivery: Delivery, *, requeue: bool) -> None:
        stored = self._unacked.pop(_tag(delivery), None)
        if stored is None:
            return
        if requeue:
            self._queue.requeue([stored])
        else:
            self._broker.dead_letter(stored.message, self._queue, "rejected")
        self._queue.dispatch()

    async def close(self) -> None:
        self.close_now()

    def close_now(self) -> None:
        """Do the work of `close` without awaiting."""
        if self._closed:
            return
        self._closed = True
        self._broker.remove_consumer(self, self._queue)
        self._queue.requeue(list(self._unacked.values()))
        self.clear_deliveries()
        self._changed.set()
        self._queue.dispatch()

    def clear_deliveries(self) -> None:
        """Forget all deliveries, acknowledged or not."""
        self._unacked.clear()
        self._arrived.clear()
        self._changed.clear()

    def move_to_queue(self, queue: MemoryQueue) -> None:
        """Consume the queue that was declared in place of a deleted one."""
        self._queue = queue
        self.has_lost_queue = False
        queue.add_consumer(self)


class MemoryBrowser:
    """Implements `skillq.transport.base.Browser`."""

    def __init__(self, queue: MemoryQueue) -> None:
        self._queue = queue
        self._browsed: dict[int, StoredMessage] = {}

    async def next_message(self) -> Delivery | None:
        await asyncio.sleep(0)  # without a pause, a long browse would block the event loop
        stored = self._queue.get()
        if stored is None:
            return None
        tag = next(_tags)
        self._browsed[tag] = stored
        return _to_delivery(stored, self._queue.name, tag)

    async def remove(self, delivery: Delivery) -> None:
        self._browsed.pop(_tag(delivery), None)

    def close(self) -> None:
        """Put back all messages that were not removed."""
        self._queue.requeue(list(self._browsed.values()))
        self._browsed.clear()
        self._queue.dispatch()


def _to_delivery(stored: StoredMessage, queue: str, tag: int) -> Delivery:
    message, outgoing = stored.message, stored.message.outgoing
    return Delivery(
        body=outgoing.body,
        type=outgoing.type,
        queue=queue,
        exchange=message.exchange,
        routing_key=message.routing_key,
        redelivered=stored.redelivered,
        headers=outgoing.headers,
        message_id=outgoing.message_id,
        app_id=message.app_id,
        token=tag,
    )


def _tag(delivery: Delivery) -> int:
    return delivery.token if isinstance(delivery.token, int) else 0
