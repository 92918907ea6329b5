"""What is asked of a database: the same for both. A payload is read only where it is wanted."""

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
    Filter,
    LiveRow,
    RunRow,
    TaskRow,
    WorkerRow,
)
from skillq_manager.store.sql.schema import (
    ENDED_BADLY,
    HELD,
    ON_SHELF,
    attempts,
    definitions,
    kinds,
    meta,
    run_counts,
    runs,
    tasks,
    workers,
)
from skillq_manager.store.sql.writes import kind_of, need_of

# --- by key

_STATUSES = "SELECT id, status, fingerprint FROM tasks WHERE run = {run} AND id {among}"
_OUTPUTS = "SELECT id, output FROM tasks WHERE run = {run} AND id {among}"
_BODIES = """SELECT tasks.id, definitions.terms, definitions.description, definitions.payload
FROM tasks JOIN definitions ON definitions.seq = tasks.seq WHERE tasks.run = {run} AND tasks.id {among}"""


def _by_key(connection: Connection, query: str, run: str, ids: list[str]) -> Sequence[Any]:
    """One statement for any number of ids: no database has a limit on what is in an array."""
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


def known(connection: Connection, keys: Iterable[TaskKey]) -> dict[TaskKey, StoredStatus]:
    return {
        (run, id): StoredStatus(TaskStatus(status), fingerprint)
        for run, ids in _ids_by_run(keys).items()
        for id, status, fingerprint in _by_key(connection, _STATUSES, run, ids)
    }


def bodies(connection: Connection, keys: Iterable[TaskKey]) -> dict[TaskKey, Body]:
    found: dict[TaskKey, Body] = {}
    for run, ids in _ids_by_run(keys).items():
        rows = _by_key(connection, _BODIES, run, ids)
        of_run = [(id, _template(terms), *texts) for id, terms, *texts in rows]
        outputs = _outputs(connection, run, {d for _, like, *_ in of_run for d in like.depends_on})
        for id, like, description, payload in of_run:
            values = {other: outputs[other] for other in like.depends_on}
            found[run, id] = Body(like, description or "", _payload(payload), values)
    return found


def _outputs(connection: Connection, run: str, ids: set[str]) -> dict[str, JsonValue]:
    if not ids:
        return {}
    return {id: _value(output) for id, output in _by_key(connection, _OUTPUTS, run, list(ids))}


def _task(id: str, terms: str, description: str | None, payload: str | None = None) -> Task:
    return _template(terms).model_copy(
        update={
            "id": id,
            "description": description or "",
            "payload": _payload(payload),
        }
    )


@lru_cache(maxsize=4096)
def _template(terms: str) -> Task:
    """A task with these terms: read once for all that have them."""
    return Task.model_validate({"id": "0", **from_json(terms)})


def _payload(payload: str | None) -> dict[str, JsonValue]:
    return {} if payload is None else from_json(payload)


def _value(output: str | None) -> JsonValue:
    return None if output is None else from_json(output)


# --- what a manager that starts needs

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

_ON_SHELF = text(ON_SHELF)
_MANY = 1000  # ids in one statement

# Of what has not ended: all; what was never on a shelf; what was, and is with a worker.
ALL: Sequence[_Condition] = (tasks.c.finished_at.is_(None),)
ELSEWHERE: Sequence[_Condition] = (tasks.c.finished_at.is_(None), tasks.c.kind.is_(None))
TAKEN: Sequence[_Condition] = (text(HELD), tasks.c.kind.is_not(None))


def store_id(connection: Connection) -> str:
    found: str = connection.execute(select(meta.c.value).where(meta.c.key == "id")).scalar_one()
    return found


def last_seq(connection: Connection) -> int:
    return connection.execute(select(func.max(tasks.c.seq))).scalar() or 0


def live_page(
    connection: Connection, after: int, limit: int, which: Sequence[_Condition]
) -> list[LiveRow]:
    page = connection.execute(page_of(after, limit, which))
    return [_live_row(row) for row in page]


def page_of(after: int, limit: int, which: Sequence[_Condition]) -> Select[Any]:
    return _LIVE.where(*which, tasks.c.seq > after).order_by(tasks.c.seq).limit(limit)


def shelf(connection: Connection) -> BacklogSummary:
    is_there = select(tasks.c.seq).where(tasks.c.kind == kinds.c.kind, _ON_SHELF).exists()
    needs = connection.execute(select(kinds.c.need).where(is_there)).scalars()
    ready = select(run_counts.c.run, run_counts.c.n).where(
        run_counts.c.status == TaskStatus.READY.value, run_counts.c.n != 0
    )
    counts = {row.run: row.n for row in connection.execute(ready)}
    return BacklogSummary(tuple(map(need_of, needs)), counts)


def refilled(connection: Connection, wanted: RefillRequest) -> BacklogPage:
    rows: list[LiveRow] = []
    for query in refill_queries(wanted):
        page = connection.execute(query.limit(wanted.limit - len(rows)))
        rows += [_live_row(row) for row in page]
    return BacklogPage(wanted.need, rows, len(rows) == wanted.limit)


def refill_queries(wanted: RefillRequest) -> list[Select[Any]]:
    """Those of the same priority, then the others: SQLite would search for both together without the `seq`."""
    rank, seq = wanted.start
    query = _LIVE.where(tasks.c.kind == kind_of(wanted.need)[0], _ON_SHELF)
    query = query.order_by(tasks.c.rank, tasks.c.seq)
    return [
        query.where(tasks.c.rank == rank, tasks.c.seq >= seq),
        query.where(tasks.c.rank > rank),
    ]


def on_shelf(connection: Connection, run: str, ids: Sequence[str] | None) -> list[LiveRow]:
    query = _LIVE.where(tasks.c.run == run, _ON_SHELF)
    if ids is None:
        page = connection.execute(query.order_by(tasks.c.seq).limit(base.BACKLOG_PAGE))
        return [_live_row(row) for row in page]
    named: list[LiveRow] = []
    for start in range(0, len(ids), _MANY):
        some = query.where(tasks.c.id.in_(ids[start : start + _MANY]))
        named += [_live_row(row) for row in connection.execute(some)]
    return named


def _live_row(row: Sequence[Any]) -> LiveRow:
    # By place: at a start there are very many of them.
    run, seq, id, terms, fingerprint, word, *numbers, worker, incarnation, at, retry_at, need = row
    submitted_at, attempt, failures, losses = numbers
    status = _STATUS[word]
    held = status in preconditions.HELD
    return LiveRow(
        run,
        id,
        seq,
        _template(terms),
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
        need_of(need) if need is not None else None,
    )


_STATUS = {str(status.value): status for status in TaskStatus}

# --- views

_HELD = text(HELD)
_ENDED_BADLY = text(ENDED_BADLY)


_RUNS = select(runs).order_by(runs.c.first_seq)
_COUNTED = select(run_counts).where(run_counts.c.n != 0)
_HELD_COUNTED = (
    select(tasks.c.run, tasks.c.status, func.count())
    .where(_HELD)
    .group_by(tasks.c.run, tasks.c.status)
)
# Made once: whenever a run ends, they are asked.
_ONE: BindParameter[str] = bindparam("run")
_ONE_RUN = _RUNS.where(runs.c.run == _ONE)
_ONE_COUNTED = union_all(
    _COUNTED.where(run_counts.c.run == _ONE), _HELD_COUNTED.where(tasks.c.run == _ONE)
)


def all_runs(connection: Connection) -> list[RunRow]:
    """In order of submission."""
    found = {row.run: _run_row(row) for row in connection.execute(_RUNS)}
    for query in (_COUNTED, _HELD_COUNTED):
        for name, status, n in connection.execute(query):
            found[name].counts[TaskStatus(status)] = n
    return list(found.values())


def one_run(connection: Connection, run: str) -> RunRow | None:
    row = connection.execute(_ONE_RUN, {"run": run}).first()
    if row is None:
        return None
    found = _run_row(row)
    for _, status, n in connection.execute(_ONE_COUNTED, {"run": run}):
        found.counts[TaskStatus(status)] = n
    return found


def _run_row(row: Row[Any]) -> RunRow:
    return RunRow(row.run, row.title, row.submitted_at, row.finished_at)


_PAGE = select(tasks, definitions.c.terms, definitions.c.description).join(
    definitions, definitions.c.seq == tasks.c.seq
)


def task_page(connection: Connection, which: Filter) -> list[TaskRow]:
    rows = connection.execute(page_query(which))
    return [_task_row(row, _task(row.id, row.terms, row.description)) for row in rows]


def page_query(which: Filter) -> Select[Any]:
    # A few that are named are found by their names: a database would look through the whole run in order.
    seq = tasks.c.seq if which.ids is None else tasks.c.seq + 0
    matching = _PAGE.where(seq > which.cursor, *_conditions(which))
    return matching.order_by(seq).limit(which.limit)


def _conditions(which: Filter) -> list[_Condition]:
    given = [(tasks.c.run, which.run), (tasks.c.type, which.type), (tasks.c.worker, which.worker)]
    conditions: list[_Condition] = [column == value for column, value in given if value is not None]
    if which.status is not None:
        conditions += _status_is(which.status)
    if which.ids is not None:
        conditions.append(tasks.c.id.in_(which.ids))
    return conditions


def _status_is(status: TaskStatus) -> list[_Condition]:
    """Said in the words of the indexes, and written out: a parameter could be any status."""
    is_it: ColumnElement[bool] = tasks.c.status == literal_column(f"'{status.value}'")
    if status in preconditions.WAITING:
        return [is_it, tasks.c.finished_at.is_(None)]
    if status in preconditions.HELD:
        return [is_it, _HELD]
    return [is_it] if status is TaskStatus.SUCCEEDED else [is_it, _ENDED_BADLY]


def task(connection: Connection, key: TaskKey) -> TaskRow | None:
    run, id = key
    query = _PAGE.add_columns(definitions.c.payload)
    row = connection.execute(query.where(tasks.c.run == run, tasks.c.id == id)).one_or_none()
    if row is None:
        return None
    found = _task_row(row, _task(row.id, row.terms, row.description, row.payload))
    earlier = select(attempts).where(attempts.c.seq == row.seq).order_by(attempts.c.no)
    found.attempts = [_attempt_row(earlier_one) for earlier_one in connection.execute(earlier)]
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
        output=_value(row.output),
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
