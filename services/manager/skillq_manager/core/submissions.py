"""Submissions of tasks: accepted as a whole, or refused as a whole with a reason."""

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
    """Accepts or refuses submissions."""

    def __init__(self, round_state: RoundState, tasks: Tasks, entries: Entries) -> None:
        self._round = round_state
        self._tasks = tasks
        self._entries = entries

    def submit(self, event: e.SubmissionReceived) -> None:
        """Accept a submission and add its new tasks, or refuse it; known tasks do not change."""
        submission, known = event.submission, event.known
        run, tasks = submission.run, submission.tasks
        stored = self._entries.known_tasks([(run, task.id) for task in tasks], known)
        reason = self._refusal(event, stored)
        if reason is not None:
            self.refuse(e.SubmissionInvalid(submission, reason))
            return
        new = [task for task in tasks if task.id not in stored] if stored else tasks
        self._round.commands.append(
            c.AnswerSubmission(submission, len(new), len(stored), None, self._round.now)
        )
        self._round.affected_runs[run] = bool(new) or self._round.affected_runs.get(run, False)
        self._round.run_titles[run] = submission.run_title
        self._add_tasks(submission, new, known)

    def refuse(self, event: e.SubmissionInvalid) -> None:
        """Refuse a submission as a whole."""
        self._round.commands.append(
            c.AnswerSubmission(event.submission, 0, 0, event.reason, self._round.now)
        )

    def _add_tasks(self, submission: Submission, new: Sequence[Task], known: KnownTasks) -> None:
        run, title = submission.run, submission.run_title
        commands, now = self._round.commands, self._round.now
        # First all entries, because tasks may depend on later tasks of the same submission.
        entries = [self._new_entry(run, task) for task in new]
        for entry, task in zip(entries, new, strict=True):
            is_ready = self._entries.set_initial_status(entry, task, known)
            in_memory = not is_ready or self._tasks.add_new(entry)
            backlog = None if in_memory else entry.need
            commands.append(
                c.AddTask(
                    entry.key, entry.seq, title, task, entry.fingerprint, entry.status, now, backlog
                )
            )
        self._tasks.evict()
        for entry, task in zip(entries, new, strict=True):
            if task.depends_on:
                self._fail_with_dependency(entry, task, known)

    def _new_entry(self, run: str, task: Task) -> TaskEntry:
        need, terms = self._entries.need_and_terms(task)
        entry = TaskEntry(
            (run, task.id),
            next(self._tasks.seq),
            need,
            task.priority,
            terms,
            task.fingerprint(),
            self._round.now,
            BLOCKED,
        )
        self._tasks.open_task(entry)
        return entry

    def _fail_with_dependency(self, entry: TaskEntry, task: Task, known: KnownTasks) -> None:
        """Fail a new task if one of its dependencies has ended without success."""
        for other in task.depends_on:
            key = (entry.key[0], other)
            status = self._entries.status(key, known)
            if status.is_terminal and not is_met(status, entry):
                self._tasks.resolve(key, status)

    def _refusal(
        self, event: e.SubmissionReceived, stored: Mapping[str, e.StoredStatus]
    ) -> str | None:
        """Return why the submission must be refused, or None if it can be accepted."""
        submission = event.submission
        run, title = submission.run, submission.run_title
        other = self._round.run_titles.get(run, event.run_title)
        if other not in {None, title}:
            return f"run {title!r} would be {run} on the wire, as run {other!r} is; choose another name"
        doubtful = [task for task in submission.tasks if task.depends_on or task.id in stored]
        own = {task.id for task in submission.tasks} if doubtful else set()
        reasons = (
            self._task_refusal(run, task, own, stored.get(task.id), event.known)
            for task in doubtful
        )
        return next((reason for reason in reasons if reason), None)

    def _task_refusal(
        self, run: str, task: Task, own: set[str], stored: e.StoredStatus | None, known: KnownTasks
    ) -> str | None:
        if stored is not None and stored.fingerprint != task.fingerprint():
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
