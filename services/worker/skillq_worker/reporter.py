"""Publish a worker's results and starts until the broker has confirmed them."""

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
from skillq_worker.results import Result, results_message

_MAX_IDLE_ITERATIONS, _MAX_ITERATIONS = 3, 60  # of the event loop: without a new result; in all

Item = TypeVar("Item")

log = structlog.get_logger()


async def publish_until_confirmed(transport: Transport, key: str, message: Outgoing) -> None:
    """Publish a report until the broker confirms it, with a back-off between tries.

    A report may arrive twice; that does no harm.
    """
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
    """Publishes results and starts of attempts, as many as possible in one message.

    The reporter calls `on_confirmed` with the results that the broker has confirmed.
    `none_waiting` is set while no attempt waits for a slot.
    """

    def __init__(
        self,
        transport: Transport,
        profile: WorkerProfile,
        on_confirmed: Callable[[Sequence[Result]], None],
        none_waiting: asyncio.Event,
        clock: Clock,
    ) -> None:
        self._transport = transport
        self._profile = profile
        self._on_confirmed = on_confirmed
        self._none_waiting = none_waiting
        self._clock = clock
        self._results: list[Result] = []
        self._first_ended_at = 0.0  # when the attempt of the first of these results ended
        self._starts: dict[Attempt, float] = {}  # running attempts whose start is not yet reported
        self._timer_is_running = False  # for the first of these starts
        self._starts_are_due = False  # the timer has expired
        self._has_work = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self.store = ""  # the store that numbers these attempts

    def report_start(self, attempt: Attempt, started_at: float) -> None:
        """Report that an attempt has started, unless it ends at once. No result waits for this."""
        self._starts[attempt] = started_at
        self._set_timer()

    def report_result(self, result: Result) -> None:
        """Report the result of an attempt; the start of this attempt is not reported any more."""
        if not self._results:
            self._first_ended_at = result.ended_at or self._clock()
            self._wake()
        self._results.append(result)
        self._starts.pop(result.attempt, None)

    def change_store(self, store: str) -> None:
        """Drop all reports: from now on the attempts belong to another store."""
        self.store = store
        self._results.clear()
        self._starts.clear()

    async def wait_until_flushed(self) -> None:
        """Wait until the broker has confirmed all reports."""
        await self._idle.wait()

    async def run(self) -> None:
        """Publish reports until cancelled."""
        while True:
            await self._has_work.wait()
            await self._wait_for_more_results()
            self._has_work.clear()
            results, self._results = self._results, []
            store = self.store  # the store may change while this task waits for the broker
            await self._send_results(store, results)
            if self._starts_are_due:
                await self._send_starts()
            if not self._has_work.is_set():
                self._idle.set()

    async def _wait_for_more_results(self) -> None:
        """Wait briefly for attempts that end soon: one message for many results is cheaper.

        While attempts wait for a slot, no slot of this worker is idle until the manager receives the
        results, so results may wait for some milliseconds. Otherwise they wait for a few iterations of
        the event loop.
        """
        if self._may_delay_results():
            try:
                async with asyncio.timeout(
                    self._first_ended_at + timings.RESULT_HOLD_SECONDS - self._clock()
                ):
                    await self._none_waiting.wait()
            except TimeoutError:
                return
        idle_iterations_left = _MAX_IDLE_ITERATIONS
        for _ in range(_MAX_ITERATIONS):
            if not self._starts or not idle_iterations_left:
                return
            count = len(self._results)
            await asyncio.sleep(0)
            idle_iterations_left = (
                idle_iterations_left - 1 if len(self._results) == count else _MAX_IDLE_ITERATIONS
            )

    def _may_delay_results(self) -> bool:
        """Return whether results may wait. Returned attempts may not: another worker is idle."""
        are_returned = (result.outcome is Outcome.RETURNED for result in self._results)
        return bool(self._results) and not any(are_returned)

    def _set_timer(self) -> None:
        if self._starts and not self._timer_is_running and not self._starts_are_due:
            self._timer_is_running = True
            delay = (
                next(iter(self._starts.values())) + timings.BRIEF_ATTEMPT_SECONDS - self._clock()
            )
            asyncio.get_running_loop().call_later(delay, self._on_starts_due)

    def _on_starts_due(self) -> None:
        self._timer_is_running, self._starts_are_due = False, True
        self._wake()

    def _wake(self) -> None:
        self._idle.clear()
        self._has_work.set()

    async def _send_starts(self) -> None:
        items: list[ProgressItem] = []
        now = self._clock()
        for attempt, started_at in list(self._starts.items()):
            if started_at + timings.BRIEF_ATTEMPT_SECONDS > now:
                break  # this attempt, and each later one, may still end at once
            run, id, number = attempt
            items.append(ProgressItem(run=run, id=id, attempt=number, at=started_at))
            del self._starts[attempt]
        self._starts_are_due = False
        self._set_timer()
        if items:
            await self._send_items("progress", partial(self._progress_message, self.store), items)

    async def _send_results(self, store: str, results: list[Result]) -> None:
        if results:
            await self._send_items(
                "result", partial(results_message, self._profile, store), results
            )
            crash_points.crash_if_chosen("worker.confirmed")
            if store == self.store:
                self._on_confirmed(results)

    async def _send_items(
        self,
        key_prefix: str,
        make_message: Callable[[tuple[Item, ...]], Outgoing],
        items: list[Item],
    ) -> None:
        key = f"{key_prefix}.{self._profile.name}"
        messages, _ = split_to_fit(make_message, items)
        for message, _ in messages:
            await publish_until_confirmed(self._transport, key, message)

    def _progress_message(self, store: str, items: tuple[ProgressItem, ...]) -> Outgoing:
        progress = Progress(
            worker=self._profile.name,
            incarnation=self._profile.incarnation,
            store=store,
            items=items,
        )
        return Outgoing.from_message(progress)
