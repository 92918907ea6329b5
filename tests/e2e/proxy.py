"""A TCP proxy between a process and its broker that can cut connections or make them half open."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

from tests.support.ports import free_ports

T = TypeVar("T")


class _ProxiedConnection:
    """A connection with its two directions. A dead one accepts data and forwards nothing, not even its end."""

    def __init__(self, *, dead: bool) -> None:
        self.dead = dead
        self.writers: list[asyncio.StreamWriter] = []

    async def pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if not self.dead:
                    writer.write(data)
                    await writer.drain()
        if not self.dead:
            writer.close()

    def cut(self) -> None:
        for writer in self.writers:
            writer.transport.abort()


class Proxy:
    """Listen on a port and forward all data to the broker of `url`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = parts.hostname, parts.port
        [self._port] = free_ports(1)
        credentials, _, _ = parts.netloc.rpartition("@")
        self.url = parts._replace(netloc=f"{credentials}@127.0.0.1:{self._port}").geturl()
        self._new_connections_dead = self._refuses = False
        self._connections: set[_ProxiedConnection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = self._do(lambda: asyncio.start_server(self._serve, "127.0.0.1", self._port))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._do(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut(self) -> None:
        """Close all connections. New connections work."""
        self._do(self._cut)

    def make_half_open(self) -> None:
        """Forward nothing from now on and close nothing, as if the cables were pulled out."""
        self._do(self._swallow)

    def refuse(self) -> None:
        """Close all connections, and close new connections at once."""
        self._refuses = True
        self.cut()

    def heal(self) -> None:
        """Let new connections work again. Half-open connections stay so until their ends notice."""
        self._new_connections_dead = self._refuses = False

    def _do(self, work: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _ProxiedConnection(dead=self._new_connections_dead)
        self._connections.add(connection)
        connection.writers.append(writer)
        # Closing the server cancels this coroutine, and asyncio would log that as an error.
        with suppress(OSError, asyncio.CancelledError):
            if not self._refuses:
                await self._forward(connection, reader, writer)
        connection.cut()
        self._connections.discard(connection)

    async def _forward(
        self,
        connection: _ProxiedConnection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        if connection.dead:
            await connection.pump(reader, writer)
            return
        broker_reader, broker_writer = await asyncio.open_connection(*self._target)
        connection.writers.append(broker_writer)
        await asyncio.gather(
            connection.pump(reader, broker_writer), connection.pump(broker_reader, writer)
        )

    async def _cut(self) -> None:
        for connection in list(self._connections):
            connection.cut()

    async def _swallow(self) -> None:
        self._new_connections_dead = True
        for connection in self._connections:
            connection.dead = True

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
