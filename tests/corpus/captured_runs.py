"""The runs from which the corpus is captured: tasks with every outcome, and tasks that stay open."""

import asyncio
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from skillq import topology
from skillq.errors import UsageError
from skillq.messages import (
    AttemptRef,
    Disconnect,
    Heartbeat,
    Outcome,
    Progress,
    ProgressItem,
    StatusQuery,
    Stop,
    Task,
    TaskResult,
    TaskResults,
    TaskStatus,
    WorkerEventKind,
    WorkerProfile,
    encode_submission,
    slug,
)
from skillq.transport import Outgoing
from skillq_worker import Context, Handlers
from skillq_worker.execution.executor import Executor
from skillq_worker.execution.simulation import Simulation
from tests.corpus.contents import Json
from tests.corpus.local_system import LocalSystem
from tests.support.waiting import until_async

BRISK = {"heartbeat": 0.2}
SHORT = {"heartbeat": 0.2, "suspect_after": 0.4, "dead_after": 0.8}
SUSPECT = {"heartbeat": 0.2, "suspect_after": 0.4, "dead_after": 3600.0}
YEARS = 1e9

REPORT, FAILURES, NAPS, PARTS = "Night report", "Failures", "Naps", "In parts"
OPEN, BACKLOG = "Open work", "Backlog"

handlers = Handlers()


@handlers.task
async def add(a: float, b: float = 0.0) -> float:
    return a + b


@handlers.task
async def join(context: Context, separator: str = "-") -> dict[str, Any]:
    outputs = [str(context.dependencies[id]) for id in sorted(context.dependencies)]
    return {"text": separator.join(outputs), "from": sorted(context.dependencies)}


@handlers.task
async def stumble(context: Context, text: str, times: int = 99) -> int:
    """Raise an error in the first `times` attempts."""
    if context.attempt <= times:
        raise ValueError(text)
    return context.attempt


@handlers.task
async def nap(seconds: float) -> None:
    await asyncio.sleep(seconds)


one_type = Handlers()
one_type.task(add)


@dataclass
class CapturedRuns:
    """All runs on one system. `submitted` has the tasks in order, as users write them."""

    system: LocalSystem
    submitted: list[Json] = field(default_factory=list)

    async def run(self) -> None:
        executor = self.system.executor(handlers)
        await self._start_workers(executor)
        await self._report()
        await self._failures()
        await self._submit_in_parts()
        await self._recall_attempt(executor)
        await self._unreadable()
        self.system.chance = 1.0
        await self._open_work()
        await self._backlog()
        await self._query_status()
        self.system.manager.stop()
        await self.system.manager_task
        await mark_end(self.system)

    async def _start_workers(self, executor: Executor) -> None:
        await self.system.worker("Junior", 3, lambda _: executor, lease=BRISK)
        await self.system.worker(
            "Senior Engineer",
            9,
            lambda _: executor,
            slots=2,
            specialties=("gpu", "Überprüfung 2"),
            reserve=2,
            lease={"heartbeat": 0.5},
        )

    async def submit(self, run: str, *written: Json) -> None:
        tasks = self._as_tasks(run, written)
        receipt = await (await self.system.client()).submit(run, tasks, wait=20.0)
        assert receipt is not None
        assert receipt.accepted == len(tasks)

    def _as_tasks(self, run: str, written: tuple[Json, ...]) -> list[Task]:
        tasks = [Task.model_validate(one) for one in written]
        for one, task in zip(written, tasks, strict=True):
            self.submitted.append({"run": run, "task": one, "fingerprint": task.fingerprint()})
        return tasks

    # --- tasks that end

    async def _report(self) -> None:
        """All tasks succeed. They are submitted again, and another definition is refused."""
        written: tuple[Json, ...] = (
            {"id": 1, "difficulty": 2, "type": "add", "payload": {"a": 1.5, "b": -2}},
            {
                "id": "sum.2",
                "difficulty": 5,
                "type": "add",
                "description": "Adds what is large: 10²³ — „genau“",
                "priority": 7,
                "payload": {"a": 1e23},
                "timeout": "2m",
                "deadline": YEARS,
            },
            {"id": "gpu", "difficulty": 1, "type": "add", "requires": ["gpu"], "payload": {"a": 3}},
            {
                "id": "joined",
                "difficulty": 4,
                "type": "join",
                "depends_on": ["1", "sum.2", "gpu"],
                "payload": {"separator": " + "},
            },
            {
                "id": "escalated",
                "difficulty": 2,
                "type": "stumble",
                "max_attempts": 3,
                "escalate_by": 2,
                "retry_on": ["ValueError"],
                "no_retry_on": ["KeyError"],
                "payload": {"text": "too hard for a beginner: größer", "times": 1},
            },
        )
        await self.submit(REPORT, *written)
        await self.system.wait_for_run_end(slug(REPORT))
        same = [Task.model_validate(one) for one in written]
        client = await self.system.client()
        await client.complete(REPORT, same)
        other = [same[0].model_copy(update={"difficulty": 3}), *same[1:]]
        try:
            await client.submit(REPORT, other, wait=20.0)
        except UsageError:
            return
        raise AssertionError("another definition of a known task should be refused")

    async def _failures(self) -> None:
        """Tasks end with every bad status. An operator retries one; the need of one is relaxed."""
        system, run = self.system, slug(FAILURES)
        await self.submit(
            FAILURES,
            {
                "id": "broken",
                "difficulty": 1,
                "type": "stumble",
                "payload": {"text": "out of paper"},
            },
            {"id": "after", "difficulty": 1, "type": "add", "depends_on": ["broken"]},
            {
                "id": "anyway",
                "difficulty": 1,
                "type": "join",
                "depends_on": ["broken"],
                "on_failed_dependency": "run",
            },
            {"id": "misread", "difficulty": 1, "type": "add", "payload": {"c": None}},
            {
                "id": "slow",
                "difficulty": 1,
                "type": "nap",
                "timeout": "50ms",
                "payload": {"seconds": 60},
            },
            {
                "id": "impossible",
                "difficulty": 1,
                "type": "add",
                "requires": ["wings"],
                "unroutable": "reject",
                "unroutable_after": 0.1,
            },
            {
                "id": "relaxed",
                "difficulty": 10,
                "type": "add",
                "unroutable": "relax",
                "unroutable_after": "100ms",
                "payload": {"a": 10},
            },
            {"id": "unwanted", "difficulty": 10, "type": "nap", "unroutable": "wait"},
            {"id": "stopped", "difficulty": 1, "type": "nap", "payload": {"seconds": 600}},
        )
        await system.wait_for_status(run, "stopped", TaskStatus.RUNNING)
        await system.manager.cancel(run, ["unwanted", "stopped"], "nobody needs them")
        await system.wait_for_run_end(run)
        await system.manager.retry([(run, "broken")])
        await self._wait_for_attempts(run, "broken", 2)
        await system.wait_for_run_end(run)

    async def _wait_for_attempts(self, run: str, id: str, count: int) -> None:
        async def have_ended() -> bool:
            row = await self.system.store.task((run, id))
            ended = [one for one in row.attempts if one.counted and one.outcome] if row else []
            return len(ended) >= count

        await until_async(have_ended, f"{count} attempts of task {id} should have ended")

    async def _submit_in_parts(self) -> None:
        """Submit two tasks in two parts. A client makes parts only of submissions over a megabyte."""
        written: tuple[Json, ...] = (
            {"id": "p1", "difficulty": 1, "type": "add", "payload": {"a": 1}},
            {"id": "p2", "difficulty": 1, "type": "join", "depends_on": ["p1"]},
        )
        id = uuid4().hex
        for part, task in enumerate(self._as_tasks(PARTS, written), 1):
            body = encode_submission(
                id, slug(PARTS), PARTS, [task.to_wire()], part=part, parts=len(written)
            )
            await self.system.publish(
                topology.SUBMISSIONS, "submit.corpus", Outgoing(body, "submission")
            )
        await self.system.wait_for_run_end(slug(PARTS))

    async def _recall_attempt(self, executor: Executor) -> None:
        """An attempt that waits at a busy worker is recalled for an idle worker; both workers stop."""
        system, run = self.system, slug(NAPS)
        first = await system.worker(
            "Napper", 2, lambda _: executor, specialties=("nap",), lease=BRISK
        )
        mine = {"difficulty": 1, "type": "nap", "requires": ["nap"]}
        await self.submit(NAPS, *({**mine, "id": n, "payload": {"seconds": 0}} for n in range(2)))
        await system.wait_for_run_end(run)
        long = {**mine, "payload": {"seconds": 600}}
        await self.submit(NAPS, *({**long, "id": f"long-{n}"} for n in range(3)))
        await system.wait_for_status(run, "long-0", TaskStatus.RUNNING)
        second = await system.worker(
            "Idler", 2, lambda _: executor, specialties=("nap",), lease=BRISK
        )
        await self._wait_for_attempts(run, "long-2", 1)
        await system.wait_for_status(run, "long-2", TaskStatus.RUNNING)
        await system.manager.cancel(run, None, "good morning")
        await system.wait_for_run_end(run)
        first.stop()
        await self._wait_for_worker_status("Napper", WorkerEventKind.DISCONNECTED)
        (profile,) = [
            row.profile for row in await system.store.workers() if row.profile.title == "Idler"
        ]
        stop = Stop(incarnations=(profile.incarnation,), mode="now", reason="nothing to do")
        await system.publish(topology.COMMANDS, f"stop.{profile.name}", stop)
        await self._wait_for_worker_status("Idler", WorkerEventKind.DISCONNECTED)
        assert second.is_draining

    async def _wait_for_worker_status(self, title: str, status: WorkerEventKind) -> None:
        async def has_status() -> bool:
            rows = await self.system.store.workers()
            return any(row.profile.title == title and row.status is status for row in rows)

        await until_async(has_status, f"worker {title} should be {status}")

    async def _unreadable(self) -> None:
        """Messages that the manager and a worker cannot read go to the dead-letter queue."""
        publish = self.system.publish
        await publish(topology.SUBMISSIONS, "submit.stranger", Outgoing(b"not JSON", "submission"))
        await publish(topology.REPORTS, "result.stranger", Outgoing(b'{"type": "poem"}', "poem"))
        newer = b'{"type": "stop", "schema_version": 2, "incarnations": []}'
        await publish(topology.COMMANDS, "stop.junior", Outgoing(newer, "stop"))

    # --- tasks that stay open

    async def _open_work(self) -> None:
        """Tasks stay in every open status, after attempts with every outcome that leaves a task open."""
        system, run = self.system, slug(OPEN)
        only_adds = system.executor(one_type)
        novice = await system.worker(
            "Novice", 1, lambda _: only_adds, types=None, specialties=("paint",), lease=BRISK
        )
        add = {"difficulty": 1, "type": "add"}
        stumble = {"type": "stumble", "payload": {"text": "not yet"}}
        await self.submit(
            OPEN,
            {"id": "running", "difficulty": 9, "type": "nap", "payload": {"seconds": 600}},
            {"id": "blocked", "difficulty": 1, "type": "join", "depends_on": ["running"]},
            {**add, "id": "held", "requires": ["mute"], "payload": {"a": 1}},
            {**add, "id": "survivor", "requires": ["lost"], "payload": {"a": 2}},
            {**add, "id": "returned", "requires": ["returned"], "payload": {"a": 3}},
            {**add, "id": "bounced", "requires": ["bounced"], "payload": {"a": 4}},
            {"id": "refused", "difficulty": 1, "type": "paint", "requires": ["paint"]},
            {**stumble, "id": "later", "difficulty": 1, "max_attempts": 2},
            {**stumble, "id": "harder", "difficulty": 6, "max_attempts": 2, "escalate_by": 4},
        )
        await system.connect_by_hand(
            "Mute", 1, specialties=("mute",), types=("add",), lease=SUSPECT
        )
        await self._lose_worker(run)
        await self._return_attempts(run)
        leaving_profile = await system.connect_by_hand(
            "Leaver", 1, specialties=("returned",), lease=SUSPECT
        )
        await system.wait_for_status(run, "returned", TaskStatus.ASSIGNED)
        message = Disconnect(
            worker=leaving_profile.name, incarnation=leaving_profile.incarnation, reason="goes home"
        )
        await system.report("disconnect", leaving_profile.name, message)
        for id in ("returned", "refused", "later", "harder"):
            await self._wait_for_attempts(run, id, 1)
            await system.wait_for_status(run, id, TaskStatus.READY)
        await system.wait_for_status(run, "held", TaskStatus.ASSIGNED)
        await system.wait_for_status(run, "running", TaskStatus.RUNNING)
        novice.stop()
        for title in ("Mute", "Bouncer"):
            await self._wait_for_worker_status(title, WorkerEventKind.SUSPECT)
        await self._wait_for_worker_status("Novice", WorkerEventKind.DISCONNECTED)

    async def _lose_worker(self, run: str) -> None:
        """A worker starts an attempt and sends nothing more; its result comes after its lease."""
        system = self.system
        profile = await system.connect_by_hand("Casualty", 1, specialties=("lost",), lease=SHORT)
        await system.wait_for_status(run, "survivor", TaskStatus.ASSIGNED)
        ref = AttemptRef(run=run, id="survivor", attempt=1)
        item = ProgressItem(**ref.model_dump(), at=1_700_000_000.25)
        started = Progress(
            worker=profile.name,
            incarnation=profile.incarnation,
            store=system.store.id,
            items=(item,),
        )
        await system.report("progress", profile.name, started)
        await self._wait_for_worker_status(profile.title, WorkerEventKind.LOST)
        late = _result(ref, Outcome.FAILED, "came home late")
        await system.report("result", profile.name, self._results(profile, late))

        async def is_recorded() -> bool:
            row = await system.store.task((run, "survivor"))
            return row is not None and any(not one.counted for one in row.attempts)

        await until_async(is_recorded, "the late result should be recorded as stale")

    async def _return_attempts(self, run: str) -> None:
        """A worker reports attempts of one task, each with another outcome that leaves the task open."""
        system = self.system
        profile = await system.connect_by_hand(
            "Bouncer", 1, specialties=("bounced",), lease=SUSPECT
        )
        for number, outcome in enumerate((Outcome.RETURNED, Outcome.CANCELLED, Outcome.LOST), 1):
            ref = AttemptRef(run=run, id="bounced", attempt=number)

            async def has_it(number: int = number) -> bool:
                row = await system.store.task((run, "bounced"))
                return row is not None and row.attempt == number

            await until_async(has_it, f"attempt {number} should be assigned")
            back = self._results(profile, _result(ref, outcome, f"was {outcome.value}"))
            await system.report("result", profile.name, back)
            await self._wait_for_attempts(run, "bounced", number)
            await self._heartbeat(profile)

    async def _heartbeat(self, profile: WorkerProfile) -> None:
        alive = Heartbeat(worker=profile, store=self.system.store.id, free_slots=1)
        await self.system.report("heartbeat", profile.name, alive)

    def _results(self, profile: WorkerProfile, *results: TaskResult) -> TaskResults:
        return TaskResults(
            worker=profile.name,
            incarnation=profile.incarnation,
            store=self.system.store.id,
            results=results,
        )

    async def _backlog(self) -> None:
        """More tasks wait for a missing worker than the manager keeps in memory."""
        rare = {"difficulty": 3, "type": "add", "requires": ["rare"]}
        await self.submit(
            BACKLOG,
            *({**rare, "id": n, "priority": 1 + n % 3, "payload": {"a": n}} for n in range(12)),
        )

    async def _query_status(self) -> None:
        """Send status queries about an open run and about a run that the manager does not know."""
        store = self.system.store.id
        questions = [
            StatusQuery(
                submission_id="open", number=1, run=slug(OPEN), store=store, tasks=("running",)
            ),
            StatusQuery(submission_id="gone", number=2, run="nowhere", store="another"),
        ]
        for question in questions:
            answers = await self.system.transport.subscribe(
                topology.EVENTS, [f"answer.{question.submission_id}"]
            )
            asked = Outgoing.from_message(question, persistent=False)
            await self.system.publish(topology.SUBMISSIONS, "submit.corpus", asked)
            async with asyncio.timeout(20.0):
                await answers.ack(await answers.batch())
            await answers.close()


LAST_KEY = "submit.corpus-is-over"


def _result(ref: AttemptRef, outcome: Outcome, error: str) -> TaskResult:
    started = 1_700_000_000.25
    return TaskResult(
        **ref.model_dump(),
        outcome=outcome,
        error=error,
        error_types=("OSError", "Exception"),
        started_at=started,
        finished_at=started + 1,
    )


async def run_and_stop(system: LocalSystem) -> None:
    """Complete one task, after which the manager stops all workers and itself."""
    await system.worker("Junior", 3, lambda profile: Simulation(profile, 0.0), lease=BRISK)
    await (await system.client()).complete("Farewell", [Task(id="1", difficulty=1)])
    await system.manager_task
    await mark_end(system)


async def mark_end(system: LocalSystem) -> None:
    """Publish the message that ends the capture."""
    await system.publish(topology.SUBMISSIONS, LAST_KEY, Outgoing(b"{}", "last"))
