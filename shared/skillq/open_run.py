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

from skillq.clock import Clock
from skillq.convoy import Convoy
from skillq.errors import SkillqError, TransportError, UsageError
from skillq.handed import ROOM_BYTES, News, messages, title_of, write
from skillq.messages import (
    MAX_INQUIRED,
    TERMINAL,
    Inquiry,
    RunEvent,
    RunStatus,
    Standing,
    Task,
    TaskEvent,
    TaskEvents,
    slug,
)
from skillq.transport import Outgoing

SILENCE_SECONDS = 15.0  # then events may have been missed: the manager is asked
_BATCH = 1000  # tasks in one submission
_JOINT_BYTES = ROOM_BYTES // 2  # of tasks of several calls that go in one submission
_AHEAD = 10_000  # tasks of an endless iterable that may be on their way


def keys_of(run: str) -> tuple[str, ...]:
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
        self._news = asyncio.Event()
        self._error: Exception | None = None
        self.missing = 0

    @property
    def has_arrived(self) -> bool:
        return bool(self._arrived)

    def put(self, event: TaskEvent) -> None:
        self.missing -= 1
        self._arrived.append(event)
        self._news.set()

    def fail(self, error: Exception) -> None:
        self._error = error
        self._news.set()

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
            self._news.clear()
            await self._news.wait()
        return self._arrived.popleft()


@dataclass(eq=False, slots=True)
class _Call:
    """Tasks that were handed in together, as JSON, by id."""

    briefs: dict[str, bytes]
    results: Results
    part: "_Part | None" = None  # that it goes with, once it does
    is_dropped: bool = False


@dataclass(eq=False, slots=True)
class _Part:
    """A submission of which something is missing: of one call, or of several that came at about the same time."""

    id: str
    calls: Sequence[_Call]
    missing: dict[str, None]  # tasks whose end we have not heard of, in order
    heard_at: float
    store: str = ""
    asked: int = 0

    @property
    def briefs(self) -> dict[str, bytes]:
        return {id: brief for call in self.calls for id, brief in call.briefs.items()}


class OpenRun:
    """Made by `Client.open`. `publish` is patient; `inquire` returns what the manager answers, or nothing."""

    def __init__(
        self,
        run: str,
        publish: Callable[[Outgoing], Awaitable[None]],
        inquire: Callable[[Inquiry], Awaitable[Sequence[Standing]]],
        clock: Clock,
    ) -> None:
        self._title = title_of(run)
        self._name = slug(self._title)
        self._publish = publish
        self._inquire = inquire
        self._clock = clock
        self._parts: dict[str, _Part] = {}  # by submission
        self._call_of: dict[str, _Call] = {}  # by task
        self._errands: set[asyncio.Task[None]] = set()
        self._convoy = Convoy(self._publish_calls)

    # --- handing in

    async def submit(self, tasks: Sequence[Task]) -> Results:
        """Hand tasks in, which are accepted or refused as a whole. They are safe with the broker when this returns.

        What comes while something is on its way goes together, as the next submission.

        Raises:
            UsageError: no broker could carry them, or one of them was handed in here and has not ended.
            Unreachable: there was no manager yet that would have made the queues.
        """
        results = Results()
        if tasks:
            await self._hand_in(tasks, results)
        return results

    async def map(self, tasks: Iterable[Task]) -> AsyncIterator[TaskEvent]:
        """Hand in as many tasks as there are, some at a time, and give the last event of each as it ends.

        Raises:
            UsageError: as `submit`; or the manager refuses them.
            SkillqError: as `Results`.
        """
        results = Results()
        for part in _batches(tasks, _BATCH):
            await self._hand_in(part, results)
            while results.has_arrived or results.missing > _AHEAD:
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

    async def _hand_in(self, tasks: Sequence[Task], results: Results) -> None:
        for task in tasks:
            if task.id in self._call_of:
                raise UsageError(f"task {task.id}: is on its way; wait until it has ended")
        call = _Call(write(tasks), results)
        # Before it is published: results may be faster than the broker's confirm.
        self._call_of.update(dict.fromkeys(call.briefs, call))
        results.missing += len(call.briefs)
        share = max(len(tasks) / _BATCH, sum(map(len, call.briefs.values())) / _JOINT_BYTES)
        try:
            # What depends on others could make a circle with what it knows nothing of.
            if share >= 1 or any(task.depends_on for task in tasks):
                await self._publish_calls([call])
            else:
                await self._convoy.put(call, share)
        except BaseException:
            self._drop(call)
            raise

    async def _publish_calls(self, calls: Sequence[_Call]) -> None:
        """As one submission: for the broker and the manager, one is as much work as a thousand tasks in it are."""
        calls = [call for call in calls if not call.is_dropped]
        if not calls:
            return  # nobody waits for them any more
        missing = dict.fromkeys(id for call in calls for id in call.briefs)
        part = _Part(uuid4().hex, calls, missing, self._clock())
        self._parts[part.id] = part
        for call in calls:
            call.part = part
        try:
            await self._publish_part(part)
        except BaseException:
            self._parts.pop(part.id, None)
            raise

    async def _publish_part(self, part: _Part) -> None:
        for message in messages(part.id, self._title, part.briefs):
            await self._publish(message)

    def _drop(self, call: _Call) -> None:
        call.is_dropped = True
        missing = [id for id in call.briefs if self._call_of.get(id) is call]
        for id in missing:
            del self._call_of[id]
        call.results.missing -= len(missing)
        if (part := call.part) is not None:
            for id in missing:
                self._found(part, id)

    def _found(self, part: _Part, id: str) -> None:
        del part.missing[id]
        if not part.missing:
            self._parts.pop(part.id, None)

    # --- hearing

    def hear(self, news: News) -> None:
        match news:
            case TaskEvents():
                self._see(news.events)
            case RunEvent():
                part = self._parts.get(news.submission_id or "")
                if part is not None:
                    self._hear_answer(part, news)
            case Standing():
                pass  # it comes by another way, to whoever has asked

    def _see(self, events: Iterable[TaskEvent]) -> None:
        now = self._clock()
        for event in events:
            if event.status not in TERMINAL:
                continue
            call = self._call_of.get(event.id)
            if call is None or call.part is None:
                continue  # not of ours, or another's of the same name
            del self._call_of[event.id]
            call.part.heard_at = now
            call.results.put(event)
            self._found(call.part, event.id)

    def _hear_answer(self, part: _Part, answer: RunEvent | Standing) -> None:
        part.heard_at = self._clock()
        if answer.status is RunStatus.REFUSED:
            self._refused(part, UsageError(answer.reason or "the manager refuses the submission"))
            return
        part.store = answer.store
        if isinstance(answer, RunEvent) and answer.known:
            self._ask(part)  # some may have ended long ago, and nobody tells of it again

    def _refused(self, part: _Part, error: UsageError) -> None:
        """Whose fault it was is seen when each call goes alone; none of them has been taken in."""
        if len(part.calls) == 1:
            self._fail(part, error)
        elif self._parts.pop(part.id, None) is not None:
            for call in part.calls:
                call.part = None
            self._spawn(self._publish_apart(part.calls), "apart")

    async def _publish_apart(self, calls: Sequence[_Call]) -> None:
        for call in calls:
            try:
                await self._publish_calls([call])
            except SkillqError as error:
                self._fail_call(call, error)

    def _fail(self, part: _Part, error: Exception) -> None:
        for call in {self._call_of[id] for id in part.missing}:
            self._fail_call(call, error)

    def _fail_call(self, call: _Call, error: Exception) -> None:
        self._drop(call)
        call.results.fail(error)

    def close(self, error: Exception) -> None:
        """Nothing more will be heard."""
        self._convoy.close(error)
        for call in set(self._call_of.values()):
            self._fail_call(call, error)
        for errand in self._errands:
            errand.cancel()

    # --- asking

    def ask_about_silence(self) -> None:
        """Ask about all of which nothing was heard for a while."""
        since = self._clock() - SILENCE_SECONDS
        for part in list(self._parts.values()):
            if part.heard_at <= since:
                self._ask(part)

    def _ask(self, part: _Part) -> None:
        part.heard_at = self._clock()
        self._spawn(self._ask_all(part), "inquiry")

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> None:
        errand = asyncio.create_task(work, name=name)
        self._errands.add(errand)
        errand.add_done_callback(self._errands.discard)

    async def _ask_all(self, part: _Part) -> None:
        try:
            for page in _batches(list(part.missing), MAX_INQUIRED):
                if not await self._ask_page(part, page):
                    return
        except SkillqError as error:
            if not isinstance(error, TransportError):
                self._fail(part, error)

    async def _ask_page(self, part: _Part, page: Sequence[str]) -> bool:
        """Whether to go on."""
        part.asked += 1
        answers = await self._inquire(
            Inquiry(
                submission_id=part.id,
                number=part.asked,
                run=self._name,
                store=part.store,
                tasks=tuple(page),
            )
        )
        for answer in answers:
            if answer.status is RunStatus.UNKNOWN:
                await self._publish_part(part)
                return False
            self._hear_answer(part, answer)
            self._see(answer.tasks)
        self._give_up(part, page, answers)
        return bool(answers)

    def _give_up(self, part: _Part, page: Sequence[str], answers: Sequence[Standing]) -> None:
        """Where the run has ended, what the manager did not tell of a task it cannot tell."""
        is_over = any(answer.status is RunStatus.COMPLETED for answer in answers)
        lost = [id for id in page if id in part.missing]
        if is_over and lost:
            reason = f"task {lost[0]}: its run has ended, and the manager does not know it any more"
            self._fail(part, SkillqError(reason))


Item = TypeVar("Item")


def _batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


async def listen(run: OpenRun, batch: Callable[[], Awaitable[Sequence[News]]]) -> None:
    """Hear all that comes, until nothing can come any more."""
    try:
        while True:
            try:
                async with asyncio.timeout(SILENCE_SECONDS):
                    news = await batch()
            except TimeoutError:
                news = ()
            for one in news:
                run.hear(one)
            run.ask_about_silence()
    except SkillqError as error:
        run.close(error)
