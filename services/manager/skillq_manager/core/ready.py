"""Ready tasks and free workers, indexed so that a match costs O(log n) whatever waits.

Tasks with one need form a *class* with a heap of its own; workers with equal skills form a *pool*.
Between two calls of `next_match` that return None, no free worker and ready task match. So a match
can only come from a class that has a new head or from a pool with a worker freed since: those are
the candidates, and neither the tasks that wait nor the workers are ever walked.

A pool keeps a heap of the heads of the classes it may take from. It is not told of every new head:
it reads what is new when one of its workers is free. All heaps are mended lazily: an entry that is
no longer true is put right when it comes to the top.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush, heapreplace
from itertools import count

from skillq_manager.core.classes import Class, Free, Pool
from skillq_manager.core.matching import Order, Policy
from skillq_manager.core.model import Need, Skills, TaskEntry, WorkerEntry

_MANY_CLASSES = 4096  # from here on, empty classes are forgotten


class Board:
    """Matches ready tasks with free workers by a policy."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.waiting = 0
        self.kinds: dict[Skills, int] = {}  # what the workers can do, by how many are alike
        self._classes: dict[Need, Class] = {}
        self._pools: dict[Skills, Pool] = {}
        self._homes: dict[WorkerEntry, Pool] = {}
        self._named: dict[str, WorkerEntry] = {}
        self._excluded: Counter[str] = Counter()  # workers, by how many classes exclude them
        self._free: set[Pool] = set()  # those that have a free worker
        self._news: dict[Class, int] = {}  # all that have a head: when it last improved, in order
        self._improved: dict[Class, None] = {}  # have a new head since the last match
        self._woken: dict[Pool, None] = {}  # have a free worker, and had none
        self._candidates: list[tuple[Order, int, Class | Pool]] = []
        self._count = count(1)
        self._forget_at = _MANY_CLASSES

    # --- tasks

    def add(self, task: TaskEntry) -> None:
        """A task is ready."""
        cls = self._classes.get(task.need) or self._new_class(task.need, task.ready_at)
        task.ticket = next(self._count)
        cls.push((self.policy.rank(task), task.ticket, task))
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
            self._classes[task.need].drop()

    # --- workers

    def join(self, worker: WorkerEntry) -> None:
        """A worker may be given work, as far as it is free."""
        skills = self.policy.essence(worker.skills)
        if worker.name in self._excluded:
            skills = skills._replace(alias=worker.name)
        pool = self._pools.get(skills) or self._new_pool(skills)
        pool.members[worker.name] = worker
        self._homes[worker] = pool
        self.kinds[worker.skills] = self.kinds.get(worker.skills, 0) + 1
        self._named[worker.name] = worker
        self.freed(worker)

    def leave(self, worker: WorkerEntry, at: float) -> None:
        """A worker is gone, or its skills are about to change."""
        self._is_busy(worker, self._homes[worker])
        self.kinds[worker.skills] -= 1
        if not self.kinds[worker.skills]:
            del self.kinds[worker.skills]
        pool = self._homes.pop(worker)
        del self._named[worker.name]
        del pool.members[worker.name]
        if not pool.members:
            del self._pools[pool.skills]
            for cls in self._classes.values():
                cls.expel(pool, at)

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

    def _is_busy(self, worker: WorkerEntry, pool: Pool) -> None:
        pool.turns.pop(worker, None)
        if not pool.turns:
            self._free.discard(pool)

    def capable(self, need: Need) -> Iterator[WorkerEntry]:
        """The workers that may be given tasks with this need, free or not."""
        for pool in self._pools.values():
            if self.policy.can(pool.skills, need):
                yield from pool.members.values()

    # --- what waits in vain

    def unroutable_since(self, need: Need) -> float | None:
        """Since when nobody is there who may be given waiting tasks with this need; None: somebody is."""
        return self._classes[need].since

    def stuck_by_exclusion(self, before: float) -> Iterator[TaskEntry]:
        """Tasks that nobody could be given since before, because of the workers they exclude."""
        for cls in list(self._classes.values()):
            if not cls.need.excluded or cls.since is None or cls.since > before:
                continue
            if any(self.capable(cls.need._replace(excluded=frozenset()))):
                yield from (task for _, _, task in cls.waiting())

    def aged(self, before: float, most: int) -> list[TaskEntry]:
        """Tasks that have been ready since before and that a reserved worker could take; so many of each class."""
        reserved = [skills for skills in self._pools if skills.reserve]
        found: list[TaskEntry] = []
        for cls in self._classes.values() if reserved else ():
            if not cls.need.aged and cls.oldest <= before and self._would_help(reserved, cls.need):
                found += cls.ready_since(before, most)
        return found

    def _would_help(self, reserved: Iterable[Skills], need: Need) -> bool:
        aged = need._replace(aged=True)
        return any(self.policy.can(s, aged) and not self.policy.can(s, need) for s in reserved)

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
        sources: Iterable[Class | Pool] = self._news
        if 4 * len(self._woken) < len(self._news):
            sources = (*self._improved, *self._woken)
        for source in sources:
            best = self._best(source)
            if best is not None and (source.candidate is None or best[0] < source.candidate):
                source.candidate = best[0]
                heappush(self._candidates, (best[0], source.id, source))
        self._improved.clear()
        self._woken.clear()

    def _best(self, source: Class | Pool) -> tuple[Order, Class] | None:
        """What could be taken next from a class, or by a pool."""
        if isinstance(source, Class):
            head = source.head()
            return None if head is None else (head[0], source)
        if not source.turns:
            return None
        self._read_news(source)
        return source.best()

    def _read_news(self, pool: Pool) -> None:
        latest = pool.seen
        for cls, time in reversed(self._news.items()):
            if time <= pool.seen:
                break
            latest = max(latest, time)
            head = cls.head()
            if head is not None and pool in cls.fits:
                pool.offer(cls, head[0])
        pool.seen = latest

    def _take(self, cls: Class) -> TaskEntry:
        _, _, task = heappop(cls.heap)
        task.ticket = 0
        self.waiting -= 1
        if cls.head() is None:
            del self._news[cls]
        return task

    def _choose(self, cls: Class) -> WorkerEntry | None:
        """The free worker that suits a class best; where few pools have one, only those are looked at."""
        pools = cls.pools
        if 8 * len(self._free) < len(pools):
            pools = sorted(cls.fits[pool] for pool in self._free if pool in cls.fits)
        chosen: Free | None = None
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

    def _new_class(self, need: Need, at: float) -> Class:
        if len(self._classes) >= self._forget_at:
            self._forget_empty_classes()
        cls = self._classes[need] = Class(need, next(self._count), at)
        for name in need.excluded:
            self._exclude(name, at)
        for pool in self._pools.values():
            self._connect(cls, pool)
        return cls

    def _exclude(self, name: str, at: float) -> None:
        """Give a worker a pool of its own: a class can only pass over whole pools."""
        self._excluded[name] += 1
        worker = self._named.get(name)
        if worker is not None and self._homes[worker].skills.alias is None:
            self.leave(worker, at)
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

    def _new_pool(self, skills: Skills) -> Pool:
        pool = self._pools[skills] = Pool(skills, next(self._count))
        for cls in self._classes.values():
            self._connect(cls, pool)
        return pool

    def _connect(self, cls: Class, pool: Pool) -> None:
        if self.policy.can(pool.skills, cls.need):
            cls.admit(pool, self.policy.fit(pool.skills, cls.need))
