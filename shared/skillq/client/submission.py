"""One submission of a client: its messages, and its state as events report it. No I/O.

See docs/adr/0013-split-large-submissions-into-parts.md and docs/adr/0006-answer-clients-with-events.md.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from skillq.errors import UsageError
from skillq.forms import one_line
from skillq.messages import (
    MAX_MESSAGE_BYTES,
    MAX_PARTS,
    MAX_QUERIED_TASKS,
    MAX_TASKS,
    RunEvent,
    RunStatus,
    StatusQuery,
    StatusReply,
    Task,
    TaskEvent,
    TaskEvents,
    TaskStatus,
    Title,
    check_tasks,
    encode_submission,
    first_error,
    slug,
)
from skillq.messages.non_finite import find_non_finite
from skillq.transport.base import Outgoing
from skillq.transport.batching import check_readable

_TITLE: TypeAdapter[str] = TypeAdapter(Title)
TASKS_BYTES = MAX_MESSAGE_BYTES - 2048  # bytes of a message that its tasks may take

OnEvent = Callable[[TaskEvent], None]
ClientEvent = TaskEvents | RunEvent | StatusReply


@dataclass(frozen=True, slots=True)
class Receipt:
    """How many tasks of a submission are new to the manager, and how many are known."""

    accepted: int
    known: int


@dataclass(slots=True)
class FollowedSubmission:
    """The state of a submission that a client follows.

    `on_event_received` takes each event; the attributes then say whether to publish or to query next.
    """

    id: str
    run: str
    messages: Sequence[Outgoing]
    missing: dict[str, None]  # tasks whose end is not reported yet, in order
    on_event: OnEvent
    receipt: Receipt | None = None
    counts: dict[TaskStatus, int] | None = None  # of the run, once it is completed
    tasks: dict[str, TaskEvent] = field(default_factory=dict)  # the last event of each
    is_lost: bool = False  # no manager has it: it is to be published again
    _store: str = ""
    _queries_sent: int = 0
    _ignored_up_to: int = 0  # replies to queries up to this number are out of date
    _page: tuple[str, ...] = ()  # the tasks in the last query

    @property
    def is_complete(self) -> bool:
        """Whether the run has completed and the end of each task is known."""
        return self.counts is not None and not self.missing

    @property
    def needs_query(self) -> bool:
        """Whether the run has completed, the end of a task is unknown, and no query is under way."""
        return self.counts is not None and bool(self.missing) and not self._page

    # --- sending

    def on_published(self) -> None:
        """Note that all messages of the submission are published."""
        self.is_lost = False
        self._ignored_up_to = self._queries_sent

    def next_query(self) -> Outgoing:
        """Return a status query; after the run has completed, it names tasks of unknown end."""
        self._queries_sent += 1
        self._page = (
            tuple(islice(self.missing, MAX_QUERIED_TASKS)) if self.counts is not None else ()
        )
        return Outgoing.from_message(
            StatusQuery(
                submission_id=self.id,
                number=self._queries_sent,
                run=self.run,
                store=self._store,
                tasks=self._page,
            ),
            persistent=False,
        )

    # --- receiving

    def on_event_received(self, event: ClientEvent) -> bool:
        """Update the state; return whether the event concerns this submission.

        Raises:
            UsageError: the manager refuses the submission.
        """
        match event:
            case TaskEvents():
                self._on_task_events(event.events)
                return True
            case RunEvent():
                return self._on_run_event(event)
            case StatusReply():
                return self._on_status_reply(event)

    def _on_run_event(self, event: RunEvent) -> bool:
        is_ours = event.submission_id == self.id
        if is_ours:
            self._on_answer(event)
        if event.status is RunStatus.COMPLETED and self.receipt is not None:
            self._complete(event.counts)
            return True
        return is_ours  # other events concern other submissions of this run

    def _on_status_reply(self, reply: StatusReply) -> bool:
        if reply.submission_id != self.id or reply.number <= self._ignored_up_to:
            return False
        self._on_task_events(reply.tasks)
        if reply.status is RunStatus.UNKNOWN:
            self.is_lost = True
            return True
        self._on_answer(reply)
        if reply.status is RunStatus.COMPLETED:
            if self.counts is None:
                self._complete(reply.counts)
            elif not reply.more:
                self._end_page()
        return True

    def _on_answer(self, answer: RunEvent | StatusReply) -> None:
        if answer.status is RunStatus.REFUSED:
            raise UsageError(answer.reason or "the manager refuses the submission")
        self._store = answer.store
        if self.receipt is None:
            self.receipt = Receipt(answer.accepted, answer.known)

    def _complete(self, counts: dict[TaskStatus, int]) -> None:
        if self.counts is None:
            self._ignored_up_to = self._queries_sent  # earlier queries did not name tasks
        self.counts = counts

    def _end_page(self) -> None:
        """Give up tasks that the last reply left out: the manager does not know them."""
        for id in self._page:
            self.missing.pop(id, None)
        self._page = ()
        self._ignored_up_to = self._queries_sent

    def _on_task_events(self, events: Iterable[TaskEvent]) -> None:
        for event in events:
            self.tasks[event.id] = event
            if event.status.is_terminal:
                self.missing.pop(event.id, None)
            self.on_event(event)


def follow_submission(
    run: str, tasks: Sequence[Task], on_event: OnEvent = lambda _: None
) -> FollowedSubmission:
    """Return the tasks as one submission, in as many messages as the submission needs.

    Raises:
        UsageError: the tasks contradict each other, or are too large or too many for messages.
    """
    title, encoded_tasks = run_title(run), encode_tasks(tasks)
    id = uuid4().hex
    return FollowedSubmission(
        id,
        slug(title),
        to_messages(id, title, encoded_tasks),
        dict.fromkeys(encoded_tasks),
        on_event,
    )


def encode_tasks(tasks: Sequence[Task]) -> dict[str, bytes]:
    """Return the tasks as JSON by task id, in order.

    Raises:
        UsageError: the tasks contradict each other, or one of them is too large for a message.
    """
    check_tasks(tasks)
    encoded_tasks = {task.id: _encode_task(task) for task in tasks}
    if not encoded_tasks:
        raise UsageError("there are no tasks; submit at least one")
    return encoded_tasks


def to_messages(id: str, title: str, encoded_tasks: Mapping[str, bytes]) -> list[Outgoing]:
    """Return the messages of the submission `id` with these encoded tasks.

    Raises:
        UsageError: there are too many tasks.
    """
    name = slug(title)
    parts = list(_split_into_parts(encoded_tasks.values()))
    if len(parts) > MAX_PARTS:
        raise UsageError(
            f"{len(encoded_tasks)} tasks need {len(parts)} messages, and one submission may have {MAX_PARTS}: "
            "submit them in several, or let payloads refer to what is elsewhere"
        )
    return [
        Outgoing(
            encode_submission(id, name, title, part, part=number, parts=len(parts)), "submission"
        )
        for number, part in enumerate(parts, 1)
    ]


def run_title(run: str) -> str:
    """Return the title of a run, validated.

    Raises:
        UsageError: the title gives no name, or one that is too long.
    """
    try:
        return _TITLE.validate_python(run)
    except ValidationError as error:
        raise UsageError(f"run {run!r}: {first_error(error)}") from error


def _split_into_parts(encoded_tasks: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Split encoded tasks, in order, into as few parts as possible."""
    part: list[bytes] = []
    size = 0
    for encoded in encoded_tasks:
        encoded_size = len(encoded) + 1  # and a comma
        if part and (size + encoded_size > TASKS_BYTES or len(part) == MAX_TASKS):
            yield part
            part, size = [], 0
        part.append(encoded)
        size += encoded_size
    yield part


def _encode_task(task: Task) -> bytes:
    """Return a task as JSON; refuse one that the manager could not read."""
    try:
        body = task.to_wire()
        if task.payload:
            check_readable(body)
            _check_finite(task, body)
    except ValueError as error:
        raise UsageError(
            f"task {task.id}: its payload cannot be sent as JSON: {one_line(str(error))}"
        ) from error
    if len(body) >= TASKS_BYTES:
        raise UsageError(
            f"task {task.id}: is {len(body)} bytes, and a message holds {TASKS_BYTES - 1}; "
            "depend on fewer tasks, or on one that depends on them"
        )
    return body


def _check_finite(task: Task, body: bytes) -> None:
    """Refuse a task with NaN or infinity in its payload: they are written as null."""
    found = find_non_finite(task.payload, "payload") if b"null" in body else None
    if found is not None:
        raise UsageError(
            f"task {task.id}: {one_line(found)}, which JSON cannot express; send null or text instead"
        )
