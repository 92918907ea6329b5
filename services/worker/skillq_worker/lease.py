"""A worker's right to what it holds: the heartbeats that renew it, and what it is worth when none is confirmed."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from skillq import timings
from skillq.messages import AttemptRef, Heartbeat, Lease, heartbeat_order
from skillq.runtime.clock import Clock
from skillq.runtime.logs import Log
from skillq.transport import Outgoing
from skillq.transport.batching import split_to_fit

_STOOD_STILL = (
    "no heartbeat could be sent: the process was frozen, or a function kept Python's lock for so long; "
    "register that one with process=True"
)

log = structlog.get_logger()


class OwnLease:
    """Trusts one's own lease no longer than the manager does. `may_begin` is set until it is known to be too old."""

    def __init__(self, lease: Lease, clock: Clock) -> None:
        self._lease = lease
        self._clock = clock
        self._confirmed_at = clock()
        self.may_start = asyncio.Event()
        self.may_start.set()

    def on_heartbeat_confirmed(self, sent_at: float) -> None:
        """A heartbeat of then has arrived."""
        self._confirmed_at = sent_at
        if not self.may_start.is_set():
            log.info(Log.LEASE_RENEWED)
        self.may_start.set()

    def is_good(self) -> bool:
        """For a start; by the clock, on any thread: ours may stand still, and not know that it is too old."""
        silence = self._clock() - self._confirmed_at
        return self.may_start.is_set() and silence < self._lease.fence_after

    async def watch(self, fenced: Callable[[float], None], lost: Callable[[], None]) -> None:
        """Say once when nothing may begin any more, after so many seconds of silence; and when all is another's."""
        while True:
            asleep_since = self._clock()
            await asyncio.sleep(timings.LEASE_CHECK_SECONDS)
            late = self._clock() - asleep_since - timings.LEASE_CHECK_SECONDS
            if late > self._lease.heartbeat:
                log.warning(Log.PROCESS_STALLED, seconds=round(late, 1), reason=_STOOD_STILL)
            silence = self._clock() - self._confirmed_at
            if silence >= self._lease.fence_after and self.may_start.is_set():
                fenced(silence)
                self.may_start.clear()
            if silence >= self._lease.dead_after:
                lost()


def heartbeats(common: Heartbeat, held: Sequence[AttemptRef]) -> list[Outgoing]:
    """One message, or as many as what is held takes: each says which stretch of it it covers."""
    holds = sorted(held, key=_place)
    before = dict(zip(holds, ["", *map(_place, holds)], strict=False))

    def make(part: tuple[AttemptRef, ...]) -> Outgoing:
        beat = common.model_copy(
            update={
                "holds": part,
                "above": before[part[0]] if part else "",
                "upto": None if part == () or part[-1] == holds[-1] else _place(part[-1]),
            }
        )
        return Outgoing.from_message(beat, persistent=False)

    messages, _ = split_to_fit(make, holds)
    return [message for message, _ in messages]


def _place(ref: AttemptRef) -> str:
    return heartbeat_order(ref.run, ref.id)
