"""Submissions: taken in, or refused."""

from collections.abc import Mapping, Sequence

from skillq.messages import Submission, Task
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.entries import Entries, KnownTasks
from skillq_manager.core.model import TaskEntry
from skillq_manager.core.round import RoundState
from skillq_manager.core.rules.lifecycle import BLOCKED
from skillq_manager.core.tasks import Tasks, is_met


class Submissions:
    def __init__(self, turn: RoundState, tasks: Tasks, entries: Entries) -> None:
        self._turn = turn
        self._tasks = tasks
        self._entries = entries

    def submit(self, event: e.SubmissionReceived) -> None:
        """Take a submission in as a whole, or refuse it as a whole. What is known already is left alone."""
        submission, known = event.submission, event.known
        run, tasks = submission.run, submission.tasks
        there = self._entries.known_tasks([(run, task.id) for task in tasks], known)
        reason = self._refusal(event, there)
        if reason is not None:
            self.refuse(e.SubmissionInvalid(submission, reason))
            return
        fresh = [task for task in tasks if task.id not in there] if there else tasks
        self._turn.commands.append(
            c.AnswerSubmission(submission, len(fresh), len(there), None, self._turn.now)
        )
        self._turn.runs[run] = bool(fresh) or self._turn.runs.get(run, False)
        self._turn.titles[run] = submission.run_title
        self._accept(submission, fresh, known)

    def refuse(self, event: e.SubmissionInvalid) -> None:
        self._turn.commands.append(
            c.AnswerSubmission(event.submission, 0, 0, event.reason, self._turn.now)
        )

    def _accept(self, submission: Submission, fresh: Sequence[Task], known: KnownTasks) -> None:
        run, title, out, now = (
            submission.run,
            submission.run_title,
            self._turn.commands,
            self._turn.now,
        )
        entries = [self._new_entry(run, task) for task in fresh]
        for entry, task in zip(entries, fresh, strict=True):
            is_here = not self._entries.set_initial_status(
                entry, task, known
            ) or self._tasks.add_new(entry)
            shelf = None if is_here else entry.need
            out.append(
                c.AddTask(
                    entry.key, entry.seq, title, task, entry.fingerprint, entry.status, now, shelf
                )
            )
        self._tasks.evict()
        for entry, task in zip(entries, fresh, strict=True):
            if task.depends_on:
                self._fail_with_dependency(entry, task, known)

    def _refusal(
        self, event: e.SubmissionReceived, there: Mapping[str, e.StoredStatus]
    ) -> str | None:
        submission = event.submission
        run, title = submission.run, submission.run_title
        other = self._turn.titles.get(run, event.run_title)
        if other not in {None, title}:
            return f"run {title!r} would be {run} on the wire, as run {other!r} is; choose another name"
        doubtful = [task for task in submission.tasks if task.depends_on or task.id in there]
        own = {task.id for task in submission.tasks} if doubtful else set()
        complaints = (
            self._task_refusal(run, task, own, there.get(task.id), event.known) for task in doubtful
        )
        return next((complaint for complaint in complaints if complaint), None)

    def _task_refusal(
        self, run: str, task: Task, own: set[str], there: e.StoredStatus | None, known: KnownTasks
    ) -> str | None:
        if there is not None and there.fingerprint != task.fingerprint():
            return (
                f"task {task.id} is already in run {run} with another definition; "
                "use another id or another run"
            )
        for other in task.depends_on:
            if other not in own and self._entries.known_task((run, other), known) is None:
                return (
                    f"task {task.id} depends on {other}, which is neither in this submission "
                    f"nor in run {run}; submit it first or correct the id"
                )
        return None

    def _new_entry(self, run: str, task: Task) -> TaskEntry:
        need, terms = self._entries.need_and_terms(task)
        entry = TaskEntry(
            (run, task.id),
            next(self._tasks.seq),
            need,
            task.priority,
            terms,
            task.fingerprint(),
            self._turn.now,
            BLOCKED,
        )
        self._tasks.open_task(entry)
        return entry

    def _fail_with_dependency(self, entry: TaskEntry, task: Task, known: KnownTasks) -> None:
        for other in task.depends_on:
            key = (entry.key[0], other)
            status = self._entries.status(key, known)
            if status.is_terminal and not is_met(status, entry):
                self._tasks.resolve(key, status)
