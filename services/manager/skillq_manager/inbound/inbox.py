"""The manager's inbox: deliveries of its three queues, HTTP requests, internal events."""

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

_TASKS_PER_ROUND = 1000  # new tasks that one round takes, about

# The message types that each queue may carry.
ALLOWED_TYPES: dict[str, tuple[type[Message], ...]] = {
    topology.MANAGER_SUBMISSIONS: (Submission, StatusQuery, Probe),
    topology.MANAGER_REPORTS: (Connect, Disconnect, TaskResults, Progress, Probe),
    topology.MANAGER_HEARTBEATS: (Heartbeat, Probe),
}


class ReceivedMessage(NamedTuple):
    """A delivery with its message, or with the error why it is unreadable."""

    delivery: Delivery
    message: Inbound | None
    error: str = ""


@dataclass(slots=True)
class Received:
    """Everything that has arrived since the last round."""

    deliveries: list[tuple[Consumer, Sequence[ReceivedMessage]]] = field(default_factory=list)
    submissions: list[Submission] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    retries: list[tuple[str, Sequence[TaskKey]]] = field(default_factory=list)  # request id, tasks

    def __bool__(self) -> bool:
        return bool(self.deliveries or self.submissions or self.events or self.retries)

    def split_after(self, max_tasks: int) -> "Received":
        """Remove and return the submissions that come after the first `max_tasks` tasks, in order.

        Status queries that come after the limit are removed, too: they may be about these submissions.
        """
        later = Received()
        deliveries, self.deliveries = self.deliveries, []
        for consumer, messages in deliveries:
            kept: list[ReceivedMessage] = []
            removed: list[ReceivedMessage] = []
            for received in messages:
                is_late = max_tasks <= 0 and isinstance(received.message, Submission | StatusQuery)
                (removed if is_late else kept).append(received)
                if isinstance(received.message, Submission):
                    max_tasks -= len(received.message.tasks)
            self.deliveries.append((consumer, kept))
            if removed:
                later.deliveries.append((consumer, removed))
        return later


class Inbox:
    """Collects what arrives for the next round, so that rounds grow with the load.

    Only new tasks are limited to about 1,000 in a round: results and heartbeats must not wait for a very
    large number of them. `on_delivery` is called with the name of each queue that delivers something.
    """

    def __init__(self, on_delivery: Callable[[str], None]) -> None:
        self._on_delivery = on_delivery
        self._received = Received()
        self._has_received = asyncio.Event()

    def add_event(self, event: Event) -> None:
        """Add an event of the manager itself."""
        self._received.events.append(event)
        self._has_received.set()

    def add_submission(self, submission: Submission) -> None:
        """Add a submission that did not come through the broker."""
        self._received.submissions.append(submission)
        self._has_received.set()

    def add_retry(self, request: str, keys: Sequence[TaskKey]) -> None:
        """Add an operator's request to retry tasks; `request` is the id of the request."""
        self._received.retries.append((request, keys))
        self._has_received.set()

    @property
    def is_empty(self) -> bool:
        """Return whether nothing waits for the next round."""
        return not self._received

    def wake(self) -> None:
        """Let `take_received` return at once, with nothing if nothing has arrived."""
        self._has_received.set()

    def clear(self) -> None:
        """Drop everything that has arrived; the broker delivers it again, to the next leader."""
        self._received = Received()
        self._has_received.clear()

    async def receive_from(self, queue: str, consumer: Consumer) -> None:
        """Receive and decode the deliveries of a consumer, for ever.

        Each delivery is decoded at once, while the manager's loop may wait for the store.
        """
        while True:
            deliveries = await consumer.batch()
            self._on_delivery(queue)
            self._received.deliveries.append(
                (consumer, list(map(_to_received_message, deliveries)))
            )
            self._has_received.set()

    async def take_received(self, timeout: float | None) -> Received:
        """Return what has arrived; if nothing has, wait up to `timeout` seconds (None: for ever)."""
        if not self._has_received.is_set():
            try:
                async with asyncio.timeout(timeout):
                    await self._has_received.wait()
            except TimeoutError:
                return Received()
        self._has_received.clear()
        received = self._received
        self._received = received.split_after(_TASKS_PER_ROUND)
        if self._received:
            self._has_received.set()
        return received


def _to_received_message(delivery: Delivery) -> ReceivedMessage:
    try:
        return ReceivedMessage(delivery, read_inbound(delivery))
    except MalformedMessage as error:
        return ReceivedMessage(delivery, None, str(error))


def read_inbound(delivery: Delivery) -> Inbound:
    """Return the message in a delivery.

    Raises:
        MalformedMessage: the message is unreadable, or does not belong in its queue or under its routing key.
    """
    message = read_message(delivery)
    if not isinstance(message, ALLOWED_TYPES[delivery.queue]):
        raise MalformedMessage(f"a {message.type} message does not belong in {delivery.queue}")
    sender = _sender(message)
    if sender is not None and sender != _last_segment(delivery.routing_key):
        raise MalformedMessage(
            f"a message of worker {sender} came under the key {delivery.routing_key}"
        )
    return message  # type: ignore[return-value]  # ALLOWED_TYPES has just checked it


def _sender(message: Message) -> str | None:
    match message:
        case Connect() | Heartbeat():
            return message.worker.name
        case Disconnect() | TaskResults() | Progress():
            return message.worker
        case _:
            return None


@lru_cache(maxsize=4096)
def _last_segment(key: str) -> str:
    return key.rpartition(".")[2]
