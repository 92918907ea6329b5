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
    """Tasks that were handed in together, as JSON, by id. `OpenRun` knows it by each that is missing."""

    briefs: dict[str, bytes]
    results: Results
    missing: dict[str, None]  # tasks whose end we have not heard of, in order
    part: "_Part | None" = None  # that it went with, once it has


@dataclass(eq=False, slots=True)
class _Part:
    """A submission: of one call, or of several that came at about the same time."""

    id: str
    calls: dict[_Call, None]  # of which something is missing
    is_joint: bool
    heard_at: float
    store: str = ""
    asked: int = 0

    @property
    def missing(self) -> list[str]:
        return [id for call in self.calls for id in call.missing]


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
        self._latest: _Part | None = None
        self._errands: set[asyncio.Task[None]] = set()
        self._convoy = Convoy(self._publish_calls)

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
        briefs = write(tasks)
        call = _Call(briefs, results, dict.fromkeys(briefs))
        # Before it is published: results may be faster than the broker's confirm.
        self._call_of.update(dict.fromkeys(briefs, call))
        results.missing += len(briefs)
        share = max(len(briefs) / _BATCH, sum(map(len, briefs.values())) / _JOINT_BYTES)
        # What depends on others could make a circle with what it knows nothing of.
        alone = share >= 1 or any(task.depends_on for task in tasks)
        try:
            await self._convoy.put(call, 1.0 if alone else share)
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
        part = _Part(uuid4().hex, dict.fromkeys(wanted), len(wanted) > 1, self._clock())
        self._parts[part.id] = self._latest = part
        for call in wanted:
            call.part = part
        await self._publish_part(part)
        return part.is_joint and bool(part.calls)

    async def _publish_part(self, part: _Part) -> None:
        briefs = {id: brief for call in part.calls for id, brief in call.briefs.items()}
        if not briefs:
            return  # all has ended meanwhile
        for message in messages(part.id, self._title, briefs):
            await self._publish(message)

    def _drop(self, call: _Call) -> None:
        """Nobody waits for what is missing of it; once is enough, twice does no harm."""
        for id in call.missing:
            del self._call_of[id]
        call.results.missing -= len(call.missing)
        call.missing.clear()
        self._leave(call)

    def _leave(self, call: _Call) -> None:
        part, call.part = call.part, None
        if part is not None:
            del part.calls[call]
            if not part.calls:
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
        heard: set[_Part] = set()
        for event in events:
            if event.status not in TERMINAL:
                continue
            call = self._call_of.get(event.id)
            if call is None or call.part is None:
                continue  # not of ours, or another's of the same name
            call.part.heard_at = now
            heard.add(call.part)
            del self._call_of[event.id], call.missing[event.id]
            call.results.put(event)
            if not call.missing:
                self._leave(call)
        if heard:
            self._convoy.answered(is_latest=self._latest in heard)

    def _hear_answer(self, part: _Part, answer: RunEvent | Standing) -> None:
        is_latest = part is self._latest
        part.heard_at = self._clock()
        if answer.status is RunStatus.REFUSED:
            self._convoy.answered(is_latest=is_latest)
            self._refused(part, UsageError(answer.reason or "the manager refuses the submission"))
            return
        self._convoy.accepted(is_latest=is_latest)
        part.store = answer.store
        if isinstance(answer, RunEvent) and answer.known:
            self._ask(part)  # some may have ended long ago, and nobody tells of it again

    def _refused(self, part: _Part, error: UsageError) -> None:
        """Whose fault it was is seen when each call goes alone; none of them has been taken in."""
        for call in list(part.calls):
            if part.is_joint:
                self._leave(call)
                self._spawn(self._publish_apart(call), "apart")
            else:
                self._fail(call, error)

    async def _publish_apart(self, call: _Call) -> None:
        try:
            await self._convoy.put(call, 1.0)
        except Exception as error:  # noqa: BLE001 - whoever waits hears of it
            self._fail(call, error)

    def _fail(self, call: _Call, error: Exception) -> None:
        if call.missing:
            self._drop(call)
            call.results.fail(error)

    def close(self, error: Exception) -> None:
        """Nothing more will be heard."""
        self._convoy.close(error)
        for call in set(self._call_of.values()):
            self._fail(call, error)
        for errand in self._errands:
            errand.cancel()

    # --- asking

    def ask_about_silence(self) -> None:
        """Ask about all of which nothing was heard for a while."""
        since = self._clock() - timings.CLIENT_SILENCE_SECONDS
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
            for page in _batches(part.missing, MAX_INQUIRED):
                if not await self._ask_page(part, page):
                    return
        except SkillqError as error:
            if not isinstance(error, TransportError):
                for call in list(part.calls):
                    self._fail(call, error)

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
        for id in page if is_over else ():
            call = self._call_of.get(id)
            if call is not None and call.part is part:
                reason = f"task {id}: its run has ended, and the manager does not know it any more"
                self._fail(call, SkillqError(reason))


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
                async with asyncio.timeout(timings.CLIENT_SILENCE_SECONDS):
                    news = await batch()
            except TimeoutError:
                news = ()
            for one in news:
                run.hear(one)
            run.ask_about_silence()
    except Exception as error:
        run.close(error)  # whatever it is: nothing more will be heard
        if not isinstance(error, SkillqError):
            raise
