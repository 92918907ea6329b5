"""RabbitMQ through aio-pika; the one module that imports it.

Two robust connections, one that publishes and one that consumes. Channels are ours: aio-pika's robust
channels keep a whole connection down while one queue is missing, so each consumer here keeps a plain
channel open by itself and waits alone.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from itertools import takewhile
from types import TracebackType
from typing import NoReturn, Self

from aio_pika import RobustConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import (
    AuthenticationError,
    ChannelAccessRefused,
    ChannelNotFoundEntity,
    ChannelPreconditionFailed,
    InvalidFrameError,
    ProbableAuthenticationError,
    PublishError,
)
from pamqp.commands import Basic

from skillq.errors import (
    QueueInUse,
    QueueNotFound,
    TransportError,
    Unreachable,
    Unroutable,
    UsageError,
)
from skillq.topology import Topology, worker_queue
from skillq.transport.address import Address
from skillq.transport.base import Delivery, Outgoing

_RECONNECT_SECONDS = 1
_REOPEN_SECONDS = 0.5
_CONNECT_SECONDS = 10.0
_RPC_SECONDS = 10.0
_SUBSCRIPTION_PREFETCH = 1000
_WORKER_QUEUES = worker_queue("")
PUBLISH, CONSUME = 0, 1

# Both kinds come out of the driver: AMQPError and OSError, but also RuntimeError (a channel in the
# wrong state) and TimeoutError.
_DRIVER_ERRORS = CONNECTION_EXCEPTIONS


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    """Turn what the driver raises into a TransportError."""
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # The driver rejects what it had in flight on a dead connection with this, too.
        raise TransportError(f"{doing}: the connection to the broker was lost") from error
    except _DRIVER_ERRORS as error:
        raise TransportError(f"{doing}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "the broker did not answer in time"
    if isinstance(error.__cause__, ConnectionRefusedError):
        return "connection refused"
    text = str(error.args[-1]) if error.args else ""
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__


class _Link:
    """One robust connection."""

    def __init__(self, address: Address, name: str) -> None:
        self._address = address
        self._connection = RobustConnection(
            address.url,  # type: ignore[arg-type]  # it makes a URL of it
            client_properties={"connection_name": name},
            reconnect_interval=_RECONNECT_SECONDS,
        )

    @classmethod
    async def open(cls, address: Address, name: str, deadline: float) -> Self:
        """Connect, trying again until the deadline of the loop's clock.

        Raises:
            Unreachable: nobody answered until then, or we were refused.
        """
        began = _now()
        while True:
            link = cls(address, name)
            try:
                await link._connection.connect(min(_CONNECT_SECONDS, max(0.1, deadline - _now())))
            except _DRIVER_ERRORS as error:
                await link.close()
                _give_up_if_refused(address, error)
                if _now() >= deadline:
                    raise Unreachable(
                        f"no RabbitMQ at {address.shown} (tried for {_now() - began:.0f} s: "
                        f"{_reason(error)}); is it running, and is the broker URL right?"
                    ) from error
                await asyncio.sleep(min(_RECONNECT_SECONDS, max(0, deadline - _now())))
            except BaseException:
                await link.close()
                raise
            else:
                return link

    @property
    def connected(self) -> bool:
        connection = self._connection
        return connection.connected.is_set() and not connection.close_called

    async def wait_until_connected(self) -> None:
        await self._connection.connected.wait()

    async def channel(self, *, confirms: bool = False) -> AbstractChannel:
        transport = self._connection.transport
        if transport is None or not self.connected:
            raise TransportError(f"not connected to {self._address.shown} at present")
        return await transport.connection.channel(
            publisher_confirms=confirms, on_return_raises=True, timeout=_RPC_SECONDS
        )

    @asynccontextmanager
    async def short_lived_channel(self) -> AsyncIterator[AbstractChannel]:
        channel = await self.channel()
        try:
            yield channel
        finally:
            await _close(channel)

    async def close(self) -> None:
        await self._connection.close()


async def _close(channel: AbstractChannel) -> None:
    with suppress(TransportError), _translated("close"):
        await channel.close()


def _now() -> float:
    return asyncio.get_running_loop().time()


def _give_up_if_refused(address: Address, error: BaseException) -> None:
    if isinstance(error, AuthenticationError | ProbableAuthenticationError):
        raise Unreachable(
            f"{address.shown} refuses user {address.user!r}; check the user and the password"
        ) from error
    if isinstance(error, InvalidFrameError) and "Connection.OpenOk" in str(error):
        # The driver expected this one frame and swallows the reason in the one that came.
        raise Unreachable(
            f"{address.shown} refuses the vhost {address.vhost!r}: it does not exist, "
            f"user {address.user!r} has no permissions there, or too many connections"
        ) from error


class _Session:
    """The life of one consuming channel. Delivery tags count within it only."""

    def __init__(self, channel: AbstractChannel) -> None:
        self.channel = channel
        self.queue = ""
        self.outstanding: dict[int, None] = {}
        self.over = asyncio.Event()
        channel.closing.add_done_callback(lambda _: self.over.set())
        channel.on_consumer_cancel_callbacks.add(lambda _: self.over.set())

    def settled(self, deliveries: Sequence[Delivery]) -> list[tuple[int, bool]]:
        """What to acknowledge, as (tag, multiple): all from the oldest on as one, the rest singly."""
        tags = {tag for one in deliveries if (tag := self.tag(one)) is not None}
        first = list(takewhile(tags.__contains__, self.outstanding))
        rest = sorted(tags.difference(first))
        for tag in tags:
            del self.outstanding[tag]
        return [(tag, len(first) > 1) for tag in first[-1:]] + [(tag, False) for tag in rest]

    def tag(self, delivery: Delivery) -> int | None:
        """The tag of a delivery that is unacknowledged in this session."""
        if not isinstance(delivery.token, tuple):
            return None
        session, tag = delivery.token
        return tag if session is self and tag in self.outstanding else None


# Finds or makes the queue of a session on its channel, and names it.
_Find = Callable[[AbstractChannel], Awaitable[str]]


class RabbitConsumer:
    """See `skillq.transport.base.Consumer`."""

    def __init__(self, link: _Link, find: _Find, prefetch: int, exclusive: bool) -> None:
        self._link = link
        self._find = find
        self._prefetch = prefetch
        self._exclusive = exclusive
        self._arrived: list[Delivery] = []
        self._news = asyncio.Event()
        self._closed = False
        self._session: _Session | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def open(self) -> Self:
        session = await self._begin()
        self._keeper = asyncio.create_task(self._keep(session), name="skillq consumer")
        return self

    async def _begin(self) -> _Session:
        channel = await self._link.channel()
        try:
            session = self._session = _Session(channel)
            await channel.basic_qos(prefetch_count=self._prefetch, timeout=_RPC_SECONDS)
            session.queue = await self._find(channel)
            await channel.basic_consume(
                session.queue,
                lambda message: self._on_delivery(session, message),
                exclusive=self._exclusive,
                timeout=_RPC_SECONDS,
            )
        except BaseException:
            await _close(channel)
            raise
        return session

    async def _keep(self, session: _Session) -> None:
        """Consume on a new channel whenever one ends: broker gone, queue deleted, timed out."""
        while True:
            await session.over.wait()
            # The broker delivers these again.
            self._arrived.clear()
            await _close(session.channel)
            session = await self._begin_again()

    async def _begin_again(self) -> _Session:
        while True:
            await self._link.wait_until_connected()
            try:
                with _translated("consume"):
                    return await self._begin()
            except TransportError:
                await asyncio.sleep(_REOPEN_SECONDS)

    async def _on_delivery(self, session: _Session, message: DeliveredMessage) -> None:
        tag = message.delivery_tag
        if tag is None or session.over.is_set():
            return
        session.outstanding[tag] = None
        self._arrived.append(_delivery(session, tag, message))
        self._news.set()

    async def batch(self) -> list[Delivery]:
        while not self._arrived:
            if self._closed:
                raise TransportError("the consumer was closed")
            self._news.clear()
            await self._news.wait()
        batch, self._arrived = self._arrived, []
        return batch

    async def ack(self, deliveries: Sequence[Delivery]) -> None:
        session = self._session
        if session is None or session.over.is_set():
            return
        with suppress(TransportError), _translated("acknowledge"):
            async with asyncio.timeout(_RPC_SECONDS):
                for tag, multiple in session.settled(deliveries):
                    await session.channel.basic_ack(tag, multiple=multiple, wait=False)

    async def nack(self, delivery: Delivery, *, requeue: bool) -> None:
        session = self._session
        if session is None or session.over.is_set() or (tag := session.tag(delivery)) is None:
            return
        del session.outstanding[tag]
        with suppress(TransportError), _translated("reject"):
            async with asyncio.timeout(_RPC_SECONDS):
                await session.channel.basic_nack(tag, requeue=requeue, wait=False)

    @property
    def closed(self) -> bool:
        return self._closed

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._arrived.clear()
        self._news.set()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._session is not None:
            self._session.over.set()
            await _close(self._session.channel)


def _delivery(session: _Session, tag: int, message: DeliveredMessage) -> Delivery:
    properties = message.header.properties
    return Delivery(
        body=message.body,
        type=properties.message_type or "",
        queue=session.queue,
        exchange=message.exchange or "",
        routing_key=message.routing_key or "",
        redelivered=bool(message.redelivered),
        headers=properties.headers or {},
        message_id=properties.message_id or "",
        app_id=properties.app_id or "",
        token=(session, tag),
    )


class RabbitTransport:
    """See `skillq.transport.base.Transport`."""

    def __init__(
        self, url: str, *, app_id: str, connection_name: str, connect_timeout: float = 30.0
    ) -> None:
        self._address = Address(url)
        self._app_id = app_id
        self._name = connection_name
        self._connect_timeout = connect_timeout
        self._consumers: list[RabbitConsumer] = []
        self._links: list[_Link] = []
        self._channel: AbstractChannel | None = None
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        deadline = _now() + self._connect_timeout
        try:
            for purpose in ("publish", "consume"):
                name = f"{self._name} ({purpose})"
                self._links.append(await _Link.open(self._address, name, deadline))
        except BaseException:
            await self._close_links()
            raise
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Consumers first: closing their channels sends the acknowledgements that wait in line.
        await asyncio.gather(*(consumer.close() for consumer in self._consumers))
        self._consumers.clear()
        await self._close_links()

    async def _close_links(self) -> None:
        links, self._links = self._links, []
        await asyncio.gather(*(link.close() for link in links))

    @property
    def connected(self) -> bool:
        return bool(self._links) and all(link.connected for link in self._links)

    def _link(self, number: int) -> _Link:
        if not self._links:
            raise TransportError("the transport is closed")
        return self._links[number]

    async def declare(self, topology: Topology) -> None:
        with _translated("declare"):
            try:
                await self._declare(topology)
            except ChannelAccessRefused as error:
                self._may_not("declare", error)
            except ChannelPreconditionFailed as error:
                await self._delete(_stale_worker_queue(error))
                await self._declare(topology)

    async def _declare(self, topology: Topology) -> None:
        # The publishing connection may be blocked by an alarm, and a declaration would hang on it.
        async with self._link(CONSUME).short_lived_channel() as channel:
            for exchange in topology.exchanges:
                await channel.exchange_declare(
                    exchange, exchange_type="topic", durable=True, timeout=_RPC_SECONDS
                )
            for queue in topology.queues:
                await channel.queue_declare(
                    queue.name, durable=True, arguments=dict(queue.arguments), timeout=_RPC_SECONDS
                )
            for binding in topology.bindings:
                await channel.queue_bind(
                    binding.queue, binding.exchange, binding.key, timeout=_RPC_SECONDS
                )

    async def _delete(self, queue: str) -> None:
        async with self._link(CONSUME).short_lived_channel() as channel:
            await channel.queue_delete(queue, timeout=_RPC_SECONDS)

    def _may_not(self, do: str, error: BaseException) -> NoReturn:
        raise Unreachable(
            f"user {self._address.user!r} may not {do}: {_reason(error)}; give it the permission"
        ) from error

    async def publish(
        self, exchange: str, key: str, message: Outgoing, *, mandatory: bool = True
    ) -> None:
        with _translated(f"publish {key} to {exchange}"):
            channel = await self._publishing_channel()
            try:
                await channel.basic_publish(
                    message.body,
                    exchange=exchange,
                    routing_key=key,
                    properties=self._properties(message),
                    mandatory=mandatory,
                    timeout=_RPC_SECONDS,
                )
            except PublishError as error:
                raise Unroutable(f"no queue takes {key} from exchange {exchange}") from error

    async def _publishing_channel(self) -> AbstractChannel:
        link = self._link(PUBLISH)
        if self._channel is None or self._channel.is_closed:
            async with self._opening:
                if self._channel is None or self._channel.is_closed:
                    self._channel = await link.channel(confirms=True)
        return self._channel

    def _properties(self, message: Outgoing) -> Basic.Properties:
        return Basic.Properties(
            content_type="application/json",
            delivery_mode=2 if message.persistent else 1,
            headers=dict(message.headers),
            message_id=message.message_id,
            timestamp=datetime.fromtimestamp(time.time(), UTC),  # noqa: TID251 (a shell)
            message_type=message.type,
            # The broker checks it; with a certificate only it knows the user.
            user_id=None if self._address.external else self._address.user,
            app_id=self._app_id,
        )

    async def consume(
        self, queue: str, *, prefetch: int, exclusive: bool = False
    ) -> RabbitConsumer:
        async def find(channel: AbstractChannel) -> str:
            # Consuming asks for it anyhow, and a passive declaration needs more permissions.
            return queue

        consumer = RabbitConsumer(self._link(CONSUME), find, prefetch, exclusive)
        with _translated(f"consume {queue}"):
            try:
                return self._keep(await consumer.open())
            except ChannelNotFoundEntity as error:
                raise QueueNotFound(f"queue {queue} does not exist (yet)") from error
            except ChannelAccessRefused as error:
                if "exclusive" not in _reason(error):
                    self._may_not("consume", error)
                raise QueueInUse(
                    f"queue {queue} has a consumer; only one may consume it exclusively"
                ) from error

    async def subscribe(self, exchange: str, keys: Sequence[str]) -> RabbitConsumer:
        async def find(channel: AbstractChannel) -> str:
            declared = await channel.queue_declare(
                "", exclusive=True, auto_delete=True, timeout=_RPC_SECONDS
            )
            name = str(declared.queue)
            for key in keys:
                await channel.queue_bind(name, exchange, key, timeout=_RPC_SECONDS)
            return name

        consumer = RabbitConsumer(self._link(CONSUME), find, _SUBSCRIPTION_PREFETCH, True)
        with _translated(f"subscribe to {exchange}"):
            try:
                return self._keep(await consumer.open())
            except ChannelAccessRefused as error:
                self._may_not("subscribe", error)

    def _keep(self, consumer: RabbitConsumer) -> RabbitConsumer:
        self._consumers = [one for one in self._consumers if not one.closed]
        self._consumers.append(consumer)
        return consumer


def _stale_worker_queue(error: ChannelPreconditionFailed) -> str:
    """The worker's queue that an earlier release declared otherwise.

    Raises:
        UsageError: it is something else that is there with other arguments.
    """
    found = re.search(r"(queue|exchange) '([^']+)'", _reason(error))
    kind, name = found.groups() if found else ("something", "")
    if kind == "queue" and name.startswith(_WORKER_QUEUES):
        return name
    raise UsageError(
        f"{kind} {name} exists with other arguments ({_reason(error)}); "
        "delete it, or declare it as it is"
    ) from error
