"""The queries, the same for both databases. Only queries that need payloads read them.

See docs/adr/0008-one-sql-layer-for-both-databases.md and docs/adr/0016-keep-deep-backlogs-in-the-store.md.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from pydantic import JsonValue
from pydantic_core import from_json, to_json
from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Connection,
    Row,
    Select,
    TextClause,
    bindparam,
    func,
    literal_column,
    select,
    text,
    union_all,
)

from skillq.messages import Outcome, Task, TaskStatus, WorkerEventKind, WorkerProfile
from skillq_manager.core.commands import RefillRequest
from skillq_manager.core.events import BacklogPage, BacklogSummary, StoredStatus
from skillq_manager.core.model import TaskKey
from skillq_manager.store import base, preconditions
from skillq_manager.store.base import (
    AttemptRow,
    Body,
    LiveRow,
    RunRow,
    TaskFilter,
    TaskRow,
    WorkerRow,
)
from skillq_manager.store.sql.schema import (
    ENDED_BADLY,
    HELD,
    IN_BACKLOG,
    attempts,
    definitions,
    kinds,
    meta,
    run_counts,
    runs,
    tasks,
    workers,
)
from skillq_manager.store.sql.writes import kind_and_json, need_from_json

# --- Tasks by key

_STATUSES = "SELECT id, status, fingerprint FROM tasks WHERE run = {run} AND id {among}"
_OUTPUTS = "SELECT id, output FROM tasks WHERE run = {run} AND id {among}"
_BODIES = """SELECT tasks.id, definitions.terms, definitions.description, definitions.payload
FROM tasks JOIN definitions ON definitions.seq = tasks.seq WHERE tasks.run = {run} AND tasks.id {among}"""


def _by_key(connection: Connection, query: str, run: str, ids: list[str]) -> Sequence[Any]:
    """Execute a query for any number of ids, which are passed as one array.

    An array may hold any number of ids; a list of parameters is limited.
    """
    if connection.dialect.name == "sqlite":
        among = "IN (SELECT value FROM json_each(?2))"
        return connection.exec_driver_sql(
            query.format(run="?1", among=among), (run, to_json(ids).decode())
        ).fetchall()
    statement = query.format(run="$1", among="= ANY($2::text[])")
    return connection.exec_driver_sql(statement, (run, ids)).fetchall()


def _ids_by_run(keys: Iterable[TaskKey]) -> dict[str, list[str]]:
    ids: dict[str, list[str]] = defaultdict(list)
    for run, id in keys:
        ids[run].append(id)
    return ids


def known_tasks(connection: Connection, keys: Iterable[TaskKey]) -> dict[TaskKey, StoredStatus]:
    """Return status and fingerprint of the given tasks; unknown tasks are left out."""
    return {
        (run, id): StoredStatus(TaskStatus(status), fingerprint)
        for run, ids in _ids_by_run(keys).items()
        for id, status, fingerprint in _by_key(connection, _STATUSES, run, ids)
    }


def bodies(connection: Connection, keys: Iterable[TaskKey]) -> dict[TaskKey, Body]:
    """Return the bodies of the given tasks; unknown tasks are left out."""
    found: dict[TaskKey, Body] = {}
    for run, ids in _ids_by_run(keys).items():
        rows = _by_key(connection, _BODIES, run, ids)
        of_run = [(id, _task_with_terms(terms), *texts) for id, terms, *texts in rows]
        outputs = _outputs(connection, run, {d for _, like, *_ in of_run for d in like.depends_on})
        for id, like, description, payload in of_run:
            values = {other: outputs[other] for other in like.depends_on}
            found[run, id] = Body(like, description or "", _read_payload(payload), values)
    return found


def _outputs(connection: Connection, run: str, ids: set[str]) -> dict[str, JsonValue]:
    if not ids:
        return {}
    return {
        id: _read_output(output) for id, output in _by_key(connection, _OUTPUTS, run, list(ids))
    }


def _task_from(id: str, terms: str, description: str | None, payload: str | None = None) -> Task:
    return _task_with_terms(terms).model_copy(
        update={
            "id": id,
            "description": description or "",
            "payload": _read_payload(payload),
        }
    )


@lru_cache(maxsize=4096)
def _task_with_terms(terms: str) -> Task:
    """Return a task with these terms, parsed once for all tasks with equal terms."""
    return Task.model_validate({"id": "0", **from_json(terms)})


def _read_payload(payload: str | None) -> dict[str, JsonValue]:
    return {} if payload is None else from_json(payload)


def _read_output(output: str | None) -> JsonValue:
    return None if output is None else from_json(output)


# --- Restore of a starting manager, and the backlog

_LIVE = select(
    tasks.c.run,
    tasks.c.seq,
    tasks.c.id,
    definitions.c.terms,
    tasks.c.fingerprint,
    tasks.c.status,
    func.coalesce(tasks.c.opened_at, tasks.c.submitted_at),
    tasks.c.attempt,
    tasks.c.failures,
    tasks.c.losses,
    tasks.c.worker_name,
    tasks.c.incarnation,
    tasks.c.assigned_at,
    tasks.c.retry_at,
    tasks.c.need,
).join(definitions, definitions.c.seq == tasks.c.seq)

_Condition = ColumnElement[bool] | TextClause

_IN_BACKLOG = text(IN_BACKLOG)
_IDS_PER_STATEMENT = 1000  # ids in one statement

# Conditions on tasks that have not ended: all tasks; tasks that were never in the backlog; tasks that a worker
# has and that were in the backlog before.
ALL_LIVE: Sequence[_Condition] = (tasks.c.finished_at.is_(None),)
NEVER_IN_BACKLOG: Sequence[_Condition] = (tasks.c.finished_at.is_(None), tasks.c.kind.is_(None))
HELD_FROM_BACKLOG: Sequence[_Condition] = (text(HELD), tasks.c.kind.is_not(None))


def store_id(connection: Connection) -> str:
    """Return the id of the store."""
    found: str = connection.execute(select(meta.c.value).where(meta.c.key == "id")).scalar_one()
    return found


def last_seq(connection: Connection) -> int:
    """Return the highest `seq` of a task, or 0 if the store has no task."""
    return connection.execute(select(func.max(tasks.c.seq))).scalar() or 0


def live_page(
    connection: Connection, after: int, limit: int, conditions: Sequence[_Condition]
) -> list[LiveRow]:
    """Return the first `limit` tasks after the `seq` that meet the conditions."""
    page = connection.execute(live_page_query(after, limit, conditions))
    return [_live_row(row) for row in page]


def live_page_query(after: int, limit: int, conditions: Sequence[_Condition]) -> Select[Any]:
    return _LIVE.where(*conditions, tasks.c.seq > after).order_by(tasks.c.seq).limit(limit)


def backlog_summary(connection: Connection) -> BacklogSummary:
    """Return the needs of the tasks in the backlog, and the number of ready tasks per run."""
    has_tasks = select(tasks.c.seq).where(tasks.c.kind == kinds.c.kind, _IN_BACKLOG).exists()
    needs = connection.execute(select(kinds.c.need).where(has_tasks)).scalars()
    ready = select(run_counts.c.run, run_counts.c.n).where(
        run_counts.c.status == TaskStatus.READY.value, run_counts.c.n != 0
    )
    counts = {row.run: row.n for row in connection.execute(ready)}
    return BacklogSummary(tuple(map(need_from_json, needs)), counts)


def backlog_page(connection: Connection, request: RefillRequest) -> BacklogPage:
    """Return the first tasks of a need's backlog, from a dispatch key on."""
    rows: list[LiveRow] = []
    for query in refill_queries(request):
        page = connection.execute(query.limit(request.limit - len(rows)))
        rows += [_live_row(row) for row in page]
    return BacklogPage(request.need, rows, len(rows) == request.limit)


def refill_queries(request: RefillRequest) -> list[Select[Any]]:
    """Return two queries: one for the start's priority, one for the lower priorities.

    For one query with both conditions SQLite would not use the `seq` in the index.
    """
    rank, seq = request.start
    query = _LIVE.where(tasks.c.kind == kind_and_json(request.need)[0], _IN_BACKLOG)
    query = query.order_by(tasks.c.rank, tasks.c.seq)
    return [
        query.where(tasks.c.rank == rank, tasks.c.seq >= seq),
        query.where(tasks.c.rank > rank),
    ]


def backlog_tasks(connection: Connection, run: str, ids: Sequence[str] | None) -> list[LiveRow]:
    """Return tasks of a run in the backlog: the given ids, or the first `BACKLOG_PAGE`."""
    query = _LIVE.where(tasks.c.run == run, _IN_BACKLOG)
    if ids is None:
        page = connection.execute(query.order_by(tasks.c.seq).limit(base.BACKLOG_PAGE))
        return [_live_row(row) for row in page]
    named: list[LiveRow] = []
    for start in range(0, len(ids), _IDS_PER_STATEMENT):
        some = query.where(tasks.c.id.in_(ids[start : start + _IDS_PER_STATEMENT]))
        named += [_live_row(row) for row in connection.execute(some)]
    return named


def _live_row(row: Sequence[Any]) -> LiveRow:
    # By position, which is faster than by name: a restore reads very many rows.
    (
        run,
        seq,
        id,
        terms,
        fingerprint,
        status_text,
        *numbers,
        worker,
        incarnation,
        at,
        retry_at,
        need,
    ) = row
    submitted_at, attempt, failures, losses = numbers
    status = _STATUS_BY_TEXT[status_text]
    held = status in preconditions.HELD
    return LiveRow(
        run,
        id,
        seq,
        _task_with_terms(terms),
        fingerprint,
        status,
        submitted_at,
        attempt,
        failures,
        losses,
        worker if held else None,
        incarnation if held else None,
        at if held else None,
        retry_at,
        need_from_json(need) if need is not None else None,
    )


_STATUS_BY_TEXT = {str(status.value): status for status in TaskStatus}

# --- Views

_HELD = text(HELD)
_ENDED_BADLY = text(ENDED_BADLY)


_RUNS = select(runs).order_by(runs.c.first_seq)
_STORED_COUNTS = select(run_counts).where(run_counts.c.n != 0)
_HELD_COUNTS = (
    select(tasks.c.run, tasks.c.status, func.count())
    .where(_HELD)
    .group_by(tasks.c.run, tasks.c.status)
)
# Built once, because these queries are executed whenever a run ends.
_RUN_PARAMETER: BindParameter[str] = bindparam("run")
_ONE_RUN = _RUNS.where(runs.c.run == _RUN_PARAMETER)
_ONE_RUN_COUNTS = union_all(
    _STORED_COUNTS.where(run_counts.c.run == _RUN_PARAMETER),
    _HELD_COUNTS.where(tasks.c.run == _RUN_PARAMETER),
)


def all_runs(connection: Connection) -> list[RunRow]:
    """Return all runs, in order of submission."""
    found = {row.run: _run_row(row) for row in connection.execute(_RUNS)}
    for query in (_STORED_COUNTS, _HELD_COUNTS):
        for name, status, n in connection.execute(query):
            found[name].counts[TaskStatus(status)] = n
    return list(found.values())


def one_run(connection: Connection, run: str) -> RunRow | None:
    """Return the run with this name, or None if the store does not have it."""
    row = connection.execute(_ONE_RUN, {"run": run}).first()
    if row is None:
        return None
    found = _run_row(row)
    for _, status, n in connection.execute(_ONE_RUN_COUNTS, {"run": run}):
        found.counts[TaskStatus(status)] = n
    return found


def _run_row(row: Row[Any]) -> RunRow:
    return RunRow(row.run, row.title, row.submitted_at, row.finished_at)


_TASKS = select(tasks, definitions.c.terms, definitions.c.description).join(
    definitions, definitions.c.seq == tasks.c.seq
)


def task_page(connection: Connection, task_filter: TaskFilter) -> list[TaskRow]:
    """Return the tasks that match, in order of submission, without payloads and attempts."""
    rows = connection.execute(task_page_query(task_filter))
    return [_task_row(row, _task_from(row.id, row.terms, row.description)) for row in rows]


def task_page_query(task_filter: TaskFilter) -> Select[Any]:
    # With ids, `+ 0` keeps the database from reading the whole run in the order of `seq`.
    seq = tasks.c.seq if task_filter.ids is None else tasks.c.seq + 0
    matching = _TASKS.where(seq > task_filter.cursor, *_conditions(task_filter))
    return matching.order_by(seq).limit(task_filter.limit)


def _conditions(task_filter: TaskFilter) -> list[_Condition]:
    given = [
        (tasks.c.run, task_filter.run),
        (tasks.c.type, task_filter.type),
        (tasks.c.worker, task_filter.worker),
    ]
    conditions: list[_Condition] = [column == value for column, value in given if value is not None]
    if task_filter.status is not None:
        conditions += _status_conditions(task_filter.status)
    if task_filter.ids is not None:
        conditions.append(tasks.c.id.in_(task_filter.ids))
    return conditions


def _status_conditions(status: TaskStatus) -> list[_Condition]:
    """Return conditions with the exact text of the partial indexes.

    The status is a literal: for a parameter, which could be any status, no partial index is used.
    """
    has_status: ColumnElement[bool] = tasks.c.status == literal_column(f"'{status.value}'")
    if status in preconditions.WAITING:
        return [has_status, tasks.c.finished_at.is_(None)]
    if status in preconditions.HELD:
        return [has_status, _HELD]
    return [has_status] if status is TaskStatus.SUCCEEDED else [has_status, _ENDED_BADLY]


def task(connection: Connection, key: TaskKey) -> TaskRow | None:
    """Return the task with its payload and all its attempts, or None if it is unknown."""
    run, id = key
    query = _TASKS.add_columns(definitions.c.payload)
    row = connection.execute(query.where(tasks.c.run == run, tasks.c.id == id)).one_or_none()
    if row is None:
        return None
    found = _task_row(row, _task_from(row.id, row.terms, row.description, row.payload))
    earlier = select(attempts).where(attempts.c.seq == row.seq).order_by(attempts.c.no)
    found.attempts = [_attempt_row(attempt) for attempt in connection.execute(earlier)]
    if row.assigned_at is not None:
        found.attempts.append(_last_attempt(row))
    found.attempts.sort(key=lambda attempt: (attempt.attempt, not attempt.counted))
    return found


def _task_row(row: Any, task: Task) -> TaskRow:
    return TaskRow(
        run=row.run,
        seq=row.seq,
        task=task,
        fingerprint=row.fingerprint,
        status=TaskStatus(row.status),
        submitted_at=row.submitted_at,
        reason=row.reason,
        worker=row.worker,
        attempt=row.attempt,
        started_at=row.started_at,
        finished_at=row.finished_at,
        output=_read_output(row.output),
        error=row.error,
    )


def _last_attempt(row: Any) -> AttemptRow:
    return AttemptRow(
        row.attempt,
        row.worker,
        row.incarnation,
        row.assigned_at,
        row.started_at,
        row.finished_at,
        Outcome(row.outcome) if row.outcome is not None else None,
        row.error,
    )


def _attempt_row(row: Any) -> AttemptRow:
    return AttemptRow(
        row.attempt,
        row.worker,
        row.incarnation,
        row.assigned_at,
        row.started_at,
        row.finished_at,
        Outcome(row.outcome),
        row.error,
        row.counted,
    )


def all_workers(connection: Connection) -> list[WorkerRow]:
    """Return all workers that ever connected, in order of their names."""
    found = connection.execute(select(workers).order_by(workers.c.name))
    return [
        WorkerRow(
            WorkerProfile.model_validate_json(row.profile),
            WorkerEventKind(row.status),
            row.reason,
            row.since,
        )
        for row in found
    ]
