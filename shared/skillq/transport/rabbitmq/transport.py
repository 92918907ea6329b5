"""The transport on RabbitMQ: one connection publishes, the other consumes.

See docs/adr/0012-open-channels-on-robust-connections.md.
"""

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
from skillq.transport.rabbitmq.errors import error_reason, translate_driver_errors
from skillq.transport.rabbitmq.fastpath.consumer import ChannelBrowser, QueueFinder, open_session
from skillq.transport.rabbitmq.fastpath.encode import Encoder
from skillq.transport.rabbitmq.fastpath.publisher import Publisher
from skillq.transport.rabbitmq.outage_log import OutageLog
from skillq.transport.rabbitmq.url import BrokerAddress
from skillq.transport.reconnecting import ChannelSession, ReconnectingConsumer

_SUBSCRIPTION_PREFETCH = 1000
_WORKER_QUEUES = worker_queue("")
_PUBLISHING, _CONSUMING = 0, 1


class RabbitTransport:
    """Implements `skillq.transport.base.Transport` and `skillq.transport.base.Browsable`."""

    def __init__(
        self,
        url: str,
        *,
        app_id: str,
        connection_name: str,
        connect_timeout: float = timings.START_TIMEOUT_SECONDS,
    ) -> None:
        self._address = BrokerAddress(url)
        self._name = connection_name
        self._connect_timeout = connect_timeout
        self._consumers: list[ReconnectingConsumer] = []
        self._connections: list[RabbitConnection] = []
        self._encoder = Encoder(app_id, None if self._address.external_auth else self._address.user)
        self._publishers: dict[bool, Publisher] = {}  # keyed by: with confirms, or without
        self._open_lock = asyncio.Lock()
        self._open_failures = 0  # how often no publisher could be opened

    async def __aenter__(self) -> Self:
        deadline = time.monotonic() + self._connect_timeout
        outages = OutageLog(self._address.display_url)
        try:
            for purpose in ("publish", "consume"):
                name = f"{self._name} ({purpose})"
                self._connections.append(
                    await RabbitConnection.open(self._address, name, deadline, outages)
                )
        except BaseException:
            await self._close_connections()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        # Close channels first: this sends acknowledgements and messages that are still buffered.
        await asyncio.gather(
            *(consumer.close() for consumer in self._consumers),
            *(publisher.close() for publisher in self._publishers.values()),
        )
        self._consumers.clear()
        self._publishers.clear()
        await self._close_connections()

    async def _close_connections(self) -> None:
        connections, self._connections = self._connections, []
        await asyncio.gather(*(connection.close() for connection in connections))

    @property
    def connected(self) -> bool:
        return bool(self._connections) and all(
            connection.connected for connection in self._connections
        )

    def _connection(self, number: int) -> RabbitConnection:
        if not self._connections:
            raise TransportError("the transport is closed")
        return self._connections[number]

    async def declare(self, topology: Topology) -> None:
        with translate_driver_errors("declare"):
            try:
                await self._declare_topology(topology)
            except amqp.ChannelAccessRefused as error:
                self._raise_not_permitted("declare", error)
            except amqp.ChannelPreconditionFailed as error:
                await self._delete_queue(_stale_worker_queue(error))
                await self._declare_topology(topology)

    async def _declare_topology(self, topology: Topology) -> None:
        # An alarm of the broker may block the publishing connection, and a declaration would hang.
        async with self._connection(_CONSUMING).short_lived_channel() as channel:
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

    async def _delete_queue(self, queue: str) -> None:
        async with self._connection(_CONSUMING).short_lived_channel() as channel:
            await channel.queue_delete(queue, timeout=timings.RPC_SECONDS)

    def _raise_not_permitted(self, action: str, error: BaseException) -> NoReturn:
        raise Unreachable(
            f"user {self._address.user!r} may not {action}: {error_reason(error)}; give it the permission"
        ) from error

    async def publish(self, exchange: str, key: str, message: Outgoing) -> None:
        with translate_driver_errors(f"publish {key} to {exchange}"):
            publisher = await self._publisher(confirms=True)
            if publisher.writer.is_full:
                await publisher.writer.drain()
                # The publisher's channel may have ended during the wait.
                publisher = await self._publisher(confirms=True)
            if not await publisher.publish(exchange, key, message):
                raise UnroutableMessage(f"no queue takes {key} from exchange {exchange}")

    async def publish_unconfirmed(self, exchange: str, key: str, message: Outgoing) -> None:
        with translate_driver_errors(f"publish {key} to {exchange}"):
            publisher = await self._publisher(confirms=False)
            if publisher.writer.is_full:
                raise TransportError("the broker takes nothing at present")
            publisher.publish_unconfirmed(exchange, key, message)
        if publisher.writer.should_yield:
            await asyncio.sleep(0)

    async def _publisher(self, *, confirms: bool) -> Publisher:
        connection = self._connection(_PUBLISHING)
        failures = self._open_failures
        # The lock is taken for an open publisher too: callers that waited for it publish first.
        async with self._open_lock:
            publisher = self._publishers.get(confirms)
            if publisher is None or publisher.ended:
                if self._open_failures != failures:
                    # Another caller failed while this one waited: do not wait once more.
                    raise TransportError("no channel could be opened")
                publisher = self._publishers[confirms] = await self._open_publisher(
                    connection, confirms=confirms
                )
        return publisher

    async def _open_publisher(self, connection: RabbitConnection, *, confirms: bool) -> Publisher:
        try:
            # The driver asks the broker for confirms without a timeout.
            async with asyncio.timeout(timings.RPC_SECONDS):
                return Publisher(*await connection.channel(confirms=confirms), self._encoder)
        except Exception:
            self._open_failures += 1
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
        async def find_queue(channel: AbstractChannel) -> str:
            # The consume request fails if the queue is missing. A passive declaration needs more
            # permissions.
            return queue

        connection = self._connection(_CONSUMING)

        async def wait_until_ready() -> None:
            await connection.wait_until_connected()
            if isinstance(after, ReconnectingConsumer):
                await after.wait_until_live()

        open_consumer_session = self._session_opener(
            find_queue, queue, prefetch, exclusive=exclusive, priority=priority
        )
        return await self._open_consumer(
            ReconnectingConsumer(open_consumer_session, wait_until_ready)
        )

    async def subscribe(self, exchange: str, keys: Sequence[str]) -> ReconnectingConsumer:
        async def find_queue(channel: AbstractChannel) -> str:
            declared = await channel.queue_declare(
                "", exclusive=True, auto_delete=True, timeout=timings.RPC_SECONDS
            )
            name = str(declared.queue)
            for key in keys:
                await channel.queue_bind(name, exchange, key, timeout=timings.RPC_SECONDS)
            return name

        open_consumer_session = self._session_opener(
            find_queue, exchange, _SUBSCRIPTION_PREFETCH, exclusive=True
        )
        return await self._open_consumer(
            ReconnectingConsumer(
                open_consumer_session, self._connection(_CONSUMING).wait_until_connected
            )
        )

    def _session_opener(
        self,
        find_queue: QueueFinder,
        name: str,
        prefetch: int,
        *,
        exclusive: bool,
        priority: int = 0,
    ) -> Callable[[], Awaitable[ChannelSession]]:
        connection = self._connection(_CONSUMING)

        async def open_consumer_session() -> ChannelSession:
            with self._explain_errors(name), translate_driver_errors(f"consume {name}"):
                return await open_session(connection, find_queue, prefetch, exclusive, priority)

        return open_consumer_session

    async def _open_consumer(self, consumer: ReconnectingConsumer) -> ReconnectingConsumer:
        await consumer.open()
        self._consumers = [known for known in self._consumers if not known.closed]
        self._consumers.append(consumer)
        return consumer

    async def message_count(self, queue: str) -> int:
        with self._browse_errors(queue):
            async with self._connection(_CONSUMING).short_lived_channel() as channel:
                found = await channel.queue_declare(
                    queue, passive=True, timeout=timings.RPC_SECONDS
                )
        return found.message_count or 0

    @asynccontextmanager
    async def browse(self, queue: str) -> AsyncIterator[ChannelBrowser]:
        with self._browse_errors(queue):
            channel, writer = await self._connection(_CONSUMING).channel()
        browser = ChannelBrowser(channel, writer, queue, self._browse_errors)
        try:
            yield browser
            with self._browse_errors(queue):
                browser.check_open()
                # The broker's answer proves that it removed the acknowledged messages.
                await channel.close()
        except BaseException:
            await browser.close()
            raise

    @contextmanager
    def _browse_errors(self, queue: str) -> Iterator[None]:
        with self._explain_errors(queue), translate_driver_errors(f"browse {queue}"):
            yield

    @contextmanager
    def _explain_errors(self, name: str) -> Iterator[None]:
        """Raise a more exact error if the broker refused to consume from `name`."""
        try:
            yield
        except TransportError as error:
            self._raise_explained(name, error)
            raise

    def _raise_explained(self, name: str, error: TransportError) -> None:
        """Raise the exception that fits the driver's error; return if no such exception exists."""
        cause = error.__cause__
        reason = error_reason(cause) if cause else ""
        if isinstance(cause, amqp.ChannelNotFoundEntity) and "no queue" in reason:
            raise QueueNotFound(f"queue {name} does not exist (yet)") from error
        if isinstance(cause, amqp.ChannelAccessRefused) and "exclusive" in reason:
            raise QueueInUse(
                f"queue {name} has a consumer; only one may consume it exclusively"
            ) from error
        if isinstance(cause, amqp.ChannelAccessRefused):
            self._raise_not_permitted(f"consume {name}", cause)


def _stale_worker_queue(error: amqp.ChannelPreconditionFailed) -> str:
    """Return the worker queue that an earlier release declared with other arguments.

    Raises:
        UsageError: Another queue or an exchange exists with other arguments.
    """
    match = re.search(r"(queue|exchange) '([^']+)'", error_reason(error))
    object_type, name = match.groups() if match else ("something", "")
    if object_type == "queue" and name.startswith(_WORKER_QUEUES):
        return name
    raise UsageError(
        f"{object_type} {name} exists with other arguments ({error_reason(error)}); "
        "delete it, or declare it as it is"
    ) from error
