"""The transport over TLS: a door in front of the broker that speaks it, with a certificate of its own."""

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
from tests.contract.transports import INBOX, NEWS, inbox, note, take, texts, until

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(120)]

SECONDS = 30.0
_CHUNK = 64 * 1024


@dataclass
class Door:
    """Lets TLS in, and passes on what it says. `shut` ends all there is, in good order."""

    url: str
    certificate: Path
    entered: int = 0
    _within: set[asyncio.StreamWriter] = field(default_factory=set)

    @property
    def trusted(self) -> str:
        return f"{self.url}?cafile={self.certificate}"

    def shut(self) -> None:
        for writer in list(self._within):
            writer.close()

    async def enter(
        self, host: str, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.entered += 1
        self._within.add(writer)
        try:
            there, broker = await asyncio.open_connection(host, port)
            await asyncio.gather(_pass_on(reader, broker), _pass_on(there, writer))
        finally:
            writer.close()
            self._within.discard(writer)


async def _pass_on(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    try:
        while some := await source.read(_CHUNK):
            to.write(some)
            await to.drain()
    except OSError:
        pass  # one side has gone, and so does the other
    finally:
        to.close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that nobody has signed but its owner, and its key."""
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
async def door(broker_url: str, certificate: tuple[Path, Path]) -> AsyncIterator[Door]:
    async with opened(broker_url, *certificate) as door:
        yield door


@asynccontextmanager
async def opened(broker_url: str, certificate: Path, key: Path) -> AsyncIterator[Door]:
    parts = urlsplit(broker_url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 5672
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    door = Door("", certificate)
    server = await asyncio.start_server(
        lambda reader, writer: door.enter(host, port, reader, writer), "127.0.0.1", 0, ssl=tls
    )
    who = parts.netloc.rpartition("@")[0]
    number = server.sockets[0].getsockname()[1]
    door.url = f"amqps://{who}@localhost:{number}{parts.path}"
    async with server:
        yield door
        door.shut()


def through(url: str, seconds: float = SECONDS) -> RabbitTransport:
    return RabbitTransport(url, app_id="tests", connection_name="tests", connect_timeout=seconds)


async def test_messages_of_any_size_arrive_over_tls(door: Door) -> None:
    sizes = [0, 1, 4096, 131_064, 131_065, 1024 * 1024]
    async with through(door.trusted) as transport:
        await transport.declare(inbox())
        consumer = await transport.consume(INBOX, prefetch=0)
        for size in sizes:
            await transport.publish(NEWS, "a", note("x" * size))
        deliveries = await take(consumer, len(sizes))
        await consumer.ack(deliveries)
    assert [len(delivery.body) for delivery in deliveries] == sizes


async def test_a_broker_that_ends_tls_in_good_order_is_found_again(door: Door) -> None:
    async with through(door.trusted) as transport:
        await transport.declare(inbox())
        consumer = await transport.consume(INBOX, prefetch=0)
        connections = door.entered
        door.shut()
        published = (transport.publish(NEWS, "a", note(str(n))) for n in range(20))
        outcomes = await asyncio.gather(*published, return_exceptions=True)
        assert all(outcome is None or isinstance(outcome, TransportError) for outcome in outcomes)
        await until(lambda: door.entered >= 2 * connections and transport.connected)
        await transport.publish(NEWS, "a", note("after"))
        heard: list[str] = []
        while "after" not in heard:
            heard += texts(await consumer.batch())


@pytest.mark.parametrize(
    ("options", "reason"),
    [("", "certificate verify failed"), ("?cafile=/nowhere.pem", "No such file")],
)
async def test_whom_it_cannot_trust_it_does_not_talk_to(
    door: Door, options: str, reason: str
) -> None:
    with pytest.raises(Unreachable, match=rf"no RabbitMQ at amqps://localhost:\d+/.*{reason}"):
        async with through(door.url + options, seconds=0):
            raise AssertionError("it was let in")
