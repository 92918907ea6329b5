"""Environment of Alembic: the migrations use the connection that `migrate.up` passes."""

from alembic import context

from skillq_manager.store.sql.migrate import VERSION_TABLE
from skillq_manager.store.sql.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
