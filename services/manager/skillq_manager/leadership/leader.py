"""Leading: renew the leadership, restore the last leader's state, run until leading ends.

See docs/adr/0009-keep-leadership-in-a-row-with-an-epoch.md.
"""

import asyncio
from collections.abc import Awaitable

from skillq import timings
from skillq.errors import TransportError
from skillq.messages import WorkerEventKind
from skillq.runtime.clock import Clock
from skillq.transport import Transport
from skillq_manager.core import commands as c
from skillq_manager.core.state import State
from skillq_manager.store.base import LeaderLease, LeadershipLost, Store


async def renew_or_raise(leadership: LeaderLease) -> None:
    """Renew the leadership of this manager.

    Raises:
        LeadershipLost: another manager leads.
    """
    if not await leadership.acquire():
        raise LeadershipLost("another manager has taken the lead")


async def renew_regularly(leadership: LeaderLease, transport: Transport, clock: Clock) -> None:
    """Renew the leadership every RENEW_SECONDS, for ever.

    Raises:
        LeadershipLost: another manager leads.
        TransportError: the broker is away for BROKER_LOST_SECONDS, and another manager may reach it.
    """
    connected_at = clock()
    while True:
        await asyncio.sleep(timings.RENEW_SECONDS)
        await renew_or_raise(leadership)
        if transport.connected or not leadership.epoch:
            connected_at = clock()
        elif clock() - connected_at > timings.BROKER_LOST_SECONDS:
            raise TransportError("the broker is out of reach")


async def restore_state(state: State, store: Store, clock: Clock) -> list[c.Command]:
    """Load the last leader's tasks and workers into a new core; return the commands to run."""
    connected = {WorkerEventKind.CONNECTED, WorkerEventKind.SUSPECT}
    workers = [row.profile for row in await store.workers() if row.status in connected]
    state.begin_restore(workers, await store.last_seq(), clock())
    async for rows in store.load(include_backlog=not state.keeps_backlog):
        state.restore(rows)
    backlog = await store.backlog_summary() if state.keeps_backlog else None
    if backlog is None or not backlog.needs:
        return state.end_restore()
    return state.end_restore(backlog, await store.known_tasks(state.unresolved_dependencies()))


async def run_until_first_ends(*work: Awaitable[None]) -> None:
    """Run everything until one part ends, then cancel the rest; raise the error of that part."""
    tasks = [asyncio.ensure_future(w) for w in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
