"""A fake worker for tests of the manager."""

from collections.abc import Callable
from typing import Any

from skillq import topology
from skillq.messages import (
    Disconnect,
    Message,
    Outcome,
    Progress,
    ProgressItem,
    TaskResult,
    TaskResults,
    WorkerEventKind,
    WorkerProfile,
)
from skillq.transport import Outgoing, Transport
from skillq_manager.store.memory import MemoryStore
from tests.support.waiting import until_async


class FakeWorker:
    """A connected worker that does nothing by itself and sends the reports that a test wants.

    All tasks are of the run `default`. Each method returns when the manager has processed the report.
    `has_settled` returns whether the manager has processed all reports.
    """

    def __init__(
        self,
        profile: WorkerProfile,
        transport: Transport,
        store: MemoryStore,
        has_settled: Callable[[], bool],
    ) -> None:
        self.profile = profile
        self._transport, self._store = transport, store
        self._has_settled = has_settled

    async def start_attempt(self, id: str, at: float) -> None:
        """Report that the first attempt at this task started."""
        item = ProgressItem(run="default", id=id, attempt=1, at=at)
        await self._report("progress", Progress(**self._sender, items=(item,)))
        await until_async(
            lambda: self._row(id).status not in {"ready", "assigned"}, f"{id} should be running"
        )

    async def end_attempt(self, id: str, outcome: str, *, attempt: int = 1, **fields: Any) -> None:
        """Report the outcome of this attempt, once the manager has assigned it."""
        await until_async(
            lambda: self._row(id).attempt == attempt,
            f"attempt {attempt} of {id} should be assigned",
        )
        result = TaskResult(
            run="default", id=id, attempt=attempt, outcome=Outcome(outcome), **fields
        )
        await self._report("result", TaskResults(**self._sender, results=(result,)))
        await until_async(
            lambda: self._row(id).attempts[attempt - 1].outcome and self._has_settled(),
            f"the manager should process the result of {id}",
        )

    async def disconnect(self, reason: str = "") -> None:
        name, incarnation = self.profile.name, self.profile.incarnation
        message = Disconnect(worker=name, incarnation=incarnation, reason=reason)
        await self._report("disconnect", message)
        await until_async(
            lambda: self._store._workers[name].status is WorkerEventKind.DISCONNECTED,
            f"{name} should be disconnected",
        )

    @property
    def _sender(self) -> dict[str, Any]:
        return {
            "worker": self.profile.name,
            "incarnation": self.profile.incarnation,
            "store": self._store.id,
        }

    def _row(self, id: str) -> Any:
        return self._store._tasks["default", id]

    async def _report(self, report_type: str, message: Message) -> None:
        key = f"{report_type}.{self.profile.name}"
        await self._transport.publish(topology.REPORTS, key, Outgoing.from_message(message))
