"""A run that stays open: one subscription, opened at the beginning, brings all results.

See docs/adr/0006-answer-clients-with-events.md.
"""

import asyncio
from collections import deque
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Iterable,
    Iterator,
    Sequence,
)
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self, TypeVar
from uuid import uuid4

from skillq import timings
from skillq.client.group_commit import GroupCommit
from skillq.client.submission import TASKS_BYTES, ClientEvent, encode_tasks, run_title, to_messages
from skillq.errors import SkillqError, TransportError, UsageError
from skillq.messages import (
    MAX_QUERIED_TASKS,
    TERMINAL,
    RunEvent,
    RunStatus,
    StatusQuery,
    StatusReply,
    Task,
    TaskEvent,
    TaskEvents,
    slug,
)
from skillq.runtime.clock import Clock
from skillq.transport import Outgoing

_MAX_BATCH_TASKS = 1000  # tasks in one submission
_MAX_GROUP_BYTES = TASKS_BYTES // 2  # of the tasks in a submission of several calls
_MAX_IN_FLIGHT = 10_000  # tasks of an endless iterable that are submitted and not ended


def binding_keys(run: str) -> tuple[str, ...]:
    """Return the binding keys of receipts and of the last events of a run's tasks."""
    answers = (RunStatus.ACCEPTED, RunStatus.REFUSED)
    return (
        *(f"task.{run}.*.{status}" for status in sorted(TERMINAL)),
        *(f"run.{run}.{status}" for status in answers),
    )


class Results:
    """An async iterator over the last events of tasks, each as soon as the task has ended."""

    def __init__(self) -> None:
        self._arrived: deque[TaskEvent] = deque()
        self._changed = asyncio.Event()
        self._error: Exception | None = None
        self.missing = 0

    @property
    def has_arrived(self) -> bool:
        """Whether an event can be read without waiting."""
        return bool(self._arrived)

    def put(self, event: TaskEvent) -> None:
        """Add the last event of a task."""
        self.missing -= 1
        self._arrived.append(event)
        self._changed.set()

    def fail(self, error: Exception) -> None:
        """Raise `error` in the reader, after the events that have arrived."""
        self._error = error
        self._changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TaskEvent:
        """Wait for the next event.

        Raises:
            UsageError: the manager refuses the tasks.
            SkillqError: the run was closed, or the manager does not know a task any more.
        """
        while not self._arrived:
            if self._error is not None:
                raise self._error
            if not self.missing:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._arrived.popleft()


@dataclass(eq=False, slots=True)
class _Call:
    """The tasks of one call, as JSON by id. `OpenRun` finds a call by its unended tasks."""

    encoded_tasks: dict[str, bytes]
    results: Results
    missing: dict[str, None]  # tasks whose end is not reported yet, in order
    # The submission that carries the tasks, once it is published.
    submission: "_Submission | None" = None


@dataclass(eq=False, slots=True)
class _Submission:
    """A submission of one call, or of several calls that came at about the same time."""

    id: str
    calls: dict[_Call, None]  # calls with tasks that have not ended
    is_group: bool
    last_event_at: float
    store: str = ""
    queries_sent: int = 0

    @property
    def missing(self) -> list[str]:
        """The tasks whose end is not reported yet."""
        return [id for call in self.calls for id in call.missing]


class OpenRun:
    """A run to submit tasks to at any time; `Client.open` creates it.

    `publish` retries until the broker confirms; `send_query` returns the manager's replies, or none after a timeout.
    """

    def __init__(
        self,
        run: str,
        publish: Callable[[Outgoing], Awaitable[None]],
        send_query: Callable[[StatusQuery], Awaitable[Sequence[StatusReply]]],
        clock: Clock,
    ) -> None:
        self._title = run_title(run)
        self._name = slug(self._title)
        self._publish = publish
        self._send_query = send_query
        self._clock = clock
        self._open_submissions: dict[str, _Submission] = {}  # by submission id
        self._calls_by_task: dict[str, _Call] = {}  # by task id
        self._latest: _Submission | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._group_commit = GroupCommit(self._publish_calls)

    # --- submitting

    async def submit(self, tasks: Sequence[Task]) -> Results:
        """Submit tasks, which are accepted or refused as a whole.

        The broker has stored the tasks when this returns.

        Calls that come while a submission is being published share the next submission. After a shared submission,
        this may wait 50 ms for the manager to accept that and for its first task to end.

        Raises:
            UsageError: the tasks are too large for messages, or one of them was submitted here and has not ended.
            Unreachable: no manager has declared the queues yet.
        """
        results = Results()
        if tasks:
            await self._submit_call(tasks, results)
        return results

    async def map(self, tasks: Iterable[Task]) -> AsyncIterator[TaskEvent]:
        """Submit tasks of any number, some at a time; yield the last event of each at its end.

        Raises:
            UsageError: as `submit`; or the manager refuses them.
            SkillqError: as `Results`.
        """
        results = Results()
        for batch in _batched(tasks, _MAX_BATCH_TASKS):
            await self._submit_call(batch, results)
            while results.has_arrived or results.missing > _MAX_IN_FLIGHT:
                yield await anext(results)
        async for event in results:
            yield event

    async def result(self, task: Task) -> TaskEvent:
        """Submit a task, and return its last event when it has ended.

        Raises:
            UsageError: as `submit`; or the manager refuses it.
            SkillqError: as `Results`.
        """
        return await anext(await self.submit([task]))

    async def _submit_call(self, tasks: Sequence[Task], results: Results) -> None:
        for task in tasks:
            if task.id in self._calls_by_task:
                raise UsageError(f"task {task.id}: is on its way; wait until it has ended")
        encoded_tasks = encode_tasks(tasks)
        call = _Call(encoded_tasks, results, dict.fromkeys(encoded_tasks))
        # Registered before it is published: results may come before the broker's confirm.
        self._calls_by_task.update(dict.fromkeys(encoded_tasks, call))
        results.missing += len(encoded_tasks)
        share = max(
            len(encoded_tasks) / _MAX_BATCH_TASKS,
            sum(map(len, encoded_tasks.values())) / _MAX_GROUP_BYTES,
        )
        # Dependencies of two calls together could form a circle that neither call can see.
        alone = share >= 1 or any(task.depends_on for task in tasks)
        try:
            await self._group_commit.put(call, 1.0 if alone else share)
        except BaseException:
            self._drop(call)
            raise

    async def _publish_calls(self, calls: Sequence[_Call]) -> bool:
        """Publish calls as one submission; return whether several calls wait for its answer.

        A submission costs the broker and the manager as much as a thousand tasks in it.
        """
        # Nobody waits any more for results of the other calls.
        wanted = [call for call in calls if call.missing]
        if not wanted:
            return False
        submission = _Submission(uuid4().hex, dict.fromkeys(wanted), len(wanted) > 1, self._clock())
        self._open_submissions[submission.id] = self._latest = submission
        for call in wanted:
            call.submission = submission
        await self._publish_submission(submission)
        return submission.is_group and bool(submission.calls)

    async def _publish_submission(self, submission: _Submission) -> None:
        encoded_tasks = {
            id: encoded for call in submission.calls for id, encoded in call.encoded_tasks.items()
        }
        if not encoded_tasks:
            return  # all tasks have ended meanwhile
        for message in to_messages(submission.id, self._title, encoded_tasks):
            await self._publish(message)

    def _drop(self, call: _Call) -> None:
        """Forget the tasks of a call that have not ended; to do this again has no effect."""
        for id in call.missing:
            del self._calls_by_task[id]
        call.results.missing -= len(call.missing)
        call.missing.clear()
        self._remove_from_submission(call)

    def _remove_from_submission(self, call: _Call) -> None:
        submission, call.submission = call.submission, None
        if submission is not None:
            del submission.calls[call]
            if not submission.calls:
                self._open_submissions.pop(submission.id, None)

    # --- receiving

    def handle_event(self, event: ClientEvent) -> None:
        """Pass an event to the calls that it concerns."""
        match event:
            case TaskEvents():
                self._on_task_events(event.events)
            case RunEvent():
                submission = self._open_submissions.get(event.submission_id or "")
                if submission is not None:
                    self._on_answer(submission, event)
            case StatusReply():
                pass  # `send_query` returns status replies

    def _on_task_events(self, events: Iterable[TaskEvent]) -> None:
        now = self._clock()
        answered: set[_Submission] = set()
        for event in events:
            if event.status not in TERMINAL:
                continue
            call = self._calls_by_task.get(event.id)
            if call is None or call.submission is None:
                continue  # submitted elsewhere, perhaps with the same id
            call.submission.last_event_at = now
            answered.add(call.submission)
            del self._calls_by_task[event.id], call.missing[event.id]
            call.results.put(event)
            if not call.missing:
                self._remove_from_submission(call)
        if answered:
            self._group_commit.on_answered(is_latest=self._latest in answered)

    def _on_answer(self, submission: _Submission, answer: RunEvent | StatusReply) -> None:
        is_latest = submission is self._latest
        submission.last_event_at = self._clock()
        if answer.status is RunStatus.REFUSED:
            self._group_commit.on_answered(is_latest=is_latest)
            self._on_refused(
                submission, UsageError(answer.reason or "the manager refuses the submission")
            )
            return
        self._group_commit.on_accepted(is_latest=is_latest)
        submission.store = answer.store
        if isinstance(answer, RunEvent) and answer.known:
            self._query(
                submission
            )  # known tasks may have ended before: no event reports that again

    def _on_refused(self, submission: _Submission, error: UsageError) -> None:
        """Publish each call of a refused group alone, to find the bad one; a lone call fails."""
        for call in list(submission.calls):
            if submission.is_group:
                self._remove_from_submission(call)
                self._spawn(self._publish_alone(call), "alone")
            else:
                self._fail(call, error)

    async def _publish_alone(self, call: _Call) -> None:
        try:
            await self._group_commit.put(call, 1.0)
        except Exception as error:  # noqa: BLE001 - the caller that waits gets any error
            self._fail(call, error)

    def _fail(self, call: _Call, error: Exception) -> None:
        if call.missing:
            self._drop(call)
            call.results.fail(error)

    def close(self, error: Exception) -> None:
        """Fail all calls that have not ended with `error`, and stop all work in the background."""
        self._group_commit.close(error)
        for call in set(self._calls_by_task.values()):
            self._fail(call, error)
        for background_task in self._background:
            background_task.cancel()

    # --- querying

    def query_silent_submissions(self) -> None:
        """Send a status query for each submission without any event for a while."""
        since = self._clock() - timings.CLIENT_SILENCE_SECONDS
        for submission in list(self._open_submissions.values()):
            if submission.last_event_at <= since:
                self._query(submission)

    def _query(self, submission: _Submission) -> None:
        submission.last_event_at = self._clock()
        self._spawn(self._query_all(submission), "status query")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        background_task = asyncio.create_task(work, name=name)
        self._background.add(background_task)
        background_task.add_done_callback(self._background.discard)

    async def _query_all(self, submission: _Submission) -> None:
        try:
            for page in _batched(submission.missing, MAX_QUERIED_TASKS):
                if not await self._query_page(submission, page):
                    return
        except SkillqError as error:
            if not isinstance(error, TransportError):
                for call in list(submission.calls):
                    self._fail(call, error)

    async def _query_page(self, submission: _Submission, page: Sequence[str]) -> bool:
        """Query some tasks of a submission; return whether to query the next ones."""
        submission.queries_sent += 1
        answers = await self._send_query(
            StatusQuery(
                submission_id=submission.id,
                number=submission.queries_sent,
                run=self._name,
                store=submission.store,
                tasks=tuple(page),
            )
        )
        for answer in answers:
            if answer.status is RunStatus.UNKNOWN:
                await self._publish_submission(submission)
                return False
            self._on_answer(submission, answer)
            self._on_task_events(answer.tasks)
        self._fail_unknown_tasks(submission, page, answers)
        return bool(answers)

    def _fail_unknown_tasks(
        self, submission: _Submission, page: Sequence[str], answers: Sequence[StatusReply]
    ) -> None:
        """Fail tasks that a completed run's replies left out: the manager does not know them."""
        is_over = any(answer.status is RunStatus.COMPLETED for answer in answers)
        for id in page if is_over else ():
            call = self._calls_by_task.get(id)
            if call is not None and call.submission is submission:
                reason = f"task {id}: its run has ended, and the manager does not know it any more"
                self._fail(call, SkillqError(reason))


Item = TypeVar("Item")


def _batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


async def follow_events(
    run: OpenRun, batch: Callable[[], Awaitable[Sequence[ClientEvent]]]
) -> None:
    """Pass events to the run, and query after a silence, until an error closes the run."""
    try:
        while True:
            try:
                async with asyncio.timeout(timings.CLIENT_SILENCE_SECONDS):
                    events = await batch()
            except TimeoutError:
                events = ()
            for event in events:
                run.handle_event(event)
            run.query_silent_submissions()
    except Exception as error:
        run.close(error)  # after any error no event is read any more
        if not isinstance(error, SkillqError):
            raise
