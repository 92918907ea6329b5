"""Tasks as users name them: ID, RUN/ID, or ID with --run."""

from typing import NamedTuple

import click

from skillq.errors import UsageError
from skillq.messages import DEFAULT_RUN, slug

in_run = click.option("--run", metavar="RUN", help=f"The run, {DEFAULT_RUN} unless given.")


class TaskName(NamedTuple):
    run: str  # its name on the wire
    id: str

    def __str__(self) -> str:
        return f"{self.run}/{self.id}"


def task_name(written: str, run: str | None) -> TaskName:
    """The task that is meant.

    Raises:
        UsageError: nothing can be called that, or the run is given twice.
    """
    in_id, slash, id = written.rpartition("/")
    if slash and run is not None:
        raise UsageError(f"the run is given twice, as {in_id!r} and as --run {run!r}; give it once")
    return TaskName(run_name(run or in_id or DEFAULT_RUN), id)


def run_name(written: str) -> str:
    try:
        return slug(written)
    except ValueError as error:
        raise UsageError(f"there is no run {written!r}: {error}") from error
