"""Ready tasks and free workers, indexed so that a match costs O(log n) whatever waits.

Tasks with one need form a *class* with a heap of its own; workers with equal skills form a *pool*.
Between two calls of `next_match` that return None, no free worker and ready task match. So a match
can only come from a class that has a new head or from a pool with a worker freed since: those are
the candidates, and neither the tasks that wait nor the workers are ever walked.

A pool keeps a heap of the heads of the classes it may take from. It is not told of every new head:
it reads what is new when one of its workers is free. All heaps are mended lazily: an entry that is
no longer true is put right when it comes to the top.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count

from skillq_manager.core.matching import Order, Policy
from skillq_manager.core.model import Need, Skills, TaskEntry, WorkerEntry

_MANY_CLASSES = 4096  # from here on, empty classes are forgotten

_Fit = tuple[Order, int, "_Pool"]
_Free = tuple[Order, int, WorkerEntry]


class _Class:
    """Ready tasks with one need, and the pools that may take them, best fit first."""

    __slots__ = ("candidate", "fits", "heap", "id", "need", "pools")

    def __init__(self, need: Need, id: int) -> None:
        self.id = id
        self.need = need
        self.candidate: Order | None = None  # its one entry that counts among the board's
        self.heap: list[tuple[Order, int, TaskEntry]] = []
        self.pools: list[_Fit] = []
        self.fits: dict[_Pool, _Fit] = {}

    def head(self) -> tuple[Order, int, TaskEntry] | None:
        while self.heap:
            top = self.heap[0]
            if top[2].ticket == top[1]:
                return top
            heappop(self.heap)
        return None

    def admit(self, pool: "_Pool", fit: Order) -> None:
        self.fits[pool] = (fit, pool.id, pool)
        insort(self.pools, self.fits[pool])

    def expel(self, pool: "_Pool") -> None:
        if pool in self.fits:
            del self.pools[bisect_left(self.pools, self.fits.pop(pool))]


class _Pool:
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
        self.free: list[_Free] = []  # a heap of them
        self.classes: list[tuple[Order, int, _Class]] = []  # a heap of heads
        self.entries: dict[_Class, Order] = {}  # the one entry of each class that counts
        self.seen = 0  # the last of the board's news that it has read

    def offer(self, cls: _Class, rank: Order) -> None:
        self.entries[cls] = rank
        heappush(self.classes, (rank, cls.id, cls))
        if len(self.classes) > 2 * len(self.entries) + 64:
            self.tidy()

    def tidy(self) -> None:
        self.entries = {cls: rank for cls, rank in self.entries.items() if cls.heap}
        self.classes = [(rank, cls.id, cls) for cls, rank in self.entries.items()]
        heapify(self.classes)

    def best(self) -> tuple[Order, _Class] | None:
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

    def first_free(self) -> _Free:
        """Whose turn it is, of a pool that has a free worker."""
        while self.turns.get(self.free[0][2]) is not self.free[0][0]:
            heappop(self.free)
        return self.free[0]


class Board:
    """Matches ready tasks with free workers by a policy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.waiting = 0
        self._classes: dict[Need, _Class] = {}
        self._pools: dict[Skills, _Pool] = {}
        self._homes: dict[WorkerEntry, _Pool] = {}
        self._named: dict[str, WorkerEntry] = {}
        self._excluded: Counter[str] = Counter()  # workers, by how many classes exclude them
        self._free: set[_Pool] = set()  # those that have a free worker
        self._news: dict[_Class, int] = {}  # all that have a head: when it last improved, in order
        self._improved: dict[_Class, None] = {}  # have a new head since the last match
        self._woken: dict[_Pool, None] = {}  # have a free worker, and had none
        self._candidates: list[tuple[Order, int, _Class | _Pool]] = []
        self._count = count(1)
        self._forget_at = _MANY_CLASSES

    # --- tasks

    def add(self, task: TaskEntry) -> None:
        """A task is ready."""
        cls = self._classes.get(task.need) or self._new_class(task.need)
        task.ticket = next(self._count)
        heappush(cls.heap, (self.policy.rank(task), task.ticket, task))
        self.waiting += 1
        head = cls.head()
        if head is not None and head[2] is task:
            self._news.pop(cls, None)
            self._news[cls] = task.ticket
            self._improved[cls] = None

    def discard(self, task: TaskEntry) -> None:
        """A task is no longer ready."""
        if task.ticket:
            task.ticket = 0
            self.waiting -= 1

    # --- workers

    def join(self, worker: WorkerEntry) -> None:
        """A worker may be given work, as far as it is free."""
        skills = self.policy.essence(worker.skills)
        if worker.name in self._excluded:
            skills = skills._replace(alias=worker.name)
        pool = self._pools.get(skills) or self._new_pool(skills)
        pool.members[worker.name] = worker
        self._homes[worker] = pool
        self._named[worker.name] = worker
        self.freed(worker)

    def leave(self, worker: WorkerEntry) -> None:
        """A worker is gone, or its skills change."""
        self._is_busy(worker, self._homes[worker])
        pool = self._homes.pop(worker)
        del self._named[worker.name]
        del pool.members[worker.name]
        if not pool.members:
            del self._pools[pool.skills]
            for cls in self._classes.values():
                cls.expel(pool)

    def freed(self, worker: WorkerEntry) -> None:
        """A worker's slots or availability have changed."""
        pool = self._homes.get(worker)
        if pool is None:
            return
        if worker.is_free:
            pool.put_free(worker, self.policy.turn(worker))
            if pool not in self._free:
                self._free.add(pool)
                self._woken[pool] = None
        else:
            self._is_busy(worker, pool)

    def _is_busy(self, worker: WorkerEntry, pool: _Pool) -> None:
        pool.turns.pop(worker, None)
        if not pool.turns:
            self._free.discard(pool)

    def fleet(self) -> list[Skills]:
        """What the workers that are there can do, each kind once."""
        return list(self._pools)

    def capable(self, need: Need) -> Iterator[WorkerEntry]:
        """The workers that may be given tasks with this need, free or not."""
        for pool in self._pools.values():
            if self.policy.can(pool.skills, need):
                yield from pool.members.values()

    def is_routable(self, need: Need) -> bool:
        """Whether somebody is there who may be given tasks with this need, free or not."""
        return any(self.policy.can(skills, need) for skills in self._pools)

    # --- what waits in vain

    def stuck_by_exclusion(self) -> Iterator[TaskEntry]:
        """Tasks that nobody may be given because of the workers they exclude."""
        for cls in list(self._classes.values()):
            if cls.need.excluded and not cls.pools:
                yield from (task for _, ticket, task in list(cls.heap) if task.ticket == ticket)

    def aged_heads(self, since: float) -> Iterator[TaskEntry]:
        """Tasks first in their class that have been ready since before, and that a reserved worker could take."""
        if not any(skills.reserve for skills in self._pools):
            return
        for cls in list(self._classes.values()):
            head = None if cls.need.aged else cls.head()
            if head is None or head[2].ready_at > since:
                continue
            aged = cls.need._replace(aged=True)
            if sum(self.policy.can(skills, aged) for skills in self._pools) > len(cls.pools):
                yield head[2]

    # --- matching

    def next_match(self) -> tuple[TaskEntry, WorkerEntry] | None:
        """The task that goes first among those a free worker can do, and the worker that suits it best.

        The task leaves the board; the caller gives it to the worker and says so with `freed`.
        """
        if self._improved or self._woken:
            self._gather()
        while self._candidates:
            rank, _, source = self._candidates[0]
            best = self._best(source) if source.candidate == rank else None
            if best is not None and best[0] != rank:
                source.candidate = best[0]
                heapreplace(self._candidates, (best[0], source.id, source))
            elif best is not None and (worker := self._choose(best[1])) is not None:
                return self._take(best[1]), worker
            else:
                heappop(self._candidates)
                source.candidate = None if source.candidate == rank else source.candidate
        return None

    def _gather(self) -> None:
        """Find new candidates: classes with a new head and woken pools; of many pools, rather all classes."""
        sources: Iterable[_Class | _Pool] = self._news
        if 4 * len(self._woken) < len(self._news):
            sources = (*self._improved, *self._woken)
        for source in sources:
            best = self._best(source)
            if best is not None and (source.candidate is None or best[0] < source.candidate):
                source.candidate = best[0]
                heappush(self._candidates, (best[0], source.id, source))
        self._improved.clear()
        self._woken.clear()

    def _best(self, source: _Class | _Pool) -> tuple[Order, _Class] | None:
        """What could be taken next from a class, or by a pool."""
        if isinstance(source, _Class):
            head = source.head()
            return None if head is None else (head[0], source)
        if not source.turns:
            return None
        self._read_news(source)
        return source.best()

    def _read_news(self, pool: _Pool) -> None:
        latest = pool.seen
        for cls, time in reversed(self._news.items()):
            if time <= pool.seen:
                break
            latest = max(latest, time)
            head = cls.head()
            if head is not None and pool in cls.fits:
                pool.offer(cls, head[0])
        pool.seen = latest

    def _take(self, cls: _Class) -> TaskEntry:
        _, _, task = heappop(cls.heap)
        self.discard(task)
        if cls.head() is None:
            del self._news[cls]
        return task

    def _choose(self, cls: _Class) -> WorkerEntry | None:
        """The free worker that suits a class best; where few pools have one, only those are looked at."""
        pools = cls.pools
        if 8 * len(self._free) < len(pools):
            pools = sorted(cls.fits[pool] for pool in self._free if pool in cls.fits)
        chosen: _Free | None = None
        chosen_fit: Order | None = None
        for fit, _, pool in pools:
            if chosen is not None and fit != chosen_fit:
                break
            if pool in self._free:
                first = pool.first_free()
                if chosen is None or first < chosen:
                    chosen, chosen_fit = first, fit
        return None if chosen is None else chosen[2]

    # --- classes and pools

    def _new_class(self, need: Need) -> _Class:
        if len(self._classes) >= self._forget_at:
            self._forget_empty_classes()
        cls = self._classes[need] = _Class(need, next(self._count))
        for name in need.excluded:
            self._exclude(name)
        for pool in self._pools.values():
            self._connect(cls, pool)
        return cls

    def _exclude(self, name: str) -> None:
        """Give a worker a pool of its own: a class can only pass over whole pools."""
        self._excluded[name] += 1
        worker = self._named.get(name)
        if worker is not None and self._homes[worker].skills.alias is None:
            self.leave(worker)
            self.join(worker)

    def _forget_empty_classes(self) -> None:
        for need in [need for need, cls in self._classes.items() if cls.head() is None]:
            del self._classes[need]
            self._excluded.subtract(need.excluded)
        self._excluded = +self._excluded  # those still excluded by some class
        self._news = {cls: time for cls, time in self._news.items() if cls.heap}
        self._forget_at = max(_MANY_CLASSES, 2 * len(self._classes))
        for pool in self._pools.values():
            pool.tidy()

    def _new_pool(self, skills: Skills) -> _Pool:
        pool = self._pools[skills] = _Pool(skills, next(self._count))
        for cls in self._classes.values():
            self._connect(cls, pool)
        return pool

    def _connect(self, cls: _Class, pool: _Pool) -> None:
        if self.policy.can(pool.skills, cls.need):
            cls.admit(pool, self.policy.fit(pool.skills, cls.need))
