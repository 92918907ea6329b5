"""A TCP proxy between a process and its broker, to cut connections and to let them go dead unnoticed."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

from tests.ports import free_ports

T = TypeVar("T")


class _Line:
    """One connection, both ways. A dead one takes what is said, and says nothing any more, not even its end."""

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
    """Listens on a port of its own, and passes everything on to the broker of `url`."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = parts.hostname, parts.port
        [self._port] = free_ports(1)
        who, _, _ = parts.netloc.rpartition("@")
        self.url = parts._replace(netloc=f"{who}@127.0.0.1:{self._port}").geturl()
        self._dark = self._shut = False
        self._lines: set[_Line] = set()
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
        """End all connections; new ones are welcome."""
        self._do(self._cut)

    def swallow(self) -> None:
        """From now on nothing comes through, and no end of it is told: cables pulled out."""
        self._do(self._swallow)

    def refuse(self) -> None:
        """End all connections, and new ones at once."""
        self._shut = True
        self.cut()

    def heal(self) -> None:
        """New connections work again. Those that had gone dead stay so until their ends notice."""
        self._dark = self._shut = False

    def _do(self, work: Callable[[], Awaitable[T]]) -> T:
        async def run() -> T:
            return await work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = _Line(dead=self._dark)
        self._lines.add(line)
        line.writers.append(writer)
        # A server that is closed cancels this, and asyncio would complain of it.
        with suppress(OSError, asyncio.CancelledError):
            if not self._shut:
                await self._pass_on(line, reader, writer)
        line.cut()
        self._lines.discard(line)

    async def _pass_on(
        self, line: _Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        if line.dead:
            await line.pump(reader, writer)
            return
        broker_reader, broker_writer = await asyncio.open_connection(*self._target)
        line.writers.append(broker_writer)
        await asyncio.gather(line.pump(reader, broker_writer), line.pump(broker_reader, writer))

    async def _cut(self) -> None:
        for line in list(self._lines):
            line.cut()

    async def _swallow(self) -> None:
        self._dark = True
        for line in self._lines:
            line.dead = True

    async def _close(self) -> None:
        self._server.close()
        await self._cut()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
