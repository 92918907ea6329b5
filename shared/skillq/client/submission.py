"""A submission that a client has handed in: its messages, and what it has heard of it since. No I/O."""

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
from skillq.transport.base import Outgoing
from skillq.transport.batching import check_readable

_TITLE: TypeAdapter[str] = TypeAdapter(Title)
TASKS_BYTES = MAX_MESSAGE_BYTES - 2048  # of a message, for its tasks

OnEvent = Callable[[TaskEvent], None]
ClientEvent = TaskEvents | RunEvent | StatusReply


@dataclass(frozen=True, slots=True)
class Receipt:
    """How many tasks are new to the manager, and how many it had already."""

    accepted: int
    known: int


@dataclass(slots=True)
class FollowedSubmission:
    """`hear` all that comes; it tells what to do next."""

    id: str
    run: str
    messages: Sequence[Outgoing]
    missing: dict[str, None]  # tasks whose end we have not heard of, in order
    on_event: OnEvent
    receipt: Receipt | None = None
    counts: dict[TaskStatus, int] | None = None  # of the run, once it is completed
    tasks: dict[str, TaskEvent] = field(default_factory=dict)  # the last events
    is_lost: bool = False  # nobody has it: it is to be published again
    _store: str = ""
    _queries_sent: int = 0
    _ignored_up_to: int = 0  # inquiries up to this one were about what was before
    _page: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """All that one can know is known."""
        return self.counts is not None and not self.missing

    @property
    def needs_query(self) -> bool:
        """The run has ended, and we do not know how all of our tasks have."""
        return self.counts is not None and bool(self.missing) and not self._page

    # --- what we say

    def on_published(self) -> None:
        self.is_lost = False
        self._ignored_up_to = self._queries_sent

    def next_query(self) -> Outgoing:
        """The question what has become of it; once its run has ended, of tasks that we have missed, some at a time."""
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

    # --- what we hear

    def on_event_received(self, news: ClientEvent) -> bool:
        """Whether it was about us.

        Raises:
            UsageError: the manager refuses the submission.
        """
        match news:
            case TaskEvents():
                self._on_task_events(news.events)
                return True
            case RunEvent():
                return self._on_run_event(news)
            case StatusReply():
                return self._on_status_reply(news)

    def _on_run_event(self, event: RunEvent) -> bool:
        is_ours = event.submission_id == self.id
        if is_ours:
            self._on_answer(event)
        if event.status is RunStatus.COMPLETED and self.receipt is not None:
            self._complete(event.counts)
            return True
        return is_ours  # else it is what others do in this run

    def _on_status_reply(self, said: StatusReply) -> bool:
        if said.submission_id != self.id or said.number <= self._ignored_up_to:
            return False
        self._on_task_events(said.tasks)
        if said.status is RunStatus.UNKNOWN:
            self.is_lost = True
            return True
        self._on_answer(said)
        if said.status is RunStatus.COMPLETED:
            if self.counts is None:
                self._complete(said.counts)
            elif not said.more:
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
            self._ignored_up_to = self._queries_sent  # what was asked before did not name tasks
        self.counts = counts

    def _end_page(self) -> None:
        """What the manager did not tell of these, it cannot tell."""
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
    """The tasks as one submission, in as many messages as it needs.

    Raises:
        UsageError: they can never all be done, or no messages can carry them.
    """
    title, briefs = run_title(run), encode_tasks(tasks)
    id = uuid4().hex
    return FollowedSubmission(
        id, slug(title), to_messages(id, title, briefs), dict.fromkeys(briefs), on_event
    )


def encode_tasks(tasks: Sequence[Task]) -> dict[str, bytes]:
    """Each task as JSON, by its id, in their order.

    Raises:
        UsageError: they can never all be done, or no message can carry one of them.
    """
    check_tasks(tasks)
    briefs = {task.id: _encode_task(task) for task in tasks}
    if not briefs:
        raise UsageError("there are no tasks; hand in one at least")
    return briefs


def to_messages(id: str, title: str, briefs: Mapping[str, bytes]) -> list[Outgoing]:
    """The submission `id` of tasks that have been written, in as many messages as it needs.

    Raises:
        UsageError: they are too many.
    """
    name = slug(title)
    parts = list(_split_into_parts(briefs.values()))
    if len(parts) > MAX_PARTS:
        raise UsageError(
            f"{len(briefs)} tasks need {len(parts)} messages, and one submission may have {MAX_PARTS}: "
            "submit them in several, or let payloads refer to what is elsewhere"
        )
    return [
        Outgoing(
            encode_submission(id, name, title, part, part=number, parts=len(parts)), "submission"
        )
        for number, part in enumerate(parts, 1)
    ]


def run_title(run: str) -> str:
    """A run's title, as messages have it.

    Raises:
        UsageError: it makes no name, or none that is short enough.
    """
    try:
        return _TITLE.validate_python(run)
    except ValidationError as error:
        raise UsageError(f"run {run!r}: {first_error(error)}") from error


def _split_into_parts(briefs: Iterable[bytes]) -> Iterator[list[bytes]]:
    """As few parts as hold them all, in order."""
    part: list[bytes] = []
    size = 0
    for brief in briefs:
        its_size = len(brief) + 1  # and a comma
        if part and (size + its_size > TASKS_BYTES or len(part) == MAX_TASKS):
            yield part
            part, size = [], 0
        part.append(brief)
        size += its_size
    yield part


def _encode_task(task: Task) -> bytes:
    """A submission that the manager cannot read would be parked, and never answered."""
    try:
        body = task.to_wire()
        if task.payload:
            check_readable(body)
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
