"""Bring the tables up to date. Whoever calls holds a lock, in a transaction: all of it, or nothing."""

from uuid import uuid4

from sqlalchemy import Connection, column, insert, inspect, select, table

from skillq.errors import UsageError
from skillq_manager.store.sql.schema import HEAD, meta

VERSION_TABLE = "skillq_version"


def version(connection: Connection) -> str | None:
    """The migration the tables are at; None where there are none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    found: str = connection.execute(
        select(column("version_num")).select_from(table(VERSION_TABLE))
    ).scalar_one()
    return found


def up(connection: Connection, place: str) -> None:
    """Make the tables, or bring them up to this release; a new database gets its name.

    Raises:
        UsageError: they are of a newer release.
    """
    there = version(connection)
    if there == HEAD:
        return
    # Slow to import, and seldom needed.
    from alembic import command  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", "skillq_manager.store.sql:migrations")
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    ours = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    if there is not None and there not in ours:
        raise UsageError(
            f"{place} was written by a newer release (its tables are {there}, this one knows {HEAD}); "
            "upgrade this manager"
        )
    command.upgrade(config, "head")
    if there is None:
        connection.execute(insert(meta).values(key="id", value=uuid4().hex[:8]))
