"""Show the progress of a run: a live table on a terminal, plain lines elsewhere."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from skillq.forms import one_line
from skillq.messages import TaskEvent, TaskStatus
from skillq_cli.output import write_line

_MAX_NAMED_TASKS = 100  # with more tasks, plain lines give numbers instead of names
_MAX_SHOWN_TASKS = 12  # running tasks that the live view names


class ProgressView(Protocol):
    """A display of the progress of a run."""

    def on_event(self, event: TaskEvent) -> None:
        """Show the new status of a task."""
        ...


@contextmanager
def progress(total: int, *, quiet: bool) -> Iterator[ProgressView]:
    """Yield a display for the progress of `total` tasks; if quiet, it shows nothing."""
    if quiet:
        yield _QuietProgress()
    elif sys.stdout.isatty():
        with _LiveProgress(total) as live_progress:
            yield live_progress
    else:
        yield _PlainProgress(total)


class _QuietProgress:
    def on_event(self, event: TaskEvent) -> None:
        pass


class _PlainProgress:
    """Prints a line for each assigned or ended task; with many tasks, for each tenth."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._ended = 0

    def on_event(self, event: TaskEvent) -> None:
        self._ended += event.status.is_terminal
        if self._total > _MAX_NAMED_TASKS:
            self._count(event)
        elif event.status is TaskStatus.ASSIGNED:
            write_line(f"task {event.id}: assigned to {event.worker}")
        elif event.status.is_terminal or (event.status is TaskStatus.READY and event.reason):
            reason = f" ({event.reason})" if event.reason else ""
            status = "to be retried" if event.status is TaskStatus.READY else event.status
            write_line(f"task {event.id}: {status}{reason}")

    def _count(self, event: TaskEvent) -> None:
        step = max(1, self._total // 10)
        if event.status.is_terminal and self._ended % step == 0:
            write_line(f"{self._ended} of {self._total} tasks have ended")


class _LiveProgress:
    """Shows the number of tasks by status, and the tasks that workers run."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._tasks: dict[str, TaskEvent] = {}  # assigned and running tasks
        self._status: dict[str, TaskStatus] = {}
        self._counts: Counter[TaskStatus] = Counter()
        self._live = Live(
            console=Console(),
            get_renderable=self._render,
            refresh_per_second=10,
            transient=True,
            redirect_stderr=sys.stderr.isatty(),  # not if standard error goes to a file
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self,
        error_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._live.stop()

    def on_event(self, event: TaskEvent) -> None:
        previous = self._status.get(event.id)
        if previous is not None:
            self._counts[previous] -= 1
        self._status[event.id] = event.status
        self._counts[event.status] += 1
        if event.status in {TaskStatus.ASSIGNED, TaskStatus.RUNNING}:
            self._tasks[event.id] = event
        else:
            self._tasks.pop(event.id, None)

    def _render(self) -> Group:
        ended = sum(n for status, n in self._counts.items() if status.is_terminal)
        counts = "  ".join(f"{n} {status}" for status, n in self._counts.items() if n)
        table = Table.grid(padding=(0, 2))
        for event in list(self._tasks.values())[:_MAX_SHOWN_TASKS]:
            table.add_row(
                Text(one_line(event.worker or "")), Text(f"task {event.id}"), Text(event.status)
            )
        bar = ProgressBar(total=self._total, completed=ended, width=40)
        return Group(bar, Text(f"{ended} of {self._total} ended   {counts}"), table)
