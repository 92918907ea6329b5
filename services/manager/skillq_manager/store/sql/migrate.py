"""Migration of the tables to this release. The caller holds a lock and a transaction."""

from uuid import uuid4

from sqlalchemy import Connection, column, insert, inspect, select, table

from skillq.errors import UsageError
from skillq_manager.store.sql.schema import HEAD, meta

VERSION_TABLE = "skillq_version"


def version(connection: Connection) -> str | None:
    """Return the migration of the tables, or None if the database has no tables of skillq."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str = connection.execute(
        select(column("version_num")).select_from(table(VERSION_TABLE))
    ).scalar_one()
    return found


def up(connection: Connection, location: str) -> None:
    """Create the tables, or bring them up to this release; a new database gets its store id.

    Raises:
        UsageError: The tables are of a newer release.
    """
    current = version(connection)
    if current == HEAD:
        return
    # Alembic is slow to import and seldom needed.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "skillq_manager.store.sql:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    revisions = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if current is not None and current not in revisions:
        raise UsageError(
            f"{location} was written by a newer release (its tables are {current}, this one knows {HEAD}); "
            "upgrade this manager"
        )
    command.upgrade(config, "head")
    if current is None:
        connection.execute(insert(meta).values(key="id", value=uuid4().hex[:8]))
