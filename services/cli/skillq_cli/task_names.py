"""Parse names of tasks: ID, RUN/ID, or ID with --run."""

from typing import NamedTuple

import click

from skillq.errors import UsageError
from skillq.messages import DEFAULT_RUN, slug

run_option = click.option("--run", metavar="RUN", help=f"The run, {DEFAULT_RUN} unless given.")


class TaskName(NamedTuple):
    """The run and the id of a task."""

    run: str  # the name, not the title
    id: str

    def __str__(self) -> str:
        return f"{self.run}/{self.id}"


def task_name(text: str, run: str | None) -> TaskName:
    """Return the task that a user's text and `--run` name.

    Raises:
        UsageError: no run can have this name, or the run is given twice.
    """
    run_in_text, slash, id = text.rpartition("/")
    if slash and run is not None:
        raise UsageError(
            f"the run is given twice, as {run_in_text!r} and as --run {run!r}; give it once"
        )
    return TaskName(run_name(run or run_in_text or DEFAULT_RUN), id)


def run_name(text: str) -> str:
    """Return the name that is made from the title of a run.

    Raises:
        UsageError: no name can be made from the title.
    """
    try:
        return slug(text)
    except ValueError as error:
        raise UsageError(f"there is no run {text!r}: {error}") from error
