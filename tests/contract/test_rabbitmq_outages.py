"""What the transport over RabbitMQ does when the broker, a connection or a queue goes away."""

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
from tests.broker import Broker
from tests.contract.transports import note, texts, until
from tests.ports import free_ports

pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(180)]

SECONDS = 60.0
QUEUE = worker_queue("junior")


@pytest.fixture
def url(restartable: Broker) -> Iterator[str]:
    with restartable.vhost() as url:
        yield url


def to(url: str, name: str = "junior", seconds: float = SECONDS) -> RabbitTransport:
    return RabbitTransport(url, app_id="tests", connection_name=name, connect_timeout=seconds)


@pytest.fixture
async def transport(url: str) -> AsyncIterator[Transport]:
    async with to(url) as transport:
        await transport.declare(MANAGER)
        await transport.declare(worker_topology("junior"))
        yield transport


async def take(consumer: Consumer, count: int) -> list[Delivery]:
    taken: list[Delivery] = []
    async with asyncio.timeout(SECONDS):
        while len(taken) < count:
            taken += await consumer.batch()
    return taken


async def until_done(do: Callable[[], Awaitable[None]]) -> None:
    """Do it again and again, as our services do, until the broker has confirmed it."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                return await do()
            except TransportError:
                await asyncio.sleep(0.02)


async def delete(broker: Broker, url: str, queue: str) -> None:
    vhost = urlsplit(url).path[1:]
    await asyncio.to_thread(broker.ask, "DELETE", f"/queues/{vhost}/{queue}")


async def connections(broker: Broker, url: str) -> dict[str, str]:
    """Both connections of the transport, once the management API shows them."""
    async with asyncio.timeout(SECONDS):
        while True:
            shown = await asyncio.to_thread(broker.connections, url)
            if len(shown) == 2:
                return shown
            await asyncio.sleep(0.1)


async def close_connections(broker: Broker, url: str, transport: Transport) -> None:
    """Have the server close both connections; return when two others are there."""
    before = shown = await connections(broker, url)
    for one in before:
        await asyncio.to_thread(broker.close_connection, one)
    async with asyncio.timeout(SECONDS):
        while before.keys() & shown.keys():
            shown = await connections(broker, url)
    await until(lambda: transport.connected)


# --- the broker goes and comes back ------------------------------------------------------------


async def test_publishing_consuming_and_subscribing_survive_a_restart_of_the_broker(
    restartable: Broker, transport: Transport
) -> None:
    consumer = await transport.consume(QUEUE, prefetch=10, exclusive=True)
    watcher = await transport.subscribe(EVENTS, ["#"])
    for text in ("acknowledged", "open"):
        await transport.publish(COMMANDS, "assignment.junior", note(text))
    acknowledged, still_open = await take(consumer, 2)
    await consumer.ack([acknowledged])

    await asyncio.to_thread(restartable.restart)

    await until(lambda: transport.connected)
    [again] = await take(consumer, 1)
    assert (again.body, again.redelivered) == (b"open", True)
    await consumer.ack([still_open])  # from before: passed over
    await consumer.ack([again])
    await until_done(lambda: transport.publish(COMMANDS, "cancel.junior", note("new")))
    assert texts(await take(consumer, 1)) == ["new"]
    await until_done(lambda: transport.publish(EVENTS, "run.r1.completed", note("seen")))
    assert texts(await take(watcher, 1)) == ["seen"]


async def test_what_was_confirmed_during_a_restart_arrives_and_no_publish_hangs(
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
            await transport.publish(REPORTS, "result.junior", note(str(number)))
            confirmed.append(str(number))
        except TransportError:
            failed_after.append(time.monotonic() - began)
            await asyncio.sleep(0.02)
    await restart
    assert failed_after, "the broker was never away"
    assert max(failed_after) < 5
    arrived: set[str] = set()
    while not arrived.issuperset(confirmed):
        arrived.update(texts(await take(consumer, 1)))


async def test_a_transport_waits_for_a_broker_that_starts_and_can_be_closed_while_it_is_away(
    restartable: Broker, url: str, transport: Transport
) -> None:
    leaving = await to(url, "leaving").__aenter__()
    consumer = await leaving.consume(MANAGER_REPORTS, prefetch=10)
    restart = asyncio.create_task(asyncio.to_thread(restartable.restart))
    await until(lambda: not transport.connected)
    async with asyncio.timeout(15):
        await leaving.__aexit__(None, None, None)
    with pytest.raises(TransportError, match="closed"):
        await consumer.batch()
    async with to(url, "coming") as coming:
        assert coming.connected
        await coming.publish(REPORTS, "result.junior", note("hello"))
    await restart


# --- a connection goes -------------------------------------------------------------------------


async def test_a_connection_that_the_server_closes_comes_back_with_its_consumers(
    restartable: Broker, url: str, transport: Transport
) -> None:
    consumer = await transport.consume(QUEUE, prefetch=10)
    watcher = await transport.subscribe(EVENTS, ["#"])
    await transport.publish(COMMANDS, "assignment.junior", note("open"))
    [before] = await take(consumer, 1)
    await close_connections(restartable, url, transport)
    [again] = await take(consumer, 1)
    assert (again.body, again.redelivered) == (b"open", True)
    await consumer.ack([before])
    await consumer.nack(before, requeue=True)
    await consumer.ack([again])
    await until_done(lambda: transport.publish(COMMANDS, "cancel.junior", note("new")))
    assert texts(await take(consumer, 1)) == ["new"]
    # Nobody is bound until the subscription is made anew: until then the message comes back.
    await until_done(lambda: transport.publish(EVENTS, "run.r1.completed", note("seen")))
    assert texts(await take(watcher, 1)) == ["seen"]


async def test_a_delivery_that_nobody_took_before_the_connection_went_is_not_seen_twice(
    restartable: Broker, url: str, transport: Transport
) -> None:
    consumer = await transport.consume(QUEUE, prefetch=2)
    for text in ("1", "2"):
        await transport.publish(COMMANDS, "assignment.junior", note(text))
    await close_connections(restartable, url, transport)
    taken = await take(consumer, 2)
    assert [(one.body, one.redelivered) for one in taken] == [(b"1", True), (b"2", True)]
    await consumer.ack(taken)
    await until_done(lambda: transport.publish(COMMANDS, "cancel.junior", note("3")))
    assert texts(await take(consumer, 1)) == ["3"]


async def test_each_connection_says_whose_it_is_and_what_for(
    restartable: Broker, url: str, transport: Transport
) -> None:
    shown = await connections(restartable, url)
    assert sorted(shown.values()) == ["junior (consume)", "junior (publish)"]


@pytest.fixture
def told() -> Iterator[None]:
    """Somebody has set up a log."""
    structlog.configure()
    yield
    structlog.reset_defaults()


async def test_connections_that_are_lost_again_and_again_are_one_event_without_traceback(
    told: None, restartable: Broker, url: str, transport: Transport
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


# --- a queue goes ------------------------------------------------------------------------------


async def test_a_queue_deleted_under_its_consumer_delivers_again_once_it_is_declared(
    restartable: Broker, url: str, transport: Transport
) -> None:
    consumer = await transport.consume(QUEUE, prefetch=10)
    await transport.publish(COMMANDS, "assignment.junior", note("lost"))
    [lost] = await take(consumer, 1)
    await delete(restartable, url, QUEUE)
    with pytest.raises(TransportError):
        await transport.publish(COMMANDS, "assignment.junior", note("returned"))
    await transport.declare(worker_topology("junior"))
    await transport.publish(COMMANDS, "assignment.junior", note("again"))
    [again] = await take(consumer, 1)
    await consumer.ack([lost])
    await consumer.ack([again])
    assert again.body == b"again"


async def test_a_queue_that_is_gone_at_the_reconnect_holds_up_nobody_else(
    restartable: Broker, url: str, transport: Transport
) -> None:
    lonely = await transport.consume(QUEUE, prefetch=10)
    other = await transport.consume(MANAGER_REPORTS, prefetch=10)
    await delete(restartable, url, QUEUE)
    await close_connections(restartable, url, transport)
    await until_done(lambda: transport.publish(REPORTS, "connect.junior", note("hello")))
    assert texts(await take(other, 1)) == ["hello"]
    await until_done(lambda: transport.declare(worker_topology("junior")))
    await transport.publish(COMMANDS, "assignment.junior", note("work"))
    assert texts(await take(lonely, 1)) == ["work"]


# --- no way in ---------------------------------------------------------------------------------


async def refused(url: str, seconds: float = 1.0) -> str:
    with pytest.raises(SkillqError) as caught:
        async with to(url, seconds=seconds):
            pass
    message = str(caught.value)
    assert "\n" not in message
    assert isinstance(caught.value, Unreachable | UsageError)
    return message


def with_user(url: str, user: str, password: str, vhost: str | None = None) -> str:
    parts = urlsplit(url)
    path = parts.path if vhost is None else f"/{vhost}"
    return f"amqp://{quote(user)}:{quote(password)}@{parts.hostname}:{parts.port}{path}"


async def test_wrong_credentials_are_refused_at_once_naming_the_user(
    broker_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    began = time.monotonic()
    message = await refused(with_user(broker_url, "no body", "geheim"), SECONDS)
    assert "'no body'" in message
    assert "geheim" not in message + caplog.text
    assert time.monotonic() - began < 10


async def test_an_unknown_vhost_is_refused_at_once_naming_it(
    broker: Broker, broker_url: str
) -> None:
    parts = urlsplit(broker_url)
    message = await refused(
        with_user(broker_url, broker.user, str(parts.password), "nope"), SECONDS
    )
    assert "'nope'" in message
    assert "does not exist" in message


async def test_what_the_user_may_not_do_is_refused_naming_the_user(
    broker: Broker, broker_url: str
) -> None:
    vhost = urlsplit(broker_url).path[1:]
    user = f"worker-{vhost}"
    broker.ask("PUT", f"/users/{user}", {"password": "geheim", "tags": ""})
    try:
        nothing = {"configure": "^$", "write": "^$", "read": "^$"}
        broker.ask("PUT", f"/permissions/{vhost}/{user}", nothing)
        async with to(broker_url) as manager, to(with_user(broker_url, user, "geheim")) as worker:
            await manager.declare(MANAGER)
            for use in (
                worker.declare(worker_topology("junior")),
                worker.consume(MANAGER_REPORTS, prefetch=1),
                worker.subscribe(EVENTS, ["#"]),
            ):
                with pytest.raises(Unreachable, match=user):
                    await use
            with pytest.raises(TransportError, match=user):
                await worker.publish(REPORTS, "result.junior", note("refused"))
    finally:
        broker.ask("DELETE", f"/users/{user}")


async def test_a_port_where_nobody_listens_is_named_with_cause_and_remedy(
    caplog: pytest.LogCaptureFixture,
) -> None:
    [port] = free_ports(1)
    message = await refused(f"amqp://guest:geheim@127.0.0.1:{port}/")
    assert f"127.0.0.1:{port}" in message
    assert "tried for 1 s: connection refused" in message
    assert "is it running" in message
    assert "geheim" not in message + caplog.text


async def test_a_host_without_address_is_named() -> None:
    message = await refused("amqp://guest:geheim@no-such-host.invalid/")
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
def test_what_is_no_broker_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(UsageError, match="write amqp://user:password@host") as caught:
        to(url)
    assert "hei" not in str(caught.value)
