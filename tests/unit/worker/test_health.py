"""The worker's HTTP probes."""

import asyncio
import socket

import pytest

from skillq.errors import UsageError
from skillq_worker.health import serve_health


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def ask(port: int, request: bytes) -> str:
    async with asyncio.timeout(5):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        writer.write_eof()
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    return answer.decode()


async def test_probes_report_whether_the_worker_lives_and_is_ready(port: int) -> None:
    ready = False
    async with serve_health(port, lambda: ready):
        assert (await ask(port, b"GET /livez HTTP/1.1\r\n\r\n")).startswith("HTTP/1.1 200 OK\r\n")
        assert " 503 " in await ask(port, b"GET /readyz HTTP/1.1\r\n\r\n")
        ready = True
        answer = await ask(port, b"GET /readyz HTTP/1.1\r\n\r\n")
        assert " 200 " in answer
        assert answer.endswith("\r\n\r\nready\n")


@pytest.mark.parametrize(
    "request_",
    [b"", b"\r\n", b"GET / HTTP/1.1\r\n", b"POST /livez HTTP/1.1\r\n", b"\xff" * 100_000],
)
async def test_an_invalid_request_is_answered_with_404_and_does_no_harm(
    port: int, request_: bytes
) -> None:
    async with serve_health(port, lambda: True):
        try:
            assert " 404 " in await ask(port, request_)
        except ConnectionResetError:
            assert len(request_) > 64_000  # the server closes the connection
        assert " 200 " in await ask(port, b"GET /livez HTTP/1.1\r\n")


async def test_a_port_in_use_is_an_error_that_names_the_option(port: int) -> None:
    async with serve_health(port, lambda: True):
        with pytest.raises(UsageError, match=rf"--health-port {port}: .*; choose another"):
            async with serve_health(port, lambda: True):
                pass


async def test_port_zero_serves_nothing() -> None:
    async with serve_health(0, lambda: True):
        pass
