"""RabbitMQ through aio-pika; the one module that imports it.

Two robust connections, one that publishes and one that consumes. Channels are ours: aio-pika's robust
channels keep a whole connection down while one queue is missing, so each consumer here keeps a plain
channel open by itself and waits alone.
"""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, NoReturn, Self, cast

from aio_pika import RobustConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from aiormq import Channel
from aiormq import exceptions as amqp
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.connection import TCPTransportFactory, TLSTransportFactory, TransportFactory
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
from skillq.transport.base import Consumer, Delivery, Outgoing
from skillq.transport.consuming import KeptConsumer, Session
from skillq.transport.frames import UNREADABLE_HEADER, FrameReader
from skillq.transport.outages import Outages

_RECONNECT_SECONDS = 1
_CONNECT_SECONDS = 10.0
_RPC_SECONDS = 10.0
_CLOSE_SECONDS = 2.0
_SUBSCRIPTION_PREFETCH = 1000
_WORKER_QUEUES = worker_queue("")
_PUBLISH, _CONSUME = 0, 1


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
    except CONNECTION_EXCEPTIONS as error:
        # AMQPError, OSError, TimeoutError, but also RuntimeError: a channel in the wrong state.
        raise TransportError(f"{doing}: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "the broker did not answer in time"
    if isinstance(error.__cause__, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, amqp.DeliveryError):
        return "the broker refused it"  # a queue is full, or was just going
    text = str(error.args[-1]) if error.args else ""
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__


class _Factory(TransportFactory):
    """Makes connections over which nobody can send us what the driver cannot decode."""

    def __init__(self, factory: TransportFactory) -> None:
        self._factory = factory

    async def create(
        self, url: Any, **more: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await self._factory.create(url, **more)
        return cast(asyncio.StreamReader, FrameReader(reader)), writer


class _Link:
    """One robust connection."""

    def __init__(self, address: Address, name: str) -> None:
        self._address = address
        self._connection = RobustConnection(
            address.url,  # type: ignore[arg-type]  # it makes a URL of it
            client_properties={"connection_name": name},
            reconnect_interval=_RECONNECT_SECONDS,
        )
        tls = address.url.startswith("amqps:")
        # aiormq takes it as an argument, which aio-pika hands on from here only.
        self._connection.kwargs["transport_factory"] = _Factory(
            TLSTransportFactory() if tls else TCPTransportFactory()
        )

    @classmethod
    async def open(cls, address: Address, name: str, deadline: float, outages: Outages) -> Self:
        """Connect, trying again until the deadline of the monotonic clock.

        Raises:
            Unreachable: nobody answered until then, or we were refused.
        """
        began = time.monotonic()
        while True:
            link = cls(address, name)
            try:
                left = max(0.1, deadline - time.monotonic())
                await link._connection.connect(min(_CONNECT_SECONDS, left))
            except CONNECTION_EXCEPTIONS as error:
                await link.close()
                _give_up_if_refused(address, error)
                if (now := time.monotonic()) >= deadline:
                    raise Unreachable(
                        f"no RabbitMQ at {address.shown} (tried for {now - began:.0f} s: "
                        f"{_reason(error)}); is it running, and is the broker URL right?"
                    ) from error
                await asyncio.sleep(min(_RECONNECT_SECONDS, deadline - now))
            except BaseException:
                await link.close()
                raise
            else:
                link._tell_of(name, outages)
                return link

    def _tell_of(self, name: str, outages: Outages) -> None:
        def lost(_: object, error: BaseException | None) -> None:
            if not self._connection.close_called:
                outages.lost(name, _reason(error) if isinstance(error, Exception) else "closed")

        self._connection.close_callbacks.add(lost)
        self._connection.reconnect_callbacks.add(lambda _: outages.back(name))

    @property
    def connected(self) -> bool:
        return self._connection.connected.is_set() and not self._connection.close_called

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
        # A broker that has gone silent answers no goodbye.
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._connection.close()


async def _close(channel: AbstractChannel) -> None:
    with suppress(TransportError), _translated("close"):
        async with asyncio.timeout(_CLOSE_SECONDS):
            await channel.close()


def _give_up_if_refused(address: Address, error: BaseException) -> None:
    if isinstance(error, amqp.AuthenticationError | amqp.ProbableAuthenticationError):
        raise Unreachable(
            f"{address.shown} refuses user {address.user!r}; check the user and the password"
        ) from error
    if isinstance(error, amqp.InvalidFrameError) and "Connection.OpenOk" in str(error):
        # The driver expected this one frame and swallows the reason in the one that came.
        raise Unreachable(
            f"{address.shown} refuses the vhost {address.vhost!r}: it does not exist, "
            f"user {address.user!r} has no permissions there, or too many connections"
        ) from error


class _Channel:
    """A consuming channel that takes what its broker no longer wants to hear for said."""

    def __init__(self, channel: AbstractChannel) -> None:
        self._channel = channel

    async def ack(self, tag: int, *, multiple: bool) -> None:
        with suppress(TransportError), _translated("acknowledge"):
            async with asyncio.timeout(_RPC_SECONDS):
                await self._channel.basic_ack(tag, multiple=multiple, wait=False)

    async def nack(self, tag: int, *, requeue: bool) -> None:
        with suppress(TransportError), _translated("reject"):
            async with asyncio.timeout(_RPC_SECONDS):
                await self._channel.basic_nack(tag, requeue=requeue, wait=False)

    async def close(self) -> None:
        await _close(self._channel)


# Finds or makes the queue to consume, on the channel that will consume it, and names it.
_Find = Callable[[AbstractChannel], Awaitable[str]]


async def _begin(
    link: _Link, find: _Find, prefetch: int, exclusive: bool, priority: int
) -> Session:
    channel = await link.channel()
    try:
        session = Session(_Channel(channel))
        channel.closing.add_done_callback(lambda _: session.end())
        channel.on_consumer_cancel_callbacks.add(lambda _: session.end())
        await channel.basic_qos(prefetch_count=prefetch, timeout=_RPC_SECONDS)
        queue = await find(channel)

        async def take(message: DeliveredMessage) -> None:
            if (tag := message.delivery_tag) is not None and not session.over.is_set():
                session.take(tag, _delivery(message, queue, (session, tag)))

        await channel.basic_consume(
            queue,
            take,
            exclusive=exclusive,
            arguments={"x-priority": priority} if priority else None,
            timeout=_RPC_SECONDS,
        )
    except BaseException:
        await _close(channel)
        raise
    return session


def _delivery(message: DeliveredMessage, queue: str, token: object) -> Delivery:
    properties = message.header.properties
    headers = properties.headers or {}
    return Delivery(
        body=message.body,
        type=properties.message_type or "",
        queue=queue,
        exchange=message.exchange or "",
        routing_key=message.routing_key or "",
        redelivered=bool(message.redelivered),
        headers=headers,
        message_id=properties.message_id or "",
        app_id=properties.app_id or "",
        token=token,
        unreadable=str(headers.pop(UNREADABLE_HEADER, "")),
    )


_Translated = Callable[[str], AbstractContextManager[None]]


class _Browser:
    """See `skillq.transport.base.Browser`. Its channel's end gives back what was not acknowledged."""

    def __init__(self, channel: AbstractChannel, queue: str, translated: _Translated) -> None:
        self._channel = channel
        self._queue = queue
        self._translated = translated

    async def next(self) -> Delivery | None:
        with self._translated(self._queue):
            message = await self._channel.basic_get(self._queue, timeout=_RPC_SECONDS)
        if (tag := message.delivery_tag) is None:
            return None
        return _delivery(message, self._queue, tag)

    async def remove(self, delivery: Delivery) -> None:
        with self._translated(self._queue):
            async with asyncio.timeout(_RPC_SECONDS):
                await self._channel.basic_ack(cast(int, delivery.token))


class RabbitTransport:
    """See `skillq.transport.base.Transport` and `Browsable`."""

    def __init__(
        self, url: str, *, app_id: str, connection_name: str, connect_timeout: float = 30.0
    ) -> None:
        self._address = Address(url)
        self._app_id = app_id
        self._name = connection_name
        self._connect_timeout = connect_timeout
        self._consumers: list[KeptConsumer] = []
        self._links: list[_Link] = []
        self._channel: Channel | None = None
        self._opening = asyncio.Lock()

    async def __aenter__(self) -> Self:
        deadline = time.monotonic() + self._connect_timeout
        outages = Outages(self._address.shown)
        try:
            for purpose in ("publish", "consume"):
                name = f"{self._name} ({purpose})"
                self._links.append(await _Link.open(self._address, name, deadline, outages))
        except BaseException:
            await self._close_links()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
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
        async with self._link(_CONSUME).short_lived_channel() as channel:
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
                    wait=False,  # the confirm says more than a drained buffer
                )
            except amqp.PublishError as error:
                raise Unroutable(f"no queue takes {key} from exchange {exchange}") from error

    async def _publishing_channel(self) -> Channel:
        link = self._link(_PUBLISH)
        if self._channel is None or self._channel.is_closed:
            async with self._opening:
                if self._channel is None or self._channel.is_closed:
                    self._channel = cast(Channel, await link.channel(confirms=True))
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
        self,
        queue: str,
        *,
        prefetch: int,
        exclusive: bool = False,
        priority: int = 0,
        after: Consumer | None = None,
    ) -> KeptConsumer:
        async def find(channel: AbstractChannel) -> str:
            # Consuming asks for it anyhow, and a passive declaration needs more permissions.
            return queue

        link = self._link(_CONSUME)

        async def may_begin() -> None:
            await link.wait_until_connected()
            if isinstance(after, KeptConsumer):
                await after.until_live()

        begin = self._beginner(find, queue, prefetch, exclusive=exclusive, priority=priority)
        return await self._keep(KeptConsumer(begin, may_begin))

    async def subscribe(self, exchange: str, keys: Sequence[str]) -> KeptConsumer:
        async def find(channel: AbstractChannel) -> str:
            declared = await channel.queue_declare(
                "", exclusive=True, auto_delete=True, timeout=_RPC_SECONDS
            )
            name = str(declared.queue)
            for key in keys:
                await channel.queue_bind(name, exchange, key, timeout=_RPC_SECONDS)
            return name

        begin = self._beginner(find, exchange, _SUBSCRIPTION_PREFETCH, exclusive=True)
        return await self._keep(KeptConsumer(begin, self._link(_CONSUME).wait_until_connected))

    def _beginner(
        self, find: _Find, what: str, prefetch: int, *, exclusive: bool, priority: int = 0
    ) -> Callable[[], Awaitable[Session]]:
        link = self._link(_CONSUME)

        async def begin() -> Session:
            with self._explained(what), _translated(f"consume {what}"):
                return await _begin(link, find, prefetch, exclusive, priority)

        return begin

    async def _keep(self, consumer: KeptConsumer) -> KeptConsumer:
        await consumer.open()
        self._consumers = [one for one in self._consumers if not one.closed]
        self._consumers.append(consumer)
        return consumer

    async def waiting(self, queue: str) -> int:
        with self._browsing(queue):
            async with self._link(_CONSUME).short_lived_channel() as channel:
                found = await channel.queue_declare(queue, passive=True, timeout=_RPC_SECONDS)
        return found.message_count or 0

    @asynccontextmanager
    async def browse(self, queue: str) -> AsyncIterator[_Browser]:
        with self._browsing(queue):
            channel = await self._link(_CONSUME).channel()
        browser = _Browser(channel, queue, self._browsing)
        try:
            yield browser
        except BaseException:
            await _close(channel)
            raise
        with self._browsing(queue):
            await channel.close()  # the answer to it says that what was acknowledged is gone

    @contextmanager
    def _browsing(self, queue: str) -> Iterator[None]:
        with self._explained(queue), _translated(f"browse {queue}"):
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
        reason = _reason(cause) if cause else ""
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
    found = re.search(r"(queue|exchange) '([^']+)'", _reason(error))
    kind, name = found.groups() if found else ("something", "")
    if kind == "queue" and name.startswith(_WORKER_QUEUES):
        return name
    raise UsageError(
        f"{kind} {name} exists with other arguments ({_reason(error)}); "
        "delete it, or declare it as it is"
    ) from error
