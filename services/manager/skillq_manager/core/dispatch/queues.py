"""The queues that `board.Board` matches: task queues, worker pools and slot tiers.

A task queue holds the ready tasks with one need. A worker pool holds the workers with equal skills.
There are two slot tiers: workers with a free slot, and workers with room for prefetched attempts.
A pool has one worker queue for each tier. All heaps are lazy: an outdated entry is removed or
corrected when it reaches the top.
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace, nsmallest
from math import inf
from typing import TypeAlias

from skillq_manager.core.model import DispatchKey, Need, Skills, TaskEntry, WorkerEntry
from skillq_manager.core.rules.matching import Order

PoolFit = tuple[Order, int, "WorkerPool"]  # how well the pool fits, pool id, pool
RankedWorker = tuple[Order, int, WorkerEntry]  # rank, order of arrival, worker
RankedTask = tuple[Order, int, TaskEntry]  # rank, ticket, task
Source: TypeAlias = "TaskQueue | WorkerQueue"


class TaskQueue:
    """Ready tasks with one need, and the pools that may take these tasks, best fit first.

    Tasks from `cutoff` on are in the backlog. A task in memory that comes after the cutoff is hidden
    until the backlog before it is loaded: if only such tasks remain, the queue has no head.
    """

    __slots__ = (
        "capacity",
        "cutoff",
        "fits",
        "heap",
        "id",
        "need",
        "oldest_ready_at",
        "outdated_count",
        "pools",
        "unroutable_since",
    )

    def __init__(self, need: Need, id: int, at: float, capacity: float = inf) -> None:
        self.id = id
        self.need = need
        self.heap: list[RankedTask] = []
        self.outdated_count = 0  # entries of `heap` whose task is not ready any more
        self.oldest_ready_at = inf  # a lower bound of `ready_at` of the tasks
        self.cutoff: DispatchKey | None = None  # None: no backlog
        self.capacity = capacity  # with more tasks than this, some are evicted
        self.pools: list[PoolFit] = []
        self.fits: dict[WorkerPool, PoolFit] = {}
        self.unroutable_since: float | None = at  # since when no pool fits; None: one does

    def push(self, entry: RankedTask) -> None:
        """Add a ready task."""
        heappush(self.heap, entry)
        self.oldest_ready_at = min(self.oldest_ready_at, entry[2].ready_at)

    def head(self) -> RankedTask | None:
        """Return the first task, or None if the queue is empty or its next task is in the backlog."""
        while self.heap:
            top = self.heap[0]
            if top[2].ticket == top[1]:
                if self.cutoff is not None and top[2].dispatch_key >= self.cutoff:
                    return None
                return top
            heappop(self.heap)
            self.outdated_count -= 1
        return None

    def on_task_removed(self) -> None:
        """Count an outdated entry; rebuild the heap when too many of its entries are outdated."""
        self.outdated_count += 1
        if self.outdated_count > 64 + len(self.heap) // 2:
            self.heap = self.current_entries()
            heapify(self.heap)
            self.outdated_count = 0

    @property
    def is_empty(self) -> bool:
        """Return whether neither memory nor the backlog has a task of this queue."""
        return self.cutoff is None and self.head() is None

    @property
    def is_exhausted(self) -> bool:
        """Return whether the next task of this queue is in the backlog."""
        return self.cutoff is not None and self.head() is None

    def last_tasks(self, limit: int, skip: int) -> list[TaskEntry]:
        """Return up to `limit` last tasks that fit the backlog, never one of the first `skip`."""
        self.heap = sorted(self.current_entries())
        self.outdated_count = 0
        return [task for _, _, task in self.heap[skip:] if task.fits_backlog][-limit:]

    def current_entries(self) -> list[RankedTask]:
        """Return the entries whose task is still ready, in no particular order."""
        return [entry for entry in self.heap if entry[2].ticket == entry[1]]

    def ready_since(self, before: float, limit: int) -> list[TaskEntry]:
        """Return the first `limit` tasks that became ready at `before` or earlier, in their order."""
        current = self.current_entries()
        self.oldest_ready_at = min((entry[2].ready_at for entry in current), default=inf)
        old = nsmallest(limit, (entry for entry in current if entry[2].ready_at <= before))
        return [task for _, _, task in old]

    def add_pool(self, pool: "WorkerPool", fit: Order) -> None:
        """Let a pool take tasks of this queue; `fit` is the policy's order of pools for this need."""
        self.unroutable_since = None
        self.fits[pool] = (fit, pool.id, pool)
        insort(self.pools, self.fits[pool])

    def remove_pool(self, pool: "WorkerPool", at: float) -> None:
        """Remove a pool that has no members any more, if it could take tasks of this queue."""
        if pool in self.fits:
            del self.pools[bisect_left(self.pools, self.fits.pop(pool))]
            if not self.pools:
                self.unroutable_since = at


class WorkerPool:
    """Workers with equal skills, and the task queues from which these workers may take."""

    __slots__ = (
        "id",
        "last_change_read",
        "members",
        "queue_heap",
        "queue_ranks",
        "skills",
        "worker_queues",
    )

    def __init__(self, skills: Skills, id: int, tiers: int = 1) -> None:
        self.id = id
        self.skills = skills
        self.members: dict[str, WorkerEntry] = {}
        self.worker_queues = [WorkerQueue(self) for _ in range(tiers)]
        self.queue_heap: list[tuple[Order, int, TaskQueue]] = []  # by the rank of their heads
        self.queue_ranks: dict[
            TaskQueue, Order
        ] = {}  # the current entry of each queue in `queue_heap`
        self.last_change_read = 0  # the number of the last head change that it has read

    def add_queue(self, queue: TaskQueue, rank: Order) -> None:
        """Enter a task queue with the rank of its head; this replaces an earlier entry."""
        self.queue_ranks[queue] = rank
        heappush(self.queue_heap, (rank, queue.id, queue))
        if len(self.queue_heap) > 2 * len(self.queue_ranks) + 64:
            self.rebuild_heap()

    def rebuild_heap(self) -> None:
        """Drop outdated entries and the entries of queues without tasks in memory."""
        self.queue_ranks = {queue: rank for queue, rank in self.queue_ranks.items() if queue.heap}
        self.queue_heap = [(rank, queue.id, queue) for queue, rank in self.queue_ranks.items()]
        heapify(self.queue_heap)

    def best_queue(self) -> tuple[Order, TaskQueue] | None:
        """Return the rank and the queue of the first task that this pool may take, or None."""
        while self.queue_heap:
            rank, _, queue = self.queue_heap[0]
            if self.queue_ranks.get(queue) != rank:
                heappop(self.queue_heap)
            elif (head := queue.head()) is None:
                heappop(self.queue_heap)
                del self.queue_ranks[queue]
            elif head[0] != rank:
                self.queue_ranks[queue] = head[0]
                heapreplace(self.queue_heap, (head[0], queue.id, queue))
            else:
                return rank, queue
        return None


class WorkerQueue:
    """The workers of a pool that are in one tier, in the order in which they get tasks."""

    __slots__ = ("heap", "id", "pool", "ranks")

    def __init__(self, pool: WorkerPool) -> None:
        self.id = pool.id
        self.pool = pool
        self.ranks: dict[WorkerEntry, Order] = {}
        self.heap: list[RankedWorker] = []

    def add_worker(self, worker: WorkerEntry, rank: Order) -> None:
        """Add a worker, or give it a new rank."""
        self.ranks[worker] = rank
        heappush(self.heap, (rank, worker.joined, worker))
        if len(self.heap) > 2 * len(self.ranks) + 64:
            self.heap = [(order, w.joined, w) for w, order in self.ranks.items()]
            heapify(self.heap)

    def first_worker(self) -> RankedWorker:
        """Return the worker that gets the next task; the queue must not be empty."""
        while self.ranks.get(self.heap[0][2]) is not self.heap[0][0]:
            heappop(self.heap)
        return self.heap[0]


class SlotTier:
    """The candidates for the next match with the workers of one tier.

    `admits` decides whether a worker belongs to the tier, `allows` whether a task may go to its workers.
    A candidate comes from a source: a task queue with a new head, or a worker queue that was empty.
    """

    __slots__ = (
        "admits",
        "allows",
        "candidate_ranks",
        "candidates",
        "changed_queues",
        "held_up",
        "number",
        "open_pools",
        "to_recheck",
    )

    def __init__(
        self,
        number: int,
        admits: Callable[[WorkerEntry], bool],
        allows: Callable[[TaskEntry], bool],
    ) -> None:
        self.number = number
        self.admits = admits
        self.allows = allows
        self.open_pools: set[WorkerPool] = set()  # pools with a worker in this tier
        self.changed_queues: dict[TaskQueue, None] = {}  # got a new head since the last match
        self.to_recheck: dict[
            Source, None
        ] = {}  # worker queues that were empty, and sources that were held up
        self.held_up: dict[
            Source, None
        ] = {}  # sources whose first task is not allowed in this tier
        self.candidates: list[tuple[Order, int, Source]] = []
        self.candidate_ranks: dict[Source, Order] = {}  # the current candidate of each source

    def add_worker(self, worker: WorkerEntry, pool: WorkerPool, rank: Order) -> None:
        """Add a worker to this tier, or give it a new rank."""
        worker_queue = pool.worker_queues[self.number]
        worker_queue.add_worker(worker, rank)
        if pool not in self.open_pools:
            self.open_pools.add(pool)
            self.to_recheck[worker_queue] = None

    def remove_worker(self, worker: WorkerEntry, pool: WorkerPool) -> None:
        """Remove a worker from this tier, if it is in it."""
        ranks = pool.worker_queues[self.number].ranks
        if ranks.pop(worker, None) is not None and not ranks:
            self.open_pools.discard(pool)

    def recheck_held_up(self) -> None:
        """Check every held-up source again at the next match."""
        if self.held_up:
            self.to_recheck |= self.held_up
            self.held_up.clear()

    def add_candidate(self, source: Source, rank: Order) -> None:
        """Add a candidate, unless its source has one with an equal or better rank."""
        earlier = self.candidate_ranks.get(source)
        if earlier is None or rank < earlier:
            self.candidate_ranks[source] = rank
            heappush(self.candidates, (rank, source.id, source))

    def rerank_first(self, source: Source, rank: Order) -> bool:
        """Give the first candidate its new rank; return whether it is still the first."""
        self.candidate_ranks[source] = rank
        heapreplace(self.candidates, (rank, source.id, source))
        # The heap may have an outdated candidate of the same source with another rank.
        return self.candidates[0][0] is rank and self.candidates[0][2] is source

    def drop_first_candidate(self) -> None:
        """Remove the first candidate: it gives no match."""
        rank, _, source = heappop(self.candidates)
        if self.candidate_ranks.get(source) is rank:
            del self.candidate_ranks[source]
