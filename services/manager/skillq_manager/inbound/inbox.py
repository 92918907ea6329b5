"""What has arrived for the manager: deliveries from its three queues, and events from inside."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from skillq import topology
from skillq.errors import MalformedMessage
from skillq.messages import (
    Connect,
    Disconnect,
    Heartbeat,
    Message,
    Probe,
    Progress,
    StatusQuery,
    Submission,
    TaskResults,
)
from skillq.transport import Consumer, Delivery, read_message
from skillq_manager.core.events import Event
from skillq_manager.core.model import TaskKey

Inbound = (
    Submission | StatusQuery | Connect | Disconnect | Heartbeat | TaskResults | Progress | Probe
)

_ROUND = 1000  # new tasks, about

BELONGS: dict[str, tuple[type[Message], ...]] = {
    topology.MANAGER_SUBMISSIONS: (Submission, StatusQuery, Probe),
    topology.MANAGER_REPORTS: (Connect, Disconnect, TaskResults, Progress, Probe),
    topology.MANAGER_HEARTBEATS: (Heartbeat, Probe),
}


class ReceivedMessage(NamedTuple):
    """A delivery, and what it says; else what is wrong with it."""

    delivery: Delivery
    message: Inbound | None
    complaint: str = ""


@dataclass(slots=True)
class Received:
    """All that has arrived since the last round."""

    deliveries: list[tuple[Consumer, Sequence[ReceivedMessage]]] = field(default_factory=list)
    submissions: list[Submission] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    retries: list[tuple[str, Sequence[TaskKey]]] = field(default_factory=list)  # with their request

    def __bool__(self) -> bool:
        return bool(self.deliveries or self.submissions or self.events or self.retries)

    def beyond(self, room: int) -> "Received":
        """Take out, in their order, the submissions that come after those with so many tasks.

        And the inquiries after them: they may ask about those.
        """
        late = Received()
        deliveries, self.deliveries = self.deliveries, []
        for consumer, arrivals in deliveries:
            now: list[ReceivedMessage] = []
            then: list[ReceivedMessage] = []
            for one in arrivals:
                is_late = room <= 0 and isinstance(one.message, Submission | StatusQuery)
                (then if is_late else now).append(one)
                if isinstance(one.message, Submission):
                    room -= len(one.message.tasks)
            self.deliveries.append((consumer, now))
            if then:
                late.deliveries.append((consumer, then))
        return late


class Inbox:
    """Collects; `take` hands over everything at once, so that rounds grow with the load.

    But for new tasks, of which there may be very many: what has ended, and who is idle, is not to wait for all.
    """

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note  # is told of each queue that brings something
        self._intake = Received()
        self._arrived = asyncio.Event()

    def add_event(self, event: Event) -> None:
        self._intake.events.append(event)
        self._arrived.set()

    def add_submission(self, submission: Submission) -> None:
        self._intake.submissions.append(submission)
        self._arrived.set()

    def add_retry(self, request: str, keys: Sequence[TaskKey]) -> None:
        self._intake.retries.append((request, keys))
        self._arrived.set()

    @property
    def is_empty(self) -> bool:
        return not self._intake

    def wake(self) -> None:
        self._arrived.set()

    def clear(self) -> None:
        """Forget what has arrived: the broker delivers it again, to whoever leads next."""
        self._intake = Received()
        self._arrived.clear()

    async def receive_from(self, queue: str, consumer: Consumer) -> None:
        """Take in what `consumer` brings, for ever. It is read at once: the disk may be at work on something else."""
        while True:
            deliveries = await consumer.batch()
            self._note(queue)
            self._intake.deliveries.append((consumer, list(map(_arrived, deliveries))))
            self._arrived.set()

    async def take_received(self, timeout: float | None) -> Received:
        """Wait until something is there, or for `timeout` seconds."""
        if not self._arrived.is_set():
            try:
                async with asyncio.timeout(timeout):
                    await self._arrived.wait()
            except TimeoutError:
                return Received()
        self._arrived.clear()
        intake = self._intake
        self._intake = intake.beyond(_ROUND)
        if self._intake:
            self._arrived.set()
        return intake


def _arrived(delivery: Delivery) -> ReceivedMessage:
    try:
        return ReceivedMessage(delivery, read(delivery))
    except MalformedMessage as error:
        return ReceivedMessage(delivery, None, str(error))


def read(delivery: Delivery) -> Inbound:
    """The message in a delivery.

    Raises:
        MalformedMessage: it cannot be read, or it has no business in this queue or under this key.
    """
    message = read_message(delivery)
    if not isinstance(message, BELONGS[delivery.queue]):
        raise MalformedMessage(f"a {message.type} message does not belong in {delivery.queue}")
    sender = _sender(message)
    if sender is not None and sender != _last_word(delivery.routing_key):
        raise MalformedMessage(
            f"a message of worker {sender} came under the key {delivery.routing_key}"
        )
    return message  # type: ignore[return-value]  # BELONGS has just checked it


def _sender(message: Message) -> str | None:
    match message:
        case Connect() | Heartbeat():
            return message.worker.name
        case Disconnect() | TaskResults() | Progress():
            return message.worker
        case _:
            return None


@lru_cache(maxsize=4096)
def _last_word(key: str) -> str:
    return key.rpartition(".")[2]
