"""The workers that are there: joining, heard of, silent, gone."""

from collections.abc import Iterable
from itertools import count

from skillq.messages import (
    AttemptRef,
    Connect,
    Disconnect,
    Heartbeat,
    Outcome,
    TaskStatus,
    WorkerEventKind,
    WorkerProfile,
)
from skillq_manager.core import commands as c
from skillq_manager.core import events as e
from skillq_manager.core.dispatch.board import Board
from skillq_manager.core.due import DueTasks
from skillq_manager.core.model import TaskEntry, WorkerEntry
from skillq_manager.core.round import RoundState
from skillq_manager.core.rules.leases import LeasePolicy, LeaseVerdict, judge
from skillq_manager.core.tasks import Tasks


class Workers:
    def __init__(
        self, turn: RoundState, board: Board, tasks: Tasks, due: DueTasks, policy: LeasePolicy
    ) -> None:
        self._turn = turn
        self._board = board
        self._tasks = tasks
        self._due = due
        self._policy = policy
        self._joined = count(1)
        self._departed: dict[tuple[str, str], float] = {}  # by name and incarnation, when
        self.next_sweep = 0.0
        self.workers: dict[str, WorkerEntry] = {}

    def connect(self, event: Connect) -> None:
        if event.ready:
            self._seen(event.worker, replace=True)

    def heartbeat(self, event: Heartbeat) -> None:
        """Renew the lease; compare what the worker holds with what it should, and send the difference."""
        # Heartbeats have a queue of their own: one of a dead namesake may come after its heir's Connect.
        worker = self._seen(event.worker, replace=False)
        if worker is None:
            return
        if worker.draining != event.draining:
            worker.draining = event.draining
            self._board.worker_changed(worker)
        self._cancel_foreign_attempts(worker, event)
        self._resend_missing(worker, event)

    def disconnect(self, event: Disconnect) -> None:
        """A worker leaves; what it still holds is handed back, and no attempt is held against the task."""
        self._departed[event.worker, event.incarnation] = self._turn.now
        worker = self.current(event.worker, event.incarnation)
        if worker is not None:
            self._remove(worker, WorkerEventKind.DISCONNECTED, Outcome.RETURNED, event.reason)

    def on_assignment_returned(self, event: e.AssignmentReturned) -> None:
        """Assignments came back: no new work for that worker until it is heard of again."""
        worker = self.current(event.worker, event.incarnation)
        if worker is None:
            return
        self._suspect(worker, "its queue was not there")
        for ref in event.attempts:
            task = self._tasks.live.get((ref.run, ref.id))
            # What runs had arrived: its assignment was sent again because no confirm came, and only that came back.
            if (
                task is not None
                and task.worker is worker
                and task.attempt == ref.attempt
                and task.status is not TaskStatus.RUNNING
            ):
                self._tasks.end_attempt(
                    task, worker, Outcome.RETURNED, reason="the worker's queue was not there"
                )

    def on_attempt_returned(self, worker: WorkerEntry, task: TaskEntry) -> None:
        """It does not want what it is given: it is leaving, until a heartbeat says otherwise; unless we asked."""
        if task.recalled_at is None:
            worker.draining = True
            self._board.worker_changed(worker)

    def on_type_refused(self, worker: WorkerEntry, task_type: str) -> None:
        """The worker has no handler for this type: it gets no more of them."""
        self._board.leave(worker, self._turn.now)
        worker.skills = worker.skills._replace(refused=worker.skills.refused | {task_type})
        self._board.join(worker)

    def sweep(self) -> None:
        """Judge the silence of every worker, once per `sweep_every`."""
        if self._turn.now < self.next_sweep:
            return
        self._extend_leases(self._turn.now - self.next_sweep)
        self.next_sweep = self._turn.now + self._policy.sweep_every
        self._forget_departed()
        self._due.age(self._policy.reserve_for)
        self._due.lift_exclusions(self._policy.exclude_for)
        if not self._turn.heartbeats_lost:
            self._check_leases()

    def _extend_leases(self, late: float) -> None:
        """A manager that was held up has heard nobody meanwhile: that time counts against no worker."""
        if late > self._policy.late_after:
            self._turn.listening_since = self._turn.now
        if late > self._policy.sweep_every:
            for worker in self.workers.values():
                worker.last_seen = min(self._turn.now, worker.last_seen + late)

    def _check_leases(self) -> None:
        for worker in list(self.workers.values()):
            lease = worker.profile.lease
            verdict = judge(lease, worker.last_seen, self._turn.now)
            if verdict is LeaseVerdict.DEAD:
                reason = f"not heard of for {lease.dead_after:g} s"
                self._remove(worker, WorkerEventKind.LOST, Outcome.LOST, reason)
            elif verdict is LeaseVerdict.SUSPECT:
                self._suspect(worker, "heartbeats are late")

    def on_heartbeats_lost(self, event: e.HeartbeatsLost) -> None:
        """No worker is judged by its silence while the manager cannot hear any."""
        self._turn.heartbeats_lost = True

    def on_heartbeats_recovered(self, event: e.HeartbeatsRecovered) -> None:
        """From now on, all have their full time to be heard of again."""
        self._turn.heartbeats_lost = False
        self._turn.listening_since = self._turn.now
        for worker in self.workers.values():
            worker.last_seen = self._turn.now

    def restore(self, profiles: Iterable[WorkerProfile]) -> None:
        """Workers that an earlier manager knew: they have their full time to be heard of."""
        for profile in profiles:
            worker = WorkerEntry(profile, next(self._joined), self._turn.now)
            self.workers[profile.name] = worker
            self._board.join(worker)

    def _suspect(self, worker: WorkerEntry, reason: str) -> None:
        if not worker.suspect:
            worker.suspect = True
            self._board.worker_changed(worker)
            self._save(worker, WorkerEventKind.SUSPECT, reason)

    def _forget_departed(self) -> None:
        """Nothing that a worker said is on its way for as long as this."""
        limit = self._turn.now - self._policy.forget_after
        self._departed = {who: at for who, at in self._departed.items() if at > limit}

    def current(self, name: str, incarnation: str) -> WorkerEntry | None:
        worker = self.workers.get(name)
        return worker if worker is not None and worker.incarnation == incarnation else None

    def _seen(self, profile: WorkerProfile, *, replace: bool) -> WorkerEntry | None:
        """The entry of a worker that gives a sign of life, or None for a ghost's."""
        if (profile.name, profile.incarnation) in self._departed:
            return None
        worker = self.workers.get(profile.name)
        if worker is None:
            return self._join(profile)
        if worker.incarnation != profile.incarnation:
            if not replace:
                return None
            self._departed[worker.name, worker.incarnation] = self._turn.now
            self._remove(worker, WorkerEventKind.LOST, Outcome.LOST, "its process was started anew")
            return self._join(profile)
        self._renew(worker, profile)
        return worker

    def _renew(self, worker: WorkerEntry, profile: WorkerProfile) -> None:
        worker.last_seen = self._turn.now
        changed = worker.profile != profile
        if changed:
            self._board.leave(worker, self._turn.now)
            worker.set_profile(profile)
            self._board.join(worker)
        if changed or worker.suspect:
            worker.suspect = False
            self._board.worker_changed(worker)
            reason = "its profile has changed" if changed else "heard of again"
            self._save(worker, WorkerEventKind.CONNECTED, reason)

    def _join(self, profile: WorkerProfile) -> WorkerEntry:
        worker = WorkerEntry(profile, next(self._joined), self._turn.now)
        self.workers[profile.name] = worker
        self._board.join(worker)
        self._save(worker, WorkerEventKind.CONNECTED, "")
        return worker

    def _remove(
        self, worker: WorkerEntry, event: WorkerEventKind, outcome: Outcome, reason: str
    ) -> None:
        del self.workers[worker.name]
        self._board.leave(worker, self._turn.now)
        self._save(worker, event, reason)
        for task in list(worker.attempts.values()):
            self._tasks.end_attempt(
                task, worker, outcome, reason=f"worker {worker.profile.title}: {reason or event}"
            )

    def _cancel_foreign_attempts(self, worker: WorkerEntry, event: Heartbeat) -> None:
        """Nobody waits for attempts that are not its own any more, or that another store had numbered."""
        ours = event.store == self._turn.store
        strangers = tuple(ref for ref in event.holds if not (ours and self._is_held(worker, ref)))
        if strangers:
            self._turn.commands.append(c.CancelAttempts(worker.profile, event.store, strangers))

    def _is_held(self, worker: WorkerEntry, ref: AttemptRef) -> bool:
        task = worker.attempts.get((ref.run, ref.id))
        return task is not None and task.attempt == ref.attempt

    def _resend_missing(self, worker: WorkerEntry, event: Heartbeat) -> None:
        """Of a heartbeat in parts, each says which attempts it would name: the others are not missing."""
        held = event.holds if event.store == self._turn.store else ()
        there = {(ref.run, ref.id, ref.attempt) for ref in held}
        missing = [
            task
            for task in worker.attempts.values()
            if self._is_overdue(task)
            and (*task.key, task.attempt) not in there
            and event.covers_task(*task.key)
        ]
        for task in missing:
            worker.attempts[task.key] = worker.attempts.pop(
                task.key
            )  # it gets there after the others
            task.assigned_at = self._turn.now
            task.is_prefetched = len(worker.attempts) > worker.slots
            self._turn.commands.append(c.Resend(task.key, task.attempt, worker.profile))

    def _is_overdue(self, task: TaskEntry) -> bool:
        return self._turn.now - task.assigned_at >= self._policy.resend_after

    def _save(self, worker: WorkerEntry, event: WorkerEventKind, reason: str) -> None:
        self._turn.commands.append(c.SaveWorker(worker.profile, event, reason, self._turn.now))
