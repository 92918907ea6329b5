"""All statements that write, each defined once for both databases.

A statement writes many rows: PostgreSQL gets one array per column, SQLite gets lists of values. In a template
`{rows}`, `{from_rows}` and `{and_rows}` stand for the source of the rows, and `:name` for a value of a row.

See docs/adr/0008-one-sql-layer-for-both-databases.md.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from typing import Any

from sqlalchemy import Connection

Row = tuple[Any, ...]

_TYPES = {
    "seq": "bigint",
    "kind": "bigint",
    "rank": "integer",
    "fingerprint": "bigint",
    "n": "bigint",
    "attempt": "integer",
    "failures": "integer",
    "losses": "integer",
    "at": "double precision",
    "assigned_at": "double precision",
    "started_at": "double precision",
    "finished_at": "double precision",
    "retry_at": "double precision",
}

_ROWS_PER_STATEMENT = (64, 16, 4, 1)  # of SQLite; more rows are not faster

_PARTS = {
    "this": "WHERE tasks.run = :run AND tasks.id = :id",
    "waits": "tasks.status IN ('blocked', 'ready')",
    # `|| ''` keeps the databases from using an index on status: they should find rows by their key.
    "held": "tasks.status || '' IN ('assigned', 'running')",
    "live": "tasks.status || '' IN ('blocked', 'ready', 'assigned', 'running')",
    "ended": "tasks.status IN ('succeeded', 'failed', 'timed_out', 'cancelled', 'dead_lettered')",
}


@dataclass(frozen=True, slots=True, eq=False)
class Statement:
    """A statement for many rows. `columns` names the values of a row, in order.

    A statement with `must_match` must change one task for each row: its conditions are the precondition.
    """

    template: str
    columns: str
    must_match: bool = False

    def run(self, connection: Connection, rows: Sequence[Row]) -> int:
        """Execute the statement for all rows; return the number of rows that were written."""
        if connection.dialect.name == "sqlite":
            return self._run_in_parts(connection, rows)
        arrays = tuple(map(list, zip(*rows, strict=True)))
        return connection.exec_driver_sql(_for_postgresql(self), arrays).rowcount

    def _run_in_parts(self, connection: Connection, rows: Sequence[Row]) -> int:
        """Write many rows at a time, so that Python's global lock is taken less often."""
        written = at = 0
        for size in _ROWS_PER_STATEMENT:
            end = len(rows) - (len(rows) - at) % size
            parts = [tuple(chain.from_iterable(rows[n : n + size])) for n in range(at, end, size)]
            if parts:
                written += connection.exec_driver_sql(_for_sqlite(self, size), parts).rowcount
            at = end
        return written


@cache
def _for_sqlite(statement: Statement, size: int) -> str:
    names = statement.columns.split()
    row = f"({', '.join('?' for _ in names)})"
    values = f"VALUES {', '.join([row] * size)}"
    columns = [f"column{n} AS {name}" for n, name in enumerate(names, 1)]
    if "{in_order}" in statement.template:
        columns.append("row_number() OVER () AS nth")
    given = f"(SELECT {', '.join(columns)} FROM ({values})) AS given"  # noqa: S608 (names of ours)
    return _fill(statement, values, given)


@cache
def _for_postgresql(statement: Statement) -> str:
    names = statement.columns.split()
    arrays = ", ".join(f"${n}::{_TYPES.get(name, 'text')}[]" for n, name in enumerate(names, 1))
    given = f"unnest({arrays}) WITH ORDINALITY AS given({', '.join(names)}, nth)"
    values = ", ".join(f"given.{name}" for name in names)
    rows = f"SELECT {values} FROM {given}"  # noqa: S608 (likewise)
    return _fill(statement, rows, given)


def _fill(statement: Statement, rows: str, given: str) -> str:
    filled = statement.template.format(
        rows=rows,
        from_rows=f"FROM {given}",
        and_rows=f", {given}",
        in_order="ORDER BY given.nth",
        **_PARTS,
    )
    return re.sub(r"(?<!:):(\w+)", r"given.\1", filled)  # not the casts


OPEN_RUN = Statement(
    """INSERT INTO runs (run, title, submitted_at, first_seq) {rows}
    ON CONFLICT (run) DO UPDATE SET finished_at = NULL""",
    "run title at seq",
)
REOPEN_RUN = Statement(
    "UPDATE runs SET finished_at = NULL {from_rows} WHERE runs.run = :run",
    "run",
)
COMPLETE_RUN = Statement(
    """UPDATE runs SET finished_at = :at {from_rows}
    WHERE runs.run = :run AND runs.finished_at IS NULL""",
    "run at",
)
COUNT = Statement(
    """INSERT INTO run_counts (run, status, n) {rows}
    ON CONFLICT (run, status) DO UPDATE SET n = run_counts.n + excluded.n""",
    "run status n",
)

ADD_TASK = Statement(
    """INSERT INTO tasks
    (seq, run, id, status, type, fingerprint, submitted_at, failures, losses, attempt,
    assigned_at, worker, worker_name, incarnation) {rows}""",
    "seq run id status type fingerprint at failures losses attempt assigned_at worker worker_name incarnation",
)
ADD_BACKLOG_TASK = Statement(
    """INSERT INTO tasks
    (seq, run, id, status, type, fingerprint, submitted_at, failures, losses, attempt, kind, rank) {rows}""",
    "seq run id status type fingerprint at failures losses attempt kind rank",
)
ADD_KIND = Statement(
    "INSERT INTO kinds (kind, need) {rows} ON CONFLICT (kind) DO NOTHING",
    "kind need",
)
ADD_DEFINITION = Statement(
    "INSERT INTO definitions (seq, terms, description, payload) {rows}",
    "seq terms description payload",
)

MOVE_TO_BACKLOG = Statement(
    """UPDATE tasks SET kind = :kind, rank = :rank
    {from_rows} {this} AND tasks.attempt = 0 AND tasks.status = 'ready'""",
    "run id kind rank",
    must_match=True,
)
SET_STATUS = Statement(
    """UPDATE tasks SET status = :status, reason = :reason, finished_at = :finished_at, retry_at = NULL
    {from_rows} {this} AND tasks.attempt = :attempt AND {waits}""",
    "run id attempt status reason finished_at",
    must_match=True,
)
ASSIGN = Statement(
    """UPDATE tasks SET status = 'assigned', attempt = :attempt, assigned_at = :at, started_at = NULL,
    worker = :worker, worker_name = :worker_name, incarnation = :incarnation, reason = NULL, retry_at = NULL
    {from_rows} {this} AND tasks.attempt = :attempt - 1 AND tasks.status = 'ready'""",
    "run id attempt at worker worker_name incarnation",
    must_match=True,
)
START_ATTEMPT = Statement(
    """UPDATE tasks SET status = 'running', started_at = :at
    {from_rows} {this} AND tasks.attempt = :attempt AND {held}""",
    "run id attempt at",
    must_match=True,
)
END_TASK = Statement(
    """UPDATE tasks SET status = :status, outcome = :outcome, reason = :reason, error = :reason,
    output = :output, started_at = COALESCE(:started_at, tasks.started_at), finished_at = :finished_at,
    failures = :failures, losses = :losses
    {from_rows} {this} AND tasks.attempt = :attempt AND {held}""",
    "run id attempt status outcome reason output started_at finished_at failures losses",
    must_match=True,
)
SAVE_ENDED_ATTEMPT = Statement(
    """INSERT INTO attempts
    (seq, attempt, worker, incarnation, assigned_at, started_at, finished_at, outcome, error, counted)
    SELECT tasks.seq, tasks.attempt, tasks.worker, tasks.incarnation, tasks.assigned_at,
    COALESCE(:started_at, tasks.started_at), :finished_at, :outcome, :reason, TRUE
    FROM tasks {and_rows} {this} AND tasks.attempt = :attempt AND {held}""",
    "run id attempt started_at finished_at outcome reason",
    must_match=True,
)
RETRY = Statement(
    """UPDATE tasks SET status = :status, reason = :reason, assigned_at = NULL, retry_at = :retry_at,
    started_at = COALESCE(:started_at, tasks.started_at), failures = :failures, losses = :losses, kind = NULL
    {from_rows} {this} AND tasks.attempt = :attempt AND {held}""",
    "run id attempt status reason started_at retry_at failures losses",
    must_match=True,
)
SET_NEED = Statement(
    """UPDATE tasks SET need = :need, reason = :reason, kind = NULL
    {from_rows} {this} AND {live}""",
    "run id need reason",
    must_match=True,
)
SAVE_LAST_ATTEMPT = Statement(
    """INSERT INTO attempts
    (seq, attempt, worker, incarnation, assigned_at, started_at, finished_at, outcome, error, counted)
    SELECT tasks.seq, tasks.attempt, tasks.worker, tasks.incarnation, tasks.assigned_at,
    tasks.started_at, tasks.finished_at, tasks.outcome, tasks.error, TRUE
    FROM tasks {and_rows} {this} AND tasks.assigned_at IS NOT NULL AND {ended}""",
    "run id",
)
REOPEN = Statement(
    """UPDATE tasks SET status = :status, opened_at = :at, finished_at = NULL, assigned_at = NULL,
    outcome = NULL, reason = NULL, error = NULL, output = NULL, need = NULL, failures = 0, losses = 0, kind = NULL
    {from_rows} {this} AND tasks.attempt = :attempt AND {ended}""",
    "run id attempt status at",
    must_match=True,
)
ADD_STALE_RESULT = Statement(
    """INSERT INTO attempts
    (seq, attempt, worker, incarnation, assigned_at, started_at, finished_at, outcome, error, counted)
    SELECT tasks.seq, :attempt, :worker, :incarnation, :at, :started_at, :finished_at, :outcome, :reason, FALSE
    FROM tasks {and_rows} {this} {in_order}""",
    "run id attempt worker incarnation at started_at finished_at outcome reason",
)
SAVE_WORKER = Statement(
    """INSERT INTO workers (name, profile, status, reason, since) {rows}
    ON CONFLICT (name) DO UPDATE SET profile = excluded.profile, status = excluded.status,
    reason = excluded.reason, since = excluded.since""",
    "name profile status reason at",
)
