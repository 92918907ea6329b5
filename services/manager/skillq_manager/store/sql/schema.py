"""The tables as the newest migration leaves them; a test compares both.

The row of a task holds its last attempt too: most tasks have only one attempt, and this attempt needs no row
of its own. Earlier attempts and stale results are in `attempts`.

| table | grows with | a row is |
|---|---|---|
| `tasks` | tasks | small; written when a task is submitted, is assigned and ends |
| `definitions` | tasks | written once; read when the task is assigned or shown |
| `kinds` | needs of tasks in the backlog | written once |
| `attempts` | retries and stale results | written once |
| `run_counts` | runs | the number of tasks of a run with a status; assigned and running tasks are counted on demand |

The tables have no foreign keys: each key costs a look-up per row, and one transaction writes all rows.

See docs/adr/0008-one-sql-layer-for-both-databases.md and docs/adr/0016-keep-deep-backlogs-in-the-store.md.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    text,
)

HEAD = "0003"  # the newest migration

# Texts are compared byte by byte: the order of a language is slower, and no query needs it.
_Name = Text().with_variant(Text(collation="C"), "postgresql")
# SQLite stores rows in the order of the key only if the key has exactly this type.
_Key = BigInteger().with_variant(Integer(), "sqlite")

# Conditions of partial indexes. A query uses such an index only if the query has the same text.
# Every write evaluates the conditions, and SQLite is slow with lists of more than two values.
ENDED_BADLY = "finished_at IS NOT NULL AND status <> 'succeeded'"
HELD = "status IN ('assigned', 'running')"
LIVE = "finished_at IS NULL"
IN_BACKLOG = "kind IS NOT NULL AND status = 'ready'"

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("key", _Name, primary_key=True),
    Column("value", Text, nullable=False),
)

leader = Table(
    "leader",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("holder", _Name, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_at", Double, nullable=False),  # by the database's clock
)

runs = Table(
    "runs",
    metadata,
    Column("run", _Name, primary_key=True),
    Column("title", Text, nullable=False),
    Column("submitted_at", Double, nullable=False),
    Column("finished_at", Double),
    Column("first_seq", BigInteger, nullable=False),
)

run_counts = Table(
    "run_counts",
    metadata,
    Column("run", _Name, primary_key=True),
    Column("status", _Name, primary_key=True),
    Column("n", BigInteger, nullable=False),
)

tasks = Table(
    "tasks",
    metadata,
    Column("seq", _Key, primary_key=True, autoincrement=False),
    Column("run", _Name, nullable=False),
    Column("id", _Name, nullable=False),
    Column("status", _Name, nullable=False),
    Column("type", _Name, nullable=False),
    Column("fingerprint", BigInteger, nullable=False),
    Column("submitted_at", Double, nullable=False),
    Column("opened_at", Double),  # the time of an operator's retry
    Column("retry_at", Double),
    Column("finished_at", Double),
    Column("failures", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    # The last attempt. If `assigned_at` is null, this attempt is in `attempts`, or does not exist.
    Column("attempt", Integer, nullable=False),
    Column("assigned_at", Double),
    Column("started_at", Double),
    Column("worker", _Name),  # the title, as the user wrote it
    Column("worker_name", _Name),
    Column("incarnation", _Name),
    Column("outcome", _Name),
    Column("reason", Text),
    Column("error", Text),
    Column("need", Text),  # null if the need is the one of the definition
    Column("output", Text),
    # Set if the task was moved to the backlog. Tasks of the lowest `rank` go first, then the oldest.
    Column("kind", BigInteger),
    Column("rank", Integer),
    Index("tasks_key", "run", "id", unique=True),
    Index("tasks_run", "run", "seq"),
    # With `kind`, so that a query skips tasks in the backlog without reading their rows.
    Index("tasks_live", "seq", "kind", sqlite_where=text(LIVE), postgresql_where=text(LIVE)),
    Index(
        "tasks_shelf",
        "kind",
        "rank",
        "seq",
        sqlite_where=text(IN_BACKLOG),
        postgresql_where=text(IN_BACKLOG),
    ),
    Index(
        "tasks_held",
        "status",
        "seq",
        "run",
        sqlite_where=text(HELD),
        postgresql_where=text(HELD),
    ),
    Index(
        "tasks_ended_badly",
        "status",
        "seq",
        sqlite_where=text(ENDED_BADLY),
        postgresql_where=text(ENDED_BADLY),
    ),
    Index("tasks_worker", "worker", "seq"),
)

# The needs of tasks in the backlog. A kind is a number that is computed from the need.
kinds = Table(
    "kinds",
    metadata,
    Column("kind", _Key, primary_key=True, autoincrement=False),
    Column("need", Text, nullable=False),
)

definitions = Table(
    "definitions",
    metadata,
    Column("seq", _Key, primary_key=True, autoincrement=False),
    # The task without its id, description, payload and default values: many tasks have equal terms.
    Column("terms", Text, nullable=False),
    Column("description", Text),
    Column("payload", Text),
)

attempts = Table(
    "attempts",
    metadata,
    Column("no", _Key, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("worker", _Name, nullable=False),
    Column("incarnation", _Name, nullable=False),
    Column("assigned_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("outcome", _Name, nullable=False),
    Column("error", Text),
    Column("counted", Boolean, nullable=False),
    Index("attempts_task", "seq"),
)

workers = Table(
    "workers",
    metadata,
    Column("name", _Name, primary_key=True),
    Column("profile", Text, nullable=False),
    Column("status", _Name, nullable=False),
    Column("reason", Text, nullable=False),
    Column("since", Double, nullable=False),
)
