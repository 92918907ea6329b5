"""An index of ready tasks and free workers, in which a match costs O(log n).

Tasks with one need form a task queue with a heap of its own; workers with equal skills form a worker pool.
After `next_match` has returned None, no free worker can take a ready task. So the next match comes from a
task queue with a new head, or from a pool in which a worker has become free. These are the candidates; a
match never walks over all ready tasks or all workers.

A pool keeps a heap of the heads of the task queues that it may take from. The board numbers each change of a
head, and a pool reads the changes when one of its workers is free. All heaps are lazy: an outdated entry is
removed or corrected when it reaches the top.

If the store keeps a backlog, a long task queue has only its first tasks in memory. When these are gone and a
worker is free for the next task, the queue is exhausted, and the board matches nothing until the queue is
refilled. So tasks are assigned in the same order as if all were in memory.

The board does this for two slot tiers: first workers with a free slot; then, if the policy looks ahead, workers
with room for prefetched attempts.
See docs/adr/0010-put-exclusion-and-escalation-into-the-need.md, docs/adr/0011-reserve-workers-with-ageing.md,
docs/adr/0015-prefetch-by-time-and-recall.md and docs/adr/0016-keep-deep-backlogs-in-the-store.md.
See docs/adr/0017-allow-some-long-files-and-waits-in-tests.md.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import heappop
from itertools import count

from skillq_manager.core.dispatch.backlog import Backlog
from skillq_manager.core.dispatch.lookahead import Lookahead
from skillq_manager.core.dispatch.queues import (
    RankedWorker,
    SlotTier,
    Source,
    TaskQueue,
    WorkerPool,
)
from skillq_manager.core.model import FIRST, DispatchKey, Need, Skills, TaskEntry, WorkerEntry
from skillq_manager.core.rules.matching import Order, Policy

_QUEUES_BEFORE_CLEANUP = 4096  # with so many task queues, the empty ones are removed


class Board:
    """Matches ready tasks with workers by a policy.

    Once more than `evict_above` tasks are ready, about `keep` tasks of each task queue stay in memory and the
    rest is evicted to the backlog. With `keep` 0, or a policy that allows no backlog, all tasks stay in memory.
    """

    def __init__(
        self, policy: Policy, lookahead: Lookahead, keep: int = 0, evict_above: int = 0
    ) -> None:
        self.policy = policy
        self.ready_count = 0
        self.skill_counts: dict[Skills, int] = {}  # number of connected workers with these skills
        self._queues: dict[Need, TaskQueue] = {}
        self._pools: dict[Skills, WorkerPool] = {}
        self._pool_of: dict[WorkerEntry, WorkerPool] = {}
        self._workers_by_name: dict[str, WorkerEntry] = {}
        # By worker name: the number of task queues that exclude the worker.
        self._exclusion_counts: Counter[str] = Counter()
        self.overcommitted: dict[WorkerEntry, None] = {}  # workers with more attempts than slots
        # Each task queue with a head, and the number of the last change to a better head; in this order.
        self._head_changes: dict[TaskQueue, int] = {}
        self._free_tier = SlotTier(0, lambda worker: worker.is_free, lambda _: True)
        lookahead_tier = SlotTier(1, lookahead.has_prefetch_room, lookahead.may_prefetch)
        self._lookahead_tiers = (lookahead_tier,) if policy.looks_ahead else ()
        self._tiers = (self._free_tier, *self._lookahead_tiers)
        self.backlog = Backlog(keep if policy.allows_backlog else 0, self._tiers)
        self._evict_above = evict_above
        self._exhausted = self.backlog.exhausted
        self._changed_workers: dict[WorkerEntry, None] = {}  # may belong to another tier now
        self._sequence = count(1)
        self._cleanup_at = _QUEUES_BEFORE_CLEANUP

    # --- tasks

    def add_task(self, task: TaskEntry) -> None:
        """Add a ready task."""
        queue = self._queues.get(task.need) or self._new_queue(task.need, task.ready_at)
        self._push_task(queue, task)

    def add_new_task(self, task: TaskEntry) -> bool:
        """Add a new ready task; return False, and do not add it, if it belongs in the backlog."""
        queue = self._queues.get(task.need) or self._new_queue(task.need, task.ready_at)
        if queue.cutoff is not None and task.dispatch_key >= queue.cutoff and task.fits_backlog:
            return False
        self._push_task(queue, task)
        if len(queue.heap) > queue.capacity and self.ready_count > self._evict_above:
            self.backlog.full[queue] = None
        return True

    def _push_task(self, queue: TaskQueue, task: TaskEntry) -> None:
        task.ticket = next(self._sequence)
        queue.push((self.policy.task_rank(task), task.ticket, task))
        self.ready_count += 1
        first = queue.heap[0]
        if first[2] is task or first[2].ticket != first[1]:
            head = queue.head()
            if head is not None and head[2] is task:
                self._on_new_head(queue, task.ticket)

    def _on_new_head(self, queue: TaskQueue, change: int) -> None:
        """Record that a queue has a new head; `change` numbers the change."""
        self._head_changes.pop(queue, None)
        self._head_changes[queue] = change
        for tier in self._tiers:
            tier.changed_queues[queue] = None
        if self._exhausted:
            self._exhausted.pop(queue, None)

    def discard_task(self, task: TaskEntry) -> None:
        """Remove a task that is not ready any more; do nothing if it is not on the board."""
        if task.ticket:
            task.ticket = 0
            self.ready_count -= 1
            queue = self._queues[task.need]
            queue.on_task_removed()
            self.backlog.update_exhausted(queue)
            self.recheck_held_up()

    def recheck_held_up(self) -> None:
        """Check held-up sources again: the task that may not be prefetched is gone, or may be now."""
        for tier in self._lookahead_tiers:
            tier.recheck_held_up()

    # --- the backlog

    def evict(self) -> Iterator[TaskEntry]:
        """Remove the last tasks of overfull queues from the board, and yield these tasks."""
        for task in self.backlog.overflow():
            self.discard_task(task)
            yield task

    def open_backlog(self, need: Need, at: float) -> None:
        """Note that the backlog has tasks with this need, from an unknown cutoff on."""
        queue = self._queues.get(need) or self._new_queue(need, at)
        queue.cutoff = FIRST
        self._exhausted[queue] = None

    def refill(self, need: Need, tasks: Iterable[TaskEntry], cutoff: DispatchKey | None) -> None:
        """Add all tasks of the backlog before `cutoff`; None means that the backlog is empty now."""
        queue = self._queues[need]
        self._exhausted.pop(queue, None)
        queue.cutoff = cutoff
        for task in tasks:
            self._push_task(queue, task)
        if queue.head() is not None:
            self._on_new_head(queue, next(self._sequence))
        self.backlog.update_exhausted(queue)

    def has_backlog(self, need: Need) -> bool:
        """Return whether the store keeps a backlog of tasks with this need."""
        return need in self._queues and self._queues[need].cutoff is not None

    def backlog_queues(self) -> Iterator[tuple[TaskQueue, bool]]:
        """Return the queues that have a backlog, each with whether it is known to be exhausted."""
        return (
            (queue, queue in self._exhausted)
            for queue in self._queues.values()
            if queue.cutoff is not None
        )

    # --- workers

    def add_worker(self, worker: WorkerEntry) -> None:
        """Add a worker, which gets tasks as far as it has room."""
        skills = self.policy.relevant_skills(worker.skills)
        if worker.name in self._exclusion_counts:
            skills = skills._replace(alias=worker.name)
        pool = self._pools.get(skills) or self._new_pool(skills)
        pool.members[worker.name] = worker
        self._pool_of[worker] = pool
        self.skill_counts[worker.skills] = self.skill_counts.get(worker.skills, 0) + 1
        self._workers_by_name[worker.name] = worker
        self.worker_changed(worker)

    def remove_worker(self, worker: WorkerEntry, at: float) -> None:
        """Remove a worker that is gone or whose skills are about to change; `at` is the time now."""
        for tier in self._tiers:
            tier.remove_worker(worker, self._pool_of[worker])
        self.overcommitted.pop(worker, None)
        self.skill_counts[worker.skills] -= 1
        if not self.skill_counts[worker.skills]:
            del self.skill_counts[worker.skills]
        pool = self._pool_of.pop(worker)
        del self._workers_by_name[worker.name]
        del pool.members[worker.name]
        if not pool.members:
            del self._pools[pool.skills]
            for queue in self._queues.values():
                queue.remove_pool(pool, at)

    def worker_changed(self, worker: WorkerEntry) -> None:
        """Note that a worker's slots or availability have changed, for `update_tiers`."""
        self._changed_workers[worker] = None

    def update_tiers(self) -> None:
        """Move each changed worker to the tier to which it belongs now."""
        for worker in self._changed_workers:
            pool = self._pool_of.get(worker)
            if pool is not None:
                self._update_tiers_of(worker, pool)
        self._changed_workers.clear()

    def _update_tiers_of(self, worker: WorkerEntry, pool: WorkerPool) -> None:
        is_free = worker.is_free
        if is_free:
            self._free_tier.add_worker(worker, pool, self.policy.worker_rank(worker))
        else:
            self._free_tier.remove_worker(worker, pool)
        for tier in self._lookahead_tiers:
            if not is_free and tier.admits(worker):
                tier.add_worker(worker, pool, self.policy.worker_rank(worker))
            else:
                tier.remove_worker(worker, pool)
        if len(worker.attempts) > worker.slots:
            self.overcommitted[worker] = None
        elif self.overcommitted:
            self.overcommitted.pop(worker, None)

    def capable_workers(self, need: Need) -> Iterator[WorkerEntry]:
        """Yield the workers that may get tasks with this need, free or not."""
        for pool in self._pools.values():
            if self.policy.can(pool.skills, need):
                yield from pool.members.values()

    # --- tasks that no worker takes

    def unroutable_since(self, need: Need) -> float | None:
        """Return since when no connected worker may get tasks with this need, or None if one may."""
        return self._queues[need].unroutable_since

    def stuck_by_exclusion(self, before: float) -> Iterator[TaskEntry]:
        """Yield tasks that no worker can get, since `before` or earlier, because of exclusions."""
        for queue in list(self._queues.values()):
            if (
                not queue.need.excluded
                or queue.unroutable_since is None
                or queue.unroutable_since > before
            ):
                continue
            if any(self.capable_workers(queue.need._replace(excluded=frozenset()))):
                yield from (task for _, _, task in queue.current_entries())

    def tasks_to_age(self, before: float, limit: int) -> list[TaskEntry]:
        """Return up to `limit` tasks of each queue to age, ready since `before` or earlier.

        A task is aged if a reserved worker can take it then. An exhausted queue with such tasks is refilled.
        """
        self.update_tiers()
        reserved = [skills for skills in self._pools if skills.reserve]
        found: list[TaskEntry] = []
        for queue in self._queues.values() if reserved else ():
            if queue.oldest_ready_at <= before and self._should_age(queue.need, reserved):
                found += queue.ready_since(before, limit)
        for queue in self._exhausted if reserved else ():
            if self._should_age(queue.need, self.backlog.open_skills()):
                self.backlog.want_for_ageing(queue)
        return found

    def _should_age(self, need: Need, reserved: Iterable[Skills]) -> bool:
        """Return whether a reserved worker could take tasks with this need if they were aged.

        No task is aged while an earlier aged task with this need is ready: a long queue ages in small steps.
        """
        aged, can = need._replace(aged=True), self.policy.can
        if need.aged or not any(can(s, aged) and not can(s, need) for s in reserved):
            return False
        aged_queue = self._queues.get(aged)
        return aged_queue is None or aged_queue.head() is None

    # --- matching

    def next_match(self) -> tuple[TaskEntry, WorkerEntry] | None:
        """Remove the first task that a free worker can do; return it and the best worker for it.

        If there is no such task, do the same for workers with room for prefetched attempts; else return None.
        The caller assigns the task to the worker and reports the change with `worker_changed`.
        """
        if self._changed_workers:
            self.update_tiers()
        if self._exhausted and self.backlog.is_blocking():
            return None
        for tier in self._tiers:
            # A tier without workers keeps its changes until a worker enters it.
            if tier.open_pools and (match := self._next_match_in(tier)) is not None:
                return match
        return None

    def _next_match_in(self, tier: SlotTier) -> tuple[TaskEntry, WorkerEntry] | None:
        if tier.changed_queues or tier.to_recheck:
            self._collect_candidates(tier)
        while tier.candidates:
            rank, _, source = tier.candidates[0]
            best = self._best_queue(source) if tier.candidate_ranks.get(source) is rank else None
            if best is None:
                tier.drop_first_candidate()
            elif best[0] is rank or tier.rerank_first(source, best[0]):
                worker = self._choose_worker(best[1], source, tier)
                if worker is not None:
                    return self._take_task(best[1], tier), worker
                tier.drop_first_candidate()
        return None

    def _collect_candidates(self, tier: SlotTier) -> None:
        """Add the new candidates: queues with a new head, and worker queues to check again.

        If many worker queues are to be checked, it is cheaper to check all task queues that have a head.
        """
        sources: Iterable[Source] = self._head_changes
        if 4 * len(tier.to_recheck) < len(self._head_changes):
            sources = (*tier.changed_queues, *tier.to_recheck)
        for source in sources:
            best = self._best_queue(source)
            if best is not None:
                tier.add_candidate(source, best[0])
        tier.changed_queues.clear()
        tier.to_recheck.clear()

    def _best_queue(self, source: Source) -> tuple[Order, TaskQueue] | None:
        """Return the rank and the task queue of the first task that a source can give, or None."""
        if isinstance(source, TaskQueue):
            head = source.head()
            return None if head is None else (head[0], source)
        if not source.ranks:
            return None
        self._read_head_changes(source.pool)
        return source.pool.best_queue()

    def _read_head_changes(self, pool: WorkerPool) -> None:
        """Enter into a pool the heads that have changed since it last read the changes."""
        latest = pool.last_change_read
        for queue, change in reversed(self._head_changes.items()):
            if change <= pool.last_change_read:
                break
            latest = max(latest, change)
            head = queue.head()
            if head is not None and pool in queue.fits:
                pool.add_queue(queue, head[0])
        pool.last_change_read = latest

    def _take_task(self, queue: TaskQueue, tier: SlotTier) -> TaskEntry:
        """Remove and return the head of a queue."""
        _, _, task = heappop(queue.heap)
        task.ticket = 0
        self.ready_count -= 1
        if queue.head() is None:
            del self._head_changes[queue]
            if queue.cutoff is not None:
                self._exhausted[queue] = None
        if not tier.number:
            self.recheck_held_up()
        return task

    def _choose_worker(
        self, queue: TaskQueue, source: Source, tier: SlotTier
    ) -> WorkerEntry | None:
        """Return the worker of a tier that fits a queue best, or None if the source is held up.

        If few pools have a worker in the tier, only these pools are compared. No task overtakes a task that
        may not be prefetched: otherwise that task would never find a free worker.
        """
        if tier.number and not tier.allows(queue.heap[0][2]):
            tier.held_up[source] = None
            return None
        pools = queue.pools
        if 8 * len(tier.open_pools) < len(pools):
            pools = sorted(queue.fits[pool] for pool in tier.open_pools if pool in queue.fits)
        chosen: RankedWorker | None = None
        chosen_fit: Order | None = None
        for fit, _, pool in pools:
            if chosen is not None and fit != chosen_fit:
                break
            if pool in tier.open_pools and (
                not tier.held_up or self._is_first_choice(queue, pool, tier)
            ):
                first = pool.worker_queues[tier.number].first_worker()
                if chosen is None or first < chosen:
                    chosen, chosen_fit = first, fit
        return None if chosen is None else chosen[2]

    def _is_first_choice(self, queue: TaskQueue, pool: WorkerPool, tier: SlotTier) -> bool:
        """Return whether a queue has the first task that a pool may take, or hold the pool up.

        The first task of the pool then is a task that may not be prefetched.
        """
        worker_queue = pool.worker_queues[tier.number]
        best = self._best_queue(worker_queue)
        if best is not None and best[1] is queue:
            return True
        tier.held_up[worker_queue] = None
        return False

    # --- prefetched attempts

    @property
    def has_uneven_load(self) -> bool:
        """Return whether a worker has a free slot while another one is overcommitted."""
        return bool(self.overcommitted) and bool(self._free_tier.open_pools)

    def next_overcommitted(self) -> Iterator[WorkerEntry]:
        """Yield the overcommitted workers; each one moves to the end of the order."""
        for worker in list(self.overcommitted):
            del self.overcommitted[worker]
            self.overcommitted[worker] = None
            yield worker

    def idle_slots(self) -> dict[WorkerPool, int]:
        """Return the number of free slots of each pool that has any."""
        return {
            pool: sum(w.slots - len(w.attempts) for w in pool.worker_queues[0].ranks)
            for pool in self._free_tier.open_pools
        }

    # --- task queues and worker pools

    def _new_queue(self, need: Need, at: float) -> TaskQueue:
        if len(self._queues) >= self._cleanup_at:
            self._remove_empty_queues()
        queue = self._queues[need] = TaskQueue(
            need, next(self._sequence), at, self.backlog.queue_capacity
        )
        for name in need.excluded:
            self._isolate_worker(name, at)
        for pool in self._pools.values():
            self._connect_pool(queue, pool)
        return queue

    def _isolate_worker(self, name: str, at: float) -> None:
        """Give an excluded worker a pool of its own, because a queue can only exclude whole pools."""
        self._exclusion_counts[name] += 1
        worker = self._workers_by_name.get(name)
        if worker is not None and self._pool_of[worker].skills.alias is None:
            self.remove_worker(worker, at)
            self.add_worker(worker)

    def _remove_empty_queues(self) -> None:
        for need in [need for need, queue in self._queues.items() if queue.is_empty]:
            del self._queues[need]
            self._exclusion_counts.subtract(need.excluded)
        self._exclusion_counts = +self._exclusion_counts  # drops the zeros
        self._head_changes = {
            queue: change for queue, change in self._head_changes.items() if queue.heap
        }
        for tier in self._tiers:
            tier.changed_queues = {queue: None for queue in tier.changed_queues if queue.heap}
        self._cleanup_at = max(_QUEUES_BEFORE_CLEANUP, 2 * len(self._queues))
        for pool in self._pools.values():
            pool.rebuild_heap()

    def _new_pool(self, skills: Skills) -> WorkerPool:
        pool = self._pools[skills] = WorkerPool(skills, next(self._sequence), len(self._tiers))
        for queue in self._queues.values():
            self._connect_pool(queue, pool)
        return pool

    def _connect_pool(self, queue: TaskQueue, pool: WorkerPool) -> None:
        if self.policy.can(pool.skills, queue.need):
            queue.add_pool(pool, self.policy.fit(pool.skills, queue.need))
