"""Ready tasks and free workers, indexed so that a match costs O(log n) whatever waits.

Tasks with one need form a *class* with a heap of its own; workers with equal skills form a *pool*.
A pool keeps a heap of the heads of the classes it may take from, so neither the number of waiting
tasks nor that of workers is ever walked. Heaps are mended lazily: an entry that is no longer true is
put right when it comes to the top.

Between two calls of `next_match` that return None, no free worker and ready task match.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count

from skillq_manager.core.matching import Order, Policy
from skillq_manager.core.model import Need, Skills, TaskEntry, WorkerEntry

_MANY_CLASSES = 4096  # from here on, empty classes are forgotten


class _Class:
    """Ready tasks with one need, and the pools that may take them, best fit first."""

    __slots__ = ("heap", "need", "pools")

    def __init__(self, need: Need) -> None:
        self.need = need
        self.heap: list[tuple[Order, int, TaskEntry]] = []
        self.pools: list[tuple[Order, int, _Pool]] = []

    def head(self) -> tuple[Order, int, TaskEntry] | None:
        while self.heap:
            top = self.heap[0]
            if top[2].ticket == top[1]:
                return top
            heappop(self.heap)
        return None

    def waiting(self) -> list[TaskEntry]:
        return [task for _, ticket, task in self.heap if task.ticket == ticket]


class _Pool:
    """Workers with equal skills: the free ones, and the classes they may take from."""

    __slots__ = ("candidate", "classes", "entries", "free", "id", "members", "skills")

    def __init__(self, skills: Skills, id: int) -> None:
        self.id = id
        self.skills = skills
        self.candidate: Order | None = (
            None  # the one entry among the board's candidates that counts
        )
        self.members: dict[str, WorkerEntry] = {}
        self.free: list[tuple[Order, int, WorkerEntry]] = []
        self.classes: list[tuple[Order, int, _Class]] = []  # a heap of heads
        self.entries: dict[Need, Order] = {}  # the one entry of each class that counts

    def offer(self, cls: _Class, rank: Order) -> None:
        self.entries[cls.need] = rank
        heappush(self.classes, (rank, id(cls), cls))

    def keep(self, classes: Mapping[Need, _Class]) -> None:
        """Forget all other classes."""
        self.entries = {n: rank for n, rank in self.entries.items() if n in classes}
        self.classes = [entry for entry in self.classes if entry[2].need in classes]
        heapify(self.classes)

    def best(self) -> tuple[Order, _Class] | None:
        """The class whose head goes first among all that this pool may take."""
        while self.classes:
            rank, _, cls = self.classes[0]
            if self.entries.get(cls.need) != rank:
                heappop(self.classes)
            elif (head := cls.head()) is None:
                heappop(self.classes)
                del self.entries[cls.need]
            elif head[0] != rank:
                self.entries[cls.need] = head[0]
                heapreplace(self.classes, (head[0], id(cls), cls))
            else:
                return rank, cls
        return None

    def add_free(self, worker: WorkerEntry, turn: Order) -> None:
        if len(self.free) > 4 * len(self.members) + 64:
            self.free = [entry for entry in self.free if self._holds(entry)]
            heapify(self.free)
        heappush(self.free, (turn, worker.joined, worker))

    def first_free(self, policy: Policy) -> tuple[Order, int, WorkerEntry] | None:
        while self.free:
            turn, _, worker = self.free[0]
            if self._holds(self.free[0]) and policy.turn(worker) == turn:
                return self.free[0]
            heappop(self.free)
        return None

    def _holds(self, entry: tuple[Order, int, WorkerEntry]) -> bool:
        return entry[2].is_free and self.members.get(entry[2].name) is entry[2]


class Board:
    """Matches ready tasks with free workers by a policy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._classes: dict[Need, _Class] = {}
        self._pools: dict[Skills, _Pool] = {}
        self._tickets = count(1)
        self._pool_ids = count(1)
        self._candidates: list[tuple[Order, int, _Pool]] = []
        self._pool_of: dict[str, _Pool] = {}  # by worker
        self._excluded: Counter[str] = Counter()  # workers, by how many classes exclude them
        self.waiting = 0

    # --- tasks

    def add(self, task: TaskEntry) -> None:
        """A task is ready."""
        cls = self._classes.get(task.need) or self._new_class(task.need)
        head = cls.head()
        task.ticket = next(self._tickets)
        rank = self.policy.rank(task)
        heappush(cls.heap, (rank, task.ticket, task))
        self.waiting += 1
        if head is None or rank < head[0]:
            for _, _, pool in cls.pools:
                pool.offer(cls, rank)
                self._consider(pool)

    def discard(self, task: TaskEntry) -> None:
        """A task is no longer ready."""
        if task.ticket:
            task.ticket = 0
            self.waiting -= 1

    # --- workers

    def join(self, worker: WorkerEntry) -> None:
        """A worker may be given work, as far as it is free."""
        alias = worker.name if worker.name in self._excluded else None
        skills = worker.skills._replace(alias=alias)
        pool = self._pools.get(skills) or self._new_pool(skills)
        pool.members[worker.name] = worker
        self._pool_of[worker.name] = pool
        self.freed(worker)

    def leave(self, worker: WorkerEntry) -> None:
        """A worker is gone, or its skills are about to change."""
        pool = self._pool_of.get(worker.name)
        if pool is None or pool.members.get(worker.name) is not worker:
            return
        del self._pool_of[worker.name]
        del pool.members[worker.name]
        if not pool.members:
            del self._pools[pool.skills]
            for cls in self._classes.values():
                cls.pools = [entry for entry in cls.pools if entry[2] is not pool]

    def freed(self, worker: WorkerEntry) -> None:
        """A worker's slots or availability have changed."""
        pool = self._pool_of.get(worker.name)
        if pool is not None and worker.is_free:
            pool.add_free(worker, self.policy.turn(worker))
            self._consider(pool)

    def fleet(self) -> list[Skills]:
        """What the workers that are there can do, each kind once."""
        return list(self._pools)

    # --- matching

    def next_match(self) -> tuple[TaskEntry, WorkerEntry] | None:
        """The task that goes first among those a free worker can do, and the worker that suits it best.

        The task leaves the board; the caller gives it to the worker and says so with `freed`.
        """
        while self._candidates:
            rank, _, pool = self._candidates[0]
            best = pool.best() if pool.candidate == rank else None
            if best is None or pool.first_free(self.policy) is None:
                heappop(self._candidates)
                pool.candidate = None if pool.candidate == rank else pool.candidate
            elif best[0] != rank:
                pool.candidate = best[0]
                heapreplace(self._candidates, (best[0], pool.id, pool))
            else:
                _, _, task = heappop(best[1].heap)
                self.discard(task)
                return task, self._choose(best[1])
        return None

    def _choose(self, cls: _Class) -> WorkerEntry:
        chosen: tuple[Order, int, WorkerEntry] | None = None
        chosen_fit: Order | None = None
        for fit, _, pool in cls.pools:
            if chosen_fit is not None and fit != chosen_fit:
                break
            first = pool.first_free(self.policy)
            if first is not None and (chosen is None or first < chosen):
                chosen, chosen_fit = first, fit
        assert chosen is not None, "a candidate pool had a free worker"  # noqa: S101 - an invariant
        return chosen[2]

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
                yield from cls.waiting()

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

    def _consider(self, pool: _Pool) -> None:
        best = pool.best()
        if best is None or pool.first_free(self.policy) is None:
            return
        if pool.candidate is None or best[0] < pool.candidate:
            pool.candidate = best[0]
            heappush(self._candidates, (best[0], pool.id, pool))

    def _new_class(self, need: Need) -> _Class:
        if len(self._classes) >= _MANY_CLASSES:
            self._forget_empty_classes()
        cls = self._classes[need] = _Class(need)
        for name in need.excluded:
            self._exclude(name)
        for pool in self._pools.values():
            self._connect(cls, pool)
        return cls

    def _exclude(self, name: str) -> None:
        """Give a worker a pool of its own: a class can only pass over whole pools."""
        self._excluded[name] += 1
        pool = self._pool_of.get(name)
        if pool is not None and pool.skills.alias is None:
            worker = pool.members[name]
            self.leave(worker)
            self.join(worker)

    def _forget_empty_classes(self) -> None:
        empty = [need for need, cls in self._classes.items() if cls.head() is None]
        for need in empty:
            del self._classes[need]
            self._excluded.subtract(need.excluded)
        self._excluded = +self._excluded
        for pool in self._pools.values():
            pool.keep(self._classes)

    def _new_pool(self, skills: Skills) -> _Pool:
        pool = self._pools[skills] = _Pool(skills, next(self._pool_ids))
        for cls in self._classes.values():
            self._connect(cls, pool)
            head = cls.head()
            if head is not None and self.policy.can(skills, cls.need):
                pool.offer(cls, head[0])
        return pool

    def _connect(self, cls: _Class, pool: _Pool) -> None:
        if self.policy.can(pool.skills, cls.need):
            cls.pools.append((self.policy.fit(pool.skills, cls.need), pool.id, pool))
            cls.pools.sort(key=lambda entry: entry[:2])
