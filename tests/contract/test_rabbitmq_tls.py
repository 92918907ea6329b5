"""The transport works over TLS, through a proxy with a certificate of its own."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from skillq.errors import TransportError, Unreachable
from skillq.transport.rabbitmq import RabbitTransport
from tests.contract.transports import EXCHANGE, INBOX, inbox_topology, receive, text_message, texts
from tests.support.waiting import until_async

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(120)]

SECONDS = 30.0
_CHUNK = 64 * 1024


@dataclass
class TlsProxy:
    """Accept TLS connections and forward their data to the broker."""

    url: str
    certificate: Path
    connection_count: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def trusted(self) -> str:
        return f"{self.url}?cafile={self.certificate}"

    def close_connections(self) -> None:
        for writer in list(self._writers):
            writer.close()

    async def serve(
        self, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.connection_count += 1
        self._writers.add(writer)
        try:
            broker_reader, broker = await asyncio.open_connection(host, port)
            await asyncio.gather(_forward(reader, broker), _forward(broker_reader, writer))
        finally:
            writer.close()
            self._writers.discard(writer)


async def _forward(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(_CHUNK):
            to.write(data)
            await to.drain()
    except OSError:
        pass  # one side has closed; close the other side too
    finally:
        to.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a self-signed certificate and its key."""
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    make = [
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"),
        *("-out", str(certificate), "-keyout", str(key)),
    ]  # fmt: skip
    subprocess.run(make, check=True, capture_output=True)
    return certificate, key


@pytest.fixture
async def tls_proxy(broker_url: str, certificate: tuple[Path, Path]) -> AsyncIterator[TlsProxy]:
    async with open_proxy(broker_url, *certificate) as tls_proxy:
        yield tls_proxy


@asynccontextmanager
async def open_proxy(broker_url: str, certificate: Path, key: Path) -> AsyncIterator[TlsProxy]:
    parts = urlsplit(broker_url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 5672
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    tls_proxy = TlsProxy("", certificate)
    server = await asyncio.start_server(
        lambda reader, writer: tls_proxy.serve(host, port, reader, writer), "127.0.0.1", 0, ssl=tls
    )
    credentials = parts.netloc.rpartition("@")[0]
    number = server.sockets[0].getsockname()[1]
    tls_proxy.url = f"amqps://{credentials}@localhost:{number}{parts.path}"
    async with server:
        yield tls_proxy
        tls_proxy.close_connections()


def transport_to(url: str, seconds: float = SECONDS) -> RabbitTransport:
    return RabbitTransport(url, app_id="tests", connection_name="tests", connect_timeout=seconds)


async def test_messages_of_any_size_arrive_over_tls(tls_proxy: TlsProxy) -> None:
    sizes = [0, 1, 4096, 131_064, 131_065, 1024 * 1024]
    async with transport_to(tls_proxy.trusted) as transport:
        await transport.declare(inbox_topology())
        consumer = await transport.consume(INBOX, prefetch=0)
        for size in sizes:
            await transport.publish(EXCHANGE, "a", text_message("x" * size))
        deliveries = await receive(consumer, len(sizes))
        await consumer.ack(deliveries)
    assert [len(delivery.body) for delivery in deliveries] == sizes


async def test_a_transport_reconnects_after_the_server_closed_tls_in_order(
    tls_proxy: TlsProxy,
) -> None:
    async with transport_to(tls_proxy.trusted) as transport:
        await transport.declare(inbox_topology())
        consumer = await transport.consume(INBOX, prefetch=0)
        connections = tls_proxy.connection_count
        tls_proxy.close_connections()
        published = (transport.publish(EXCHANGE, "a", text_message(str(n))) for n in range(20))
        outcomes = await asyncio.gather(*published, return_exceptions=True)
        assert all(outcome is None or isinstance(outcome, TransportError) for outcome in outcomes)
        await until_async(
            lambda: tls_proxy.connection_count >= 2 * connections and transport.connected,
            "the transport should reconnect",
        )
        await transport.publish(EXCHANGE, "a", text_message("after"))
        received: list[str] = []
        while "after" not in received:
            received += texts(await consumer.batch())


async def test_a_server_with_an_untrusted_certificate_is_refused(tls_proxy: TlsProxy) -> None:
    reason = r"no RabbitMQ at amqps://localhost:\d+/.*certificate verify failed"
    with pytest.raises(Unreachable, match=reason):
        async with transport_to(tls_proxy.url, seconds=0):
            raise AssertionError("the connection should be refused")
