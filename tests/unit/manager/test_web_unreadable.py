"""The HTTP API: unreadable messages in the dead-letter queue."""

from datetime import datetime

import pytest

from skillq import topology
from skillq.messages import Connect, WorkerProfile
from skillq.transport import Delivery, Outgoing
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_manager.inbound import inbox
from skillq_manager.web import unreadable
from tests.support.manager_harness import ApiHarness, error_line
from tests.support.waiting import until_async


async def test_an_unreadable_message_is_shown_with_reason_origin_and_start_of_its_body(
    api: ApiHarness,
) -> None:
    id = await api.send_unreadable("{" + "x" * 5000)
    (message,) = (await api.get("/api/parked"))["items"]
    assert datetime.fromisoformat(message.pop("parked_at")).tzinfo is not None
    body = message.pop("body")
    assert body.startswith("{xxx")
    assert len(body) <= 2000
    assert "JSON" in message.pop("reason")
    assert message == {
        "message_id": id,
        "type": "note",
        "queue": topology.MANAGER_REPORTS,
        "exchange": topology.REPORTS,
        "routing_key": "result.x",
        "size": 5001,
    }


async def test_listing_unreadable_messages_changes_nothing(api: ApiHarness) -> None:
    await api.send_unreadable("a")
    await api.send_unreadable("b")
    first = await api.get("/api/parked")
    assert await api.get("/api/parked") == first
    assert [message["body"] for message in first["items"]] == ["a", "b"]


async def test_unreadable_messages_are_listed_in_pages(api: ApiHarness) -> None:
    for text in "abc":
        await api.send_unreadable(text)
    first = await api.get("/api/parked", limit=2)
    rest = await api.get("/api/parked", limit=2, cursor=first["next_cursor"])
    assert [message["body"] for message in first["items"] + rest["items"]] == ["a", "b", "c"]
    assert rest["next_cursor"] is None


async def test_a_message_that_is_readable_now_is_processed_when_published_again(
    api: ApiHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    profile = WorkerProfile(name="ada", title="Ada", skill=5, incarnation="1")
    # An older release did not allow this message.
    monkeypatch.setitem(inbox.ALLOWED_TYPES, topology.MANAGER_REPORTS, ())
    await api.report("connect.ada", Connect(worker=profile))
    await until_async(lambda: api.manager.counters.unreadable, "the message should be unreadable")
    monkeypatch.undo()
    (message,) = (await api.get("/api/parked"))["items"]
    sent = await api.post(f"/api/parked/{message['message_id']}/retry")
    assert sent == message
    await until_async(
        lambda: "ada" in api.manager.state.workers.workers, "the worker should be connected"
    )
    assert (await api.get("/api/parked"))["items"] == []


async def test_a_message_that_is_still_unreadable_is_dead_lettered_again(api: ApiHarness) -> None:
    id = await api.send_unreadable("?")
    await api.post(f"/api/parked/{id}/retry")
    await until_async(
        lambda: api.manager.counters.unreadable == 2, "the message should be unreadable again"
    )
    (message,) = (await api.get("/api/parked"))["items"]
    assert (message["message_id"], message["body"]) == (id, "?")


async def test_deleting_an_unreadable_message_returns_it_once(api: ApiHarness) -> None:
    await api.send_unreadable("a")
    id = await api.send_unreadable("b")
    response = await api.http.delete(f"/api/parked/{id}")
    assert response.json()["body"] == "b"
    assert [item["body"] for item in (await api.get("/api/parked"))["items"]] == ["a"]
    again = await api.http.delete(f"/api/parked/{id}")
    assert error_line(again, 404) == f"there is no unreadable message {id!r}"


async def dead_letter(broker: MemoryBroker, *messages: Outgoing) -> None:
    async with MemoryTransport(broker) as other:
        for message in messages:
            await other.publish(topology.DEAD_LETTERS, "x", message)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-skillq-reason": "r", "x-skillq-exchange": "", "x-skillq-routing-key": "result.x"},
        {"x-skillq-reason": "r", "x-skillq-exchange": "amq.topic", "x-skillq-routing-key": "a"},
        {"x-skillq-reason": "r", "x-skillq-exchange": topology.REPORTS},
    ],
)
async def test_an_unreadable_message_without_origin_is_not_published_again(
    headers: dict[str, str | int],
) -> None:
    broker = MemoryBroker()
    async with ApiHarness(broker=broker) as api:
        await dead_letter(broker, Outgoing(b"?", "note", headers, message_id="1"))
        response = await api.http.post("/api/parked/1/retry", json={})
        assert error_line(response, 409).startswith("message 1 does not say where it came from")
        assert len((await api.get("/api/parked"))["items"]) == 1


async def test_an_unreadable_message_that_no_queue_takes_stays_in_the_dead_letter_queue() -> None:
    broker = MemoryBroker()
    origin: dict[str, str | int] = {
        "x-skillq-reason": "r",
        "x-skillq-queue": "skillq.worker.ada",
        "x-skillq-exchange": topology.COMMANDS,
        "x-skillq-routing-key": "assignment.ada",
    }
    async with ApiHarness(broker=broker) as api:
        await dead_letter(broker, Outgoing(b"?", "note", origin, message_id="a/b"))
        response = await api.http.post("/api/parked/a%2Fb/retry", json={})
        assert "no queue takes assignment.ada" in error_line(response, 409)
        assert len((await api.get("/api/parked"))["items"]) == 1


async def test_a_message_published_again_has_no_headers_of_the_dead_letter_queue() -> None:
    broker = MemoryBroker()
    origin: dict[str, str | int] = {
        "schema_version": 1,
        "x-skillq-reason": "r",
        "x-skillq-exchange": topology.COMMANDS,
        "x-skillq-routing-key": "assignment.ada",
        "x-first-death-queue": "q",
    }
    async with ApiHarness(broker=broker) as api, MemoryTransport(broker) as worker:
        await worker.declare(topology.worker_topology("ada"))
        await dead_letter(broker, Outgoing(b"?", "note", origin, message_id="1"))
        await api.post("/api/parked/1/retry")
        consumer = await worker.consume(topology.worker_queue("ada"), prefetch=10)
        (delivery,) = await consumer.batch()
        assert (delivery.body, delivery.type, delivery.message_id) == (b"?", "note", "1")
        assert delivery.headers == {"schema_version": 1}


def test_a_message_dead_lettered_by_the_broker_shows_the_brokers_reason() -> None:
    at = datetime.fromisoformat("2026-01-02T03:04:05+00:00")
    death = {
        "reason": "delivery_limit",
        "queue": topology.MANAGER_REPORTS,
        "exchange": topology.REPORTS,
        "routing-keys": ["result.ada"],
        "time": at,
    }
    delivery = Delivery(b"", "", "q", "e", "k", False, {"x-death": [death]}, "1", "app", 1)
    assert unreadable._origin(delivery) == (
        "the broker moved it: delivery_limit",
        topology.MANAGER_REPORTS,
        topology.REPORTS,
        "result.ada",
        at,
    )


async def test_a_broker_outage_is_reported_in_one_line(api: ApiHarness) -> None:
    await api.manager_transport.__aexit__(None, None, None)
    for response in (
        await api.http.get("/api/parked"),
        await api.http.delete("/api/parked/1"),
    ):
        assert "the broker does not answer as it should" in error_line(response, 503)
