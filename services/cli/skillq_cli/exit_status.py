"""Print the outcome of a run, and derive the exit status of a command from it."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from skillq.errors import UsageError
from skillq.messages import TaskStatus
from skillq.summary import EndedTask, success_rate, summary
from skillq_cli.output import write_line

TASKS_FAILED = 1

json_option = click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
file_argument = click.argument("file", type=click.Path(path_type=Path))


@contextmanager
def naming_file(file: Path) -> Iterator[None]:
    """Prefix the message of a UsageError with the name of the file."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error


def print_outcome(
    run: str, ended: Sequence[EndedTask], counts: dict[TaskStatus, int], as_json: bool
) -> int:
    """Print the ended tasks and the success rate; return 0 if all tasks succeeded, else 1."""
    if as_json:
        tasks = [e._asdict() for e in ended]
        rate = round(success_rate(counts), 2)
        write_line(json.dumps({"run": run, "success_rate": rate, "counts": counts, "tasks": tasks}))
    else:
        for line in summary(ended, counts):
            write_line(line)
    all_succeeded = all(status is TaskStatus.SUCCEEDED for status, n in counts.items() if n)
    return 0 if all_succeeded else TASKS_FAILED
