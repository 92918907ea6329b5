"""The HTTP server inside the manager's event loop."""

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import structlog
import uvicorn
from fastapi import FastAPI

from skillq import timings
from skillq.errors import UsageError
from skillq.runtime.logs import Log

log = structlog.get_logger()


class _Server(uvicorn.Server):
    """A server that leaves signals to the process, and that reports when it has started."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.started_event = asyncio.Event()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture no signals. Overrides `uvicorn.Server`."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then set `started_event`. Overrides `uvicorn.Server`."""
        await super().startup(sockets)
        self.started_event.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop, and end the connections that are still open. Overrides `uvicorn.Server`."""
        await super().shutdown(sockets)
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if isinstance(transport, asyncio.Transport):
                transport.abort()
        await asyncio.gather(*self.server_state.tasks, return_exceptions=True)


@asynccontextmanager
async def serve(app: FastAPI, host: str, port: int) -> AsyncIterator[tuple[str, int]]:
    """Serve while the context is open; yield host and port (for port 0 a free one).

    Raises:
        UsageError: The address is not of this machine, or is not free.
    """
    listener = await _open_listener(host, port)
    bound = listener.getsockname()[:2]
    server = _Server(_config(app))
    serve_task = asyncio.create_task(server.serve([listener]), name="http")
    start_waiter = asyncio.create_task(server.started_event.wait())
    try:
        await asyncio.wait([serve_task, start_waiter], return_when=asyncio.FIRST_COMPLETED)
        log.info(Log.HTTP_SERVING, host=bound[0], port=bound[1])
        yield bound
    finally:
        start_waiter.cancel()
        server.should_exit = True
        await serve_task
        listener.close()


def _config(app: FastAPI) -> uvicorn.Config:
    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
    )
    # Uvicorn passes the value to asyncio, which accepts fractions of a second.
    config.timeout_graceful_shutdown = timings.HTTP_END_SECONDS  # type: ignore[assignment]
    return config


async def _open_listener(host: str, port: int) -> socket.socket:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--http-host: {host!r} is no address of this machine") from error
    # `localhost` is both ::1 and 127.0.0.1; people expect 127.0.0.1.
    family, _, _, _, address = min(found, key=lambda candidate: candidate[0] is not socket.AF_INET)
    try:
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise UsageError(_explain_bind_error(host, port, error)) from error


def _explain_bind_error(host: str, port: int, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"--http-port: {port} on {host} is in use; choose another, or 0 for any"
        case errno.EACCES | errno.EPERM:
            return f"--http-port: {port} needs privileges; choose one from 1024 on"
        case errno.EADDRNOTAVAIL:
            return f"--http-host: {host!r} is no address of this machine"
        case _:
            return f"--http-port: cannot listen on {host}:{port}: {error.strerror}"
