"""What a worker has to say, kept until the broker has confirmed it."""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import structlog

from skillq import timings, topology
from skillq.errors import TransportError
from skillq.messages import (
    Outcome,
    Progress,
    ProgressItem,
    WorkerProfile,
)
from skillq.runtime import crash_points
from skillq.runtime.clock import Clock
from skillq.runtime.logs import Log
from skillq.transport import Outgoing, Transport
from skillq.transport.batching import split_to_fit
from skillq_worker.execution.slots import Attempt
from skillq_worker.results import Result, report

_PATIENCE, _MOST_TURNS = 3, 60  # turns of the loop in which nothing ends; and in all

Item = TypeVar("Item")

log = structlog.get_logger()


async def publish_until_confirmed(transport: Transport, key: str, message: Outgoing) -> None:
    """Publish a report again and again; a report that arrives twice does no harm."""
    delay = timings.REPORT_FIRST_RETRY_SECONDS
    while True:
        try:
            await transport.publish(topology.REPORTS, key, message)
        except TransportError as error:
            log.warning(Log.PUBLISH_NOT_CONFIRMED, key=key, error=str(error))
            await asyncio.sleep(delay)
            delay = min(2 * delay, timings.REPORT_LAST_RETRY_SECONDS)
        else:
            return


class Reporter:
    """Sends results and starts, as many as there are at once. `confirmed` hears of results that arrived.

    `all_begun` is set while no attempt waits for a slot.
    """

    def __init__(
        self,
        transport: Transport,
        profile: WorkerProfile,
        confirmed: Callable[[Sequence[Result]], None],
        all_begun: asyncio.Event,
        clock: Clock,
    ) -> None:
        self._transport = transport
        self._profile = profile
        self._confirmed = confirmed
        self._all_begun = all_begun
        self._clock = clock
        self._results: list[Result] = []
        self._since = 0.0  # when the first of them ended
        self._starts: dict[Attempt, float] = {}  # of what has not ended, and was not told
        self._waits = False  # a timer runs for the first of them
        self._due = False  # it has run out
        self._news = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.store = ""  # whose attempts these are

    def report_start(self, attempt: Attempt, at: float) -> None:
        """Tell that an attempt has begun, if it does not end at once; no result waits for that."""
        self._starts[attempt] = at
        self._set_timer()

    def report_result(self, result: Result) -> None:
        if not self._results:
            self._since = result.ended_at or self._clock()
            self._wake()
        self._results.append(result)
        self._starts.pop(result.attempt, None)

    def change_store(self, store: str) -> None:
        """From now on the attempts are of another store; what is left of the old one is of no use."""
        self.store = store
        self._results.clear()
        self._starts.clear()

    async def flushed(self) -> None:
        """Wait until all is confirmed."""
        await self._idle.wait()

    async def run(self) -> None:
        while True:
            await self._news.wait()
            await self._gather()
            self._news.clear()
            results, self._results = self._results, []
            store = self.store  # it may change while we wait for the broker
            await self._send_results(store, results)
            if self._due:
                await self._send_starts()
            if not self._news.is_set():
                self._idle.set()

    async def _gather(self) -> None:
        """Wait a little for what ends soon: one message for all is cheaper than many.

        While attempts wait for a slot, no slot here is idle for want of an answer. Else it is a matter of turns.
        """
        if self._may_hold():
            try:
                async with asyncio.timeout(
                    self._since + timings.RESULT_HOLD_SECONDS - self._clock()
                ):
                    await self._all_begun.wait()
            except TimeoutError:
                return
        turns = _PATIENCE
        for _ in range(_MOST_TURNS):
            if not self._starts or not turns:
                return
            before = len(self._results)
            await asyncio.sleep(0)
            turns = turns - 1 if len(self._results) == before else _PATIENCE

    def _may_hold(self) -> bool:
        """Not what is handed back: another worker is idle."""
        handed_back = (result.outcome is Outcome.RETURNED for result in self._results)
        return bool(self._results) and not any(handed_back)

    def _set_timer(self) -> None:
        if self._starts and not self._waits and not self._due:
            self._waits = True
            brief = (
                next(iter(self._starts.values())) + timings.BRIEF_ATTEMPT_SECONDS - self._clock()
            )
            asyncio.get_running_loop().call_later(brief, self._tell_starts)

    def _tell_starts(self) -> None:
        self._waits, self._due = False, True
        self._wake()

    def _wake(self) -> None:
        self._idle.clear()
        self._news.set()

    async def _send_starts(self) -> None:
        items: list[ProgressItem] = []
        now = self._clock()
        for name, at in list(self._starts.items()):
            if at + timings.BRIEF_ATTEMPT_SECONDS > now:
                break  # it may end yet
            run, id, number = name
            items.append(ProgressItem(run=run, id=id, attempt=number, at=at))
            del self._starts[name]
        self._due = False
        self._set_timer()
        if items:
            await self._send("progress", partial(self._progress, self.store), items)

    async def _send_results(self, store: str, results: list[Result]) -> None:
        if results:
            await self._send("result", partial(report, self._profile, store), results)
            crash_points.crash_if_chosen("worker.confirmed")
            if store == self.store:
                self._confirmed(results)

    async def _send(
        self, word: str, make: Callable[[tuple[Item, ...]], Outgoing], items: list[Item]
    ) -> None:
        key = f"{word}.{self._profile.name}"
        messages, _ = split_to_fit(make, items)
        for message, _ in messages:
            await publish_until_confirmed(self._transport, key, message)

    def _progress(self, store: str, items: tuple[ProgressItem, ...]) -> Outgoing:
        progress = Progress(
            worker=self._profile.name,
            incarnation=self._profile.incarnation,
            store=store,
            items=items,
        )
        return Outgoing.from_message(progress)
