"""What a client sees of a manager, as a test wants it."""

import asyncio
from collections.abc import Iterable

from skillq import topology
from skillq.messages import (
    Message,
    RunEvent,
    RunStatus,
    StatusQuery,
    StatusReply,
    Submission,
    Task,
    TaskEvent,
    TaskEvents,
    TaskStatus,
    decode,
)
from skillq.transport import Consumer, Outgoing
from skillq.transport.memory import MemoryBroker, MemoryTransport


class Desk:
    def __init__(self, broker: MemoryBroker) -> None:
        self.transport = MemoryTransport(broker)
        self.taken: list[Submission] = []
        self.asked: list[StatusQuery] = []
        self._queue: Consumer

    async def open(self) -> None:
        await self.transport.declare(topology.MANAGER)
        self._queue = await self.transport.consume(topology.MANAGER_SUBMISSIONS, prefetch=100)

    async def take(self) -> Submission:
        """The last submission; those that came with it are in `taken`, too."""
        await self.receive()
        return self.taken[-1]

    async def question(self) -> StatusQuery:
        """The next inquiry; no submission comes with it."""
        taken = len(self.taken)
        await self.receive()
        assert len(self.taken) == taken
        return self.asked[-1]

    async def receive(self) -> None:
        async with asyncio.timeout(5):
            deliveries = await self._queue.batch()
        await self._queue.ack(deliveries)
        messages = [decode(delivery.body) for delivery in deliveries]
        self.taken += [message for message in messages if isinstance(message, Submission)]
        self.asked += [message for message in messages if isinstance(message, StatusQuery)]

    async def answer(
        self, asked: StatusQuery, status: RunStatus, *ids: str, **more: object
    ) -> None:
        fields = {"submission_id": asked.submission_id, "number": asked.number, "store": "s"}
        said = StatusReply.model_validate(fields | {"status": status, "tasks": _ends(ids)} | more)
        await self.tell(f"answer.{asked.submission_id}", said)

    async def tell(self, key: str, message: Message) -> None:
        await self.transport.publish_unconfirmed(
            topology.EVENTS, key, Outgoing.from_message(message)
        )

    async def say(self, run: str, status: RunStatus, **more: object) -> None:
        event = RunEvent.model_validate(
            {"run": run, "title": run, "status": status, "at": 0} | more
        )
        await self.tell(f"run.{run}.{status}", event)

    async def accept(self, submission: Submission) -> None:
        await self.say(
            submission.run,
            RunStatus.ACCEPTED,
            submission_id=submission.submission_id,
            accepted=len(submission.tasks),
            store="s",
        )

    async def end(self, run: str, *ids: str) -> None:
        message = TaskEvents(run=run, task_type="task", events=_ends(ids))
        await self.tell(f"task.{run}.task.succeeded", message)

    async def complete(self, run: str, count: int) -> None:
        await self.say(run, RunStatus.COMPLETED, counts={"succeeded": count})


def _ends(ids: Iterable[str]) -> tuple[TaskEvent, ...]:
    return tuple(
        TaskEvent(id=id, status=TaskStatus.SUCCEEDED, attempt=1, at=0, worker="Ada") for id in ids
    )


def task(id: str = "a", **more: object) -> Task:
    return Task.model_validate({"id": id, "difficulty": 1} | more)
