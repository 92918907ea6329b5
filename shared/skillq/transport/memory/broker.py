"""A broker inside the process, with RabbitMQ's semantics: the embedded mode runs on it.

`MemoryBroker` holds exchanges, queues and bindings; `MemoryTransport` is one party's way to it.
Everything runs on one event loop. Nothing here awaits between taking a message and keeping it.
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
    """Of one exchange. Of thousands of workers' keys, only the one that is meant is looked at."""

    def __init__(self) -> None:
        self._queues_by_key: dict[str, dict[str, None]] = {}  # queues, by keys without * and #
        self._queues_by_pattern: dict[str, dict[str, None]] = {}
        self._keys_by_queue: dict[str, dict[str, None]] = {}  # by queue

    def add_binding(self, key: str, queue: str) -> bool:
        """Whether it is new."""
        queues = (self._queues_by_pattern if is_pattern(key) else self._queues_by_key).setdefault(key, {})
        is_new = queue not in queues
        queues[queue] = self._keys_by_queue.setdefault(queue, {})[key] = None
        return is_new

    def remove_queue(self, queue: str) -> list[str]:
        """The keys that it had."""
        keys = list(self._keys_by_queue.pop(queue, ()))
        for key in keys:
            of = self._queues_by_pattern if is_pattern(key) else self._queues_by_key
            del of[key][queue]
            if not of[key]:
                del of[key]
        return keys

    def matching_queues(self, key: str) -> dict[str, None]:
        """Those that a message of this key goes to, each once."""
        found = dict(self._queues_by_key.get(key, ()))
        for pattern, queues in self._queues_by_pattern.items():
            if key_matches(pattern, key):
                found |= queues
        return found


class MemoryBroker:
    """Exchanges, queues and bindings of one process; every transport of that process shares it."""

    def __init__(self) -> None:
        self._bindings: dict[str, _ExchangeBindings] = {}
        self._queues: dict[str, MemoryQueue] = {}
        self._routes: dict[tuple[str, str], tuple[MemoryQueue, ...]] = {}
        self._consumers_without_queue: dict[str, list[MemoryConsumer]] = {}

    def declare(self, topology: Topology) -> None:
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
        if not wanted.name.startswith(_WORKER_QUEUES):
            raise UsageError(
                f"queue {wanted.name} exists with other arguments than {wanted.arguments}; "
                "delete it, or declare it as it is"
            )
        self.delete_queue(wanted.name)

    def add_queue(self, name: str, arguments: Mapping[str, Argument]) -> MemoryQueue:
        queue = self._queues[name] = MemoryQueue(self, name, arguments)
        for consumer in self._consumers_without_queue.pop(name, ()):
            consumer.move_to_queue(queue)
        return queue

    def delete_queue(self, name: str) -> None:
        """Remove a queue with its messages and bindings; its consumers wait for it to come back."""
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
        if queue not in self._queues:
            raise QueueNotFound(f"queue {queue} does not exist; declare it before its bindings")
        if self._exchange(exchange).add_binding(key, queue):
            self._forget_routes(exchange, key)

    def _forget_routes(self, exchange: str, key: str) -> None:
        """Those that a binding of this key may be part of."""
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
        queues = self._route(message.exchange, message.routing_key)
        if not queues and mandatory:
            raise UnroutableMessage(
                f"no queue takes {message.routing_key} from exchange {message.exchange}"
            )
        for queue in queues:
            queue.put(message)

    def _route(self, exchange: str, key: str) -> tuple[MemoryQueue, ...]:
        found = self._routes.get((exchange, key))
        if found is None:
            found = tuple(self._queues[name] for name in self._exchange(exchange).matching_queues(key))
            if len(self._routes) >= _MAX_ROUTES:
                self._routes.clear()
            self._routes[exchange, key] = found
        return found

    def dead_letter(self, message: QueuedMessage, queue: MemoryQueue, reason: str) -> None:
        """Send a message to its queue's dead-letter exchange, if there is one."""
        exchange = queue.arguments.get("x-dead-letter-exchange")
        if not isinstance(exchange, str) or exchange not in self._bindings:
            return
        key = str(queue.arguments.get("x-dead-letter-routing-key", message.routing_key))
        dead = dead_lettered_copy(message, queue.name, reason, exchange, key)
        for target in self._route(exchange, key):
            # As RabbitMQ does: a circle in which nobody rejects would never end.
            if target.name not in dead.died_in:
                target.put(dead)

    def open_consumer(
        self, queue: str, prefetch: int, *, exclusive: bool, priority: int
    ) -> MemoryConsumer:
        found = self._queue(queue)
        if any(other.exclusive for other in found.consumers) or (exclusive and found.consumers):
            raise QueueInUse(f"queue {queue} has a consumer; only one may consume it exclusively")
        return MemoryConsumer(self, found, prefetch, exclusive, priority)

    def _queue(self, name: str) -> MemoryQueue:
        found = self._queues.get(name)
        if found is None:
            raise QueueNotFound(f"queue {name} does not exist (yet)")
        return found

    def message_count(self, queue: str) -> int:
        return len(self._queue(queue))

    def open_browser(self, queue: str) -> MemoryBrowser:
        return MemoryBrowser(self._queue(queue))

    def open_subscription(self, exchange: str, keys: Sequence[str]) -> MemoryConsumer:
        self._exchange(exchange)
        queue = self.add_queue(f"skillq.subscription.{uuid4().hex}", {})
        queue.temporary = True
        for key in keys:
            self.bind(exchange, key, queue.name)
        return MemoryConsumer(self, queue, _SUBSCRIPTION_PREFETCH, exclusive=True)

    def remove_consumer(self, consumer: MemoryConsumer, queue: MemoryQueue) -> None:
        bereft = self._consumers_without_queue.get(queue.name, [])
        for consumers in (queue.consumers, bereft):
            if consumer in consumers:
                consumers.remove(consumer)
        if not bereft:
            self._consumers_without_queue.pop(queue.name, None)
        if queue.temporary:
            self.delete_queue(queue.name)
        elif self._queues.get(queue.name) is queue:
            queue.restart_expiry()


class MemoryTransport:
    """See `skillq.transport.base.Transport` and `Browsable`."""

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
            # A publisher in a loop would keep it from everybody else.
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
        consumer = self._broker.open_consumer(queue, prefetch, exclusive=exclusive, priority=priority)
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
