"""Create the tables of runs, tasks, definitions, attempts, workers and the leader."""

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Double, Integer, Text, text

revision = "0001"
down_revision = None

_WORD = Text().with_variant(Text(collation="C"), "postgresql")
_NUMBER = BigInteger().with_variant(Integer(), "sqlite")
_ENDED_BADLY = text("status IN ('failed', 'timed_out', 'cancelled', 'dead_lettered')")
_HELD = text("status IN ('assigned', 'running')")
_LIVE = text("finished_at IS NULL")


def upgrade() -> None:
    """Create all tables and indexes of the first release."""
    op.create_table(
        "meta",
        Column("key", _WORD, primary_key=True),
        Column("value", Text, nullable=False),
    )
    op.create_table(
        "leader",
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("holder", _WORD, nullable=False),
        Column("epoch", BigInteger, nullable=False),
        Column("expires_at", Double, nullable=False),
    )
    op.create_table(
        "runs",
        Column("run", _WORD, primary_key=True),
        Column("title", Text, nullable=False),
        Column("submitted_at", Double, nullable=False),
        Column("finished_at", Double),
        Column("first_seq", BigInteger, nullable=False),
    )
    op.create_table(
        "run_counts",
        Column("run", _WORD, primary_key=True),
        Column("status", _WORD, primary_key=True),
        Column("n", BigInteger, nullable=False),
    )
    op.create_table(
        "tasks",
        Column("seq", _NUMBER, primary_key=True, autoincrement=False),
        Column("run", _WORD, nullable=False),
        Column("id", _WORD, nullable=False),
        Column("status", _WORD, nullable=False),
        Column("type", _WORD, nullable=False),
        Column("fingerprint", BigInteger, nullable=False),
        Column("submitted_at", Double, nullable=False),
        Column("opened_at", Double),
        Column("retry_at", Double),
        Column("finished_at", Double),
        Column("failures", Integer, nullable=False),
        Column("losses", Integer, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("assigned_at", Double),
        Column("started_at", Double),
        Column("worker", _WORD),
        Column("worker_name", _WORD),
        Column("incarnation", _WORD),
        Column("outcome", _WORD),
        Column("reason", Text),
        Column("error", Text),
        Column("need", Text),
        Column("output", Text),
    )
    op.create_index("tasks_key", "tasks", ["run", "id"], unique=True)
    op.create_index("tasks_run", "tasks", ["run", "seq"])
    op.create_index("tasks_live", "tasks", ["seq"], sqlite_where=_LIVE, postgresql_where=_LIVE)
    op.create_index(
        "tasks_held", "tasks", ["status", "seq", "run"], sqlite_where=_HELD, postgresql_where=_HELD
    )
    op.create_index(
        "tasks_ended_badly",
        "tasks",
        ["status", "seq"],
        sqlite_where=_ENDED_BADLY,
        postgresql_where=_ENDED_BADLY,
    )
    op.create_index("tasks_worker", "tasks", ["worker", "seq"])
    op.create_table(
        "definitions",
        Column("seq", _NUMBER, primary_key=True, autoincrement=False),
        Column("terms", Text, nullable=False),
        Column("description", Text),
        Column("payload", Text),
    )
    op.create_table(
        "attempts",
        Column("no", _NUMBER, primary_key=True),
        Column("seq", BigInteger, nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("worker", _WORD, nullable=False),
        Column("incarnation", _WORD, nullable=False),
        Column("assigned_at", Double, nullable=False),
        Column("started_at", Double),
        Column("finished_at", Double),
        Column("outcome", _WORD, nullable=False),
        Column("error", Text),
        Column("counted", Boolean, nullable=False),
    )
    op.create_index("attempts_task", "attempts", ["seq"])
    op.create_table(
        "workers",
        Column("name", _WORD, primary_key=True),
        Column("profile", Text, nullable=False),
        Column("status", _WORD, nullable=False),
        Column("reason", Text, nullable=False),
        Column("since", Double, nullable=False),
    )
