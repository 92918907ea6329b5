"""Give the index of unsuccessful tasks a cheaper condition.

SQLite builds a list of more than two values again for every row that is written.
"""

from alembic import op
from sqlalchemy import text

revision = "0002"
down_revision = "0001"

_ENDED_BADLY = text("finished_at IS NOT NULL AND status <> 'succeeded'")


def upgrade() -> None:
    """Create the index `tasks_ended_badly` again, with the cheaper condition."""
    op.drop_index("tasks_ended_badly", "tasks")
    op.create_index(
        "tasks_ended_badly",
        "tasks",
        ["status", "seq"],
        sqlite_where=_ENDED_BADLY,
        postgresql_where=_ENDED_BADLY,
    )
