"""Ready tasks and free workers, indexed so that a match costs O(log n) whatever waits.

Tasks with one need form a *class* with a heap of its own; workers with equal skills form a *pool*.
Between two calls of `next_match` that return None, no free worker and ready task match. So a match
can only come from a class that has a new head or from a pool with a worker freed since: those are
the candidates, and neither the tasks that wait nor the workers are ever walked.

A pool keeps a heap of the heads of the classes it may take from. It is not told of every new head:
it reads what is new when one of its workers is free. All heaps are mended lazily: an entry that is
no longer true is put right when it comes to the top.

Where a store keeps what is far behind (`head`), a class of very many has only its first tasks here. When those are gone and a
worker is free for the next, the class is *dry*, and nothing is matched until it is refilled: so everything goes in
the order in which it would go if all were here.

All this is kept for two *tiers* of workers: first what free ones can take is matched, and then, where the
policy looks ahead, what may wait for a slot of a worker that has room for it.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import heappop
from itertools import count

from skillq_manager.core.dispatch.backlog import Backlog
from skillq_manager.core.dispatch.lookahead import Lookahead
from skillq_manager.core.dispatch.queues import Free, SlotTier, Source, TaskQueue, WorkerPool
from skillq_manager.core.model import FIRST, DispatchKey, Need, Skills, TaskEntry, WorkerEntry
from skillq_manager.core.rules.matching import Order, Policy

_MANY_QUEUES = 4096  # from here on, empty classes are forgotten


class Board:
    """Matches ready tasks with workers by a policy; of a class that has a shelf, keeps about `head` in a `crowd`."""

    def __init__(self, policy: Policy, lookahead: Lookahead, head: int = 0, crowd: int = 0) -> None:
        self.policy = policy
        self.waiting = 0
        self.skill_counts: dict[Skills, int] = {}  # what the workers can do, by how many are alike
        self._queues: dict[Need, TaskQueue] = {}
        self._pools: dict[Skills, WorkerPool] = {}
        self._pool_of: dict[WorkerEntry, WorkerPool] = {}
        self._by_name: dict[str, WorkerEntry] = {}
        self._excluded: Counter[str] = Counter()  # workers, by how many classes exclude them
        self.overcommitted: dict[WorkerEntry, None] = {}  # have more than slots
        self._new_heads: dict[
            TaskQueue, int
        ] = {}  # all that have a head: when it last improved, in order
        self._free = SlotTier(0, lambda worker: worker.is_free, lambda _: True)
        ahead = SlotTier(1, lookahead.has_room, lookahead.may_go_ahead)
        self._ahead = (ahead,) if policy.looks_ahead else ()
        self._tiers = (self._free, *self._ahead)
        self.backlog = Backlog(head if policy.allows_backlog else 0, self._tiers)
        self._backlog_from = crowd
        self._exhausted = self.backlog.exhausted
        self._changed: dict[WorkerEntry, None] = {}  # may be in another tier than they were
        self._count = count(1)
        self._forget_at = _MANY_QUEUES

    # --- tasks

    def add_task(self, task: TaskEntry) -> None:
        """A task is ready."""
        queue = self._queues.get(task.need) or self._new_queue(task.need, task.ready_at)
        self._put(queue, task)

    def add_new(self, task: TaskEntry) -> bool:
        """A new task is ready; False: its place is on the shelf, and it is not on the board."""
        queue = self._queues.get(task.need) or self._new_queue(task.need, task.ready_at)
        if queue.cutoff is not None and task.dispatch_key >= queue.cutoff and task.fits_backlog:
            return False
        self._put(queue, task)
        if len(queue.heap) > queue.room and self.waiting > self._backlog_from:
            self.backlog.full[queue] = None
        return True

    def _put(self, queue: TaskQueue, task: TaskEntry) -> None:
        task.ticket = next(self._count)
        queue.push((self.policy.task_rank(task), task.ticket, task))
        self.waiting += 1
        first = queue.heap[0]
        if first[2] is task or first[2].ticket != first[1]:
            head = queue.head()
            if head is not None and head[2] is task:
                self._announce(queue, task.ticket)

    def _announce(self, queue: TaskQueue, time: int) -> None:
        """It has a new head."""
        self._new_heads.pop(queue, None)
        self._new_heads[queue] = time
        for tier in self._tiers:
            tier.improved[queue] = None
        if self._exhausted:
            self._exhausted.pop(queue, None)

    def discard(self, task: TaskEntry) -> None:
        """A task is no longer ready."""
        if task.ticket:
            task.ticket = 0
            self.waiting -= 1
            queue = self._queues[task.need]
            queue.on_task_gone()
            self.backlog.update(queue)
            self.reconsider()

    def reconsider(self) -> None:
        """A task that was not allowed to go ahead is gone, or is allowed to by now."""
        for tier in self._ahead:
            tier.reconsider()

    # --- the shelf

    def evict(self) -> Iterator[TaskEntry]:
        """Tasks that leave for the shelf, where a class has more than room."""
        for task in self.backlog.overflow():
            self.discard(task)
            yield task

    def open_backlog(self, need: Need, at: float) -> None:
        """There are tasks with this need on the shelf; nobody knows from where on."""
        queue = self._queues.get(need) or self._new_queue(need, at)
        queue.cutoff = FIRST
        self._exhausted[queue] = None

    def refill(self, need: Need, tasks: Iterable[TaskEntry], horizon: DispatchKey | None) -> None:
        """These come from the shelf: all that was there before `horizon`."""
        queue = self._queues[need]
        self._exhausted.pop(queue, None)
        queue.cutoff = horizon
        for task in tasks:
            self._put(queue, task)
        if queue.head() is not None:
            self._announce(queue, next(self._count))
        self.backlog.update(queue)

    def has_backlog(self, need: Need) -> bool:
        return need in self._queues and self._queues[need].cutoff is not None

    def backlog_queues(self) -> Iterator[tuple[TaskQueue, bool]]:
        """The classes that have a shelf; whether each is known to be dry."""
        return (
            (queue, queue in self._exhausted)
            for queue in self._queues.values()
            if queue.cutoff is not None
        )

    # --- workers

    def join(self, worker: WorkerEntry) -> None:
        """A worker may be given work, as far as it is free."""
        skills = self.policy.relevant_skills(worker.skills)
        if worker.name in self._excluded:
            skills = skills._replace(alias=worker.name)
        pool = self._pools.get(skills) or self._new_pool(skills)
        pool.members[worker.name] = worker
        self._pool_of[worker] = pool
        self.skill_counts[worker.skills] = self.skill_counts.get(worker.skills, 0) + 1
        self._by_name[worker.name] = worker
        self.worker_changed(worker)

    def leave(self, worker: WorkerEntry, at: float) -> None:
        """A worker is gone, or its skills are about to change."""
        for tier in self._tiers:
            tier.remove_worker(worker, self._pool_of[worker])
        self.overcommitted.pop(worker, None)
        self.skill_counts[worker.skills] -= 1
        if not self.skill_counts[worker.skills]:
            del self.skill_counts[worker.skills]
        pool = self._pool_of.pop(worker)
        del self._by_name[worker.name]
        del pool.members[worker.name]
        if not pool.members:
            del self._pools[pool.skills]
            for queue in self._queues.values():
                queue.remove_pool(pool, at)

    def worker_changed(self, worker: WorkerEntry) -> None:
        """A worker's slots or availability have changed. It is looked at once for all of that, when it matters."""
        self._changed[worker] = None

    def settle(self) -> None:
        """Put the workers that have changed into the tiers where they belong now."""
        for worker in self._changed:
            pool = self._pool_of.get(worker)
            if pool is not None:
                self._settle(worker, pool)
        self._changed.clear()

    def _settle(self, worker: WorkerEntry, pool: WorkerPool) -> None:
        is_free = worker.is_free
        if is_free:
            self._free.add_worker(worker, pool, self.policy.worker_rank(worker))
        else:
            self._free.remove_worker(worker, pool)
        for tier in self._ahead:
            if not is_free and tier.admits(worker):
                tier.add_worker(worker, pool, self.policy.worker_rank(worker))
            else:
                tier.remove_worker(worker, pool)
        if len(worker.attempts) > worker.slots:
            self.overcommitted[worker] = None
        elif self.overcommitted:
            self.overcommitted.pop(worker, None)

    def capable(self, need: Need) -> Iterator[WorkerEntry]:
        """The workers that may be given tasks with this need, free or not."""
        for pool in self._pools.values():
            if self.policy.can(pool.skills, need):
                yield from pool.members.values()

    # --- what waits in vain

    def unroutable_since(self, need: Need) -> float | None:
        """Since when nobody is there who may be given waiting tasks with this need; None: somebody is."""
        return self._queues[need].unroutable_since

    def stuck_by_exclusion(self, before: float) -> Iterator[TaskEntry]:
        """Tasks that nobody could be given since before, because of the workers they exclude."""
        for queue in list(self._queues.values()):
            if (
                not queue.need.excluded
                or queue.unroutable_since is None
                or queue.unroutable_since > before
            ):
                continue
            if any(self.capable(queue.need._replace(excluded=frozenset()))):
                yield from (task for _, _, task in queue.entries())

    def aged(self, before: float, most: int) -> list[TaskEntry]:
        """Tasks that have been ready since before and that a reserved worker could take; so many of each class."""
        self.settle()
        reserved = [skills for skills in self._pools if skills.reserve]
        found: list[TaskEntry] = []
        for queue in self._queues.values() if reserved else ():
            if queue.oldest <= before and self._should_age(queue.need, reserved):
                found += queue.ready_since(before, most)
        for queue in self._exhausted if reserved else ():
            if self._should_age(queue.need, self.backlog.waiting_skills()):
                self.backlog.want(queue)
        return found

    def _should_age(self, need: Need, reserved: Iterable[Skills]) -> bool:
        """Whether it would help, and none that has aged before still waits: no backlog ages as a whole."""
        aged, can = need._replace(aged=True), self.policy.can
        if need.aged or not any(can(s, aged) and not can(s, need) for s in reserved):
            return False
        twin = self._queues.get(aged)
        return twin is None or twin.head() is None

    # --- matching

    def next_match(self) -> tuple[TaskEntry, WorkerEntry] | None:
        """The task that goes first among those a free worker can do, and the worker that suits it best.

        Where there is none, the same of workers that have room ahead.
        The task leaves the board; the caller gives it to the worker and says so with `freed`.
        """
        if self._changed:
            self.settle()
        if self._exhausted and self.backlog.is_blocking():
            return None
        for tier in self._tiers:
            # Where nobody is, what is new is looked at when somebody comes.
            if tier.open and (match := self._next_of(tier)) is not None:
                return match
        return None

    def _next_of(self, tier: SlotTier) -> tuple[TaskEntry, WorkerEntry] | None:
        if tier.improved or tier.woken:
            self._gather(tier)
        while tier.candidates:
            rank, _, source = tier.candidates[0]
            best = self._best(source) if tier.ranks.get(source) is rank else None
            if best is None:
                tier.drop_candidate()
            elif best[0] is rank or tier.stays_first(source, best[0]):
                worker = self._choose(best[1], source, tier)
                if worker is not None:
                    return self._take(best[1], tier), worker
                tier.drop_candidate()
        return None

    def _gather(self, tier: SlotTier) -> None:
        """Find new candidates: classes with a new head and woken pools; of many pools, rather all classes."""
        sources: Iterable[Source] = self._new_heads
        if 4 * len(tier.woken) < len(self._new_heads):
            sources = (*tier.improved, *tier.woken)
        for source in sources:
            best = self._best(source)
            if best is not None:
                tier.offer(source, best[0])
        tier.improved.clear()
        tier.woken.clear()

    def _best(self, source: Source) -> tuple[Order, TaskQueue] | None:
        """What could be taken next from a class, or by the pool of a line."""
        if isinstance(source, TaskQueue):
            head = source.head()
            return None if head is None else (head[0], source)
        if not source.ranks:
            return None
        self._read_new_heads(source.pool)
        return source.pool.best()

    def _read_new_heads(self, pool: WorkerPool) -> None:
        latest = pool.seen
        for queue, time in reversed(self._new_heads.items()):
            if time <= pool.seen:
                break
            latest = max(latest, time)
            head = queue.head()
            if head is not None and pool in queue.fits:
                pool.offer(queue, head[0])
        pool.seen = latest

    def _take(self, queue: TaskQueue, tier: SlotTier) -> TaskEntry:
        _, _, task = heappop(queue.heap)
        task.ticket = 0
        self.waiting -= 1
        if queue.head() is None:
            del self._new_heads[queue]
            if queue.cutoff is not None:
                self._exhausted[queue] = None
        if not tier.number:
            self.reconsider()
        return task

    def _choose(self, queue: TaskQueue, source: Source, tier: SlotTier) -> WorkerEntry | None:
        """The worker of a tier that suits a class best; where few pools have one, only those are looked at.

        Nothing overtakes a task that is not allowed to go ahead: it would never find a free worker.
        """
        if tier.number and not tier.allows(queue.heap[0][2]):
            tier.held_up[source] = None
            return None
        pools = queue.pools
        if 8 * len(tier.open) < len(pools):
            pools = sorted(queue.fits[pool] for pool in tier.open if pool in queue.fits)
        chosen: Free | None = None
        chosen_fit: Order | None = None
        for fit, _, pool in pools:
            if chosen is not None and fit != chosen_fit:
                break
            if pool in tier.open and (not tier.held_up or self._is_next(queue, pool, tier)):
                first = pool.worker_queues[tier.number].first()
                if chosen is None or first < chosen:
                    chosen, chosen_fit = first, fit
        return None if chosen is None else chosen[2]

    def _is_next(self, queue: TaskQueue, pool: WorkerPool, tier: SlotTier) -> bool:
        """Whether it goes first of all that a pool may take; else that is not allowed to go ahead."""
        line = pool.worker_queues[tier.number]
        best = self._best(line)
        if best is not None and best[1] is queue:
            return True
        tier.held_up[line] = None
        return False

    # --- what waits at workers

    @property
    def is_uneven(self) -> bool:
        """Whether somebody is idle while tasks wait at somebody else."""
        return bool(self.overcommitted) and bool(self._free.open)

    def next_overcommitted(self) -> Iterator[WorkerEntry]:
        """The workers at which tasks wait; whoever was named last time is named last."""
        for worker in list(self.overcommitted):
            del self.overcommitted[worker]
            self.overcommitted[worker] = None
            yield worker

    def idle_slots(self) -> dict[WorkerPool, int]:
        """How many slots are free, by pool."""
        return {
            pool: sum(w.slots - len(w.attempts) for w in pool.worker_queues[0].ranks)
            for pool in self._free.open
        }

    # --- classes and pools

    def _new_queue(self, need: Need, at: float) -> TaskQueue:
        if len(self._queues) >= self._forget_at:
            self._forget_empty_queues()
        queue = self._queues[need] = TaskQueue(need, next(self._count), at, self.backlog.room)
        for name in need.excluded:
            self._exclude(name, at)
        for pool in self._pools.values():
            self._connect(queue, pool)
        return queue

    def _exclude(self, name: str, at: float) -> None:
        """Give a worker a pool of its own: a class can only pass over whole pools."""
        self._excluded[name] += 1
        worker = self._by_name.get(name)
        if worker is not None and self._pool_of[worker].skills.alias is None:
            self.leave(worker, at)
            self.join(worker)

    def _forget_empty_queues(self) -> None:
        for need in [need for need, queue in self._queues.items() if queue.is_empty]:
            del self._queues[need]
            self._excluded.subtract(need.excluded)
        self._excluded = +self._excluded  # those still excluded by some class
        self._new_heads = {queue: time for queue, time in self._new_heads.items() if queue.heap}
        for tier in self._tiers:
            tier.improved = {queue: None for queue in tier.improved if queue.heap}
        self._forget_at = max(_MANY_QUEUES, 2 * len(self._queues))
        for pool in self._pools.values():
            pool.tidy()

    def _new_pool(self, skills: Skills) -> WorkerPool:
        pool = self._pools[skills] = WorkerPool(skills, next(self._count), len(self._tiers))
        for queue in self._queues.values():
            self._connect(queue, pool)
        return pool

    def _connect(self, queue: TaskQueue, pool: WorkerPool) -> None:
        if self.policy.can(pool.skills, queue.need):
            queue.add_pool(pool, self.policy.fit(pool.skills, queue.need))
