"""Read tasks in CSV, as people and spreadsheets write it."""

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from skillq.errors import UsageError
from skillq.forms import TaskForm, reject_duplicate_names

_LIST_COLUMNS = {"requires", "depends_on"}  # separated by spaces or semicolons
_COLUMNS = tuple(TaskForm.model_fields)
_SEPARATORS = ",;\t"  # a spreadsheet of a country with a decimal comma writes semicolons
_MAX_FIELD = 2**31 - 1  # characters; the limits are those of a file and of a payload


def parse_csv(path: Path, text: str) -> list[dict[str, Any]]:
    """Return the fields of the tasks in the text of a file. Rows without a value are skipped.

    Raises:
        UsageError: the text is no CSV, or its heading has no column of tasks: then it may be any
            file, and the message quotes nothing of it.
    """
    csv.field_size_limit(_MAX_FIELD)  # Python's limit is 131,072 characters
    separator = _find_separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=separator)
    try:
        rows = _rows_with_values(reader)
        _, heading = next(rows, (0, []))
        _check_heading(path, heading)
        return [_task_from_row(path, line, heading, row) for line, row in rows]
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: is no CSV: {error}") from error


def _find_separator(text: str) -> str:
    """Return the separator with which the first line has the most columns of tasks."""
    lines = io.StringIO(text, newline="")
    line = next((line for line in lines if line.strip(_SEPARATORS + " \r\n")), "")

    def count_columns(separator: str) -> int:
        return sum(name.strip(' "\r\n') in _COLUMNS for name in line.split(separator))

    return max(_SEPARATORS, key=count_columns)


def _rows_with_values(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows with their line numbers; spaces around values are removed."""
    for row in reader:
        values = [value.strip() for value in row]
        if any(values):
            yield reader.line_num, values


def _check_heading(path: Path, heading: Sequence[str]) -> None:
    if not set(heading) & set(_COLUMNS):
        raise UsageError(
            f"{path}: is no file of tasks; its first line should name columns, as id,difficulty, "
            f"with commas, semicolons or tabs between; known are {', '.join(_COLUMNS)}"
        )
    for name in heading:
        if name and heading.count(name) > 1:
            raise UsageError(f"{path}: the heading has {name!r} twice")


def _task_from_row(
    path: Path, line: int, heading: Sequence[str], row: Sequence[str]
) -> dict[str, Any]:
    if any(row[len(heading) :]):
        raise UsageError(f"{path}, line {line}: has more fields than the heading")
    task: dict[str, Any] = {name: text for name, text in zip(heading, row, strict=False) if text}
    for name in _LIST_COLUMNS & task.keys():
        task[name] = task[name].replace(";", " ").split()
    if "payload" in task:
        try:
            task["payload"] = json.loads(task["payload"], object_pairs_hook=reject_duplicate_names)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}, line {line}: payload is no JSON: {error}") from error
    return task
