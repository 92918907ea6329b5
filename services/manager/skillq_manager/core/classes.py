"""The two kinds of queue that `ready.Board` matches: tasks with one need, workers with equal skills."""

from bisect import bisect_left, insort
from heapq import heapify, heappop, heappush, heapreplace, nsmallest
from math import inf

from skillq_manager.core.matching import Order
from skillq_manager.core.model import Need, Skills, TaskEntry, WorkerEntry

Fit = tuple[Order, int, "Pool"]
Free = tuple[Order, int, WorkerEntry]
Waiting = tuple[Order, int, TaskEntry]


class Class:
    """Ready tasks with one need, and the pools that may take them, best fit first."""

    __slots__ = ("candidate", "fits", "heap", "id", "need", "oldest", "pools", "since", "stale")

    def __init__(self, need: Need, id: int, at: float) -> None:
        self.id = id
        self.need = need
        self.candidate: Order | None = None  # its one entry that counts among the board's
        self.heap: list[Waiting] = []
        self.stale = 0  # how many of those are ready no longer
        self.oldest = inf  # no task has been ready for longer
        self.pools: list[Fit] = []
        self.fits: dict[Pool, Fit] = {}
        self.since: float | None = at  # when the last pool went; None: there are some

    def push(self, entry: Waiting) -> None:
        heappush(self.heap, entry)
        self.oldest = min(self.oldest, entry[2].ready_at)

    def head(self) -> Waiting | None:
        while self.heap:
            top = self.heap[0]
            if top[2].ticket == top[1]:
                return top
            heappop(self.heap)
            self.stale -= 1
        return None

    def drop(self) -> None:
        """One of the tasks is ready no longer: those must not pile up behind the head."""
        self.stale += 1
        if self.stale > 64 + len(self.heap) // 2:
            self.heap = self.waiting()
            heapify(self.heap)
            self.stale = 0

    def waiting(self) -> list[Waiting]:
        return [entry for entry in self.heap if entry[2].ticket == entry[1]]

    def ready_since(self, before: float, most: int) -> list[TaskEntry]:
        """The first of the tasks that have been ready since before."""
        waiting = self.waiting()
        self.oldest = min((entry[2].ready_at for entry in waiting), default=inf)
        old = nsmallest(most, (entry for entry in waiting if entry[2].ready_at <= before))
        return [task for _, _, task in old]

    def admit(self, pool: "Pool", fit: Order) -> None:
        self.since = None
        self.fits[pool] = (fit, pool.id, pool)
        insort(self.pools, self.fits[pool])

    def expel(self, pool: "Pool", at: float) -> None:
        if pool in self.fits:
            del self.pools[bisect_left(self.pools, self.fits.pop(pool))]
            if not self.pools:
                self.since = at


class Pool:
    """Workers with equal skills: the free ones, and the classes they may take from."""

    __slots__ = (
        "candidate",
        "classes",
        "entries",
        "free",
        "id",
        "members",
        "seen",
        "skills",
        "turns",
    )

    def __init__(self, skills: Skills, id: int) -> None:
        self.id = id
        self.skills = skills
        self.candidate: Order | None = None  # as a class's
        self.members: dict[str, WorkerEntry] = {}
        self.turns: dict[WorkerEntry, Order] = {}  # of the free ones
        self.free: list[Free] = []  # a heap of them
        self.classes: list[tuple[Order, int, Class]] = []  # a heap of heads
        self.entries: dict[Class, Order] = {}  # the one entry of each class that counts
        self.seen = 0  # the last of the board's news that it has read

    def offer(self, cls: Class, rank: Order) -> None:
        self.entries[cls] = rank
        heappush(self.classes, (rank, cls.id, cls))
        if len(self.classes) > 2 * len(self.entries) + 64:
            self.tidy()

    def tidy(self) -> None:
        self.entries = {cls: rank for cls, rank in self.entries.items() if cls.heap}
        self.classes = [(rank, cls.id, cls) for cls, rank in self.entries.items()]
        heapify(self.classes)

    def best(self) -> tuple[Order, Class] | None:
        """The class whose head goes first among all that this pool may take."""
        while self.classes:
            rank, _, cls = self.classes[0]
            if self.entries.get(cls) != rank:
                heappop(self.classes)
            elif (head := cls.head()) is None:
                heappop(self.classes)
                del self.entries[cls]
            elif head[0] != rank:
                self.entries[cls] = head[0]
                heapreplace(self.classes, (head[0], cls.id, cls))
            else:
                return rank, cls
        return None

    def put_free(self, worker: WorkerEntry, turn: Order) -> None:
        self.turns[worker] = turn
        heappush(self.free, (turn, worker.joined, worker))
        if len(self.free) > 2 * len(self.turns) + 64:
            self.free = [(turn, w.joined, w) for w, turn in self.turns.items()]
            heapify(self.free)

    def first_free(self) -> Free:
        """Whose turn it is, of a pool that has a free worker."""
        while self.turns.get(self.free[0][2]) is not self.free[0][0]:
            heappop(self.free)
        return self.free[0]
