"""Keep a worker's lease: make its heartbeats, and fence the worker when none is confirmed.

A confirmed heartbeat renews the lease. While no heartbeat is confirmed, the manager may give the
worker's attempts to other workers; so the worker starts nothing new before that can happen.
See docs/adr/0014-let-each-worker-set-its-lease.md.
"""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from skillq import timings
from skillq.messages import AttemptRef, Heartbeat, Lease, heartbeat_order
from skillq.runtime.clock import Clock
from skillq.runtime.logs import Log
from skillq.transport import Outgoing
from skillq.transport.batching import split_to_fit

_STALLED_REASON = (
    "no heartbeat could be sent: the process was frozen, or a function kept Python's lock for so long; "
    "register that one with process=True"
)

log = structlog.get_logger()


class OwnLease:
    """The worker's own view of its lease, never trusted longer than the manager's view.

    `may_start` is set unless `watch` has found that the last confirmed heartbeat is too old.
    """

    def __init__(self, lease: Lease, clock: Clock) -> None:
        self._lease = lease
        self._clock = clock
        self._confirmed_at = clock()
        self.may_start = asyncio.Event()
        self.may_start.set()

    def on_heartbeat_confirmed(self, sent_at: float) -> None:
        """Renew the lease: the broker has confirmed a heartbeat that was sent at `sent_at`."""
        self._confirmed_at = sent_at
        if not self.may_start.is_set():
            log.info(Log.LEASE_RENEWED)
        self.may_start.set()

    def is_valid(self) -> bool:
        """Return whether an attempt may start now; callable from any thread.

        This method reads the clock, because `watch` cannot clear `may_start` while its loop is blocked.
        """
        silence = self._clock() - self._confirmed_at
        return self.may_start.is_set() and silence < self._lease.fence_after

    async def watch(self, on_fenced: Callable[[float], None], on_lost: Callable[[], None]) -> None:
        """Watch the age of the last confirmed heartbeat until cancelled.

        Call `on_fenced` once, with the seconds of silence, when no attempt may start any more. Call
        `on_lost` when the manager may have given the worker's attempts to other workers.
        """
        while True:
            sleep_started_at = self._clock()
            await asyncio.sleep(timings.LEASE_CHECK_SECONDS)
            overslept = self._clock() - sleep_started_at - timings.LEASE_CHECK_SECONDS
            if overslept > self._lease.heartbeat:
                log.warning(
                    Log.PROCESS_STALLED, seconds=round(overslept, 1), reason=_STALLED_REASON
                )
            silence = self._clock() - self._confirmed_at
            if silence >= self._lease.fence_after and self.may_start.is_set():
                on_fenced(silence)
                self.may_start.clear()
            if silence >= self._lease.dead_after:
                on_lost()


def heartbeat_messages(common: Heartbeat, refs: Sequence[AttemptRef]) -> list[Outgoing]:
    """Return heartbeats that name all attempts of `refs`: several if one is too large.

    The attempts are sorted. Each message covers those after `above`, up to and including `upto`.
    """
    sorted_refs = sorted(refs, key=_sort_key)
    key_before = dict(zip(sorted_refs, ["", *map(_sort_key, sorted_refs)], strict=False))

    def make(part: tuple[AttemptRef, ...]) -> Outgoing:
        heartbeat = common.model_copy(
            update={
                "holds": part,
                "above": key_before[part[0]] if part else "",
                "upto": None if part == () or part[-1] == sorted_refs[-1] else _sort_key(part[-1]),
            }
        )
        return Outgoing.from_message(heartbeat, persistent=False)

    messages, _ = split_to_fit(make, sorted_refs)
    return [message for message, _ in messages]


def _sort_key(ref: AttemptRef) -> str:
    return heartbeat_order(ref.run, ref.id)
