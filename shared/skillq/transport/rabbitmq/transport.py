"""The transport: publishes on one connection, consumes on the other."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import NoReturn, Self

from aiormq import exceptions as amqp
from aiormq.abc import AbstractChannel

from skillq import timings
from skillq.errors import (
    QueueInUse,
    QueueNotFound,
    TransportError,
    Unreachable,
    UnroutableMessage,
    UsageError,
)
from skillq.topology import Topology, worker_queue
from skillq.transport.base import Consumer, Outgoing
from skillq.transport.rabbitmq.connection import RabbitConnection
from skillq.transport.rabbitmq.errors import reason_of, translated
from skillq.transport.rabbitmq.fastpath.consumer import ChannelBrowser, Find, open_session
from skillq.transport.rabbitmq.fastpath.encode import Encoder
from skillq.transport.rabbitmq.fastpath.publisher import Publisher
from skillq.transport.rabbitmq.outage_log import OutageLog
from skillq.transport.rabbitmq.url import Address
from skillq.transport.reconnecting import ChannelSession, ReconnectingConsumer

_SUBSCRIPTION_PREFETCH = 1000
_WORKER_QUEUES = worker_queue("")
_PUBLISH, _CONSUME = 0, 1


class RabbitTransport:
    """See `skillq.transport.base.Transport` and `Browsable`."""

    def __init__(
        self,
        url: str,
        *,
        app_id: str,
        connection_name: str,
        connect_timeout: float = timings.START_TIMEOUT_SECONDS,
    ) -> None:
        self._address = Address(url)
        self._name = connection_name
        self._connect_timeout = connect_timeout
        self._consumers: list[ReconnectingConsumer] = []
        self._links: list[RabbitConnection] = []
        self._encoder = Encoder(app_id, None if self._address.external else self._address.user)
        self._publishers: dict[bool, Publisher] = {}  # by whether they confirm
        self._opening = asyncio.Lock()
        self._failures = 0  # to open one

    async def __aenter__(self) -> Self:
        deadline = time.monotonic() + self._connect_timeout
        outages = OutageLog(self._address.shown)
        try:
            for purpose in ("publish", "consume"):
                name = f"{self._name} ({purpose})"
                self._links.append(
                    await RabbitConnection.open(self._address, name, deadline, outages)
                )
        except BaseException:
            await self._close_links()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        # Channels first: closing them sends the acknowledgements and the news that wait in line.
        await asyncio.gather(
            *(consumer.close() for consumer in self._consumers),
            *(publisher.close() for publisher in self._publishers.values()),
        )
        self._consumers.clear()
        self._publishers.clear()
        await self._close_links()

    async def _close_links(self) -> None:
        links, self._links = self._links, []
        await asyncio.gather(*(link.close() for link in links))

    @property
    def connected(self) -> bool:
        return bool(self._links) and all(link.connected for link in self._links)

    def _link(self, number: int) -> RabbitConnection:
        if not self._links:
            raise TransportError("the transport is closed")
        return self._links[number]

    async def declare(self, topology: Topology) -> None:
        with translated("declare"):
            try:
                await self._declare(topology)
            except amqp.ChannelAccessRefused as error:
                self._may_not("declare", error)
            except amqp.ChannelPreconditionFailed as error:
                await self._delete(_stale_worker_queue(error))
                await self._declare(topology)

    async def _declare(self, topology: Topology) -> None:
        # The publishing connection may be blocked by an alarm, and a declaration would hang on it.
        async with self._link(_CONSUME).short_lived_channel() as channel:
            for exchange in topology.exchanges:
                await channel.exchange_declare(
                    exchange, exchange_type="topic", durable=True, timeout=timings.RPC_SECONDS
                )
            for queue in topology.queues:
                await channel.queue_declare(
                    queue.name,
                    durable=True,
                    arguments=dict(queue.arguments),
                    timeout=timings.RPC_SECONDS,
                )
            for binding in topology.bindings:
                await channel.queue_bind(
                    binding.queue, binding.exchange, binding.key, timeout=timings.RPC_SECONDS
                )

    async def _delete(self, queue: str) -> None:
        async with self._link(_CONSUME).short_lived_channel() as channel:
            await channel.queue_delete(queue, timeout=timings.RPC_SECONDS)

    def _may_not(self, do: str, error: BaseException) -> NoReturn:
        raise Unreachable(
            f"user {self._address.user!r} may not {do}: {reason_of(error)}; give it the permission"
        ) from error

    async def publish(self, exchange: str, key: str, message: Outgoing) -> None:
        with translated(f"publish {key} to {exchange}"):
            publisher = await self._publisher(confirms=True)
            if publisher.wire.is_full:
                await publisher.wire.drain()
                # It may have ended while we waited.
                publisher = await self._publisher(confirms=True)
            if not await publisher.publish(exchange, key, message):
                raise UnroutableMessage(f"no queue takes {key} from exchange {exchange}")

    async def publish_unconfirmed(self, exchange: str, key: str, message: Outgoing) -> None:
        with translated(f"publish {key} to {exchange}"):
            publisher = await self._publisher(confirms=False)
            if publisher.wire.is_full:
                raise TransportError("the broker takes nothing at present")
            publisher.publish_unconfirmed(exchange, key, message)
        if publisher.wire.wait_while_full:
            await asyncio.sleep(0)

    async def _publisher(self, *, confirms: bool) -> Publisher:
        link = self._link(_PUBLISH)
        failures = self._failures
        async with self._opening:  # even if it is open: who has waited for that goes first
            publisher = self._publishers.get(confirms)
            if publisher is None or publisher.ended:
                if self._failures != failures:
                    raise TransportError("no channel could be opened")  # in all the time we waited
                publisher = self._publishers[confirms] = await self._open(link, confirms=confirms)
        return publisher

    async def _open(self, link: RabbitConnection, *, confirms: bool) -> Publisher:
        try:
            # The driver asks for confirms without end.
            async with asyncio.timeout(timings.RPC_SECONDS):
                return Publisher(*await link.channel(confirms=confirms), self._encoder)
        except Exception:
            self._failures += 1
            raise

    async def consume(
        self,
        queue: str,
        *,
        prefetch: int,
        exclusive: bool = False,
        priority: int = 0,
        after: Consumer | None = None,
    ) -> ReconnectingConsumer:
        async def find(channel: AbstractChannel) -> str:
            # Consuming asks for it anyhow, and a passive declaration needs more permissions.
            return queue

        link = self._link(_CONSUME)

        async def may_begin() -> None:
            await link.wait_until_connected()
            if isinstance(after, ReconnectingConsumer):
                await after.wait_until_live()

        begin = self._beginner(find, queue, prefetch, exclusive=exclusive, priority=priority)
        return await self._reconnecting_consumer(ReconnectingConsumer(begin, may_begin))

    async def subscribe(self, exchange: str, keys: Sequence[str]) -> ReconnectingConsumer:
        async def find(channel: AbstractChannel) -> str:
            declared = await channel.queue_declare(
                "", exclusive=True, auto_delete=True, timeout=timings.RPC_SECONDS
            )
            name = str(declared.queue)
            for key in keys:
                await channel.queue_bind(name, exchange, key, timeout=timings.RPC_SECONDS)
            return name

        begin = self._beginner(find, exchange, _SUBSCRIPTION_PREFETCH, exclusive=True)
        return await self._reconnecting_consumer(
            ReconnectingConsumer(begin, self._link(_CONSUME).wait_until_connected)
        )

    def _beginner(
        self, find: Find, what: str, prefetch: int, *, exclusive: bool, priority: int = 0
    ) -> Callable[[], Awaitable[ChannelSession]]:
        link = self._link(_CONSUME)

        async def begin() -> ChannelSession:
            with self._explained(what), translated(f"consume {what}"):
                return await open_session(link, find, prefetch, exclusive, priority)

        return begin

    async def _reconnecting_consumer(self, consumer: ReconnectingConsumer) -> ReconnectingConsumer:
        await consumer.open()
        self._consumers = [one for one in self._consumers if not one.closed]
        self._consumers.append(consumer)
        return consumer

    async def message_count(self, queue: str) -> int:
        with self._browsing(queue):
            async with self._link(_CONSUME).short_lived_channel() as channel:
                found = await channel.queue_declare(
                    queue, passive=True, timeout=timings.RPC_SECONDS
                )
        return found.message_count or 0

    @asynccontextmanager
    async def browse(self, queue: str) -> AsyncIterator[ChannelBrowser]:
        with self._browsing(queue):
            channel, wire = await self._link(_CONSUME).channel()
        browser = ChannelBrowser(channel, wire, queue, self._browsing)
        try:
            yield browser
            with self._browsing(queue):
                browser.check()
                await channel.close()  # the answer to it says that what was acknowledged is gone
        except BaseException:
            await browser.close()
            raise

    @contextmanager
    def _browsing(self, queue: str) -> Iterator[None]:
        with self._explained(queue), translated(f"browse {queue}"):
            yield

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except TransportError as error:
            self._explain_refusal(what, error)
            raise

    def _explain_refusal(self, what: str, error: TransportError) -> None:
        cause = error.__cause__
        reason = reason_of(cause) if cause else ""
        if isinstance(cause, amqp.ChannelNotFoundEntity) and "no queue" in reason:
            raise QueueNotFound(f"queue {what} does not exist (yet)") from error
        if isinstance(cause, amqp.ChannelAccessRefused) and "exclusive" in reason:
            raise QueueInUse(
                f"queue {what} has a consumer; only one may consume it exclusively"
            ) from error
        if isinstance(cause, amqp.ChannelAccessRefused):
            self._may_not(f"consume {what}", cause)


def _stale_worker_queue(error: amqp.ChannelPreconditionFailed) -> str:
    """The worker's queue that an earlier release declared otherwise.

    Raises:
        UsageError: it is something else that is there with other arguments.
    """
    found = re.search(r"(queue|exchange) '([^']+)'", reason_of(error))
    kind, name = found.groups() if found else ("something", "")
    if kind == "queue" and name.startswith(_WORKER_QUEUES):
        return name
    raise UsageError(
        f"{kind} {name} exists with other arguments ({reason_of(error)}); "
        "delete it, or declare it as it is"
    ) from error
