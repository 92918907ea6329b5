"""The manager's window: messages that nobody could read."""

from datetime import datetime

import pytest

from skillq import topology
from skillq.messages import Connect, WorkerProfile
from skillq.transport import Delivery, Outgoing
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_manager.inbound import inbox
from skillq_manager.web import unreadable
from tests.unit.manager.desk import Desk, refused


async def test_a_parked_message_is_shown_with_reason_origin_and_the_beginning_of_its_body(
    desk: Desk,
) -> None:
    id = await desk.stray("{" + "x" * 5000)
    (letter,) = (await desk.get("/api/parked"))["items"]
    assert datetime.fromisoformat(letter.pop("parked_at")).tzinfo is not None
    body = letter.pop("body")
    assert body.startswith("{xxx")
    assert len(body) <= 2000
    assert "JSON" in letter.pop("reason")
    assert letter == {
        "message_id": id,
        "type": "note",
        "queue": topology.MANAGER_REPORTS,
        "exchange": topology.REPORTS,
        "routing_key": "result.x",
        "size": 5001,
    }


async def test_looking_changes_nothing(desk: Desk) -> None:
    await desk.stray("a")
    await desk.stray("b")
    first = await desk.get("/api/parked")
    assert await desk.get("/api/parked") == first
    assert [letter["body"] for letter in first["items"]] == ["a", "b"]


async def test_parked_messages_come_in_pages(desk: Desk) -> None:
    for text in "abc":
        await desk.stray(text)
    first = await desk.get("/api/parked", limit=2)
    rest = await desk.get("/api/parked", limit=2, cursor=first["next_cursor"])
    assert [letter["body"] for letter in first["items"] + rest["items"]] == ["a", "b", "c"]
    assert rest["next_cursor"] is None


async def test_a_message_that_can_be_read_now_is_taken_in_when_it_is_sent_again(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = WorkerProfile(name="ada", title="Ada", skill=5, incarnation="1")
    monkeypatch.setitem(inbox.ALLOWED_TYPES, topology.MANAGER_REPORTS, ())  # as an older release
    await desk.say("connect.ada", Connect(worker=who))
    await desk.until(lambda: desk.manager.counters.unreadable)
    monkeypatch.undo()
    (letter,) = (await desk.get("/api/parked"))["items"]
    sent = await desk.post(f"/api/parked/{letter['message_id']}/retry")
    assert sent == letter
    await desk.until(lambda: "ada" in desk.manager.state.workers.workers)
    assert (await desk.get("/api/parked"))["items"] == []


async def test_a_message_that_still_cannot_be_read_is_parked_again(desk: Desk) -> None:
    id = await desk.stray("?")
    await desk.post(f"/api/parked/{id}/retry")
    await desk.until(lambda: desk.manager.counters.unreadable == 2)
    (letter,) = (await desk.get("/api/parked"))["items"]
    assert (letter["message_id"], letter["body"]) == (id, "?")


async def test_a_message_is_deleted_and_the_answer_is_the_last_of_it(desk: Desk) -> None:
    await desk.stray("a")
    id = await desk.stray("b")
    response = await desk.http.delete(f"/api/parked/{id}")
    assert response.json()["body"] == "b"
    assert [one["body"] for one in (await desk.get("/api/parked"))["items"]] == ["a"]
    again = await desk.http.delete(f"/api/parked/{id}")
    assert refused(again, 404) == f"there is no unreadable message {id!r}"


async def letters(broker: MemoryBroker, *messages: Outgoing) -> None:
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
async def test_a_message_that_does_not_say_where_it_came_from_is_not_sent_anywhere(
    headers: dict[str, str | int],
) -> None:
    broker = MemoryBroker()
    async with Desk(broker).open() as desk:
        await letters(broker, Outgoing(b"?", "note", headers, message_id="1"))
        response = await desk.http.post("/api/parked/1/retry", json={})
        assert refused(response, 409).startswith("message 1 does not say where it came from")
        assert len((await desk.get("/api/parked"))["items"]) == 1


async def test_a_message_that_nobody_takes_any_more_stays_parked() -> None:
    broker = MemoryBroker()
    origin: dict[str, str | int] = {
        "x-skillq-reason": "r",
        "x-skillq-queue": "skillq.worker.ada",
        "x-skillq-exchange": topology.COMMANDS,
        "x-skillq-routing-key": "assignment.ada",
    }
    async with Desk(broker).open() as desk:
        await letters(broker, Outgoing(b"?", "note", origin, message_id="a/b"))
        response = await desk.http.post("/api/parked/a%2Fb/retry", json={})
        assert "no queue takes assignment.ada" in refused(response, 409)
        assert len((await desk.get("/api/parked"))["items"]) == 1


async def test_what_is_sent_again_carries_nothing_of_what_was_said_about_it() -> None:
    broker = MemoryBroker()
    origin: dict[str, str | int] = {
        "schema_version": 1,
        "x-skillq-reason": "r",
        "x-skillq-exchange": topology.COMMANDS,
        "x-skillq-routing-key": "assignment.ada",
        "x-first-death-queue": "q",
    }
    async with Desk(broker).open() as desk, MemoryTransport(broker) as worker:
        await worker.declare(topology.worker_topology("ada"))
        await letters(broker, Outgoing(b"?", "note", origin, message_id="1"))
        await desk.post("/api/parked/1/retry")
        consumer = await worker.consume(topology.worker_queue("ada"), prefetch=10)
        (delivery,) = await consumer.batch()
        assert (delivery.body, delivery.type, delivery.message_id) == (b"?", "note", "1")
        assert delivery.headers == {"schema_version": 1}


def test_a_message_that_the_broker_has_moved_says_so_in_the_brokers_words() -> None:
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


async def test_a_broker_that_is_away_is_said_in_one_line(desk: Desk) -> None:
    await desk._manager_transport.__aexit__(None, None, None)
    for response in (
        await desk.http.get("/api/parked"),
        await desk.http.delete("/api/parked/1"),
    ):
        assert "the broker does not answer as it should" in refused(response, 503)
