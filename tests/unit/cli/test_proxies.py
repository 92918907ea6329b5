"""Proxies of the environment: never between a command and its own machine, and refused in one line."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from skillq.urls import is_loopback
from tests.support.cli_runner import RunCli, error_line

FAR = ("status", "--api-url", "http://manager.invalid:8080")
FAR_TLS = ("status", "--api-url", "https://manager.invalid:8080")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch, tutorial_folder: Path) -> None:
    for name in ("all_proxy", "http_proxy", "https_proxy", "no_proxy", "ssl_cert_file"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize("name", ["ALL_PROXY", "HTTP_PROXY", "https_proxy"])
def test_a_socks_proxy_needs_an_extra_that_one_line_names(
    run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "socks5://user:geheim@proxy.invalid:1080")
    line = error_line(run_cli(*FAR))
    assert "httpx[socks]" in line
    assert "geheim" not in line


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_PROXY", "other://user:geheim@proxy.invalid:1080"),
        ("HTTP_PROXY", "http://user:geheim@proxy.invalid:port"),
        ("ALL_PROXY", "http://user:gehe/im@proxy.invalid"),
        ("SSL_CERT_FILE", "/nowhere/geheim.pem"),
    ],
)
def test_a_variable_that_httpx_cannot_use_is_one_line_without_its_value(
    run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    line = error_line(run_cli(*FAR_TLS))
    assert name in line
    assert "unset it for skillq" in line
    assert "gehe" not in line


@pytest.fixture
async def proxy() -> AsyncIterator[tuple[str, list[bytes]]]:
    """The address of a proxy that refuses, and what it was asked."""
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(refuse, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"http://user:geheim@{host}:{port}", asked


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.2", "[::1]", "LOCALHOST"])
async def test_a_manager_on_this_machine_is_asked_without_a_proxy(
    run_cli: RunCli,
    monkeypatch: pytest.MonkeyPatch,
    proxy: tuple[str, list[bytes]],
    host: str,
) -> None:
    for name in ("ALL_PROXY", "HTTP_PROXY"):
        monkeypatch.setenv(name, proxy[0])
    line = error_line(
        await asyncio.to_thread(run_cli, "status", "--api-url", f"http://{host}:1"), 3
    )
    assert f"no manager answers at http://{host}:1" in line
    assert proxy[1] == []
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.invalid:1")
    error_line(await asyncio.to_thread(run_cli, "status", "--api-url", f"http://{host}:1"), 3)


async def test_a_manager_elsewhere_is_asked_through_the_proxy(
    run_cli: RunCli, monkeypatch: pytest.MonkeyPatch, proxy: tuple[str, list[bytes]]
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy[0])
    line = error_line(await asyncio.to_thread(run_cli, *FAR), 3)
    assert proxy[1][0].startswith(b"GET http://manager.invalid:8080/api/summary")
    assert "geheim" not in line


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("128.0.0.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_an_address_of_this_machine_is_recognized(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_a_token_that_is_no_text_is_one_line(
    run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKILLQ_API_TOKEN", "geheim\udcff")
    line = error_line(run_cli(*FAR))
    assert "--api-token (SKILLQ_API_TOKEN): is no UTF-8 text" in line
    assert "geheim" not in line
