"""Add the columns and the index of the backlog: ready tasks that only the store keeps."""

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, Text, text

revision = "0003"
down_revision = "0002"

_NUMBER = BigInteger().with_variant(Integer(), "sqlite")
_LIVE = text("finished_at IS NULL")
_ON_SHELF = text("kind IS NOT NULL AND status = 'ready'")


def upgrade() -> None:
    """Create the table `kinds`, and the columns and indexes that use its key."""
    op.create_table(
        "kinds",
        Column("kind", _NUMBER, primary_key=True, autoincrement=False),
        Column("need", Text, nullable=False),
    )
    op.add_column("tasks", Column("kind", BigInteger))
    op.add_column("tasks", Column("rank", Integer))
    op.drop_index("tasks_live", "tasks")
    op.create_index(
        "tasks_live", "tasks", ["seq", "kind"], sqlite_where=_LIVE, postgresql_where=_LIVE
    )
    op.create_index(
        "tasks_shelf",
        "tasks",
        ["kind", "rank", "seq"],
        sqlite_where=_ON_SHELF,
        postgresql_where=_ON_SHELF,
    )
