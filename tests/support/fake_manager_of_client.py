"""The manager's side of messages between client and manager, for tests of the client."""

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


class FakeManagerOfClient:
    """Receives submissions and status queries, and publishes the events that a test asks for."""

    def __init__(self, broker: MemoryBroker) -> None:
        self.transport = MemoryTransport(broker)
        self.submissions: list[Submission] = []
        self.queries: list[StatusQuery] = []
        self._queue: Consumer

    async def open(self) -> None:
        await self.transport.declare(topology.MANAGER)
        self._queue = await self.transport.consume(topology.MANAGER_SUBMISSIONS, prefetch=100)

    async def receive_submission(self) -> Submission:
        """Receive messages and return the last submission; `submissions` holds all of them."""
        await self.receive()
        return self.submissions[-1]

    async def receive_query(self) -> StatusQuery:
        """Receive messages and return the last status query; fail if a submission came too."""
        count = len(self.submissions)
        await self.receive()
        assert len(self.submissions) == count
        return self.queries[-1]

    async def receive(self) -> None:
        """Wait up to 5 seconds for messages, and add them to `submissions` and `queries`."""
        async with asyncio.timeout(5):
            deliveries = await self._queue.batch()
        await self._queue.ack(deliveries)
        messages = [decode(delivery.body) for delivery in deliveries]
        self.submissions += [message for message in messages if isinstance(message, Submission)]
        self.queries += [message for message in messages if isinstance(message, StatusQuery)]

    async def reply(self, query: StatusQuery, status: RunStatus, *ids: str, **more: object) -> None:
        """Answer a status query: the status of the run, and the ids of succeeded tasks."""
        fields = {"submission_id": query.submission_id, "number": query.number, "store": "s"}
        reply = StatusReply.model_validate(
            fields | {"status": status, "tasks": _succeeded(ids)} | more
        )
        await self.publish_event(f"answer.{query.submission_id}", reply)

    async def publish_event(self, key: str, message: Message) -> None:
        await self.transport.publish_unconfirmed(
            topology.EVENTS, key, Outgoing.from_message(message)
        )

    async def publish_run_event(self, run: str, status: RunStatus, **more: object) -> None:
        event = RunEvent.model_validate(
            {"run": run, "title": run, "status": status, "at": 0} | more
        )
        await self.publish_event(f"run.{run}.{status}", event)

    async def accept(self, submission: Submission) -> None:
        await self.publish_run_event(
            submission.run,
            RunStatus.ACCEPTED,
            submission_id=submission.submission_id,
            accepted=len(submission.tasks),
            store="s",
        )

    async def end_tasks(self, run: str, *ids: str) -> None:
        """Publish that these tasks of the run have succeeded."""
        message = TaskEvents(run=run, task_type="task", events=_succeeded(ids))
        await self.publish_event(f"task.{run}.task.succeeded", message)

    async def complete_run(self, run: str, count: int) -> None:
        """Publish that the run is completed, and how many of its tasks have succeeded."""
        await self.publish_run_event(run, RunStatus.COMPLETED, counts={"succeeded": count})


def _succeeded(ids: Iterable[str]) -> tuple[TaskEvent, ...]:
    return tuple(
        TaskEvent(id=id, status=TaskStatus.SUCCEEDED, attempt=1, at=0, worker="Ada") for id in ids
    )


def task(id: str = "a", **more: object) -> Task:
    return Task.model_validate({"id": id, "difficulty": 1} | more)
