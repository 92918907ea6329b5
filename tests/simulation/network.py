"""A broker that many processes reach over connections which fail: the memory broker behind a faulty network.

Consumers are the ones of the services (`transport/consuming.py`); what is simulated is below them: frames
that are late, lost or doubled, confirms that do not come, connections that are cut or half open.
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
from tests.simulation.links import Channel, Faults, Link
from tests.simulation.loop import Process, VirtualLoop

RPC_SECONDS = 10.0
RECONNECT_SECONDS = 1.0
PEER_LOST_SECONDS = 30.0  # how long either side takes to notice that the other one is gone
_SUBSCRIPTION_PREFETCH = 1000

T = TypeVar("T")


class Network:
    def __init__(self, loop: VirtualLoop, chance: Random, faults: Faults) -> None:
        self.loop = loop
        self.chance = chance
        self.faults = faults
        self.process = loop.process("broker")
        self.broker = MemoryBroker()
        self.is_up = True
        self.is_blocked = False
        self.transports: list[SimTransport] = []
        self.crash: Callable[[], Awaitable[None]] | None = None  # kills who is here
        self._held: list[Callable[[], None]] = []

    def delay(self) -> float:
        """Mostly about the same, now and then much more."""
        faults = self.faults
        if faults.late and self.chance.random() < faults.late:
            return self.chance.random() * faults.late_by
        return faults.latency * (0.2 + self.chance.expovariate(1.0))

    def happens(self, probability: float) -> bool:
        return probability > 0 and self.chance.random() < probability

    # --- faults of the broker

    def go_away(self) -> None:
        """All connections are cut, none is made; what was not persistent is gone."""
        self.is_up = False
        for transport in list(self.transports):
            transport.cut(0.0, 0.0)
        self.process.later(0.0, self._drop_transient)

    def come_back(self) -> None:
        self.is_up = True

    def _drop_transient(self) -> None:
        for queue in self.broker._queues.values():
            kept = [one for one in queue._ready if one.message.outgoing.persistent]
            queue._ready.clear()
            queue._ready.extend(kept)

    def block(self) -> None:
        """A memory alarm: nobody is heard, while deliveries go on."""
        self.is_blocked = True

    def unblock(self) -> None:
        self.is_blocked = False
        held, self._held = self._held, []
        for arrive in held:
            self.process.later(0.0, arrive)

    def delete_queue(self, name: str) -> None:
        """A queue goes with what is in it; its consumers are told."""
        self.process.later(0.0, self._delete_queue, name)

    def _delete_queue(self, name: str) -> None:
        for transport in self.transports:
            for consumer, session in transport.link_consumers():
                if consumer._queue.name == name and not consumer.closed:
                    consumer.close_now()
                    if session is not None:
                        transport.process.later(self.delay(), session.end)
        self.broker.delete_queue(name)

    # --- messages

    def carry(
        self,
        link: Link,
        message: QueuedMessage,
        done: Callable[[SkillqError | None], None],
        *,
        mandatory: bool,
    ) -> None:
        """Take a message to the broker; `done` is called when the publisher hears of it."""
        faults = self.faults
        if self.happens(faults.lost):
            return

        def arrive() -> None:
            if not link.passes or not self.is_up:
                return
            if self.is_blocked:
                self._held.append(arrive)
                return
            error: SkillqError | None = None
            if not self.happens(faults.forgotten):
                error = self._put(message, mandatory)
            if not self.happens(faults.unconfirmed):
                done(error)

        self.process.later(self.delay(), arrive)
        if self.happens(faults.doubled):
            self.process.later(self.delay(), self._put, message, False)

    def _put(self, message: QueuedMessage, mandatory: bool) -> SkillqError | None:
        try:
            self.broker.publish(message, mandatory=mandatory)
        except SkillqError as error:
            return error
        return None


class SimTransport:
    """One process's way to the broker. See `skillq.transport.base.Transport`."""

    def __init__(self, network: Network, process: Process, *, app_id: str) -> None:
        self._network = network
        self._app_id = app_id
        self._link: Link | None = None
        self._is_open = False
        self._connected = asyncio.Event()
        self._deaf_until = 0.0
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
        await asyncio.sleep(2 * self._network.faults.latency)  # acknowledgements that wait in line
        self.cut(0.0, 0.0)
        self._leave()

    def _leave(self) -> None:
        if self in self._network.transports:
            self._network.transports.remove(self)

    @property
    def connected(self) -> bool:
        return self._link is not None

    # --- connections

    def _reconnect(self) -> None:
        if not self._is_open or self._link is not None:
            return
        if self._network.is_up:
            self._link = Link()
            self._connected.set()
        else:
            self.process.later(RECONNECT_SECONDS, self._reconnect)

    def cut(self, client_notices: float, broker_notices: float) -> None:
        """Nothing passes from now on; each side notices when it does."""
        link = self._link
        if link is None or not link.passes:
            return
        link.passes = False
        self.process.later(client_notices, self._lose, link)
        self._network.process.later(broker_notices, self._bury, link)

    def die(self, broker_notices: float, *, in_flight: bool) -> None:
        """Its process is dead. What it has sent may be under way still."""
        link = self._link
        if link is not None:
            if not in_flight:
                link.passes = False
            self._network.process.later(broker_notices, self._bury, link)
        self._leave()

    def be_deaf(self, seconds: float) -> None:
        """Deliveries are held up for a while."""
        self._deaf_until = self._network.loop.time() + seconds

    def link_consumers(self) -> list[tuple[MemoryConsumer, ChannelSession | None]]:
        return [] if self._link is None else list(self._link.consumers)

    def _lose(self, link: Link) -> None:
        """The client's side."""
        link.is_open = False
        if self._link is link:
            self._link = None
            self._connected.clear()
        for session in link.sessions:
            session.end()
        for future in list(link.pending):
            if not future.done():
                future.set_exception(TransportError("the connection to the broker was lost"))
        self.process.later(RECONNECT_SECONDS, self._reconnect)

    def _bury(self, link: Link) -> None:
        """The broker's side."""
        link.passes = False
        for consumer, _ in link.consumers:
            consumer.close_now()

    # --- asking the broker

    def _live_link(self) -> Link:
        if self._link is None:
            raise TransportError("not connected at present")
        return self._link

    async def _answer(self, link: Link, start: Callable[[asyncio.Future[T]], None]) -> T:
        future: asyncio.Future[T] = self._network.loop.create_future()
        link.pending[future] = None
        try:
            start(future)
            async with asyncio.timeout(RPC_SECONDS):
                return await future
        except TimeoutError as error:
            raise TransportError("the broker did not answer in time") from error
        finally:
            link.pending.pop(future, None)

    def _settle(
        self, link: Link, future: asyncio.Future[T], result: T, error: SkillqError | None
    ) -> None:
        if future.done() or not link.passes:
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    async def _call(self, link: Link, function: Callable[[], T]) -> T:
        """Let the broker do something; its answer comes over the same connection."""

        def start(future: asyncio.Future[T]) -> None:
            def arrive() -> None:
                if not link.passes or not self._network.is_up:
                    return
                result: Any = None
                error: SkillqError | None = None
                try:
                    result = function()
                except SkillqError as failure:
                    error = failure
                self.process.later(self._network.delay(), self._settle, link, future, result, error)

            self._network.process.later(self._network.delay(), arrive)

        return await self._answer(link, start)

    async def declare(self, topology: Topology) -> None:
        await self._call(self._live_link(), lambda: self._network.broker.declare(topology))

    async def publish(self, exchange: str, key: str, message: Outgoing) -> None:
        await self._may_crash()
        link = self._live_link()
        sent = QueuedMessage(message, self._app_id, exchange, key)

        def start(future: asyncio.Future[None]) -> None:
            def done(error: SkillqError | None) -> None:
                delay = self._network.delay()
                self.process.later(delay, self._settle, link, future, None, error)

            self._network.carry(link, sent, done, mandatory=True)

        await self._answer(link, start)
        await self._may_crash()

    async def publish_unconfirmed(self, exchange: str, key: str, message: Outgoing) -> None:
        sent = QueuedMessage(message, self._app_id, exchange, key)
        self._network.carry(self._live_link(), sent, lambda _: None, mandatory=False)

    async def _may_crash(self) -> None:
        network = self._network
        if network.crash is not None and network.happens(network.faults.crashes):
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
            return await self._begin(make)

        async def connected() -> None:
            await self._connected.wait()
            if isinstance(after, ReconnectingConsumer):
                await after.wait_until_live()

        wait: Callable[[], Awaitable[None]] = connected
        return await ReconnectingConsumer(begin, wait).open()

    async def _begin(self, make: Callable[[], MemoryConsumer]) -> ChannelSession:
        link = self._live_link()
        made: list[MemoryConsumer] = []
        given_up = False

        def open_channel() -> ChannelSession:
            if given_up:
                raise TransportError("it has closed its channel again")
            consumer = make()
            made.append(consumer)
            channel = Channel(self._network, link, consumer)
            session = ChannelSession(channel)
            link.consumers.append((consumer, session))
            self._network.process.start(self._pump(link, consumer, channel, session))
            return session

        try:
            session = await self._call(link, open_channel)
        except BaseException:
            given_up = True
            for consumer in made:  # nobody has its channel
                self._network.process.later(self._network.delay(), consumer.close_now)
            raise
        link.sessions.append(session)
        return session

    async def _pump(
        self, link: Link, consumer: MemoryConsumer, channel: Channel, session: ChannelSession
    ) -> None:
        """From the broker to the process, in order."""
        loop, tags, arrives_at = self._network.loop, count(1), 0.0
        while True:
            try:
                deliveries = await consumer.batch()
            except TransportError:
                return
            while (wait := self._deaf_until - loop.time()) > 0:  # noqa: ASYNC110 - time is virtual
                await asyncio.sleep(wait)
            arrives_at = max(arrives_at, loop.time() + self._network.delay())
            for delivery in deliveries:
                tag = next(tags)
                channel.tags[tag] = delivery
                self.process.later(
                    arrives_at - loop.time(), self._take, link, session, tag, delivery
                )

    def _take(self, link: Link, session: ChannelSession, tag: int, delivery: Delivery) -> None:
        if link.passes and not session.ended.is_set():
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
