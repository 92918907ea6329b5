"""Read users' files: workers and tasks in YAML or JSON, tasks in CSV."""

import csv
import io
import json
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from skillq.errors import UsageError
from skillq.forms import WorkFile, explain_form, one_line, reject_duplicate_names
from skillq.messages import shorten
from skillq.transport.batching import check_readable

_LIST_COLUMNS = {"requires", "depends_on"}  # in CSV, separated by spaces or semicolons
_MAX_ALIAS_LENGTH = 20_000_000  # characters in all repeated parts of a file with aliases
_EXAMPLE = {
    ".csv": "a heading and a line for each task: id,difficulty",
    ".json": 'as {"tasks": [{"id": 1, "difficulty": 2}]}',
    ".yaml": "as tasks: [{id: 1, difficulty: 2}]",
}


def read_work_file(path: Path) -> WorkFile:
    """Return the workers and tasks of a file.

    `tasks: FILE.csv` in the file names a CSV file in the same folder.

    Raises:
        UsageError: the file is wrong; the message is one line with the file, the item and the remedy.
    """
    data = _read(path)
    tasks_path = path
    if isinstance(data, dict) and isinstance(name := data.get("tasks"), str):
        tasks_path = path.parent / name
        data = data | {"tasks": _read_csv(tasks_path)}
    _check_encodable(path, data)
    try:
        return WorkFile.model_validate(data)
    except ValidationError as error:
        location = error.errors(include_url=False)[0]["loc"]
        faulty_path = tasks_path if location[:1] == ("tasks",) else path
        raise UsageError(f"{faulty_path}: {explain_form(error, data)}") from error


def _read(path: Path) -> Any:
    match path.suffix.lower():
        case ".csv":
            return {"tasks": _read_csv(path)}
        case ".json":
            return _read_json(path)
        case ".yaml" | ".yml":
            return _read_yaml(path)
        case suffix:
            raise UsageError(
                f"{path}: a file ends in .yaml, .yml, .json or .csv, not in {suffix!r}"
            )


def _check_encodable(path: Path, data: Any) -> None:
    """Check that JSON can express all values: NaN, for one, would arrive as another value.

    Raises:
        UsageError: a value cannot be encoded.
    """
    try:
        _check_aliases(data)
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, skipkeys=True, default=str)
        check_readable(text.encode())
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: holds what no message can carry: {one_line(shorten(str(error), 200))}"
        ) from error


def _check_aliases(data: Any) -> None:
    """Check the size of what YAML aliases repeat: a few lines can stand for gigabytes.

    Raises:
        ValueError: the repeated parts are too large, or a part contains itself.
    """
    sizes: dict[int, int | None] = {}  # by identity; None while the size is computed
    repeated = 0

    def size(part: Any) -> int:
        nonlocal repeated
        if id(part) not in sizes:
            sizes[id(part)] = None
            parts = [*part, *part.values()] if isinstance(part, dict) else part
            sizes[id(part)] = sum(map(item_size, parts))
        elif (known_size := sizes[id(part)]) is None:
            raise ValueError("Circular reference detected")
        else:
            repeated += known_size
        return sizes[id(part)] or 0

    def item_size(value: Any) -> int:
        if isinstance(value, dict | list | tuple):
            return 1 + size(value)
        return 1 + (len(value) if isinstance(value, str | bytes) else 8)

    item_size(data)
    if repeated > _MAX_ALIAS_LENGTH:
        raise ValueError(f"its aliases repeat {repeated} characters; write less, or refer to it")


def _read_non_empty(path: Path) -> str:
    text = _read_text(path)
    if not text.strip():
        raise UsageError(_empty_file_text(path))
    return text


def _empty_file_text(path: Path) -> str:
    suffix = path.suffix.lower()
    return f"{path}: is empty; write tasks into it, {_EXAMPLE.get(suffix, _EXAMPLE['.yaml'])}"


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no such file") from error
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path}: is not UTF-8 text (byte {error.start}); save it as UTF-8"
        ) from error
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:  # for example a zero byte in the name
        raise UsageError(f"{one_line(str(path))}: is no name of a file: {error}") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_non_empty(path), object_pairs_hook=reject_duplicate_names)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no JSON: {error}") from error


class _Loader(yaml.SafeLoader):
    """A YAML loader that reads `12:30`, `2026-01-01`, `010` and `+49` as text.

    YAML 1.1 has times, dates and octal numbers. A repeated key in a mapping is an error; PyYAML would
    take the last value.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} stands twice", key_node.start_mark
                )
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


_TAG_PREFIX = "tag:yaml.org,2002:"
_DROPPED_TAGS = {_TAG_PREFIX + name for name in ("int", "float", "timestamp", "merge", "value")}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag not in _DROPPED_TAGS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _TAG_PREFIX + "int",
    re.compile(r"-?(?:0|[1-9][0-9]*)$"),
    list("-0123456789"),
)
_Loader.add_implicit_resolver(
    _TAG_PREFIX + "float",
    re.compile(
        r"(?:[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)\.[0-9]*)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?(?:0|[1-9][0-9]*)[eE][-+]?[0-9]+|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$"
    ),
    list("-+.0123456789"),
)


def _read_yaml(path: Path) -> Any:
    try:
        data = yaml.load(_read_non_empty(path), _Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        position = f", line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"{path}{position}: is no YAML: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        raise UsageError(
            f"{path}: is no YAML: character {error.position + 1} may not stand in it; "
            "is it a text file?"
        ) from error
    except (RecursionError, ValueError) as error:
        raise UsageError(f"{path}: is no YAML: {one_line(str(error))}") from error
    except (AttributeError, LookupError, TypeError) as error:  # for example `!!timestamp soon`
        raise UsageError(f"{path}: is no YAML: a tag does not fit its value ({error!r})") from error
    if data is None:  # for example a file of comments
        raise UsageError(_empty_file_text(path))
    return data


def _read_csv(path: Path) -> list[dict[str, Any]]:
    reader = csv.reader(io.StringIO(_read_non_empty(path), newline=""), strict=True)
    try:
        rows = ((reader.line_num, row) for row in reader if row)
        heading = [name.strip() for name in next(rows)[1]]
        for name in heading:
            if name and heading.count(name) > 1:
                raise UsageError(f"{path}: the heading has {name!r} twice")
        return [_task_from_row(path, line, heading, row) for line, row in rows]
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: is no CSV: {error}") from error


def _task_from_row(
    path: Path, line: int, heading: Sequence[str], row: Sequence[str]
) -> dict[str, Any]:
    if len(row) > len(heading):
        raise UsageError(f"{path}, line {line}: has more fields than the heading")
    task: dict[str, Any] = {
        name: text.strip() for name, text in zip(heading, row, strict=False) if text.strip()
    }
    for name in _LIST_COLUMNS & task.keys():
        task[name] = task[name].replace(";", " ").split()
    if "payload" in task:
        try:
            task["payload"] = json.loads(task["payload"], object_pairs_hook=reject_duplicate_names)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}, line {line}: payload is no JSON: {error}") from error
    return task
