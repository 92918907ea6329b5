"""A run that stays open: one subscription, made before the first task is handed in, brings all results."""

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
_MAX_GROUP_BYTES = TASKS_BYTES // 2  # of tasks of several calls that go in one submission
_MAX_IN_FLIGHT = 10_000  # tasks of an endless iterable that may be on their way


def binding_keys(run: str) -> tuple[str, ...]:
    """What brings the ends of its tasks, and what is said to submissions; not how far tasks are."""
    answers = (RunStatus.ACCEPTED, RunStatus.REFUSED)
    return (
        *(f"task.{run}.*.{status}" for status in sorted(TERMINAL)),
        *(f"run.{run}.{status}" for status in answers),
    )


class Results:
    """The last events of tasks that were handed in, each as soon as it is there."""

    def __init__(self) -> None:
        self._arrived: deque[TaskEvent] = deque()
        self._changed = asyncio.Event()
        self._error: Exception | None = None
        self.missing = 0

    @property
    def has_arrived(self) -> bool:
        return bool(self._arrived)

    def put(self, event: TaskEvent) -> None:
        self.missing -= 1
        self._arrived.append(event)
        self._changed.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TaskEvent:
        """Wait for the next one.

        Raises:
            UsageError: the manager refuses them.
            SkillqError: the run was closed, or nobody knows of a task any more.
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
    """Tasks that were handed in together, as JSON, by id. `OpenRun` knows it by each that is missing."""

    encoded_tasks: dict[str, bytes]
    results: Results
    missing: dict[str, None]  # tasks whose end we have not heard of, in order
    submission: "_Submission | None" = None  # that it went with, once it has


@dataclass(eq=False, slots=True)
class _Submission:
    """A submission: of one call, or of several that came at about the same time."""

    id: str
    calls: dict[_Call, None]  # of which something is missing
    is_group: bool
    last_answer_at: float
    store: str = ""
    queries_sent: int = 0

    @property
    def missing(self) -> list[str]:
        return [id for call in self.calls for id in call.missing]


class OpenRun:
    """Made by `Client.open`. `publish` is patient; `inquire` returns what the manager answers, or nothing."""

    def __init__(
        self,
        run: str,
        publish: Callable[[Outgoing], Awaitable[None]],
        inquire: Callable[[StatusQuery], Awaitable[Sequence[StatusReply]]],
        clock: Clock,
    ) -> None:
        self._title = run_title(run)
        self._name = slug(self._title)
        self._publish = publish
        self._send_query = inquire
        self._clock = clock
        self._open_submissions: dict[str, _Submission] = {}  # by submission
        self._calls_by_task: dict[str, _Call] = {}  # by task
        self._latest: _Submission | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._group_commit = GroupCommit(self._publish_calls)

    # --- handing in

    async def submit(self, tasks: Sequence[Task]) -> Results:
        """Hand tasks in, which are accepted or refused as a whole. They are safe with the broker when this returns.

        What comes while something is on its way goes together, as the next submission; after several that went together, this
        may wait 50 ms for the manager to take these in and for the first to end.

        Raises:
            UsageError: no broker could carry them, or one of them was handed in here and has not ended.
            Unreachable: there was no manager yet that would have made the queues.
        """
        results = Results()
        if tasks:
            await self._submit_call(tasks, results)
        return results

    async def map(self, tasks: Iterable[Task]) -> AsyncIterator[TaskEvent]:
        """Hand in as many tasks as there are, some at a time, and give the last event of each as it ends.

        Raises:
            UsageError: as `submit`; or the manager refuses them.
            SkillqError: as `Results`.
        """
        results = Results()
        for part in _batched(tasks, _MAX_BATCH_TASKS):
            await self._submit_call(part, results)
            while results.has_arrived or results.missing > _MAX_IN_FLIGHT:
                yield await anext(results)
        async for event in results:
            yield event

    async def result(self, task: Task) -> TaskEvent:
        """Hand a task in, and wait for its end.

        Raises:
            UsageError: as `submit`; or the manager refuses it.
            SkillqError: as `Results`.
        """
        return await anext(await self.submit([task]))

    async def _submit_call(self, tasks: Sequence[Task], results: Results) -> None:
        for task in tasks:
            if task.id in self._calls_by_task:
                raise UsageError(f"task {task.id}: is on its way; wait until it has ended")
        briefs = encode_tasks(tasks)
        call = _Call(briefs, results, dict.fromkeys(briefs))
        # Before it is published: results may be faster than the broker's confirm.
        self._calls_by_task.update(dict.fromkeys(briefs, call))
        results.missing += len(briefs)
        share = max(len(briefs) / _MAX_BATCH_TASKS, sum(map(len, briefs.values())) / _MAX_GROUP_BYTES)
        # What depends on others could make a circle with what it knows nothing of.
        alone = share >= 1 or any(task.depends_on for task in tasks)
        try:
            await self._group_commit.put(call, 1.0 if alone else share)
        except BaseException:
            self._drop(call)
            raise

    async def _publish_calls(self, calls: Sequence[_Call]) -> bool:
        """As one submission: for the broker and the manager, one is as much work as a thousand tasks in it are.

        Whether it is of several calls of which something is still to come.
        """
        # Of others nobody waits for a result any more.
        wanted = [call for call in calls if call.missing]
        if not wanted:
            return False
        part = _Submission(uuid4().hex, dict.fromkeys(wanted), len(wanted) > 1, self._clock())
        self._open_submissions[part.id] = self._latest = part
        for call in wanted:
            call.submission = part
        await self._publish_submission(part)
        return part.is_group and bool(part.calls)

    async def _publish_submission(self, part: _Submission) -> None:
        briefs = {id: brief for call in part.calls for id, brief in call.encoded_tasks.items()}
        if not briefs:
            return  # all has ended meanwhile
        for message in to_messages(part.id, self._title, briefs):
            await self._publish(message)

    def _drop(self, call: _Call) -> None:
        """Nobody waits for what is missing of it; once is enough, twice does no harm."""
        for id in call.missing:
            del self._calls_by_task[id]
        call.results.missing -= len(call.missing)
        call.missing.clear()
        self._remove_from_submission(call)

    def _remove_from_submission(self, call: _Call) -> None:
        part, call.submission = call.submission, None
        if part is not None:
            del part.calls[call]
            if not part.calls:
                self._open_submissions.pop(part.id, None)

    # --- hearing

    def on_event(self, news: ClientEvent) -> None:
        match news:
            case TaskEvents():
                self._on_task_events(news.events)
            case RunEvent():
                part = self._open_submissions.get(news.submission_id or "")
                if part is not None:
                    self._on_answer(part, news)
            case StatusReply():
                pass  # it comes by another way, to whoever has asked

    def _on_task_events(self, events: Iterable[TaskEvent]) -> None:
        now = self._clock()
        heard: set[_Submission] = set()
        for event in events:
            if event.status not in TERMINAL:
                continue
            call = self._calls_by_task.get(event.id)
            if call is None or call.submission is None:
                continue  # not of ours, or another's of the same name
            call.submission.last_answer_at = now
            heard.add(call.submission)
            del self._calls_by_task[event.id], call.missing[event.id]
            call.results.put(event)
            if not call.missing:
                self._remove_from_submission(call)
        if heard:
            self._group_commit.on_answered(is_latest=self._latest in heard)

    def _on_answer(self, part: _Submission, answer: RunEvent | StatusReply) -> None:
        is_latest = part is self._latest
        part.last_answer_at = self._clock()
        if answer.status is RunStatus.REFUSED:
            self._group_commit.on_answered(is_latest=is_latest)
            self._on_refused(
                part, UsageError(answer.reason or "the manager refuses the submission")
            )
            return
        self._group_commit.on_accepted(is_latest=is_latest)
        part.store = answer.store
        if isinstance(answer, RunEvent) and answer.known:
            self._query(part)  # some may have ended long ago, and nobody tells of it again

    def _on_refused(self, part: _Submission, error: UsageError) -> None:
        """Whose fault it was is seen when each call goes alone; none of them has been taken in."""
        for call in list(part.calls):
            if part.is_group:
                self._remove_from_submission(call)
                self._spawn(self._publish_alone(call), "apart")
            else:
                self._fail(call, error)

    async def _publish_alone(self, call: _Call) -> None:
        try:
            await self._group_commit.put(call, 1.0)
        except Exception as error:  # noqa: BLE001 - whoever waits hears of it
            self._fail(call, error)

    def _fail(self, call: _Call, error: Exception) -> None:
        if call.missing:
            self._drop(call)
            call.results.fail(error)

    def close(self, error: Exception) -> None:
        """Nothing more will be heard."""
        self._group_commit.close(error)
        for call in set(self._calls_by_task.values()):
            self._fail(call, error)
        for errand in self._background:
            errand.cancel()

    # --- asking

    def query_silent_submissions(self) -> None:
        """Ask about all of which nothing was heard for a while."""
        since = self._clock() - timings.CLIENT_SILENCE_SECONDS
        for part in list(self._open_submissions.values()):
            if part.last_answer_at <= since:
                self._query(part)

    def _query(self, part: _Submission) -> None:
        part.last_answer_at = self._clock()
        self._spawn(self._query_all(part), "inquiry")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        errand = asyncio.create_task(work, name=name)
        self._background.add(errand)
        errand.add_done_callback(self._background.discard)

    async def _query_all(self, part: _Submission) -> None:
        try:
            for page in _batched(part.missing, MAX_QUERIED_TASKS):
                if not await self._query_page(part, page):
                    return
        except SkillqError as error:
            if not isinstance(error, TransportError):
                for call in list(part.calls):
                    self._fail(call, error)

    async def _query_page(self, part: _Submission, page: Sequence[str]) -> bool:
        """Whether to go on."""
        part.queries_sent += 1
        answers = await self._send_query(
            StatusQuery(
                submission_id=part.id,
                number=part.queries_sent,
                run=self._name,
                store=part.store,
                tasks=tuple(page),
            )
        )
        for answer in answers:
            if answer.status is RunStatus.UNKNOWN:
                await self._publish_submission(part)
                return False
            self._on_answer(part, answer)
            self._on_task_events(answer.tasks)
        self._fail_unknown_tasks(part, page, answers)
        return bool(answers)

    def _fail_unknown_tasks(
        self, part: _Submission, page: Sequence[str], answers: Sequence[StatusReply]
    ) -> None:
        """Where the run has ended, what the manager did not tell of a task it cannot tell."""
        is_over = any(answer.status is RunStatus.COMPLETED for answer in answers)
        for id in page if is_over else ():
            call = self._calls_by_task.get(id)
            if call is not None and call.submission is part:
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
    """Hear all that comes, until nothing can come any more."""
    try:
        while True:
            try:
                async with asyncio.timeout(timings.CLIENT_SILENCE_SECONDS):
                    news = await batch()
            except TimeoutError:
                news = ()
            for one in news:
                run.on_event(one)
            run.query_silent_submissions()
    except Exception as error:
        run.close(error)  # whatever it is: nothing more will be heard
        if not isinstance(error, SkillqError):
            raise
