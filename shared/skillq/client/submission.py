"""A submission that a client has handed in: its messages, and what it has heard of it since. No I/O."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from uuid import uuid4

from pydantic import TypeAdapter, ValidationError

from skillq.errors import UsageError
from skillq.forms import one_line
from skillq.messages import (
    MAX_INQUIRED,
    MAX_MESSAGE_BYTES,
    MAX_PARTS,
    MAX_TASKS,
    Inquiry,
    RunEvent,
    RunStatus,
    Standing,
    Task,
    TaskEvent,
    TaskEvents,
    TaskStatus,
    Title,
    check_tasks,
    encode_submission,
    explain,
    slug,
)
from skillq.packing import check_readable
from skillq.transport.base import Outgoing

_TITLE: TypeAdapter[str] = TypeAdapter(Title)
ROOM_BYTES = MAX_MESSAGE_BYTES - 2048  # of a message, for its tasks

OnEvent = Callable[[TaskEvent], None]
News = TaskEvents | RunEvent | Standing


@dataclass(frozen=True, slots=True)
class Receipt:
    """How many tasks are new to the manager, and how many it had already."""

    accepted: int
    known: int


@dataclass(slots=True)
class Handed:
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
    _asked: int = 0
    _heeded: int = 0  # inquiries up to this one were about what was before
    _page: tuple[str, ...] = ()

    @property
    def is_over(self) -> bool:
        """All that one can know is known."""
        return self.counts is not None and not self.missing

    @property
    def has_question(self) -> bool:
        """The run has ended, and we do not know how all of our tasks have."""
        return self.counts is not None and bool(self.missing) and not self._page

    # --- what we say

    def published(self) -> None:
        self.is_lost = False
        self._heeded = self._asked

    def inquiry(self) -> Outgoing:
        """The question what has become of it; once its run has ended, of tasks that we have missed, some at a time."""
        self._asked += 1
        self._page = tuple(islice(self.missing, MAX_INQUIRED)) if self.counts is not None else ()
        return Outgoing.of(
            Inquiry(
                submission_id=self.id,
                number=self._asked,
                run=self.run,
                store=self._store,
                tasks=self._page,
            ),
            persistent=False,
        )

    # --- what we hear

    def hear(self, news: News) -> bool:
        """Whether it was about us.

        Raises:
            UsageError: the manager refuses the submission.
        """
        match news:
            case TaskEvents():
                self._see(news.events)
                return True
            case RunEvent():
                return self._hear_run(news)
            case Standing():
                return self._hear_standing(news)

    def _hear_run(self, event: RunEvent) -> bool:
        is_ours = event.submission_id == self.id
        if is_ours:
            self._hear_answer(event)
        if event.status is RunStatus.COMPLETED and self.receipt is not None:
            self._complete(event.counts)
            return True
        return is_ours  # else it is what others do in this run

    def _hear_standing(self, said: Standing) -> bool:
        if said.submission_id != self.id or said.number <= self._heeded:
            return False
        self._see(said.tasks)
        if said.status is RunStatus.UNKNOWN:
            self.is_lost = True
            return True
        self._hear_answer(said)
        if said.status is RunStatus.COMPLETED:
            if self.counts is None:
                self._complete(said.counts)
            elif not said.more:
                self._turn_page()
        return True

    def _hear_answer(self, answer: RunEvent | Standing) -> None:
        if answer.status is RunStatus.REFUSED:
            raise UsageError(answer.reason or "the manager refuses the submission")
        self._store = answer.store
        if self.receipt is None:
            self.receipt = Receipt(answer.accepted, answer.known)

    def _complete(self, counts: dict[TaskStatus, int]) -> None:
        if self.counts is None:
            self._heeded = self._asked  # what was asked before did not name tasks
        self.counts = counts

    def _turn_page(self) -> None:
        """What the manager did not tell of these, it cannot tell."""
        for id in self._page:
            self.missing.pop(id, None)
        self._page = ()
        self._heeded = self._asked

    def _see(self, events: Iterable[TaskEvent]) -> None:
        for event in events:
            self.tasks[event.id] = event
            if event.status.is_terminal:
                self.missing.pop(event.id, None)
            self.on_event(event)


def hand_in(run: str, tasks: Sequence[Task], on_event: OnEvent = lambda _: None) -> Handed:
    """The tasks as one submission, in as many messages as it needs.

    Raises:
        UsageError: they can never all be done, or no messages can carry them.
    """
    title, briefs = title_of(run), write(tasks)
    id = uuid4().hex
    return Handed(id, slug(title), messages(id, title, briefs), dict.fromkeys(briefs), on_event)


def write(tasks: Sequence[Task]) -> dict[str, bytes]:
    """Each task as JSON, by its id, in their order.

    Raises:
        UsageError: they can never all be done, or no message can carry one of them.
    """
    check_tasks(tasks)
    briefs = {task.id: _brief(task) for task in tasks}
    if not briefs:
        raise UsageError("there are no tasks; hand in one at least")
    return briefs


def messages(id: str, title: str, briefs: Mapping[str, bytes]) -> list[Outgoing]:
    """The submission `id` of tasks that have been written, in as many messages as it needs.

    Raises:
        UsageError: they are too many.
    """
    name = slug(title)
    parts = list(_cut(briefs.values()))
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


def title_of(run: str) -> str:
    """A run's title, as messages have it.

    Raises:
        UsageError: it makes no name, or none that is short enough.
    """
    try:
        return _TITLE.validate_python(run)
    except ValidationError as error:
        raise UsageError(f"run {run!r}: {explain(error)}") from error


def _cut(briefs: Iterable[bytes]) -> Iterator[list[bytes]]:
    """As few parts as hold them all, in order."""
    part: list[bytes] = []
    size = 0
    for brief in briefs:
        its_size = len(brief) + 1  # and a comma
        if part and (size + its_size > ROOM_BYTES or len(part) == MAX_TASKS):
            yield part
            part, size = [], 0
        part.append(brief)
        size += its_size
    yield part


def _brief(task: Task) -> bytes:
    """A submission that the manager cannot read would be parked, and never answered."""
    try:
        body = task.brief()
        if task.payload:
            check_readable(body)
    except ValueError as error:
        raise UsageError(
            f"task {task.id}: its payload cannot be sent as JSON: {one_line(str(error))}"
        ) from error
    if len(body) >= ROOM_BYTES:
        raise UsageError(
            f"task {task.id}: is {len(body)} bytes, and a message holds {ROOM_BYTES - 1}; "
            "depend on fewer tasks, or on one that depends on them"
        )
    return body
