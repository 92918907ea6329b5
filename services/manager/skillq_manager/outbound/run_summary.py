"""Summaries of completed runs, read from the store and printed for people."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import structlog

from skillq import timings
from skillq.errors import SkillqError
from skillq.forms import one_line
from skillq.messages import TERMINAL, TaskStatus
from skillq.runtime import stdio
from skillq.runtime.logs import Log
from skillq.summary import MAX_TASK_LINES, EndedTask, success_rate, summary
from skillq_manager.store.base import TaskFilter, TaskRow, Views

_PAGE = 1000

log = structlog.get_logger()


async def ended_tasks(store: Views, run: str) -> list[EndedTask]:
    """Return all tasks of a run that have ended, in order of submission."""
    ended: list[EndedTask] = []
    page = TaskFilter(run=run, limit=_PAGE)
    while rows := await store.tasks(page):
        ended += [_to_ended_task(row) for row in rows if row.status.is_terminal]
        page = TaskFilter(run=run, limit=_PAGE, cursor=rows[-1].seq)
    return ended


def _to_ended_task(row: TaskRow) -> EndedTask:
    return EndedTask(row.task.id, row.worker, row.status, row.reason)


async def print_summary(store: Views, run: str) -> None:
    """Print the summary of a run on standard output.

    If standard output cannot be written, the success rate goes to the log: a summary must not end the manager.
    """
    row = await store.run(run)
    counts = Counter({s: n for s, n in row.counts.items() if s in TERMINAL}) if row else Counter()
    ended = await _tasks_to_show(store, run, counts)
    try:
        stdio.write_out("".join(one_line(line) + "\n" for line in summary(ended, counts)))
    except OSError as error:
        rate = round(success_rate(counts), 2)
        log.warning(
            Log.SUMMARY_NOT_PRINTED,
            run=run,
            tasks=counts.total(),
            success_rate=rate,
            error=str(error),
        )


async def _tasks_to_show(
    store: Views, run: str, counts: Mapping[TaskStatus, int]
) -> list[EndedTask]:
    """Return all ended tasks of a short run, or those of a long run that did not succeed."""
    if sum(counts.values()) <= MAX_TASK_LINES:
        return await ended_tasks(store, run)
    rows: list[TaskRow] = []
    for status in TERMINAL - {TaskStatus.SUCCEEDED}:
        if counts.get(status):
            rows += await store.tasks(TaskFilter(run=run, status=status, limit=MAX_TASK_LINES))
    return [_to_ended_task(row) for row in sorted(rows, key=lambda row: row.seq)[:MAX_TASK_LINES]]


class SummaryPrinter:
    """Prints summaries in the background; on exit, prints those that are left.

    An async context manager: the manager's loop does not wait for the store or for standard output.
    """

    def __init__(self, store: Views) -> None:
        self._store = store
        self._completed: dict[str, None] = {}
        self._has_completed = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._printing = asyncio.create_task(self._print_continuously(), name="summaries")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._printing.cancel()
        await asyncio.gather(self._printing, return_exceptions=True)
        await self._print_completed()

    async def print_later(self, run: str) -> None:
        """Print the summary of a run soon; a run that completes twice before that is printed once."""
        self._completed[run] = None
        self._has_completed.set()

    async def _print_continuously(self) -> None:
        while True:
            await self._has_completed.wait()
            self._has_completed.clear()
            await self._print_completed()
            await asyncio.sleep(timings.SUMMARY_PAUSE_SECONDS)

    async def _print_completed(self) -> None:
        for run in list(self._completed):
            del self._completed[run]  # before printing: the run may complete again meanwhile
            try:
                await print_summary(self._store, run)
            except asyncio.CancelledError:
                self._completed[run] = None
                raise
            except SkillqError as error:
                log.warning(Log.SUMMARY_NOT_PRINTED, run=run, error=str(error))
