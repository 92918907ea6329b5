"""This release reads the messages and stores of earlier releases.

`tests/corpus` has a folder for each release; `python -m tests.corpus.capture` makes it.
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import asyncpg  # type: ignore[import-untyped]
import pytest
from pydantic import JsonValue

from skillq import topology
from skillq.errors import MalformedMessage, UsageError
from skillq.messages import (
    Disconnect,
    Message,
    Outcome,
    Task,
    TaskResult,
    TaskResults,
    TaskStatus,
    WorkerEventKind,
    decode,
)
from skillq.messages.events import RunStatus
from skillq.runtime.clock import Clock, steady_clock
from skillq.transport import Delivery, Outgoing
from skillq.transport.dead_letters import (
    EXCHANGE_HEADER,
    QUEUE_HEADER,
    REASON_HEADER,
    ROUTING_KEY_HEADER,
)
from skillq_manager.inbound.inbox import read_inbound
from skillq_manager.store import open_store
from skillq_manager.web.unreadable import UnreadableMessages
from skillq_worker.execution.simulation import Simulation
from tests.contract.transports import in_memory
from tests.corpus.contents import (
    EXPECTED,
    FINGERPRINTS,
    HERE,
    MESSAGES,
    POSTGRESQL_DUMP,
    SQLITE_FILE,
    Json,
    Sent,
    contents,
    missing,
)
from tests.corpus.local_system import HOUR, LocalSystem

FOLDERS = sorted(path.parent for path in HERE.glob(f"*/{MESSAGES}"))
KINDS = sorted(EXPECTED)
CONNECTED = {WorkerEventKind.CONNECTED.value, WorkerEventKind.SUSPECT.value}
OUTPUT: dict[str, JsonValue] = {"done": "by a worker from before the upgrade"}


@pytest.fixture(params=FOLDERS, ids=lambda path: path.name)
def folder(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
def expected(folder: Path, kind: str) -> Json:
    """Return the contents of the store as the views of that release showed them."""
    found: Json = _json(folder / EXPECTED[kind])
    return found


@pytest.fixture
def empty(request: pytest.FixtureRequest, kind: str, tmp_path: Path) -> str:
    """Return the URL of a database that does not exist yet, or is empty."""
    if kind == "sqlite":
        return f"sqlite:///{tmp_path / SQLITE_FILE}"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
async def url(empty: str, folder: Path, kind: str, tmp_path: Path) -> str:
    """Return the URL of a copy of the store of that release."""
    if kind == "sqlite":
        shutil.copy(folder / SQLITE_FILE, tmp_path)
        return empty
    connection = await asyncpg.connect(empty, timeout=10)
    try:
        await connection.execute((folder / POSTGRESQL_DUMP).read_text())
    finally:
        await connection.close()
    return empty


def _json(file: Path) -> Any:
    return json.loads(file.read_text())


def _messages(folder: Path) -> list[Sent]:
    files = sorted((folder / MESSAGES).iterdir())
    return [Sent(**json.loads(line)) for file in files for line in file.read_text().splitlines()]


def _readable(folder: Path) -> list[Sent]:
    return [sent for sent in _messages(folder) if sent.exchange != topology.DEAD_LETTERS]


def _bodies() -> list[Any]:
    return [json.loads(sent.body) for folder in FOLDERS for sent in _readable(folder)]


def _field_values(of: object, name: str) -> Iterator[str]:
    """Yield the values of all fields of this name."""
    if isinstance(of, dict):
        if isinstance(of.get(name), str):
            yield of[name]
        yield from (value for child in of.values() for value in _field_values(child, name))
    elif isinstance(of, list):
        yield from (value for child in of for value in _field_values(child, name))


def _values(values: Iterable[TaskStatus | Outcome | RunStatus | WorkerEventKind]) -> set[str]:
    return {str(value.value) for value in values}


# --- the corpus is complete --------------------------------------------------------------------


def test_every_type_of_message_is_in_the_corpus() -> None:
    known = {model.model_fields["type"].default for model in get_args(Message)}
    assert known == {body["type"] for body in _bodies()}


def test_every_status_and_kind_of_event_is_in_some_message() -> None:
    bodies = _bodies()
    events = {type: [b for b in bodies if b["type"] == type] for type in ("run_event", "standing")}
    runs = {
        status for of_type in events.values() for body in of_type for status in [body["status"]]
    }
    assert runs == _values(RunStatus)
    tasks = [body["events"] for body in bodies if body["type"] == "task_events"]
    assert set(_field_values(tasks, "status")) == _values(TaskStatus)
    assert set(_field_values(bodies, "event")) == _values(WorkerEventKind)
    assert set(_field_values(bodies, "outcome")) == _values(Outcome)


def test_every_status_and_outcome_is_in_some_store_of_each_kind(kind: str) -> None:
    stored = [_json(folder / EXPECTED[kind]) for folder in FOLDERS]
    tasks = [task for one in stored for task in one["tasks"]]
    assert {task["status"] for task in tasks} == _values(TaskStatus)
    attempts = [attempt for task in tasks for attempt in task["attempts"]]
    assert {attempt["outcome"] for attempt in attempts} == {None, *_values(Outcome)}
    assert {attempt["counted"] for attempt in attempts} == {True, False}
    workers = [worker for one in stored for worker in one["workers"]]
    assert {worker["status"] for worker in workers} == _values(WorkerEventKind)


# --- messages ----------------------------------------------------------------------------------


def test_a_message_of_an_earlier_release_is_read_with_each_of_its_fields(folder: Path) -> None:
    for sent in _readable(folder):
        message = decode(sent.raw)
        written = json.loads(sent.body)
        assert not missing(written, message.model_dump(mode="json"), sent.routing_key)
        assert message.type == sent.properties["type"]


def test_a_message_of_an_earlier_release_reaches_the_queue_where_it_is_read(folder: Path) -> None:
    for sent in _readable(folder):
        if sent.exchange in {topology.SUBMISSIONS, topology.REPORTS}:
            (queue,) = _queues(topology.MANAGER, sent)
            assert read_inbound(_delivery(sent, queue)).type == sent.properties["type"]
        elif sent.exchange == topology.COMMANDS:
            body = json.loads(sent.body)
            worker = body.get("worker", sent.routing_key.rpartition(".")[2])
            assert _queues(topology.worker_topology(worker), sent)


def _queues(declared: topology.Topology, sent: Sent) -> list[str]:
    return [
        binding.queue
        for binding in declared.bindings
        if binding.exchange == sent.exchange and topology.key_matches(binding.key, sent.routing_key)
    ]


def _delivery(sent: Sent, queue: str) -> Delivery:
    return Delivery(
        body=sent.raw,
        type=sent.properties["type"],
        queue=queue,
        exchange=sent.exchange,
        routing_key=sent.routing_key,
        redelivered=False,
        headers=sent.headers,
        message_id=sent.properties["message_id"],
        app_id=sent.properties["app_id"],
        token=None,
    )


async def test_an_unreadable_message_of_an_earlier_release_shows_its_origin(
    folder: Path,
) -> None:
    unreadable = [sent for sent in _messages(folder) if sent.exchange == topology.DEAD_LETTERS]
    assert unreadable
    async with in_memory()("tests") as transport:
        await transport.declare(topology.MANAGER)
        for sent in unreadable:
            with pytest.raises(MalformedMessage):
                decode(sent.raw)
            properties = sent.properties
            copy = Outgoing(sent.raw, properties["type"], sent.headers, properties["message_id"])
            await transport.publish(sent.exchange, sent.routing_key, copy)
        shown = await UnreadableMessages(transport).first_messages(0, len(unreadable))
    for view, sent in zip(shown, unreadable, strict=True):
        names = (REASON_HEADER, QUEUE_HEADER, EXCHANGE_HEADER, ROUTING_KEY_HEADER)
        where = [view.reason, view.queue, view.exchange, view.routing_key]
        assert where == [sent.headers[name] for name in names]
        assert view.parked_at is not None
        assert view.body == sent.body


# --- fingerprints ------------------------------------------------------------------------------


def test_a_task_has_the_same_fingerprint_as_in_an_earlier_release(folder: Path) -> None:
    for one in _json(folder / FINGERPRINTS):
        assert Task.model_validate(one["task"]).fingerprint() == one["fingerprint"], one["task"]


async def test_tasks_of_an_earlier_release_are_known_and_another_definition_is_refused(
    folder: Path, url: str, expected: Json
) -> None:
    submitted: dict[str, list[Task]] = {}
    for one in _json(folder / FINGERPRINTS):
        submitted.setdefault(one["run"], []).append(Task.model_validate(one["task"]))
    assert submitted.keys() == {run["title"] for run in expected["runs"]}
    async with (
        open_store(url, connect_timeout=10.0) as store,
        LocalSystem(in_memory(), store, clock=_clock_after(expected)) as system,
    ):
        client = await system.client()
        for run, tasks in submitted.items():
            receipt = await client.submit(run, tasks, wait=20.0)
            assert receipt is not None
            assert (receipt.accepted, receipt.known) == (0, len(tasks))
            for task in tasks:
                other = task.model_copy(update={"priority": task.priority + 1})
                with pytest.raises(UsageError, match="another definition"):
                    await client.submit(run, [other], wait=20.0)


# --- stores ------------------------------------------------------------------------------------


async def test_a_store_of_an_earlier_release_shows_all_that_it_showed_before(
    url: str, expected: Json
) -> None:
    async with open_store(url, connect_timeout=10.0) as store:
        assert not missing(expected, await contents(store))


async def test_a_manager_continues_what_a_manager_of_an_earlier_release_left(
    url: str, expected: Json
) -> None:
    """The running attempt counts, the workers leave, a new worker runs the rest, and all runs end."""
    open_tasks = [task for task in expected["tasks"] if not TaskStatus(task["status"]).is_terminal]
    running = [task for task in open_tasks if task["status"] == TaskStatus.RUNNING.value]
    assert running
    async with (
        open_store(url, connect_timeout=10.0) as store,
        LocalSystem(in_memory(), store, clock=_clock_after(expected)) as system,
    ):
        for worker in expected["workers"]:
            if worker["status"] in CONNECTED:
                await _report_and_disconnect(system, worker["profile"], running)
        needed = {name for task in open_tasks for name in task["task"]["requires"]}
        await system.worker(
            "Relief",
            10,
            lambda profile: Simulation(profile, 0.0),
            specialties=tuple(needed),
            slots=4,
        )
        for task in open_tasks:
            await system.wait_for_status(task["run"], task["task"]["id"], TaskStatus.SUCCEEDED)
        for run in expected["runs"]:
            await system.wait_for_run_end(run["run"])
        rows = {
            (task["run"], task["task"]["id"]): task for task in (await contents(store))["tasks"]
        }
    for task in expected["tasks"]:
        row = rows[task["run"], task["task"]["id"]]
        if task not in open_tasks:
            assert not missing(task, row)
            continue
        counted = [attempt for attempt in row["attempts"] if attempt["counted"]]
        assert [attempt["attempt"] for attempt in counted] == [*range(1, row["attempt"] + 1)]
        assert counted[-1]["outcome"] == Outcome.SUCCEEDED.value
        if task in running:
            assert (row["attempt"], row["output"]) == (task["attempt"], OUTPUT)
        else:
            assert row["worker"] == "Relief"
            assert row["output"]["inputs"] == task["task"]["depends_on"]


async def _report_and_disconnect(system: LocalSystem, profile: Json, running: list[Json]) -> None:
    """Report the results of a worker from before the upgrade, and disconnect it."""
    name, incarnation = profile["name"], profile["incarnation"]
    own_attempts = [one for one in running if one["attempts"][-1]["incarnation"] == incarnation]
    if own_attempts:
        results = [
            TaskResult(
                run=one["run"],
                id=one["task"]["id"],
                attempt=one["attempt"],
                outcome=Outcome.SUCCEEDED,
                output=OUTPUT,
            )
            for one in own_attempts
        ]
        report = TaskResults(
            worker=name, incarnation=incarnation, store=system.store.id, results=tuple(results)
        )
        await system.report("result", name, report)
    await system.report("disconnect", name, Disconnect(worker=name, incarnation=incarnation))


def _clock_after(expected: Json) -> Clock:
    """Return a clock that begins two hours after the capture, when all retries are due."""
    times = [task["submitted_at"] for task in expected["tasks"]]
    began = max(times + [worker["since"] for worker in expected["workers"]]) + 2 * HOUR
    clock = steady_clock()
    offset = began - clock()
    return lambda: clock() + offset
