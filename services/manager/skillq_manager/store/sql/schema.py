"""The tables, as the newest migration leaves them; a test compares the two.

A task's row holds its last attempt, too: most tasks have one, and then an attempt costs no row of its own.
What was tried before, and reports that did not count, are in `attempts`.

| table | grows with | a row is |
|---|---|---|
| `tasks` | tasks | written when a task is submitted, given out, ended; small |
| `definitions` | tasks | written once, read when the task is given out or shown |
| `kinds` | kinds of tasks of which very many have waited | written once |
| `attempts` | retries and stale reports | written once |
| `run_counts` | runs | how many tasks of the run have a status; those of assigned and running ones are counted on demand |

There are no foreign keys: each costs a look-up per row, and all rows are written by one transaction of ours.
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

# Compared byte by byte: an order by language is slower, and nothing here needs it.
_Word = Text().with_variant(Text(collation="C"), "postgresql")
# SQLite makes a key of this type alone the place of the row itself.
_Number = BigInteger().with_variant(Integer(), "sqlite")

# Which rows an index on some of them has. A query uses it only where it says the same, word for word.
# They are asked of every row that is written: SQLite is slow with lists of more than two.
ENDED_BADLY = "finished_at IS NOT NULL AND status <> 'succeeded'"
HELD = "status IN ('assigned', 'running')"
LIVE = "finished_at IS NULL"
ON_SHELF = "kind IS NOT NULL AND status = 'ready'"

metadata = MetaData()

meta = Table(
    "meta",
    metadata,
    Column("key", _Word, primary_key=True),
    Column("value", Text, nullable=False),
)

leader = Table(
    "leader",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("holder", _Word, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("expires_at", Double, nullable=False),  # by the database's clock
)

runs = Table(
    "runs",
    metadata,
    Column("run", _Word, primary_key=True),
    Column("title", Text, nullable=False),
    Column("submitted_at", Double, nullable=False),
    Column("finished_at", Double),
    Column("first_seq", BigInteger, nullable=False),
)

run_counts = Table(
    "run_counts",
    metadata,
    Column("run", _Word, primary_key=True),
    Column("status", _Word, primary_key=True),
    Column("n", BigInteger, nullable=False),
)

tasks = Table(
    "tasks",
    metadata,
    Column("seq", _Number, primary_key=True, autoincrement=False),
    Column("run", _Word, nullable=False),
    Column("id", _Word, nullable=False),
    Column("status", _Word, nullable=False),
    Column("type", _Word, nullable=False),
    Column("fingerprint", BigInteger, nullable=False),
    Column("submitted_at", Double, nullable=False),
    Column("opened_at", Double),  # when it was sent again
    Column("retry_at", Double),
    Column("finished_at", Double),
    Column("failures", Integer, nullable=False),
    Column("losses", Integer, nullable=False),
    # The last attempt. Where `assigned_at` is null, it is in `attempts`, or there is none.
    Column("attempt", Integer, nullable=False),
    Column("assigned_at", Double),
    Column("started_at", Double),
    Column("worker", _Word),  # as its user wrote it
    Column("worker_name", _Word),
    Column("incarnation", _Word),
    Column("outcome", _Word),
    Column("reason", Text),
    Column("error", Text),
    Column("need", Text),  # where it is not what the definition says
    Column("output", Text),
    # Of a task that was put on a shelf. There, those of the lowest `rank` go first, then in order of submission.
    Column("kind", BigInteger),
    Column("rank", Integer),
    Index("tasks_key", "run", "id", unique=True),
    Index("tasks_run", "run", "seq"),
    # With `kind`, so that what is on a shelf is passed over without a look at its row.
    Index("tasks_live", "seq", "kind", sqlite_where=text(LIVE), postgresql_where=text(LIVE)),
    Index(
        "tasks_shelf",
        "kind",
        "rank",
        "seq",
        sqlite_where=text(ON_SHELF),
        postgresql_where=text(ON_SHELF),
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

# What the tasks of a shelf ask of a worker; a kind is a number that stands for that.
kinds = Table(
    "kinds",
    metadata,
    Column("kind", _Number, primary_key=True, autoincrement=False),
    Column("need", Text, nullable=False),
)

definitions = Table(
    "definitions",
    metadata,
    Column("seq", _Number, primary_key=True, autoincrement=False),
    # Without its id, its texts, and what is as by default: much the same for many tasks.
    Column("terms", Text, nullable=False),
    Column("description", Text),
    Column("payload", Text),
)

attempts = Table(
    "attempts",
    metadata,
    Column("no", _Number, primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("worker", _Word, nullable=False),
    Column("incarnation", _Word, nullable=False),
    Column("assigned_at", Double, nullable=False),
    Column("started_at", Double),
    Column("finished_at", Double),
    Column("outcome", _Word, nullable=False),
    Column("error", Text),
    Column("counted", Boolean, nullable=False),
    Index("attempts_task", "seq"),
)

workers = Table(
    "workers",
    metadata,
    Column("name", _Word, primary_key=True),
    Column("profile", Text, nullable=False),
    Column("status", _Word, nullable=False),
    Column("reason", Text, nullable=False),
    Column("since", Double, nullable=False),
)
