"""One robust connection, and the channels on it."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Self

from aio_pika import RobustConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from aiormq import exceptions as amqp
from aiormq.abc import AbstractChannel
from aiormq.connection import SSLContextProvider, TransportFactory
from yarl import URL

from skillq import timings
from skillq.errors import TransportError, Unreachable
from skillq.transport.rabbitmq.errors import reason_of
from skillq.transport.rabbitmq.fastpath.channel import FrameWriter, close_channel
from skillq.transport.rabbitmq.fastpath.reader import FrameReader
from skillq.transport.rabbitmq.outage_log import OutageLog
from skillq.transport.rabbitmq.url import Address


class _Factory(TransportFactory):
    """Opens connections as the driver does, but for the reader."""

    wire: FrameWriter  # of the connection that was opened last

    async def create(
        self, url: URL, **more: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        provider: SSLContextProvider = more.pop("ssl_context_provider")
        tls = await provider.get_context() if url.scheme == "amqps" else None
        reader = FrameReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, str(url.host), int(url.port or 0), ssl=tls, **more
            )
        except OSError as error:
            raise amqp.AMQPConnectionError(*error.args) from error
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self.wire = FrameWriter(reader, writer)
        return reader, writer


class RabbitConnection:
    """One robust connection."""

    def __init__(self, address: Address, name: str) -> None:
        self._address = address
        self._connection = RobustConnection(
            address.url,  # type: ignore[arg-type]  # it makes a URL of it
            client_properties={"connection_name": name},
            reconnect_interval=timings.RECONNECT_SECONDS,
        )
        self._factory = _Factory()
        # aiormq takes it as an argument, which aio-pika hands on from here only.
        self._connection.kwargs["transport_factory"] = self._factory

    @classmethod
    async def open(cls, address: Address, name: str, deadline: float, outages: OutageLog) -> Self:
        """Connect, trying again until the deadline of the monotonic clock.

        Raises:
            Unreachable: nobody answered until then, or we were refused.
        """
        began = time.monotonic()
        while True:
            link = cls(address, name)
            try:
                left = max(timings.MIN_CONNECT_SECONDS, deadline - time.monotonic())
                await link._connection.connect(min(timings.CONNECT_SECONDS, left))
            except CONNECTION_EXCEPTIONS as error:
                await link.close()
                _give_up_if_refused(address, error)
                if (now := time.monotonic()) >= deadline:
                    raise Unreachable(
                        f"no RabbitMQ at {address.shown} (tried for {now - began:.0f} s: "
                        f"{reason_of(error)}); is it running, and is the broker URL right?"
                    ) from error
                await asyncio.sleep(min(timings.RECONNECT_SECONDS, deadline - now))
            except BaseException:
                await link.close()
                raise
            else:
                link._tell_of(name, outages)
                return link

    def _tell_of(self, name: str, outages: OutageLog) -> None:
        def lost(_: object, error: BaseException | None) -> None:
            if not self._connection.close_called:
                outages.lost(name, reason_of(error) if isinstance(error, Exception) else "closed")

        self._connection.close_callbacks.add(lost)
        self._connection.reconnect_callbacks.add(lambda _: outages.back(name))

    @property
    def connected(self) -> bool:
        return self._connection.connected.is_set() and not self._connection.close_called

    async def wait_until_connected(self) -> None:
        await self._connection.connected.wait()

    async def channel(self, *, confirms: bool = False) -> tuple[AbstractChannel, FrameWriter]:
        """A new channel, and the way past the driver on its connection."""
        transport = self._connection.transport
        if transport is None or not self.connected:
            raise TransportError(f"not connected to {self._address.shown} at present")
        wire = self._factory.wire
        channel = await transport.connection.channel(
            publisher_confirms=confirms, timeout=timings.RPC_SECONDS
        )
        return channel, wire

    @asynccontextmanager
    async def short_lived_channel(self) -> AsyncIterator[AbstractChannel]:
        channel, _ = await self.channel()
        try:
            yield channel
        finally:
            await close_channel(channel)

    async def close(self) -> None:
        # A broker that has gone silent answers no goodbye.
        with suppress(TimeoutError):
            async with asyncio.timeout(timings.CLOSE_SECONDS):
                await self._connection.close()


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
