"""Simulate a network with faults between processes and a memory broker.

The consumers are the reconnecting consumers of the product. The simulation is below them: late, lost or doubled
messages, missing confirms, and connections that are cut or half open.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from itertools import count
from random import Random
from types import TracebackType
from typing import Any, Self, TypeVar

from skillq.errors import SkillqError, TransportError
from skillq.topology import Topology
from skillq.transport.base import Consumer, Delivery, Outgoing
from skillq.transport.memory import MemoryBroker
from skillq.transport.memory.queue import MemoryConsumer, QueuedMessage
from skillq.transport.reconnecting import ChannelSession, ReconnectingConsumer
from tests.simulation.connections import Connection, ConsumerChannel, NetworkFaults
from tests.simulation.loop import Process, VirtualLoop

RPC_SECONDS = 10.0
RECONNECT_SECONDS = 1.0
PEER_LOST_SECONDS = 30.0  # how long each side takes to notice that the other side is gone
_SUBSCRIPTION_PREFETCH = 1000

T = TypeVar("T")


class Network:
    def __init__(self, loop: VirtualLoop, chance: Random, faults: NetworkFaults) -> None:
        self.loop = loop
        self.chance = chance
        self.faults = faults
        self.process = loop.process("broker")
        self.broker = MemoryBroker()
        self.is_up = True
        self.is_blocked = False
        self.transports: list[SimulatedTransport] = []
        self.crash: Callable[[], Awaitable[None]] | None = None  # kills the current process
        self._blocked_arrivals: list[Callable[[], None]] = []

    def delay(self) -> float:
        """Return a random delay in seconds, which is much longer for a few messages."""
        faults = self.faults
        if faults.late and self.chance.random() < faults.late:
            return self.chance.random() * faults.late_by
        return faults.latency * (0.2 + self.chance.expovariate(1.0))

    def draw(self, probability: float) -> bool:
        return probability > 0 and self.chance.random() < probability

    # --- faults of the broker

    def stop_broker(self) -> None:
        """Cut all connections, refuse new ones, and drop messages that are not persistent."""
        self.is_up = False
        for transport in list(self.transports):
            transport.cut(0.0, 0.0)
        self.process.call_later(0.0, self._drop_transient)

    def start_broker(self) -> None:
        self.is_up = True

    def _drop_transient(self) -> None:
        for queue in self.broker._queues.values():
            persistent = [one for one in queue._ready if one.message.outgoing.persistent]
            queue._ready.clear()
            queue._ready.extend(persistent)

    def block(self) -> None:
        """Start a memory alarm: published messages wait, deliveries continue."""
        self.is_blocked = True

    def unblock(self) -> None:
        self.is_blocked = False
        held, self._blocked_arrivals = self._blocked_arrivals, []
        for arrive in held:
            self.process.call_later(0.0, arrive)

    def delete_queue(self, name: str) -> None:
        """Delete a queue with its messages, and end its consumers."""
        self.process.call_later(0.0, self._delete_queue, name)

    def _delete_queue(self, name: str) -> None:
        for transport in self.transports:
            for consumer, session in transport.open_consumers():
                if consumer._queue.name == name and not consumer.closed:
                    consumer.close_now()
                    if session is not None:
                        transport.process.call_later(self.delay(), session.end)
        self.broker.delete_queue(name)

    # --- messages

    def deliver_to_broker(
        self,
        connection: Connection,
        message: QueuedMessage,
        done: Callable[[SkillqError | None], None],
        *,
        mandatory: bool,
    ) -> None:
        """Send a message to the broker; call `done` when the confirm comes."""
        faults = self.faults
        if self.draw(faults.lost):
            return

        def arrive() -> None:
            if not connection.is_connected or not self.is_up:
                return
            if self.is_blocked:
                self._blocked_arrivals.append(arrive)
                return
            error: SkillqError | None = None
            if not self.draw(faults.forgotten):
                error = self._put(message, mandatory)
            if not self.draw(faults.unconfirmed):
                done(error)

        self.process.call_later(self.delay(), arrive)
        if self.draw(faults.doubled):
            self.process.call_later(self.delay(), self._put, message, False)

    def _put(self, message: QueuedMessage, mandatory: bool) -> SkillqError | None:
        try:
            self.broker.publish(message, mandatory=mandatory)
        except SkillqError as error:
            return error
        return None


class SimulatedTransport:
    """The transport of one process. Implements `skillq.transport.base.Transport`."""

    def __init__(self, network: Network, process: Process, *, app_id: str) -> None:
        self._network = network
        self._app_id = app_id
        self._connection: Connection | None = None
        self._is_open = False
        self._connected = asyncio.Event()
        self._deliveries_delayed_until = 0.0
        self.process = process

    async def __aenter__(self) -> Self:
        self._is_open = True
        self._network.transports.append(self)
        self._reconnect()
        await self._connected.wait()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_open = False
        # Wait for acknowledgements that are on their way.
        await asyncio.sleep(2 * self._network.faults.latency)
        self.cut(0.0, 0.0)
        self._remove()

    def _remove(self) -> None:
        if self in self._network.transports:
            self._network.transports.remove(self)

    @property
    def connected(self) -> bool:
        return self._connection is not None

    # --- connections

    def _reconnect(self) -> None:
        if not self._is_open or self._connection is not None:
            return
        if self._network.is_up:
            self._connection = Connection()
            self._connected.set()
        else:
            self.process.call_later(RECONNECT_SECONDS, self._reconnect)

    def cut(self, client_notices: float, broker_notices: float) -> None:
        """Cut the connection; client and broker notice after these seconds."""
        connection = self._connection
        if connection is None or not connection.is_connected:
            return
        connection.is_connected = False
        self.process.call_later(client_notices, self._close_at_client, connection)
        self._network.process.call_later(broker_notices, self._close_at_broker, connection)

    def kill(self, broker_notices: float, *, in_flight: bool) -> None:
        """End the connection of a dead process. Sent messages may still be `in_flight`."""
        connection = self._connection
        if connection is not None:
            if not in_flight:
                connection.is_connected = False
            self._network.process.call_later(broker_notices, self._close_at_broker, connection)
        self._remove()

    def delay_deliveries(self, seconds: float) -> None:
        """Delay all deliveries for some seconds."""
        self._deliveries_delayed_until = self._network.loop.time() + seconds

    def open_consumers(self) -> list[tuple[MemoryConsumer, ChannelSession | None]]:
        return [] if self._connection is None else list(self._connection.consumers)

    def _close_at_client(self, connection: Connection) -> None:
        """Close the client's side of a connection."""
        connection.is_open = False
        if self._connection is connection:
            self._connection = None
            self._connected.clear()
        for session in connection.sessions:
            session.end()
        for future in list(connection.pending):
            if not future.done():
                future.set_exception(TransportError("the connection to the broker was lost"))
        self.process.call_later(RECONNECT_SECONDS, self._reconnect)

    def _close_at_broker(self, connection: Connection) -> None:
        """Close the broker's side of a connection."""
        connection.is_connected = False
        for consumer, _ in connection.consumers:
            consumer.close_now()

    # --- requests to the broker

    def _open_connection(self) -> Connection:
        if self._connection is None:
            raise TransportError("not connected at present")
        return self._connection

    async def _wait_for_reply(
        self, connection: Connection, start: Callable[[asyncio.Future[T]], None]
    ) -> T:
        future: asyncio.Future[T] = self._network.loop.create_future()
        connection.pending[future] = None
        try:
            start(future)
            async with asyncio.timeout(RPC_SECONDS):
                return await future
        except TimeoutError as error:
            raise TransportError("the broker did not answer in time") from error
        finally:
            connection.pending.pop(future, None)

    def _settle(
        self,
        connection: Connection,
        future: asyncio.Future[T],
        result: T,
        error: SkillqError | None,
    ) -> None:
        if future.done() or not connection.is_connected:
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    async def _call(self, connection: Connection, function: Callable[[], T]) -> T:
        """Run a function at the broker; its result comes back over the same connection."""

        def start(future: asyncio.Future[T]) -> None:
            def arrive() -> None:
                if not connection.is_connected or not self._network.is_up:
                    return
                result: Any = None
                error: SkillqError | None = None
                try:
                    result = function()
                except SkillqError as failure:
                    error = failure
                self.process.call_later(
                    self._network.delay(), self._settle, connection, future, result, error
                )

            self._network.process.call_later(self._network.delay(), arrive)

        return await self._wait_for_reply(connection, start)

    async def declare(self, topology: Topology) -> None:
        await self._call(self._open_connection(), lambda: self._network.broker.declare(topology))

    async def publish(self, exchange: str, key: str, message: Outgoing) -> None:
        await self._maybe_crash()
        connection = self._open_connection()
        sent = QueuedMessage(message, self._app_id, exchange, key)

        def start(future: asyncio.Future[None]) -> None:
            def done(error: SkillqError | None) -> None:
                delay = self._network.delay()
                self.process.call_later(delay, self._settle, connection, future, None, error)

            self._network.deliver_to_broker(connection, sent, done, mandatory=True)

        await self._wait_for_reply(connection, start)
        await self._maybe_crash()

    async def publish_unconfirmed(self, exchange: str, key: str, message: Outgoing) -> None:
        sent = QueuedMessage(message, self._app_id, exchange, key)
        self._network.deliver_to_broker(
            self._open_connection(), sent, lambda _: None, mandatory=False
        )

    async def _maybe_crash(self) -> None:
        network = self._network
        if network.crash is not None and network.draw(network.faults.crashes):
            await network.crash()

    async def consume(
        self,
        queue: str,
        *,
        prefetch: int,
        exclusive: bool = False,
        priority: int = 0,
        after: Consumer | None = None,
    ) -> ReconnectingConsumer:
        return await self._consume(
            lambda: self._network.broker.open_consumer(
                queue, prefetch, exclusive=exclusive, priority=priority
            ),
            after,
        )

    async def subscribe(self, exchange: str, keys: Sequence[str]) -> ReconnectingConsumer:
        return await self._consume(lambda: self._network.broker.open_subscription(exchange, keys))

    async def _consume(
        self, make: Callable[[], MemoryConsumer], after: Consumer | None = None
    ) -> ReconnectingConsumer:
        async def begin() -> ChannelSession:
            return await self._open_session(make)

        async def connected() -> None:
            await self._connected.wait()
            if isinstance(after, ReconnectingConsumer):
                await after.wait_until_live()

        wait: Callable[[], Awaitable[None]] = connected
        return await ReconnectingConsumer(begin, wait).open()

    async def _open_session(self, make: Callable[[], MemoryConsumer]) -> ChannelSession:
        connection = self._open_connection()
        created: list[MemoryConsumer] = []
        abandoned = False

        def open_channel() -> ChannelSession:
            if abandoned:
                raise TransportError("the client has closed the channel")
            consumer = make()
            created.append(consumer)
            channel = ConsumerChannel(self._network, connection, consumer)
            session = ChannelSession(channel)
            connection.consumers.append((consumer, session))
            self._network.process.start(self._pump(connection, consumer, channel, session))
            return session

        try:
            session = await self._call(connection, open_channel)
        except BaseException:
            abandoned = True
            for consumer in created:  # the client does not know the channel
                self._network.process.call_later(self._network.delay(), consumer.close_now)
            raise
        connection.sessions.append(session)
        return session

    async def _pump(
        self,
        connection: Connection,
        consumer: MemoryConsumer,
        channel: ConsumerChannel,
        session: ChannelSession,
    ) -> None:
        """Send deliveries from the broker to the process, in order."""
        loop, tags, arrives_at = self._network.loop, count(1), 0.0
        while True:
            try:
                deliveries = await consumer.batch()
            except TransportError:
                return
            while (wait := self._deliveries_delayed_until - loop.time()) > 0:  # noqa: ASYNC110 - time is virtual
                await asyncio.sleep(wait)
            arrives_at = max(arrives_at, loop.time() + self._network.delay())
            for delivery in deliveries:
                tag = next(tags)
                channel.tags[tag] = delivery
                self.process.call_later(
                    arrives_at - loop.time(), self._deliver, connection, session, tag, delivery
                )

    def _deliver(
        self, connection: Connection, session: ChannelSession, tag: int, delivery: Delivery
    ) -> None:
        if connection.is_connected and not session.ended.is_set():
            session.add_delivery(
                tag,
                Delivery(
                    body=delivery.body,
                    type=delivery.type,
                    queue=delivery.queue,
                    exchange=delivery.exchange,
                    routing_key=delivery.routing_key,
                    redelivered=delivery.redelivered,
                    headers=delivery.headers,
                    message_id=delivery.message_id,
                    app_id=delivery.app_id,
                    token=(session, tag),
                ),
            )
