"""Answer an orchestrator's health checks over HTTP: /livez and /readyz."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from skillq import timings
from skillq.errors import UsageError


@asynccontextmanager
async def serve_health(port: int, is_ready: Callable[[], bool]) -> AsyncIterator[None]:
    """Serve the health checks on all addresses of this host; with port 0, serve nothing.

    Raises:
        UsageError: the port is in use.
    """
    if not port:
        yield
        return

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(timings.HEALTH_REQUEST_SECONDS):
                request = await reader.readline()
        except (TimeoutError, ValueError, OSError):
            request = b""
        status, body = _answer(request, is_ready())
        writer.write(
            f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}".encode()
        )
        writer.close()

    try:
        server = await asyncio.start_server(answer, port=port)
    except OSError as error:
        raise UsageError(f"--health-port {port}: {error.strerror}; choose another") from error
    async with server:
        yield


def _answer(request: bytes, is_ready: bool) -> tuple[str, str]:
    match request.split(b" ")[:2]:
        case [b"GET", b"/livez"]:
            return "200 OK", "alive\n"
        case [b"GET", b"/readyz"]:
            return ("200 OK", "ready\n") if is_ready else ("503 Service Unavailable", "not ready\n")
        case _:
            return "404 Not Found", "ask for /livez or /readyz\n"
