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

from skillq_manager.core.classes import Class, Free, Pool, Source, Tier
from skillq_manager.core.lookahead import Lookahead
from skillq_manager.core.matching import Order, Policy
from skillq_manager.core.model import FIRST, Need, Place, Skills, TaskEntry, WorkerEntry
from skillq_manager.core.shelves import Shelves

_MANY_CLASSES = 4096  # from here on, empty classes are forgotten


class Board:
    """Matches ready tasks with workers by a policy; of a class that has a shelf, keeps about `head` in a `crowd`."""

    def __init__(self, policy: Policy, lookahead: Lookahead, head: int = 0, crowd: int = 0) -> None:
        self.policy = policy
        self.waiting = 0
        self.kinds: dict[Skills, int] = {}  # what the workers can do, by how many are alike
        self._classes: dict[Need, Class] = {}
        self._pools: dict[Skills, Pool] = {}
        self._homes: dict[WorkerEntry, Pool] = {}
        self._named: dict[str, WorkerEntry] = {}
        self._excluded: Counter[str] = Counter()  # workers, by how many classes exclude them
        self.laden: dict[WorkerEntry, None] = {}  # have more than slots
        self._news: dict[Class, int] = {}  # all that have a head: when it last improved, in order
        self._free = Tier(0, lambda worker: worker.is_free, lambda _: True)
        ahead = Tier(1, lookahead.has_room, lookahead.may_go_ahead)
        self._ahead = (ahead,) if policy.looks_ahead else ()
        self._tiers = (self._free, *self._ahead)
        self.shelves = Shelves(head if policy.shelves else 0, self._tiers)
        self._crowd = crowd
        self._dry = self.shelves.dry
        self._changed: dict[WorkerEntry, None] = {}  # may be in another tier than they were
        self._count = count(1)
        self._forget_at = _MANY_CLASSES

    # --- tasks

    def add(self, task: TaskEntry) -> None:
        """A task is ready."""
        cls = self._classes.get(task.need) or self._new_class(task.need, task.ready_at)
        self._put(cls, task)

    def arrive(self, task: TaskEntry) -> bool:
        """A new task is ready; False: its place is on the shelf, and it is not on the board."""
        cls = self._classes.get(task.need) or self._new_class(task.need, task.ready_at)
        if cls.horizon is not None and task.place >= cls.horizon and task.is_plain:
            return False
        self._put(cls, task)
        if len(cls.heap) > cls.room and self.waiting > self._crowd:
            self.shelves.full[cls] = None
        return True

    def _put(self, cls: Class, task: TaskEntry) -> None:
        task.ticket = next(self._count)
        cls.push((self.policy.rank(task), task.ticket, task))
        self.waiting += 1
        first = cls.heap[0]
        if first[2] is task or first[2].ticket != first[1]:
            head = cls.head()
            if head is not None and head[2] is task:
                self._announce(cls, task.ticket)

    def _announce(self, cls: Class, time: int) -> None:
        """It has a new head."""
        self._news.pop(cls, None)
        self._news[cls] = time
        for tier in self._tiers:
            tier.improved[cls] = None
        if self._dry:
            self._dry.pop(cls, None)

    def discard(self, task: TaskEntry) -> None:
        """A task is no longer ready."""
        if task.ticket:
            task.ticket = 0
            self.waiting -= 1
            cls = self._classes[task.need]
            cls.drop()
            self.shelves.note(cls)
            self.reconsider()

    def reconsider(self) -> None:
        """A task that was not allowed to go ahead is gone, or is allowed to by now."""
        for tier in self._ahead:
            tier.reconsider()

    # --- the shelf

    def spill(self) -> Iterator[TaskEntry]:
        """Tasks that leave for the shelf, where a class has more than room."""
        for task in self.shelves.overflow():
            self.discard(task)
            yield task

    def open_shelf(self, need: Need, at: float) -> None:
        """There are tasks with this need on the shelf; nobody knows from where on."""
        cls = self._classes.get(need) or self._new_class(need, at)
        cls.horizon = FIRST
        self._dry[cls] = None

    def refill(self, need: Need, tasks: Iterable[TaskEntry], horizon: Place | None) -> None:
        """These come from the shelf: all that was there before `horizon`."""
        cls = self._classes[need]
        self._dry.pop(cls, None)
        cls.horizon = horizon
        for task in tasks:
            self._put(cls, task)
        if cls.head() is not None:
            self._announce(cls, next(self._count))
        self.shelves.note(cls)

    def has_shelf(self, need: Need) -> bool:
        return need in self._classes and self._classes[need].horizon is not None

    def shelved(self) -> Iterator[tuple[Class, bool]]:
        """The classes that have a shelf; whether each is known to be dry."""
        return (
            (cls, cls in self._dry) for cls in self._classes.values() if cls.horizon is not None
        )

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
        for tier in self._tiers:
            tier.remove(worker, self._homes[worker])
        self.laden.pop(worker, None)
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
        """A worker's slots or availability have changed. It is looked at once for all of that, when it matters."""
        self._changed[worker] = None

    def settle(self) -> None:
        """Put the workers that have changed into the tiers where they belong now."""
        for worker in self._changed:
            pool = self._homes.get(worker)
            if pool is not None:
                self._settle(worker, pool)
        self._changed.clear()

    def _settle(self, worker: WorkerEntry, pool: Pool) -> None:
        is_free = worker.is_free
        if is_free:
            self._free.put(worker, pool, self.policy.turn(worker))
        else:
            self._free.remove(worker, pool)
        for tier in self._ahead:
            if not is_free and tier.admits(worker):
                tier.put(worker, pool, self.policy.turn(worker))
            else:
                tier.remove(worker, pool)
        if len(worker.holds) > worker.slots:
            self.laden[worker] = None
        elif self.laden:
            self.laden.pop(worker, None)

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
        self.settle()
        reserved = [skills for skills in self._pools if skills.reserve]
        found: list[TaskEntry] = []
        for cls in self._classes.values() if reserved else ():
            if cls.oldest <= before and self._should_age(cls.need, reserved):
                found += cls.ready_since(before, most)
        for cls in self._dry if reserved else ():
            if self._should_age(cls.need, self.shelves.waiting_skills()):
                self.shelves.miss(cls)
        return found

    def _should_age(self, need: Need, reserved: Iterable[Skills]) -> bool:
        """Whether it would help, and none that has aged before still waits: no backlog ages as a whole."""
        aged, can = need._replace(aged=True), self.policy.can
        if need.aged or not any(can(s, aged) and not can(s, need) for s in reserved):
            return False
        twin = self._classes.get(aged)
        return twin is None or twin.head() is None

    # --- matching

    def next_match(self) -> tuple[TaskEntry, WorkerEntry] | None:
        """The task that goes first among those a free worker can do, and the worker that suits it best.

        Where there is none, the same of workers that have room ahead.
        The task leaves the board; the caller gives it to the worker and says so with `freed`.
        """
        if self._changed:
            self.settle()
        if self._dry and self.shelves.holds_up():
            return None
        for tier in self._tiers:
            # Where nobody is, what is new is looked at when somebody comes.
            if tier.open and (match := self._next_of(tier)) is not None:
                return match
        return None

    def _next_of(self, tier: Tier) -> tuple[TaskEntry, WorkerEntry] | None:
        if tier.improved or tier.woken:
            self._gather(tier)
        while tier.candidates:
            rank, _, source = tier.candidates[0]
            best = self._best(source) if tier.ranks.get(source) is rank else None
            if best is None:
                tier.drop()
            elif best[0] is rank or tier.stays_first(source, best[0]):
                worker = self._choose(best[1], source, tier)
                if worker is not None:
                    return self._take(best[1], tier), worker
                tier.drop()
        return None

    def _gather(self, tier: Tier) -> None:
        """Find new candidates: classes with a new head and woken pools; of many pools, rather all classes."""
        sources: Iterable[Source] = self._news
        if 4 * len(tier.woken) < len(self._news):
            sources = (*tier.improved, *tier.woken)
        for source in sources:
            best = self._best(source)
            if best is not None:
                tier.offer(source, best[0])
        tier.improved.clear()
        tier.woken.clear()

    def _best(self, source: Source) -> tuple[Order, Class] | None:
        """What could be taken next from a class, or by the pool of a line."""
        if isinstance(source, Class):
            head = source.head()
            return None if head is None else (head[0], source)
        if not source.turns:
            return None
        self._read_news(source.pool)
        return source.pool.best()

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

    def _take(self, cls: Class, tier: Tier) -> TaskEntry:
        _, _, task = heappop(cls.heap)
        task.ticket = 0
        self.waiting -= 1
        if cls.head() is None:
            del self._news[cls]
            if cls.horizon is not None:
                self._dry[cls] = None
        if not tier.number:
            self.reconsider()
        return task

    def _choose(self, cls: Class, source: Source, tier: Tier) -> WorkerEntry | None:
        """The worker of a tier that suits a class best; where few pools have one, only those are looked at.

        Nothing overtakes a task that is not allowed to go ahead: it would never find a free worker.
        """
        if tier.number and not tier.allows(cls.heap[0][2]):
            tier.held_up[source] = None
            return None
        pools = cls.pools
        if 8 * len(tier.open) < len(pools):
            pools = sorted(cls.fits[pool] for pool in tier.open if pool in cls.fits)
        chosen: Free | None = None
        chosen_fit: Order | None = None
        for fit, _, pool in pools:
            if chosen is not None and fit != chosen_fit:
                break
            if pool in tier.open and (not tier.held_up or self._is_next(cls, pool, tier)):
                first = pool.lines[tier.number].first()
                if chosen is None or first < chosen:
                    chosen, chosen_fit = first, fit
        return None if chosen is None else chosen[2]

    def _is_next(self, cls: Class, pool: Pool, tier: Tier) -> bool:
        """Whether it goes first of all that a pool may take; else that is not allowed to go ahead."""
        line = pool.lines[tier.number]
        best = self._best(line)
        if best is not None and best[1] is cls:
            return True
        tier.held_up[line] = None
        return False

    # --- what waits at workers

    @property
    def is_uneven(self) -> bool:
        """Whether somebody is idle while tasks wait at somebody else."""
        return bool(self.laden) and bool(self._free.open)

    def next_laden(self) -> Iterator[WorkerEntry]:
        """The workers at which tasks wait; whoever was named last time is named last."""
        for worker in list(self.laden):
            del self.laden[worker]
            self.laden[worker] = None
            yield worker

    def idle_slots(self) -> dict[Pool, int]:
        """How many slots are free, by pool."""
        return {
            pool: sum(w.slots - len(w.holds) for w in pool.lines[0].turns)
            for pool in self._free.open
        }

    # --- classes and pools

    def _new_class(self, need: Need, at: float) -> Class:
        if len(self._classes) >= self._forget_at:
            self._forget_empty_classes()
        cls = self._classes[need] = Class(need, next(self._count), at, self.shelves.room)
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
        for need in [need for need, cls in self._classes.items() if cls.is_empty]:
            del self._classes[need]
            self._excluded.subtract(need.excluded)
        self._excluded = +self._excluded  # those still excluded by some class
        self._news = {cls: time for cls, time in self._news.items() if cls.heap}
        for tier in self._tiers:
            tier.improved = {cls: None for cls in tier.improved if cls.heap}
        self._forget_at = max(_MANY_CLASSES, 2 * len(self._classes))
        for pool in self._pools.values():
            pool.tidy()

    def _new_pool(self, skills: Skills) -> Pool:
        pool = self._pools[skills] = Pool(skills, next(self._count), len(self._tiers))
        for cls in self._classes.values():
            self._connect(cls, pool)
        return pool

    def _connect(self, cls: Class, pool: Pool) -> None:
        if self.policy.can(pool.skills, cls.need):
            cls.admit(pool, self.policy.fit(pool.skills, cls.need))
