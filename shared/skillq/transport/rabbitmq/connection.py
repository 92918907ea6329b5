"""A robust connection to RabbitMQ, which reconnects by itself, and the channels on it.

See docs/adr/0012-open-channels-on-robust-connections.md.
"""

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
from skillq.transport.rabbitmq.errors import error_reason
from skillq.transport.rabbitmq.fastpath.channel import FrameWriter, close_channel
from skillq.transport.rabbitmq.fastpath.reader import FrameReader
from skillq.transport.rabbitmq.outage_log import OutageLog
from skillq.transport.rabbitmq.url import BrokerAddress


class _ConnectionFactory(TransportFactory):
    """Opens connections as the driver does, but with a `FrameReader` as the stream reader."""

    frame_writer: FrameWriter  # of the connection that was opened last

    async def create(
        self, url: URL, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        provider: SSLContextProvider = options.pop("ssl_context_provider")
        tls_context = await provider.get_context() if url.scheme == "amqps" else None
        reader = FrameReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.create_connection(
                lambda: protocol, str(url.host), int(url.port or 0), ssl=tls_context, **options
            )
        except OSError as error:
            raise amqp.AMQPConnectionError(*error.args) from error
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self.frame_writer = FrameWriter(reader, writer)
        return reader, writer


class RabbitConnection:
    """One robust connection to the broker: the driver reconnects after the connection is lost."""

    def __init__(self, address: BrokerAddress, name: str) -> None:
        self._address = address
        self._connection = RobustConnection(
            address.url,  # type: ignore[arg-type]  # the driver also accepts a string
            client_properties={"connection_name": name},
            reconnect_interval=timings.RECONNECT_SECONDS,
        )
        self._factory = _ConnectionFactory()
        # aiormq takes the factory as an argument, and aio-pika passes on these arguments only.
        self._connection.kwargs["transport_factory"] = self._factory

    @classmethod
    async def open(
        cls, address: BrokerAddress, name: str, deadline: float, outages: OutageLog
    ) -> Self:
        """Open a connection; retry until `deadline`, a time of the monotonic clock.

        Raises:
            Unreachable: No broker answered before the deadline, or the broker refused the connection.
        """
        started_at = time.monotonic()
        while True:
            connection = cls(address, name)
            try:
                patience = max(timings.MIN_CONNECT_SECONDS, deadline - time.monotonic())
                await connection._connection.connect(min(timings.CONNECT_SECONDS, patience))
            except CONNECTION_EXCEPTIONS as error:
                await connection.close()
                _raise_if_refused(address, error)
                if (now := time.monotonic()) >= deadline:
                    raise Unreachable(
                        f"no RabbitMQ at {address.display_url} (tried for {now - started_at:.0f} s: "
                        f"{error_reason(error)}); is it running, and is the broker URL right?"
                    ) from error
                await asyncio.sleep(min(timings.RECONNECT_SECONDS, deadline - now))
            except BaseException:
                await connection.close()
                raise
            else:
                connection._report_outages(name, outages)
                return connection

    def _report_outages(self, name: str, outages: OutageLog) -> None:
        def report_lost(_: object, error: BaseException | None) -> None:
            if not self._connection.close_called:
                outages.connection_lost(
                    name, error_reason(error) if isinstance(error, Exception) else "closed"
                )

        self._connection.close_callbacks.add(report_lost)
        self._connection.reconnect_callbacks.add(lambda _: outages.connection_restored(name))

    @property
    def connected(self) -> bool:
        """Return whether the connection is open now."""
        return self._connection.connected.is_set() and not self._connection.close_called

    async def wait_until_connected(self) -> None:
        """Wait until the driver has connected or reconnected."""
        await self._connection.connected.wait()

    async def channel(self, *, confirms: bool = False) -> tuple[AbstractChannel, FrameWriter]:
        """Open a channel; return the channel and the frame writer of its connection.

        Raises:
            TransportError: The connection is not open at present.
        """
        transport = self._connection.transport
        if transport is None or not self.connected:
            raise TransportError(f"not connected to {self._address.display_url} at present")
        frame_writer = self._factory.frame_writer
        channel = await transport.connection.channel(
            publisher_confirms=confirms, timeout=timings.RPC_SECONDS
        )
        return channel, frame_writer

    @asynccontextmanager
    async def short_lived_channel(self) -> AsyncIterator[AbstractChannel]:
        """Open a channel that is closed at the end of the context."""
        channel, _ = await self.channel()
        try:
            yield channel
        finally:
            await close_channel(channel)

    async def close(self) -> None:
        """Close the connection; give up waiting for the broker after `timings.CLOSE_SECONDS`."""
        # A broker that does not answer must not keep the process from ending.
        with suppress(TimeoutError):
            async with asyncio.timeout(timings.CLOSE_SECONDS):
                await self._connection.close()


def _raise_if_refused(address: BrokerAddress, error: BaseException) -> None:
    """Raise Unreachable if the broker refused the connection, so that a retry is useless."""
    if isinstance(error, amqp.AuthenticationError | amqp.ProbableAuthenticationError):
        raise Unreachable(
            f"{address.display_url} refuses user {address.user!r}; check the user and the password"
        ) from error
    if isinstance(error, amqp.InvalidFrameError) and "Connection.OpenOk" in str(error):
        # The driver expected this frame, and drops the reason that the broker sent instead of it.
        raise Unreachable(
            f"{address.display_url} refuses the vhost {address.vhost!r}: it does not exist, "
            f"user {address.user!r} has no permissions there, or too many connections"
        ) from error
