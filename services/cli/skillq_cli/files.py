"""Reads what users write: workers and tasks in YAML or JSON, tasks in CSV."""

import csv
import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from skillq.errors import UsageError
from skillq.forms import WorkFile, explain_form, one_line

_LISTS = {"requires", "depends_on"}  # in CSV, separated by spaces or semicolons


def read_work_file(path: Path) -> WorkFile:
    """The workers and tasks of a file; `tasks: FILE.csv` in it names another one, beside it.

    Raises:
        UsageError: one line with the file, the item and the remedy.
    """
    data = _read(path)
    if isinstance(data, dict) and isinstance(name := data.get("tasks"), str):
        data = data | {"tasks": _read_csv(path.parent / name)}
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


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no JSON: {error}") from error


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
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(f"{path}: is no YAML: {one_line(str(error))}") from error


def _read_csv(path: Path) -> list[dict[str, Any]]:
    lines = _text(path).splitlines()
    reader = csv.DictReader(lines, strict=True)
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
        except ValueError as error:
            raise UsageError(f"{path}, line {line}: payload is no JSON: {error}") from error
    return task
