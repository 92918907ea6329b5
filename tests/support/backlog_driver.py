"""Drive a core whose backlog is in a real memory store."""

from collections.abc import Coroutine, Iterable, Sequence
from typing import Any, TypeVar

from skillq.messages import Submission
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.model import TaskKey
from skillq_manager.core.state import State
from skillq_manager.store.base import LiveRow
from skillq_manager.store.memory import MemoryStore
from tests.support.factories import Driver
from tests.support.invariants import validate

T = TypeVar("T")


def answer_of(coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of a coroutine of the memory store, which never waits."""
    try:
        coroutine.send(None)
    except StopIteration as done:
        found: T = done.value
        return found
    raise AssertionError("the coroutine waits")


class BacklogShell:
    """Does for the backlog what the manager does around the core: commit, refill, restore."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.refilled = 0  # tasks
        self.evicted = 0

    def commit(self, out: Sequence[c.Command]) -> None:
        self.evicted += sum(
            isinstance(one, c.MoveToBacklog)
            or (isinstance(one, c.AddTask) and one.backlog is not None)
            for one in out
        )
        answer_of(self.store.commit(out))

    def with_backlog_rows(self, event: e.Event) -> e.Event:
        if isinstance(event, e.CancelRequested):
            rows = answer_of(self.store.backlog_tasks(event.run, event.ids))
            return event._replace(backlog=tuple(rows))
        return event

    def refill(self, state: State, at: float) -> list[c.Command]:
        """Load pages of the backlog until the state requests no more, and return its commands."""
        out: list[c.Command] = []
        for _ in range(1000):
            if not state.refills:
                return out
            answers = [answer_of(self.store.backlog_page(wanted)) for wanted in state.refills]
            self.refilled += sum(len(answer.rows) for answer in answers)
            more = state.handle(answers, at)
            self.commit(more)
            out += more
        raise AssertionError("the state requests pages for ever")

    def rows(self, *, include_backlog: bool) -> list[LiveRow]:
        async def load() -> list[LiveRow]:
            return [
                row
                async for page in self.store.load(include_backlog=include_backlog)
                for row in page
            ]

        return answer_of(load())

    @property
    def backlog_keys(self) -> set[TaskKey]:
        every = self.rows(include_backlog=True)
        in_memory = self.rows(include_backlog=False)
        return {(r.run, r.id) for r in every} - {(r.run, r.id) for r in in_memory}

    def restore(self, state: State, workers: Iterable[Any], at: float) -> list[c.Command]:
        """Restore the state of the next manager from the store, and return its commands."""
        state.begin_restore(workers, answer_of(self.store.last_seq()), at)
        rows = self.rows(include_backlog=not state.keeps_backlog)
        for start in range(0, len(rows), 2):
            state.restore(rows[start : start + 2])
        summary = answer_of(self.store.backlog_summary())
        out = state.end_restore(
            summary, answer_of(self.store.known_tasks(state.unresolved_dependencies()))
        )
        self.commit(out)
        return out


class BacklogDriver(Driver):
    """Is a driver whose state keeps only the first ready tasks of each need in memory."""

    def __init__(self, keep: int = 2, **more: Any) -> None:
        self.shell = BacklogShell()
        self._more = more
        super().__init__(backlog_keep=keep, **more)

    def _store(self, out: Sequence[c.Command]) -> None:
        super()._store(out)
        self.shell.commit(out)

    def _as_event(
        self, event: e.Event | Submission, known: dict[TaskKey, e.StoredStatus]
    ) -> e.Event:
        return self.shell.with_backlog_rows(super()._as_event(event, known))

    def _handle(self, events: Iterable[e.Event]) -> list[c.Command]:
        out = super()._handle(events)
        validate(self.state)
        more = self.shell.refill(self.state, self.now)
        super()._store(more)
        return out + more

    def restart_manager(self, *, keep: int = 2, workers: Iterable[Any] = ()) -> list[c.Command]:
        self.state = State(self.state.board.policy, chance=lambda: 0.5, backlog_keep=keep)
        out = self.shell.restore(self.state, workers, self.now)
        out += self.shell.refill(self.state, self.now)
        super()._store(out)
        validate(self.state)
        return out
