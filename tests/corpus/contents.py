"""Return the contents of a store as plain JSON, and compare contents while allowing new fields."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skillq_manager.store.base import AttemptRow, RunRow, Store, TaskFilter, TaskRow, WorkerRow

HERE = Path(__file__).parent
EXPECTED = {"sqlite": "sqlite.json", "postgresql": "postgresql.json"}
SQLITE_FILE, POSTGRESQL_DUMP = "store.sqlite", "postgresql.sql"
FINGERPRINTS, MESSAGES = "fingerprints.json", "messages"

Json = dict[str, Any]


@dataclass(frozen=True)
class Sent:
    """A message as it was published."""

    exchange: str
    routing_key: str
    properties: Json
    headers: Json
    body: str

    @property
    def raw(self) -> bytes:
        return self.body.encode()


async def contents(store: Store) -> Json:
    """Return the contents of all views of a store."""
    runs = await store.runs()
    rows = await store.tasks(TaskFilter(limit=10_000))
    tasks = [await store.task((row.run, row.task.id)) for row in rows]
    return {
        "store": store.id,
        "runs": [_run(run) for run in runs],
        "tasks": [_task(task) for task in tasks if task is not None],
        "workers": [_worker(worker) for worker in await store.workers()],
    }


def _run(row: RunRow) -> Json:
    return {
        "run": row.run,
        "title": row.title,
        "submitted_at": row.submitted_at,
        "finished_at": row.finished_at,
        "counts": {str(status.value): n for status, n in sorted(row.counts.items()) if n},
    }


def _task(row: TaskRow) -> Json:
    return {
        "run": row.run,
        "seq": row.seq,
        "task": row.task.model_dump(mode="json"),
        "fingerprint": row.fingerprint,
        "status": row.status.value,
        "submitted_at": row.submitted_at,
        "reason": row.reason,
        "worker": row.worker,
        "attempt": row.attempt,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "output": row.output,
        "error": row.error,
        "attempts": [_attempt(attempt) for attempt in row.attempts],
    }


def _attempt(row: AttemptRow) -> Json:
    return {
        "attempt": row.attempt,
        "worker": row.worker,
        "incarnation": row.incarnation,
        "assigned_at": row.assigned_at,
        "started_at": row.started_at,
        "finished_at": row.finished_at,
        "outcome": None if row.outcome is None else row.outcome.value,
        "error": row.error,
        "counted": row.counted,
    }


def _worker(row: WorkerRow) -> Json:
    return {
        "profile": row.profile.model_dump(mode="json"),
        "status": row.status.value,
        "reason": row.reason,
        "since": row.since,
    }


def missing(written: Any, read: Any, where: str = "") -> list[str]:
    """Return the places where a written value is missing in `read` or differs.

    A field that only `read` has is no difference, because a later release may add fields.
    """
    if isinstance(written, dict) and isinstance(read, dict):
        lost = [f"{where}.{key} is lost" for key in written if key not in read]
        both = [key for key in written if key in read]
        return lost + [
            found for key in both for found in missing(written[key], read[key], f"{where}.{key}")
        ]
    if isinstance(written, list) and isinstance(read, list) and len(written) == len(read):
        pairs = enumerate(zip(written, read, strict=True))
        return [found for n, pair in pairs for found in missing(*pair, f"{where}[{n}]")]
    return [] if written == read else [f"{where} was {written!r}, and is {read!r}"]
