"""The RabbitMQ transport survives the loss of the broker, of a connection or of a queue."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from urllib.parse import quote, urlsplit

import pytest
import structlog
from structlog.testing import capture_logs

from skillq.errors import SkillqError, TransportError, Unreachable, UsageError
from skillq.topology import (
    COMMANDS,
    EVENTS,
    MANAGER,
    MANAGER_REPORTS,
    REPORTS,
    worker_queue,
    worker_topology,
)
from skillq.transport import Consumer, Delivery, Transport
from skillq.transport.rabbitmq import RabbitTransport
from tests.contract.transports import text_message, texts
from tests.support.broker import Broker
from tests.support.ports import free_ports
from tests.support.waiting import until_async

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(180)]

SECONDS = 60.0
QUEUE = worker_queue("junior")


@pytest.fixture
def url(restartable: Broker) -> Iterator[str]:
    with restartable.vhost() as url:
        yield url


def open_to(url: str, name: str = "junior", seconds: float = SECONDS) -> RabbitTransport:
    return RabbitTransport(url, app_id="tests", connection_name=name, connect_timeout=seconds)


@pytest.fixture
async def transport(url: str) -> AsyncIterator[Transport]:
    async with open_to(url) as transport:
        await transport.declare(MANAGER)
        await transport.declare(worker_topology("junior"))
        yield transport


async def receive(consumer: Consumer, count: int) -> list[Delivery]:
    received: list[Delivery] = []
    async with asyncio.timeout(SECONDS):
        while len(received) < count:
            received += await consumer.batch()
    return received


async def retry_until_done(operation: Callable[[], Awaitable[None]]) -> None:
    """Repeat an operation, as the services do, until the broker has confirmed it."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                return await operation()
            except TransportError:
                await asyncio.sleep(0.02)


async def delete_queue(broker: Broker, url: str, queue: str) -> None:
    vhost = urlsplit(url).path[1:]
    await asyncio.to_thread(broker.request, "DELETE", f"/queues/{vhost}/{queue}")


async def connections_of(broker: Broker, url: str) -> dict[str, str]:
    """Return both connections of the transport when the management API shows them."""
    async with asyncio.timeout(SECONDS):
        while True:
            shown = await asyncio.to_thread(broker.connections, url)
            if len(shown) == 2:
                return shown
            await asyncio.sleep(0.1)


async def close_connections(broker: Broker, url: str, transport: Transport) -> None:
    """Let the server close both connections; return when two new connections are open."""
    before = shown = await connections_of(broker, url)
    for one in before:
        await asyncio.to_thread(broker.close_connection, one)
    async with asyncio.timeout(SECONDS):
        while before.keys() & shown.keys():
            shown = await connections_of(broker, url)
    await until_async(lambda: transport.connected, "the transport should reconnect", SECONDS)


# --- outages of the broker ---------------------------------------------------------------------


async def test_publishing_consuming_and_subscribing_survive_a_restart_of_the_broker(
    restartable: Broker, transport: Transport
) -> None:
    consumer = await transport.consume(QUEUE, prefetch=10, exclusive=True)
    watcher = await transport.subscribe(EVENTS, ["#"])
    for text in ("acknowledged", "open"):
        await transport.publish(COMMANDS, "assignment.junior", text_message(text))
    acknowledged, still_open = await receive(consumer, 2)
    await consumer.ack([acknowledged])

    await asyncio.to_thread(restartable.restart)

    await until_async(lambda: transport.connected, "the transport should reconnect", SECONDS)
    [again] = await receive(consumer, 1)
    assert (again.body, again.redelivered) == (b"open", True)
    await consumer.ack([still_open])  # of the old connection: ignored
    await consumer.ack([again])
    await retry_until_done(
        lambda: transport.publish(COMMANDS, "cancel.junior", text_message("new"))
    )
    assert texts(await receive(consumer, 1)) == ["new"]
    await retry_until_done(
        lambda: transport.publish(EVENTS, "run.r1.completed", text_message("seen"))
    )
    assert texts(await receive(watcher, 1)) == ["seen"]


async def test_messages_confirmed_during_a_restart_arrive_and_no_publish_hangs(
    restartable: Broker, url: str, transport: Transport
) -> None:
    consumer = await transport.consume(MANAGER_REPORTS, prefetch=0)
    confirmed: list[str] = []
    failed_after: list[float] = []
    restart = asyncio.create_task(asyncio.to_thread(restartable.restart))
    number = 0
    while not (restart.done() and transport.connected and len(confirmed) > 100):
        number += 1
        began = time.monotonic()
        try:
            await transport.publish(REPORTS, "result.junior", text_message(str(number)))
            confirmed.append(str(number))
        except TransportError:
            failed_after.append(time.monotonic() - began)
            await asyncio.sleep(0.02)
    await restart
    assert failed_after, "there should have been an outage"
    assert max(failed_after) < 5
    arrived: set[str] = set()
    while not arrived.issuperset(confirmed):
        arrived.update(texts(await receive(consumer, 1)))


async def test_a_transport_waits_for_a_starting_broker_and_can_be_closed_during_an_outage(
    restartable: Broker, url: str, transport: Transport
) -> None:
    closing = await open_to(url, "closing").__aenter__()
    consumer = await closing.consume(MANAGER_REPORTS, prefetch=10)
    restart = asyncio.create_task(asyncio.to_thread(restartable.restart))
    await until_async(lambda: not transport.connected, "the connection should be lost", SECONDS)
    async with asyncio.timeout(15):
        await closing.__aexit__(None, None, None)
    with pytest.raises(TransportError, match="closed"):
        await consumer.batch()
    async with open_to(url, "starting") as starting:
        assert starting.connected
        await starting.publish(REPORTS, "result.junior", text_message("hello"))
    await restart


# --- lost connections --------------------------------------------------------------------------


async def test_a_connection_that_the_server_closes_is_restored_with_its_consumers(
    restartable: Broker, url: str, transport: Transport
) -> None:
    consumer = await transport.consume(QUEUE, prefetch=10)
    watcher = await transport.subscribe(EVENTS, ["#"])
    await transport.publish(COMMANDS, "assignment.junior", text_message("open"))
    [before] = await receive(consumer, 1)
    await close_connections(restartable, url, transport)
    [again] = await receive(consumer, 1)
    assert (again.body, again.redelivered) == (b"open", True)
    await consumer.ack([before])
    await consumer.nack(before, requeue=True)
    await consumer.ack([again])
    await retry_until_done(
        lambda: transport.publish(COMMANDS, "cancel.junior", text_message("new"))
    )
    assert texts(await receive(consumer, 1)) == ["new"]
    # The message is returned as unroutable until the subscription is declared again.
    await retry_until_done(
        lambda: transport.publish(EVENTS, "run.r1.completed", text_message("seen"))
    )
    assert texts(await receive(watcher, 1)) == ["seen"]


async def test_a_delivery_that_was_not_read_before_the_connection_was_lost_is_seen_once(
    restartable: Broker, url: str, transport: Transport
) -> None:
    consumer = await transport.consume(QUEUE, prefetch=2)
    for text in ("1", "2"):
        await transport.publish(COMMANDS, "assignment.junior", text_message(text))
    await close_connections(restartable, url, transport)
    received = await receive(consumer, 2)
    assert [(one.body, one.redelivered) for one in received] == [(b"1", True), (b"2", True)]
    await consumer.ack(received)
    await retry_until_done(lambda: transport.publish(COMMANDS, "cancel.junior", text_message("3")))
    assert texts(await receive(consumer, 1)) == ["3"]


async def test_the_name_of_a_connection_says_its_owner_and_purpose(
    restartable: Broker, url: str, transport: Transport
) -> None:
    shown = await connections_of(restartable, url)
    assert sorted(shown.values()) == ["junior (consume)", "junior (publish)"]


@pytest.fixture
def configured_log() -> Iterator[None]:
    """Configure structlog as a service does."""
    structlog.configure()
    yield
    structlog.reset_defaults()


async def test_repeated_losses_of_the_connection_are_one_log_event_without_traceback(
    configured_log: None, restartable: Broker, url: str, transport: Transport
) -> None:
    with capture_logs() as entries:
        for _ in range(3):
            await close_connections(restartable, url, transport)
    [lost] = [one for one in entries if one["event"] == "connection_lost"]
    assert lost["log_level"] == "warning"
    assert lost["broker"].endswith(urlsplit(url).netloc.rpartition("@")[2] + urlsplit(url).path)
    assert "closed via management plugin" in lost["reason"].lower()
    assert len([one for one in entries if one["event"] == "connection_restored"]) == 1
    assert not any("exc_info" in one for one in entries)


# --- deleted queues ------------------------------------------------------------------------------


async def test_a_consumer_of_a_deleted_queue_continues_after_the_queue_is_declared_again(
    restartable: Broker, url: str, transport: Transport
) -> None:
    consumer = await transport.consume(QUEUE, prefetch=10)
    await transport.publish(COMMANDS, "assignment.junior", text_message("lost"))
    [lost] = await receive(consumer, 1)
    await delete_queue(restartable, url, QUEUE)
    with pytest.raises(TransportError):
        await transport.publish(COMMANDS, "assignment.junior", text_message("returned"))
    await transport.declare(worker_topology("junior"))
    await transport.publish(COMMANDS, "assignment.junior", text_message("again"))
    [again] = await receive(consumer, 1)
    await consumer.ack([lost])
    await consumer.ack([again])
    assert again.body == b"again"


async def test_a_queue_that_is_missing_at_the_reconnect_does_not_block_other_consumers(
    restartable: Broker, url: str, transport: Transport
) -> None:
    without_queue = await transport.consume(QUEUE, prefetch=10)
    other = await transport.consume(MANAGER_REPORTS, prefetch=10)
    await delete_queue(restartable, url, QUEUE)
    await close_connections(restartable, url, transport)
    await retry_until_done(
        lambda: transport.publish(REPORTS, "connect.junior", text_message("hello"))
    )
    assert texts(await receive(other, 1)) == ["hello"]
    await retry_until_done(lambda: transport.declare(worker_topology("junior")))
    await transport.publish(COMMANDS, "assignment.junior", text_message("work"))
    assert texts(await receive(without_queue, 1)) == ["work"]


# --- refused -----------------------------------------------------------------------------------


async def refusal(url: str, seconds: float = 1.0) -> str:
    with pytest.raises(SkillqError) as caught:
        async with open_to(url, seconds=seconds):
            pass
    message = str(caught.value)
    assert "\n" not in message
    assert isinstance(caught.value, Unreachable | UsageError)
    return message


def with_user(url: str, user: str, password: str, vhost: str | None = None) -> str:
    parts = urlsplit(url)
    path = parts.path if vhost is None else f"/{vhost}"
    return f"amqp://{quote(user)}:{quote(password)}@{parts.hostname}:{parts.port}{path}"


async def test_wrong_credentials_are_an_immediate_error_that_names_the_user(
    broker_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    message = await refusal(with_user(broker_url, "no body", "geheim"), SECONDS)
    assert "'no body'" in message
    assert "geheim" not in message + caplog.text
    assert time.monotonic() - began < 10


async def test_an_unknown_vhost_is_an_immediate_error_that_names_it(
    broker: Broker, broker_url: str
) -> None:
    parts = urlsplit(broker_url)
    message = await refusal(
        with_user(broker_url, broker.user, str(parts.password), "nope"), SECONDS
    )
    assert "'nope'" in message
    assert "does not exist" in message


async def test_a_missing_permission_is_an_error_that_names_the_user(
    broker: Broker, broker_url: str
) -> None:
    vhost = urlsplit(broker_url).path[1:]
    user = f"worker-{vhost}"
    broker.request("PUT", f"/users/{user}", {"password": "geheim", "tags": ""})
    try:
        nothing = {"configure": "^$", "write": "^$", "read": "^$"}
        broker.request("PUT", f"/permissions/{vhost}/{user}", nothing)
        async with (
            open_to(broker_url) as manager,
            open_to(with_user(broker_url, user, "geheim")) as worker,
        ):
            await manager.declare(MANAGER)
            for use in (
                worker.declare(worker_topology("junior")),
                worker.consume(MANAGER_REPORTS, prefetch=1),
                worker.subscribe(EVENTS, ["#"]),
            ):
                with pytest.raises(Unreachable, match=user):
                    await use
            with pytest.raises(TransportError, match=user):
                await worker.publish(REPORTS, "result.junior", text_message("refused"))
    finally:
        broker.request("DELETE", f"/users/{user}")


async def test_a_port_without_a_broker_is_an_error_with_cause_and_remedy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    [port] = free_ports(1)
    message = await refusal(f"amqp://guest:geheim@127.0.0.1:{port}/")
    assert f"127.0.0.1:{port}" in message
    assert "tried for 1 s: connection refused" in message
    assert "is it running" in message
    assert "geheim" not in message + caplog.text


async def test_an_unknown_host_is_an_error_that_names_it() -> None:
    message = await refusal("amqp://guest:geheim@no-such-host.invalid/")
    assert "no-such-host.invalid" in message
    assert "geheim" not in message


@pytest.mark.parametrize(
    "url",
    [
        "http://guest:geheim@localhost/",
        "localhost:5672",
        "amqp://guest:geheim@localhost:none/",
        "amqp://guest:ge:hei@m@localhost:99999/",
        "amqp://",
        "",
    ],
)
def test_an_invalid_broker_url_is_an_error_that_hides_the_password(url: str) -> None:
    with pytest.raises(
        UsageError, match=r"broker URL: .*should be amqp://user:password@host"
    ) as caught:
        open_to(url)
    assert "hei" not in str(caught.value)
