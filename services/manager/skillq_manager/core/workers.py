"""Connected workers: connect, renew leases, become suspect, leave or are lost.

A heartbeat renews the lease of a worker and names the attempts that the worker has; the manager
sends the difference. See docs/adr/0004-one-worker-per-name.md and
docs/adr/0014-let-each-worker-set-its-lease.md.
See docs/adr/0005-number-attempts-per-store.md.
"""

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
    """The connected workers, by name."""

    def __init__(
        self,
        round_state: RoundState,
        board: Board,
        tasks: Tasks,
        due: DueTasks,
        policy: LeasePolicy,
    ) -> None:
        self._round = round_state
        self._board = board
        self._tasks = tasks
        self._due = due
        self._policy = policy
        self._joined = count(1)
        self._departed: dict[tuple[str, str], float] = {}  # (name, incarnation): time of leaving
        self.next_sweep = 0.0
        self.workers: dict[str, WorkerEntry] = {}

    def current_worker(self, name: str, incarnation: str) -> WorkerEntry | None:
        """Return the connected worker, or None if this incarnation is not connected."""
        worker = self.workers.get(name)
        return worker if worker is not None and worker.incarnation == incarnation else None

    # --- events

    def on_connect(self, event: Connect) -> None:
        """Add a worker that is ready, or renew its lease; a new incarnation replaces an old one."""
        if event.ready:
            self._renew_or_join(event.worker, replace=True)

    def on_heartbeat(self, event: Heartbeat) -> None:
        """Renew the lease, cancel attempts the worker must not have, and resend missing ones."""
        # Heartbeats have a queue of their own: the heartbeat of a dead process may arrive after the
        # Connect of its next incarnation.
        worker = self._renew_or_join(event.worker, replace=False)
        if worker is None:
            return
        if worker.draining != event.draining:
            worker.draining = event.draining
            self._board.worker_changed(worker)
        self._cancel_foreign_attempts(worker, event)
        self._resend_missing(worker, event)

    def on_disconnect(self, event: Disconnect) -> None:
        """Remove a worker; its attempts count as returned, and neither as failed nor as lost."""
        self._departed[event.worker, event.incarnation] = self._round.now
        worker = self.current_worker(event.worker, event.incarnation)
        if worker is not None:
            self._remove(worker, WorkerEventKind.DISCONNECTED, Outcome.RETURNED, event.reason)

    def on_assignment_returned(self, event: e.AssignmentReturned) -> None:
        """End the returned attempts; the worker gets nothing new before its next heartbeat."""
        worker = self.current_worker(event.worker, event.incarnation)
        if worker is None:
            return
        self._mark_suspect(worker, "its queue was gone")
        for ref in event.attempts:
            task = self._tasks.live.get((ref.run, ref.id))
            # The assignment of a running attempt had arrived before: no confirm came, so it was
            # resent, and only the second message was returned.
            if (
                task is not None
                and task.worker is worker
                and task.attempt == ref.attempt
                and task.status is not TaskStatus.RUNNING
            ):
                self._tasks.end_attempt(
                    task, worker, Outcome.RETURNED, reason="the worker's queue was gone"
                )

    def on_attempt_returned(self, worker: WorkerEntry, task: TaskEntry) -> None:
        """Mark a worker as draining that returns an attempt without a recall, until a heartbeat."""
        if task.recalled_at is None:
            worker.draining = True
            self._board.worker_changed(worker)

    def on_type_refused(self, worker: WorkerEntry, task_type: str) -> None:
        """Give the worker no more tasks of a type for which it has no handler."""
        self._board.remove_worker(worker, self._round.now)
        worker.skills = worker.skills._replace(refused=worker.skills.refused | {task_type})
        self._board.add_worker(worker)

    def on_heartbeats_lost(self, event: e.HeartbeatsLost) -> None:
        """Judge no worker by its silence while no heartbeat can reach the manager."""
        self._round.heartbeats_lost = True

    def on_heartbeats_recovered(self, event: e.HeartbeatsRecovered) -> None:
        """Start the lease of every worker again."""
        self._round.heartbeats_lost = False
        self._round.listening_since = self._round.now
        for worker in self.workers.values():
            worker.last_seen = self._round.now

    def restore(self, profiles: Iterable[WorkerProfile]) -> None:
        """Add the workers that an earlier manager knew; their leases start now."""
        for profile in profiles:
            worker = WorkerEntry(profile, next(self._joined), self._round.now)
            self.workers[profile.name] = worker
            self._board.add_worker(worker)

    # --- leases

    def sweep(self) -> None:
        """Check all leases, and let waiting tasks age, once per `sweep_every` seconds."""
        if self._round.now < self.next_sweep:
            return
        self._extend_leases(self._round.now - self.next_sweep)
        self.next_sweep = self._round.now + self._policy.sweep_every
        # No message of a worker is on its way for as long as `forget_after`.
        limit = self._round.now - self._policy.forget_after
        self._departed = {process: at for process, at in self._departed.items() if at > limit}
        self._due.age(self._policy.reserve_for)
        self._due.lift_exclusions(self._policy.exclude_for)
        if not self._round.heartbeats_lost:
            self._check_leases()

    def _extend_leases(self, late: float) -> None:
        """Add the time in which this manager was stalled, and received nothing, to all leases."""
        if late > self._policy.late_after:
            self._round.listening_since = self._round.now
        if late > self._policy.sweep_every:
            for worker in self.workers.values():
                worker.last_seen = min(self._round.now, worker.last_seen + late)

    def _check_leases(self) -> None:
        for worker in list(self.workers.values()):
            lease = worker.profile.lease
            verdict = judge(lease, worker.last_seen, self._round.now)
            if verdict is LeaseVerdict.DEAD:
                reason = f"no heartbeat for {lease.dead_after:g} s"
                self._remove(worker, WorkerEventKind.LOST, Outcome.LOST, reason)
            elif verdict is LeaseVerdict.SUSPECT:
                self._mark_suspect(worker, "heartbeats are late")

    def _mark_suspect(self, worker: WorkerEntry, reason: str) -> None:
        if not worker.suspect:
            worker.suspect = True
            self._board.worker_changed(worker)
            self._save_worker(worker, WorkerEventKind.SUSPECT, reason)

    def _renew_or_join(self, profile: WorkerProfile, *, replace: bool) -> WorkerEntry | None:
        """Return the entry of the worker that sent a message, or None if this process has left.

        `replace`: the message proves that an older incarnation with the same name is gone.
        """
        if (profile.name, profile.incarnation) in self._departed:
            return None
        worker = self.workers.get(profile.name)
        if worker is None:
            return self._join(profile)
        if worker.incarnation != profile.incarnation:
            if not replace:
                return None
            self._departed[worker.name, worker.incarnation] = self._round.now
            self._remove(worker, WorkerEventKind.LOST, Outcome.LOST, "its process was restarted")
            return self._join(profile)
        self._renew_lease(worker, profile)
        return worker

    def _renew_lease(self, worker: WorkerEntry, profile: WorkerProfile) -> None:
        worker.last_seen = self._round.now
        changed = worker.profile != profile
        if changed:
            self._board.remove_worker(worker, self._round.now)
            worker.set_profile(profile)
            self._board.add_worker(worker)
        if changed or worker.suspect:
            worker.suspect = False
            self._board.worker_changed(worker)
            reason = "its profile has changed" if changed else "its heartbeats are back"
            self._save_worker(worker, WorkerEventKind.CONNECTED, reason)

    def _join(self, profile: WorkerProfile) -> WorkerEntry:
        worker = WorkerEntry(profile, next(self._joined), self._round.now)
        self.workers[profile.name] = worker
        self._board.add_worker(worker)
        self._save_worker(worker, WorkerEventKind.CONNECTED, "")
        return worker

    def _remove(
        self, worker: WorkerEntry, event: WorkerEventKind, outcome: Outcome, reason: str
    ) -> None:
        """Remove a worker, and end its attempts with this outcome."""
        del self.workers[worker.name]
        self._board.remove_worker(worker, self._round.now)
        self._save_worker(worker, event, reason)
        for task in list(worker.attempts.values()):
            self._tasks.end_attempt(
                task, worker, outcome, reason=f"worker {worker.profile.title}: {reason or event}"
            )

    def _save_worker(self, worker: WorkerEntry, event: WorkerEventKind, reason: str) -> None:
        self._round.commands.append(c.SaveWorker(worker.profile, event, reason, self._round.now))

    # --- what a heartbeat says about attempts

    def _cancel_foreign_attempts(self, worker: WorkerEntry, event: Heartbeat) -> None:
        """Cancel attempts that are not the worker's any more, or that another store numbered."""
        ours = event.store == self._round.store
        foreign = tuple(ref for ref in event.holds if not (ours and _has_attempt(worker, ref)))
        if foreign:
            self._round.commands.append(c.CancelAttempts(worker.profile, event.store, foreign))

    def _resend_missing(self, worker: WorkerEntry, event: Heartbeat) -> None:
        """Resend assignments that the heartbeat should name and does not.

        A large heartbeat comes in parts; each part says which attempts it would name.
        """
        refs = event.holds if event.store == self._round.store else ()
        held = {(ref.run, ref.id, ref.attempt) for ref in refs}
        missing = [
            task
            for task in worker.attempts.values()
            if self._round.now - task.assigned_at >= self._policy.resend_after
            and (*task.key, task.attempt) not in held
            and event.covers_task(*task.key)
        ]
        for task in missing:
            # The worker gets this attempt after the others.
            worker.attempts[task.key] = worker.attempts.pop(task.key)
            task.assigned_at = self._round.now
            task.is_prefetched = len(worker.attempts) > worker.slots
            self._round.commands.append(c.Resend(task.key, task.attempt, worker.profile))


def _has_attempt(worker: WorkerEntry, ref: AttemptRef) -> bool:
    task = worker.attempts.get((ref.run, ref.id))
    return task is not None and task.attempt == ref.attempt
