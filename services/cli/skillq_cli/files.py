"""Reads what users write: workers and tasks in YAML or JSON, tasks in CSV."""

import csv
import io
import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from skillq.errors import UsageError
from skillq.forms import WorkFile, explain_form, one_line
from skillq.messages import shorten
from skillq.packing import check_readable

_LISTS = {"requires", "depends_on"}  # in CSV, separated by spaces or semicolons


def read_work_file(path: Path) -> WorkFile:
    """The workers and tasks of a file; `tasks: FILE.csv` in it names another one, beside it.

    Raises:
        UsageError: one line with the file, the item and the remedy.
    """
    data = _read(path)
    if isinstance(data, dict) and isinstance(name := data.get("tasks"), str):
        data = data | {"tasks": _read_csv(path.parent / name)}
    _check_plain(path, data)
    try:
        return WorkFile.model_validate(data)
    except ValidationError as error:
        raise UsageError(f"{path}: {explain_form(error, data)}") from error


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


def _check_plain(path: Path, data: Any) -> None:
    """Refuse what would arrive as something else, as NaN does, or not at all."""
    try:
        text = json.dumps(data, ensure_ascii=False, allow_nan=False, skipkeys=True, default=str)
        check_readable(text.encode())
    except (ValueError, RecursionError) as error:
        raise UsageError(
            f"{path}: holds what no message can carry: {one_line(shorten(str(error), 200))}"
        ) from error


def _text(path: Path) -> str:
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
    except ValueError as error:  # as of a zero byte in the name
        raise UsageError(f"{one_line(str(path))}: is no name of a file: {error}") from error


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_text(path), object_pairs_hook=_mapping)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no JSON: {error}") from error


def _mapping(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice!r} stands twice in one object")
    return found


class _Loader(yaml.SafeLoader):
    """YAML, but a key that stands twice in one mapping is a mistake, not the last one wins."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key_node, key in zip(node.value, keys, strict=True):
            if isinstance(key, Hashable) and keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"{key!r} stands twice", key_node[0].start_mark
                )
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> Any:
    try:
        return yaml.load(_text(path), _Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}" if mark is not None else ""
        raise UsageError(f"{path}{where}: is no YAML: {error.problem}") from error
    except yaml.reader.ReaderError as error:
        raise UsageError(
            f"{path}: is no YAML: character {error.position + 1} may not stand in it; "
            "is it a text file?"
        ) from error
    except (RecursionError, ValueError) as error:
        raise UsageError(f"{path}: is no YAML: {one_line(str(error))}") from error
    except (AttributeError, LookupError, TypeError) as error:  # as of `!!timestamp soon`
        raise UsageError(f"{path}: is no YAML: a tag does not fit its value ({error!r})") from error


def _read_csv(path: Path) -> list[dict[str, Any]]:
    reader = csv.DictReader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        return [_task(path, reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise UsageError(f"{path}, line {reader.line_num}: is no CSV: {error}") from error


def _task(path: Path, line: int, row: dict[str | Any, Any]) -> dict[str, Any]:
    if None in row:
        raise UsageError(f"{path}, line {line}: has more fields than the heading")
    task: dict[str, Any] = {
        (name or "").strip(): text.strip() for name, text in row.items() if text and text.strip()
    }
    for name in _LISTS & task.keys():
        task[name] = task[name].replace(";", " ").split()
    if "payload" in task:
        try:
            task["payload"] = json.loads(task["payload"])
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}, line {line}: payload is no JSON: {error}") from error
    return task
