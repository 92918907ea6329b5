"""A run that stays open: one subscription, made before the first task is handed in, brings all results."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Self, TypeVar

from skillq.clock import Clock
from skillq.errors import SkillqError, TransportError, UsageError
from skillq.handed import Handed, News, hand_in
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
)
from skillq.transport import Outgoing

SILENCE_SECONDS = 15.0  # then events may have been missed: the manager is asked
_BATCH = 1000  # tasks in one submission
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


@dataclass(slots=True)
class _Part:
    """A submission of which something is missing."""

    handed: Handed
    results: Results
    heard_at: float
    store: str = ""
    asked: int = 0


class OpenRun:
    """Made by `Client.open`. `publish` is patient; `inquire` returns what the manager answers, or nothing."""

    def __init__(
        self,
        run: str,
        publish: Callable[[Outgoing], Awaitable[None]],
        inquire: Callable[[Inquiry], Awaitable[Sequence[Standing]]],
        clock: Clock,
    ) -> None:
        self._run = run
        self._publish = publish
        self._inquire = inquire
        self._clock = clock
        self._parts: dict[str, _Part] = {}  # by submission
        self._part_of: dict[str, _Part] = {}  # by task
        self._asking: set[asyncio.Task[None]] = set()

    # --- handing in

    async def submit(self, tasks: Sequence[Task]) -> Results:
        """Hand tasks in, which are accepted or refused as a whole. They are safe with the broker when this returns.

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
            if task.id in self._part_of:
                raise UsageError(f"task {task.id}: is on its way; wait until it has ended")
        handed = hand_in(self._run, tasks)
        part = _Part(handed, results, self._clock())
        # Before it is published: results may be faster than the broker's confirm.
        self._parts[handed.id] = part
        self._part_of.update(dict.fromkeys(handed.missing, part))
        results.missing += len(handed.missing)
        try:
            for message in handed.messages:
                await self._publish(message)
        except BaseException:
            self._drop(part)
            raise

    def _drop(self, part: _Part) -> None:
        self._parts.pop(part.handed.id, None)
        for id in part.handed.missing:
            self._part_of.pop(id, None)
        part.results.missing -= len(part.handed.missing)

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
            part = self._part_of.pop(event.id, None)
            if part is None:
                continue
            part.heard_at = now
            part.results.put(event)
            missing = part.handed.missing
            missing.pop(event.id, None)
            if not missing:
                self._parts.pop(part.handed.id, None)

    def _hear_answer(self, part: _Part, answer: RunEvent | Standing) -> None:
        part.heard_at = self._clock()
        if answer.status is RunStatus.REFUSED:
            self._fail(part, UsageError(answer.reason or "the manager refuses the submission"))
            return
        part.store = answer.store
        if isinstance(answer, RunEvent) and answer.known:
            self._ask(part)  # some may have ended long ago, and nobody tells of it again

    def _fail(self, part: _Part, error: Exception) -> None:
        self._drop(part)
        part.results.fail(error)

    def close(self, error: Exception) -> None:
        """Nothing more will be heard."""
        for part in list(self._parts.values()):
            self._fail(part, error)
        for asking in self._asking:
            asking.cancel()

    # --- asking

    def ask_about_silence(self) -> None:
        """Ask about all of which nothing was heard for a while."""
        since = self._clock() - SILENCE_SECONDS
        for part in list(self._parts.values()):
            if part.heard_at <= since:
                self._ask(part)

    def _ask(self, part: _Part) -> None:
        part.heard_at = self._clock()
        asking = asyncio.create_task(self._ask_all(part), name="inquiry")
        self._asking.add(asking)
        asking.add_done_callback(self._asking.discard)

    async def _ask_all(self, part: _Part) -> None:
        try:
            for page in _batches(list(part.handed.missing), MAX_INQUIRED):
                if not await self._ask_page(part, page):
                    return
        except SkillqError as error:
            if not isinstance(error, TransportError):
                self._fail(part, error)

    async def _ask_page(self, part: _Part, page: Sequence[str]) -> bool:
        """Whether to go on."""
        part.asked += 1
        id, run = part.handed.id, part.handed.run
        answers = await self._inquire(
            Inquiry(
                submission_id=id, number=part.asked, run=run, store=part.store, tasks=tuple(page)
            )
        )
        for answer in answers:
            if answer.status is RunStatus.UNKNOWN:
                for message in part.handed.messages:
                    await self._publish(message)
                return False
            self._hear_answer(part, answer)
            self._see(answer.tasks)
        self._give_up(part, page, answers)
        return bool(answers)

    def _give_up(self, part: _Part, page: Sequence[str], answers: Sequence[Standing]) -> None:
        """Where the run has ended, what the manager did not tell of a task it cannot tell."""
        is_over = any(answer.status is RunStatus.COMPLETED for answer in answers)
        lost = [id for id in page if id in part.handed.missing]
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
