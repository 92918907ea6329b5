"""The two kinds of queue that `ready.Board` matches: tasks with one need, workers with equal skills.

Of the workers there are two tiers: those with a free slot, and those that may be given something ahead of one.
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from heapq import heapify, heappop, heappush, heapreplace, nsmallest
from math import inf
from typing import TypeAlias

from skillq_manager.core.model import DispatchKey, Need, Skills, TaskEntry, WorkerEntry
from skillq_manager.core.rules.matching import Order

Fit = tuple[Order, int, "WorkerPool"]
Free = tuple[Order, int, WorkerEntry]
Waiting = tuple[Order, int, TaskEntry]
Source: TypeAlias = "TaskQueue | WorkerQueue"


class TaskQueue:
    """Ready tasks with one need, and the pools that may take them, best fit first.

    Those from `horizon` on are on the shelf. A task that is here and belongs among them is not seen before
    they are: there it is as if the class were empty.
    """

    __slots__ = (
        "cutoff",
        "fits",
        "heap",
        "id",
        "need",
        "oldest",
        "pools",
        "room",
        "stale",
        "unroutable_since",
    )

    def __init__(self, need: Need, id: int, at: float, room: float = inf) -> None:
        self.id = id
        self.need = need
        self.heap: list[Waiting] = []
        self.stale = 0  # how many of those are ready no longer
        self.oldest = inf  # no task has been ready for longer
        self.cutoff: DispatchKey | None = None  # None: nothing is on the shelf
        self.room = room  # for so many tasks
        self.pools: list[Fit] = []
        self.fits: dict[WorkerPool, Fit] = {}
        self.unroutable_since: float | None = at  # when the last pool went; None: there are some

    def push(self, entry: Waiting) -> None:
        heappush(self.heap, entry)
        self.oldest = min(self.oldest, entry[2].ready_at)

    def head(self) -> Waiting | None:
        while self.heap:
            top = self.heap[0]
            if top[2].ticket == top[1]:
                if self.cutoff is not None and top[2].dispatch_key >= self.cutoff:
                    return None
                return top
            heappop(self.heap)
            self.stale -= 1
        return None

    def on_task_gone(self) -> None:
        """One of the tasks is ready no longer: those must not pile up behind the head."""
        self.stale += 1
        if self.stale > 64 + len(self.heap) // 2:
            self.heap = self.entries()
            heapify(self.heap)
            self.stale = 0

    @property
    def is_empty(self) -> bool:
        return self.cutoff is None and self.head() is None

    @property
    def is_exhausted(self) -> bool:
        """Whether what goes first is on the shelf."""
        return self.cutoff is not None and self.head() is None

    def last(self, most: int, beside: int) -> list[TaskEntry]:
        """The last of the tasks that the shelf can take, and what comes after them; none of the first `beside`."""
        self.heap = sorted(self.entries())
        self.stale = 0
        return [task for _, _, task in self.heap[beside:] if task.fits_backlog][-most:]

    def entries(self) -> list[Waiting]:
        return [entry for entry in self.heap if entry[2].ticket == entry[1]]

    def ready_since(self, before: float, most: int) -> list[TaskEntry]:
        """The first of the tasks that have been ready since before."""
        waiting = self.entries()
        self.oldest = min((entry[2].ready_at for entry in waiting), default=inf)
        old = nsmallest(most, (entry for entry in waiting if entry[2].ready_at <= before))
        return [task for _, _, task in old]

    def add_pool(self, pool: "WorkerPool", fit: Order) -> None:
        self.unroutable_since = None
        self.fits[pool] = (fit, pool.id, pool)
        insort(self.pools, self.fits[pool])

    def remove_pool(self, pool: "WorkerPool", at: float) -> None:
        if pool in self.fits:
            del self.pools[bisect_left(self.pools, self.fits.pop(pool))]
            if not self.pools:
                self.unroutable_since = at


class WorkerPool:
    """Workers with equal skills: a line of them for each tier, and the classes they may take from."""

    __slots__ = ("entries", "id", "members", "queues", "seen", "skills", "worker_queues")

    def __init__(self, skills: Skills, id: int, tiers: int = 1) -> None:
        self.id = id
        self.skills = skills
        self.members: dict[str, WorkerEntry] = {}
        self.worker_queues = [WorkerQueue(self) for _ in range(tiers)]
        self.queues: list[tuple[Order, int, TaskQueue]] = []  # a heap of heads
        self.entries: dict[TaskQueue, Order] = {}  # the one entry of each class that counts
        self.seen = 0  # the last of the board's news that it has read

    def offer(self, queue: TaskQueue, rank: Order) -> None:
        self.entries[queue] = rank
        heappush(self.queues, (rank, queue.id, queue))
        if len(self.queues) > 2 * len(self.entries) + 64:
            self.tidy()

    def tidy(self) -> None:
        self.entries = {queue: rank for queue, rank in self.entries.items() if queue.heap}
        self.queues = [(rank, queue.id, queue) for queue, rank in self.entries.items()]
        heapify(self.queues)

    def best(self) -> tuple[Order, TaskQueue] | None:
        """The class whose head goes first among all that this pool may take."""
        while self.queues:
            rank, _, queue = self.queues[0]
            if self.entries.get(queue) != rank:
                heappop(self.queues)
            elif (head := queue.head()) is None:
                heappop(self.queues)
                del self.entries[queue]
            elif head[0] != rank:
                self.entries[queue] = head[0]
                heapreplace(self.queues, (head[0], queue.id, queue))
            else:
                return rank, queue
        return None


class WorkerQueue:
    """The workers of a pool that are in one tier: whose turn is it?"""

    __slots__ = ("heap", "id", "pool", "ranks")

    def __init__(self, pool: WorkerPool) -> None:
        self.id = pool.id
        self.pool = pool
        self.ranks: dict[WorkerEntry, Order] = {}
        self.heap: list[Free] = []

    def add_worker(self, worker: WorkerEntry, turn: Order) -> None:
        self.ranks[worker] = turn
        heappush(self.heap, (turn, worker.joined, worker))
        if len(self.heap) > 2 * len(self.ranks) + 64:
            self.heap = [(turn, w.joined, w) for w, turn in self.ranks.items()]
            heapify(self.heap)

    def first(self) -> Free:
        """Of a line that is not empty."""
        while self.ranks.get(self.heap[0][2]) is not self.heap[0][0]:
            heappop(self.heap)
        return self.heap[0]


class SlotTier:
    """What could be matched next with the workers of one tier.

    `admits` says which workers are in it, `allows` which tasks may go to them.
    """

    __slots__ = (
        "admits",
        "allows",
        "candidates",
        "held_up",
        "improved",
        "number",
        "open",
        "ranks",
        "woken",
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
        self.open: set[WorkerPool] = set()  # those whose line is not empty
        self.improved: dict[TaskQueue, None] = {}  # have a new head since the last match
        self.woken: dict[Source, None] = {}  # lines that were empty, and what was held up
        self.held_up: dict[Source, None] = {}  # by a task that is not allowed
        self.candidates: list[tuple[Order, int, Source]] = []
        self.ranks: dict[Source, Order] = {}  # of the one candidate of each source that counts

    def add_worker(self, worker: WorkerEntry, pool: WorkerPool, turn: Order) -> None:
        line = pool.worker_queues[self.number]
        line.add_worker(worker, turn)
        if pool not in self.open:
            self.open.add(pool)
            self.woken[line] = None

    def remove_worker(self, worker: WorkerEntry, pool: WorkerPool) -> None:
        turns = pool.worker_queues[self.number].ranks
        if turns.pop(worker, None) is not None and not turns:
            self.open.discard(pool)

    def reconsider(self) -> None:
        """What was held up may be no longer."""
        if self.held_up:
            self.woken |= self.held_up
            self.held_up.clear()

    def offer(self, source: Source, rank: Order) -> None:
        before = self.ranks.get(source)
        if before is None or rank < before:
            self.ranks[source] = rank
            heappush(self.candidates, (rank, source.id, source))

    def stays_first(self, source: Source, rank: Order) -> bool:
        """The first candidate has another rank than it had; whether it goes first all the same."""
        self.ranks[source] = rank
        heapreplace(self.candidates, (rank, source.id, source))
        # An older candidate of the same source may be there, with a rank that does not count any more.
        return self.candidates[0][0] is rank and self.candidates[0][2] is source

    def drop_candidate(self) -> None:
        """The first candidate brings nothing."""
        rank, _, source = heappop(self.candidates)
        if self.ranks.get(source) is rank:
            del self.ranks[source]
