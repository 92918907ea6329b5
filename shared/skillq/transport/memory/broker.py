"""A broker inside the process, with RabbitMQ's semantics: for the embedded mode and tests.

`MemoryBroker` holds exchanges, queues and bindings; each service uses it through a `MemoryTransport`.
All of them run on one event loop. No code here awaits between receiving a message and storing it.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Self
from uuid import uuid4

from skillq.errors import QueueInUse, QueueNotFound, TransportError, UnroutableMessage, UsageError
from skillq.topology import Argument, Queue, Topology, is_pattern, key_matches, worker_queue
from skillq.transport.base import Consumer, Outgoing
from skillq.transport.memory.queue import (
    KNOWN_ARGUMENTS,
    MemoryBrowser,
    MemoryConsumer,
    MemoryQueue,
    QueuedMessage,
    dead_lettered_copy,
)

_WORKER_QUEUES = worker_queue("")
_SUBSCRIPTION_PREFETCH = 1000
_PUBLISHES_BEFORE_YIELD = 64
_MAX_ROUTES = 10_000


class _ExchangeBindings:
    """The bindings of one exchange by key: a lookup does not visit thousands of workers' keys."""

    def __init__(self) -> None:
        self._queues_by_key: dict[str, dict[str, None]] = {}  # keys without * and #
        self._queues_by_pattern: dict[str, dict[str, None]] = {}  # keys with * or #
        self._keys_by_queue: dict[str, dict[str, None]] = {}

    def add_binding(self, key: str, queue: str) -> bool:
        """Add a binding of a queue; return whether it is new."""
        queues = (self._queues_by_pattern if is_pattern(key) else self._queues_by_key).setdefault(
            key, {}
        )
        is_new = queue not in queues
        queues[queue] = self._keys_by_queue.setdefault(queue, {})[key] = None
        return is_new

    def remove_queue(self, queue: str) -> list[str]:
        """Remove the bindings of a queue; return their keys."""
        keys = list(self._keys_by_queue.pop(queue, ()))
        for key in keys:
            index = self._queues_by_pattern if is_pattern(key) else self._queues_by_key
            del index[key][queue]
            if not index[key]:
                del index[key]
        return keys

    def matching_queues(self, key: str) -> dict[str, None]:
        """Return the queues that a message with this routing key goes to, each once."""
        found = dict(self._queues_by_key.get(key, ()))
        for pattern, queues in self._queues_by_pattern.items():
            if key_matches(pattern, key):
                found |= queues
        return found


class MemoryBroker:
    """The exchanges, queues and bindings that all memory transports of one process share."""

    def __init__(self) -> None:
        self._bindings: dict[str, _ExchangeBindings] = {}
        self._queues: dict[str, MemoryQueue] = {}
        self._routes: dict[tuple[str, str], tuple[MemoryQueue, ...]] = {}
        self._consumers_without_queue: dict[str, list[MemoryConsumer]] = {}

    def declare(self, topology: Topology) -> None:
        """Declare exchanges, queues and bindings; see `skillq.transport.base.Transport.declare`."""
        for exchange in topology.exchanges:
            self._bindings.setdefault(exchange, _ExchangeBindings())
        for queue in topology.queues:
            self._declare_queue(queue)
        for binding in topology.bindings:
            self.bind(binding.exchange, binding.key, binding.queue)

    def _declare_queue(self, wanted: Queue) -> None:
        if unknown := sorted(wanted.arguments.keys() - KNOWN_ARGUMENTS):
            raise UsageError(
                f"queue {wanted.name}: memory:// does not know {', '.join(unknown)}; leave it out"
            )
        queue = self._queues.get(wanted.name)
        if queue is not None and queue.arguments != wanted.arguments:
            self._delete_outdated_worker_queue(wanted)
            queue = None
        if queue is None:
            self.add_queue(wanted.name, wanted.arguments)
        else:
            queue.restart_expiry()

    def _delete_outdated_worker_queue(self, wanted: Queue) -> None:
        """Delete a worker's queue whose arguments are outdated; refuse for any other queue."""
        if not wanted.name.startswith(_WORKER_QUEUES):
            raise UsageError(
                f"queue {wanted.name} exists with other arguments than {wanted.arguments}; "
                "delete it, or declare it as it is"
            )
        self.delete_queue(wanted.name)

    def add_queue(self, name: str, arguments: Mapping[str, Argument]) -> MemoryQueue:
        """Create a queue; consumers whose queue of this name was deleted consume the new one."""
        queue = self._queues[name] = MemoryQueue(self, name, arguments)
        for consumer in self._consumers_without_queue.pop(name, ()):
            consumer.move_to_queue(queue)
        return queue

    def delete_queue(self, name: str) -> None:
        """Delete a queue with its messages and bindings; its consumers wait for a new one."""
        queue = self._queues.pop(name, None)
        if queue is None:
            return
        queue.cancel_timers()
        for exchange, bindings in self._bindings.items():
            for key in bindings.remove_queue(name):
                self._forget_routes(exchange, key)
        for consumer in queue.consumers:
            consumer.clear_deliveries()
            consumer.has_lost_queue = True
            self._consumers_without_queue.setdefault(name, []).append(consumer)

    def bind(self, exchange: str, key: str, queue: str) -> None:
        """Bind a queue to an exchange.

        Raises:
            QueueNotFound: there is no such queue.
            TransportError: there is no such exchange.
        """
        if queue not in self._queues:
            raise QueueNotFound(f"queue {queue} does not exist; declare it before its bindings")
        if self._exchange(exchange).add_binding(key, queue):
            self._forget_routes(exchange, key)

    def _forget_routes(self, exchange: str, key: str) -> None:
        """Remove the cached routes that a binding with this key may change."""
        if is_pattern(key):
            self._routes.clear()
        else:
            self._routes.pop((exchange, key), None)

    def _exchange(self, name: str) -> "_ExchangeBindings":
        try:
            return self._bindings[name]
        except KeyError:
            raise TransportError(
                f"exchange {name} does not exist; is the manager running?"
            ) from None

    def publish(self, message: QueuedMessage, *, mandatory: bool) -> None:
        """Put a message into each queue with a matching binding.

        Raises:
            UnroutableMessage: `mandatory` is set and there is no such queue.
            TransportError: there is no such exchange.
        """
        queues = self._route(message.exchange, message.routing_key)
        if not queues and mandatory:
            raise UnroutableMessage(
                f"no queue takes {message.routing_key} from exchange {message.exchange}"
            )
        for queue in queues:
            queue.put(message)

    def _route(self, exchange: str, key: str) -> tuple[MemoryQueue, ...]:
        queues = self._routes.get((exchange, key))
        if queues is None:
            queues = tuple(
                self._queues[name] for name in self._exchange(exchange).matching_queues(key)
            )
            if len(self._routes) >= _MAX_ROUTES:
                self._routes.clear()
            self._routes[exchange, key] = queues
        return queues

    def dead_letter(self, message: QueuedMessage, queue: MemoryQueue, reason: str) -> None:
        """Publish a message to the dead-letter exchange of its queue, if the queue has one."""
        exchange = queue.arguments.get("x-dead-letter-exchange")
        if not isinstance(exchange, str) or exchange not in self._bindings:
            return
        key = str(queue.arguments.get("x-dead-letter-routing-key", message.routing_key))
        copy = dead_lettered_copy(message, queue.name, reason, exchange, key)
        for target in self._route(exchange, key):
            # As RabbitMQ does: a message that no consumer rejects would go round in a circle for ever.
            if target.name not in copy.died_in:
                target.put(copy)

    def open_consumer(
        self, queue: str, prefetch: int, *, exclusive: bool, priority: int
    ) -> MemoryConsumer:
        """Return a new consumer of a queue.

        Raises:
            QueueNotFound: there is no such queue.
            QueueInUse: another consumer has the queue exclusively, or `exclusive` is set and there is another one.
        """
        consumed = self._queue(queue)
        if any(other.exclusive for other in consumed.consumers) or (
            exclusive and consumed.consumers
        ):
            raise QueueInUse(f"queue {queue} has a consumer; only one may consume it exclusively")
        return MemoryConsumer(self, consumed, prefetch, exclusive, priority)

    def _queue(self, name: str) -> MemoryQueue:
        queue = self._queues.get(name)
        if queue is None:
            raise QueueNotFound(f"queue {name} does not exist (yet)")
        return queue

    def message_count(self, queue: str) -> int:
        """Return how many messages of a queue no consumer and no browser has."""
        return len(self._queue(queue))

    def open_browser(self, queue: str) -> MemoryBrowser:
        """Return a new browser of a queue."""
        return MemoryBrowser(self._queue(queue))

    def open_subscription(self, exchange: str, keys: Sequence[str]) -> MemoryConsumer:
        """Return a consumer of a new temporary queue, bound to the exchange with these keys."""
        self._exchange(exchange)
        queue = self.add_queue(f"skillq.subscription.{uuid4().hex}", {})
        queue.temporary = True
        for key in keys:
            self.bind(exchange, key, queue.name)
        return MemoryConsumer(self, queue, _SUBSCRIPTION_PREFETCH, exclusive=True)

    def remove_consumer(self, consumer: MemoryConsumer, queue: MemoryQueue) -> None:
        """Remove a consumer that is closed; delete its queue if that is temporary."""
        waiting = self._consumers_without_queue.get(queue.name, [])
        for consumers in (queue.consumers, waiting):
            if consumer in consumers:
                consumers.remove(consumer)
        if not waiting:
            self._consumers_without_queue.pop(queue.name, None)
        if queue.temporary:
            self.delete_queue(queue.name)
        elif self._queues.get(queue.name) is queue:
            queue.restart_expiry()


class MemoryTransport:
    """Implements `skillq.transport.base.Transport` and `Browsable` on a `MemoryBroker`."""

    def __init__(self, broker: MemoryBroker, *, app_id: str = "skillq") -> None:
        self._broker = broker
        self._app_id = app_id
        self._consumers: list[MemoryConsumer] = []
        self._open = False
        self._published = 0

    async def __aenter__(self) -> Self:
        self._open = True
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open = False
        for consumer in self._consumers:
            consumer.close_now()
        self._consumers.clear()

    @property
    def connected(self) -> bool:
        return self._open

    def _check_open(self) -> None:
        if not self._open:
            raise TransportError("the transport is closed")

    async def declare(self, topology: Topology) -> None:
        self._check_open()
        self._broker.declare(topology)

    async def publish(self, exchange: str, key: str, message: Outgoing) -> None:
        await self._publish(exchange, key, message, mandatory=True)

    async def publish_unconfirmed(self, exchange: str, key: str, message: Outgoing) -> None:
        await self._publish(exchange, key, message, mandatory=False)

    async def _publish(
        self, exchange: str, key: str, message: Outgoing, *, mandatory: bool
    ) -> None:
        self._check_open()
        self._broker.publish(
            QueuedMessage(message, self._app_id, exchange, key), mandatory=mandatory
        )
        self._published += 1
        if self._published % _PUBLISHES_BEFORE_YIELD == 0:
            # Without a pause, a publisher in a loop would block the event loop for all others.
            await asyncio.sleep(0)

    async def consume(
        self,
        queue: str,
        *,
        prefetch: int,
        exclusive: bool = False,
        priority: int = 0,
        after: Consumer | None = None,
    ) -> MemoryConsumer:
        self._check_open()
        consumer = self._broker.open_consumer(
            queue, prefetch, exclusive=exclusive, priority=priority
        )
        return self._track_consumer(consumer)

    async def subscribe(self, exchange: str, keys: Sequence[str]) -> MemoryConsumer:
        self._check_open()
        return self._track_consumer(self._broker.open_subscription(exchange, keys))

    async def message_count(self, queue: str) -> int:
        self._check_open()
        return self._broker.message_count(queue)

    @asynccontextmanager
    async def browse(self, queue: str) -> AsyncIterator[MemoryBrowser]:
        self._check_open()
        browser = self._broker.open_browser(queue)
        try:
            yield browser
        finally:
            browser.close()

    def _track_consumer(self, consumer: MemoryConsumer) -> MemoryConsumer:
        self._consumers = [one for one in self._consumers if not one.closed]
        self._consumers.append(consumer)
        return consumer
