"""A broker inside the process, with RabbitMQ's semantics: the embedded mode runs on it.

`MemoryBroker` holds exchanges, queues and bindings; `MemoryTransport` is one party's way to it.
Everything runs on one event loop. Nothing here awaits between taking a message and keeping it.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from types import TracebackType
from typing import Self
from uuid import uuid4

from skillq.errors import QueueInUse, QueueNotFound, TransportError, Unroutable, UsageError
from skillq.topology import Argument, Queue, Topology, key_matches, worker_queue
from skillq.transport.base import Delivery, Outgoing

# The delivery limit is known and not enforced: brokers differ in what counts as a delivery.
_KNOWN_ARGUMENTS = frozenset(
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
_WORKER_QUEUES = worker_queue("")
_SUBSCRIPTION_PREFETCH = 1000
_PUBLISHES_PER_TURN = 64
_MAX_ROUTES = 10_000


@dataclass(frozen=True, slots=True)
class _Message:
    outgoing: Outgoing
    app_id: str
    exchange: str
    routing_key: str
    died_in: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Stored:
    """A message in one queue. `place` keeps its position when it comes back."""

    message: _Message
    place: int
    deadline: float | None
    redelivered: bool = False


class MemoryConsumer:
    """See `skillq.transport.base.Consumer`."""

    def __init__(self, broker: "MemoryBroker", queue: "_Queue", prefetch: int, exclusive: bool):
        self._broker = broker
        self._queue = queue
        self._prefetch = prefetch
        self.exclusive = exclusive
        self._unacked: dict[int, _Stored] = {}
        self._arrived: list[Delivery] = []
        self._news = asyncio.Event()
        self._closed = False
        queue.attach(self)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def has_room(self) -> bool:
        return not self._prefetch or len(self._unacked) < self._prefetch

    def take(self, stored: _Stored, tag: int) -> None:
        message, out = stored.message, stored.message.outgoing
        self._unacked[tag] = stored
        self._arrived.append(
            Delivery(
                body=out.body,
                type=out.type,
                queue=self._queue.name,
                exchange=message.exchange,
                routing_key=message.routing_key,
                redelivered=stored.redelivered,
                headers=out.headers,
                message_id=out.message_id,
                app_id=message.app_id,
                token=tag,
            )
        )
        self._news.set()

    async def batch(self) -> list[Delivery]:
        if self._arrived:
            # A busy consumer would keep the loop from everybody else.
            await asyncio.sleep(0)
        while not self._arrived:
            if self._closed:
                raise TransportError(f"the consumer of {self._queue.name} was closed")
            await self._news.wait()
        batch, self._arrived = self._arrived, []
        if not self._closed:
            self._news.clear()
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
            self._queue.put_back([stored])
        else:
            self._broker.bury(stored.message, self._queue, "rejected")
        self._queue.dispatch()

    async def close(self) -> None:
        self.shut()

    def shut(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._broker.detach(self, self._queue)
        self._queue.put_back(list(self._unacked.values()))
        self.forget()
        self._news.set()
        self._queue.dispatch()

    def forget(self) -> None:
        self._unacked.clear()
        self._arrived.clear()
        self._news.clear()

    def move_to(self, queue: "_Queue") -> None:
        """Go on with the queue that was declared in place of a deleted one."""
        self._queue = queue
        queue.attach(self)


def _tag(delivery: Delivery) -> int:
    return delivery.token if isinstance(delivery.token, int) else 0


class _Queue:
    def __init__(self, broker: "MemoryBroker", name: str, arguments: Mapping[str, Argument]):
        self.name = name
        self.arguments = dict(arguments)
        self.consumers: deque[MemoryConsumer] = deque()
        self.temporary = False
        self._broker = broker
        self._ready: deque[_Stored] = deque()
        self._max_length = _number(arguments, "x-max-length")
        self._ttl = _number(arguments, "x-message-ttl")
        self._expires = _number(arguments, "x-expires")
        self._ttl_timer: asyncio.TimerHandle | None = None
        self._expires_timer: asyncio.TimerHandle | None = None
        self.touch()

    def put(self, message: _Message) -> None:
        broker = self._broker
        deadline = None if self._ttl is None else _now() + self._ttl / 1000
        stored = _Stored(message, next(broker.places), deadline)
        if not self._ready and (consumer := self._free_consumer()):
            consumer.take(stored, next(broker.tags))
            return
        self._ready.append(stored)
        if self._max_length is not None and len(self._ready) > self._max_length:
            broker.bury(self._ready.popleft().message, self, "maxlen")
        self._watch_ttl()

    def put_back(self, returned: list[_Stored]) -> None:
        for stored in sorted(returned, key=lambda one: one.place, reverse=True):
            stored.redelivered = True
            self._insert(stored)
        if returned:
            self._watch_ttl()

    def _insert(self, stored: _Stored) -> None:
        ready = self._ready
        at = next((i for i, other in enumerate(ready) if other.place > stored.place), len(ready))
        ready.insert(at, stored)

    def dispatch(self) -> None:
        self._drop_expired()
        while self._ready and (consumer := self._free_consumer()):
            consumer.take(self._ready.popleft(), next(self._broker.tags))

    def _free_consumer(self) -> MemoryConsumer | None:
        for _ in range(len(self.consumers)):
            consumer = self.consumers[0]
            self.consumers.rotate(-1)
            if consumer.has_room:
                return consumer
        return None

    def attach(self, consumer: MemoryConsumer) -> None:
        self.consumers.append(consumer)
        self.touch()
        self.dispatch()

    def _drop_expired(self) -> None:
        if self._ttl is None or not self._ready:
            return
        now = _now()
        while self._ready and (deadline := self._ready[0].deadline) is not None and deadline <= now:
            self._broker.bury(self._ready.popleft().message, self, "expired")

    def _watch_ttl(self) -> None:
        if self._ttl_timer is None and self._ready and (at := self._ready[0].deadline) is not None:
            self._ttl_timer = asyncio.get_running_loop().call_at(at, self._on_ttl)

    def _on_ttl(self) -> None:
        self._ttl_timer = None
        self._drop_expired()
        self._watch_ttl()

    def touch(self) -> None:
        """Begin the time after which an unused queue goes (`x-expires`) anew."""
        if self._expires_timer is not None:
            self._expires_timer.cancel()
            self._expires_timer = None
        if self._expires is not None and not self.consumers:
            self._expires_timer = asyncio.get_running_loop().call_later(
                self._expires / 1000, self._broker.delete_queue, self.name
            )

    def shut(self) -> None:
        for timer in (self._ttl_timer, self._expires_timer):
            if timer is not None:
                timer.cancel()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _number(arguments: Mapping[str, Argument], name: str) -> int | None:
    value = arguments.get(name)
    return value if isinstance(value, int) else None


class MemoryBroker:
    """Exchanges, queues and bindings of one process; every transport of that process shares it."""

    def __init__(self) -> None:
        self.places = count()
        self.tags = count(1)
        self._bindings: dict[str, dict[tuple[str, str], None]] = {}
        self._queues: dict[str, _Queue] = {}
        self._routes: dict[tuple[str, str], tuple[_Queue, ...]] = {}
        self._bereft: dict[str, list[MemoryConsumer]] = {}

    def declare(self, topology: Topology) -> None:
        for exchange in topology.exchanges:
            self._bindings.setdefault(exchange, {})
        for queue in topology.queues:
            self._declare_queue(queue)
        for binding in topology.bindings:
            self.bind(binding.exchange, binding.key, binding.queue)

    def _declare_queue(self, wanted: Queue) -> None:
        if unknown := sorted(wanted.arguments.keys() - _KNOWN_ARGUMENTS):
            raise UsageError(
                f"queue {wanted.name}: memory:// does not know {', '.join(unknown)}; leave it out"
            )
        queue = self._queues.get(wanted.name)
        if queue is not None and queue.arguments != wanted.arguments:
            self._make_way(wanted)
            queue = None
        if queue is None:
            self.add_queue(wanted.name, wanted.arguments)
        else:
            queue.touch()

    def _make_way(self, wanted: Queue) -> None:
        if not wanted.name.startswith(_WORKER_QUEUES):
            raise UsageError(
                f"queue {wanted.name} exists with other arguments than {wanted.arguments}; "
                "delete it, or declare it as it is"
            )
        self.delete_queue(wanted.name)

    def add_queue(self, name: str, arguments: Mapping[str, Argument]) -> _Queue:
        queue = self._queues[name] = _Queue(self, name, arguments)
        for consumer in self._bereft.pop(name, ()):
            consumer.move_to(queue)
        return queue

    def delete_queue(self, name: str) -> None:
        """Remove a queue with its messages and bindings; its consumers wait for it to come back."""
        queue = self._queues.pop(name, None)
        if queue is None:
            return
        queue.shut()
        for bindings in self._bindings.values():
            for binding in [one for one in bindings if one[1] == name]:
                del bindings[binding]
        self._routes.clear()
        for consumer in queue.consumers:
            consumer.forget()
            self._bereft.setdefault(name, []).append(consumer)

    def bind(self, exchange: str, key: str, queue: str) -> None:
        if queue not in self._queues:
            raise QueueNotFound(f"queue {queue} does not exist; declare it before its bindings")
        self._exchange(exchange)[key, queue] = None
        self._routes.clear()

    def _exchange(self, name: str) -> dict[tuple[str, str], None]:
        try:
            return self._bindings[name]
        except KeyError:
            raise TransportError(
                f"exchange {name} does not exist; is the manager running?"
            ) from None

    def publish(self, message: _Message, *, mandatory: bool) -> None:
        queues = self._route(message.exchange, message.routing_key)
        if not queues and mandatory:
            raise Unroutable(
                f"no queue takes {message.routing_key} from exchange {message.exchange}"
            )
        for queue in queues:
            queue.put(message)

    def _route(self, exchange: str, key: str) -> tuple[_Queue, ...]:
        found = self._routes.get((exchange, key))
        if found is None:
            bindings = self._exchange(exchange)
            names = dict.fromkeys(queue for pattern, queue in bindings if key_matches(pattern, key))
            found = tuple(self._queues[name] for name in names)
            if len(self._routes) >= _MAX_ROUTES:
                self._routes.clear()
            self._routes[exchange, key] = found
        return found

    def bury(self, message: _Message, queue: _Queue, reason: str) -> None:
        """Send a message to its queue's dead-letter exchange, if there is one."""
        exchange = queue.arguments.get("x-dead-letter-exchange")
        if not isinstance(exchange, str) or exchange not in self._bindings:
            return
        key = str(queue.arguments.get("x-dead-letter-routing-key", message.routing_key))
        dead = _dead(message, queue.name, reason, exchange, key)
        for target in self._route(exchange, key):
            # As RabbitMQ does: a circle in which nobody rejects would never end.
            if target.name not in dead.died_in:
                target.put(dead)

    def consumer(self, queue: str, prefetch: int, *, exclusive: bool) -> MemoryConsumer:
        found = self._queues.get(queue)
        if found is None:
            raise QueueNotFound(f"queue {queue} does not exist (yet)")
        if any(other.exclusive for other in found.consumers) or (exclusive and found.consumers):
            raise QueueInUse(f"queue {queue} has a consumer; only one may consume it exclusively")
        return MemoryConsumer(self, found, prefetch, exclusive)

    def subscription(self, exchange: str, keys: Sequence[str]) -> MemoryConsumer:
        self._exchange(exchange)
        queue = self.add_queue(f"skillq.subscription.{uuid4().hex}", {})
        queue.temporary = True
        for key in keys:
            self.bind(exchange, key, queue.name)
        return MemoryConsumer(self, queue, _SUBSCRIPTION_PREFETCH, exclusive=True)

    def detach(self, consumer: MemoryConsumer, queue: _Queue) -> None:
        bereft = self._bereft.get(queue.name, [])
        for consumers in (queue.consumers, bereft):
            if consumer in consumers:
                consumers.remove(consumer)
        if not bereft:
            self._bereft.pop(queue.name, None)
        if queue.temporary:
            self.delete_queue(queue.name)
        elif self._queues.get(queue.name) is queue:
            queue.touch()


def _dead(message: _Message, queue: str, reason: str, exchange: str, key: str) -> _Message:
    first = {
        "x-first-death-reason": reason,
        "x-first-death-queue": queue,
        "x-first-death-exchange": message.exchange,
    }
    out = replace(message.outgoing, headers=first | dict(message.outgoing.headers))
    died_in = frozenset[str]() if reason == "rejected" else message.died_in | {queue}
    return _Message(out, message.app_id, exchange, key, died_in)


class MemoryTransport:
    """See `skillq.transport.base.Transport`."""

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
            consumer.shut()
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

    async def publish(
        self, exchange: str, key: str, message: Outgoing, *, mandatory: bool = True
    ) -> None:
        self._check_open()
        self._broker.publish(_Message(message, self._app_id, exchange, key), mandatory=mandatory)
        self._published += 1
        if self._published % _PUBLISHES_PER_TURN == 0:
            # A publisher in a loop would keep it from everybody else.
            await asyncio.sleep(0)

    async def consume(
        self, queue: str, *, prefetch: int, exclusive: bool = False
    ) -> MemoryConsumer:
        self._check_open()
        return self._keep(self._broker.consumer(queue, prefetch, exclusive=exclusive))

    async def subscribe(self, exchange: str, keys: Sequence[str]) -> MemoryConsumer:
        self._check_open()
        return self._keep(self._broker.subscription(exchange, keys))

    def _keep(self, consumer: MemoryConsumer) -> MemoryConsumer:
        self._consumers = [one for one in self._consumers if not one.closed]
        self._consumers.append(consumer)
        return consumer
