"""Read users' files: workers and tasks in YAML or JSON, tasks in CSV."""

import json
import stat
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from skillq.errors import UsageError
from skillq.forms import WorkFile, explain_form, one_line, reject_duplicate_names
from skillq.messages import shorten
from skillq.transport.batching import check_readable
from skillq_cli.csv_file import parse_csv
from skillq_cli.yaml_file import parse_yaml

MAX_FILE_BYTES = 128 * 1024 * 1024  # twice what one submission can hold
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
    _check_has_work(path, data)
    tasks_path = path
    if isinstance(name := data.get("tasks"), str):
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


def _check_has_work(path: Path, data: Any) -> None:
    """Refuse what is no file of tasks, without its content: it may be any file, with secrets.

    Raises:
        UsageError: the file is not a mapping, or has none of the fields of a file of tasks.
    """
    known = tuple(WorkFile.model_fields)
    if not isinstance(data, dict):
        raise UsageError(f"{path}: should be a mapping with tasks, {_example(path)}")
    if not any(get_close_matches(str(name).lower(), known, n=1) for name in data):
        raise UsageError(f"{path}: tasks is missing; write tasks into it, {_example(path)}")


def _check_encodable(path: Path, data: Any) -> None:
    """Check that JSON can express all texts. The models of the fields check the numbers.

    Raises:
        UsageError: a value cannot be encoded.
    """
    try:
        text = json.dumps(data, ensure_ascii=False, skipkeys=True)
        check_readable(text.encode())
    except (ValueError, RecursionError) as error:
        raise _no_message_can_carry(path, str(error)) from error


def _no_message_can_carry(path: Path, problem: str) -> UsageError:
    return UsageError(f"{path}: holds what no message can carry: {one_line(shorten(problem, 200))}")


def _check_aliases(path: Path, data: Any) -> None:
    """Check the size of what YAML aliases repeat: a few lines can stand for gigabytes.

    Raises:
        UsageError: the repeated parts are too large, or a part contains itself.
    """
    try:
        repeated = _count_repeated(data)
    except (ValueError, RecursionError) as error:
        raise _no_message_can_carry(path, str(error)) from error
    if repeated > _MAX_ALIAS_LENGTH:
        problem = f"its aliases repeat {repeated} characters; write less, or refer to it"
        raise _no_message_can_carry(path, problem)


def _count_repeated(data: Any) -> int:
    """Return how many characters stand in the file once and are repeated by aliases.

    Raises:
        ValueError: a part contains itself.
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
        if isinstance(value, dict | list):
            return 1 + size(value)
        return 1 + (len(value) if isinstance(value, str) else 8)

    item_size(data)
    return repeated


def _read_non_empty(path: Path) -> str:
    text = _read_text(path)
    if not text.strip():
        raise UsageError(_empty_file_text(path))
    return text


def _empty_file_text(path: Path) -> str:
    return f"{path}: is empty; write tasks into it, {_example(path)}"


def _example(path: Path) -> str:
    return _EXAMPLE.get(path.suffix.lower(), _EXAMPLE[".yaml"])


def _read_text(path: Path) -> str:
    try:
        return _read_bytes(path).decode("utf-8-sig")
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


def _read_bytes(path: Path) -> bytes:
    """Return the content of a regular file; others may have no end, or wait for a writer.

    Raises:
        UsageError: the file is not regular, or too large.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise UsageError(
            f"{path}: is no regular file but a device, a pipe or a socket; save its content in a file"
        )
    _check_size(path, status.st_size)
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)  # the size of some files is not what they contain
    _check_size(path, len(content))
    return content


def _check_size(path: Path, size: int) -> None:
    if size > MAX_FILE_BYTES:
        raise UsageError(
            f"{path}: has {size} bytes; at most {MAX_FILE_BYTES} are allowed: "
            "split it into several files"
        )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(_read_non_empty(path), object_pairs_hook=reject_duplicate_names)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no JSON: {error}") from error


def _read_yaml(path: Path) -> Any:
    text = _read_non_empty(path)
    try:
        data, has_aliases = parse_yaml(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark  # at the end of a text, libyaml's is one line further
        lines = len(text.splitlines())
        position = f", line {min(mark.line + 1, lines)}" if mark is not None else ""
        raise UsageError(f"{path}{position}: is no YAML: {one_line(str(error.problem))}") from error
    except yaml.reader.ReaderError as error:
        raise UsageError(
            f"{path}: is no YAML: character {error.position + 1} may not stand in it; "
            "is it a text file?"
        ) from error
    if data is None:  # for example a file of comments
        raise UsageError(_empty_file_text(path))
    if has_aliases:
        _check_aliases(path, data)
    return data


def _read_csv(path: Path) -> list[dict[str, Any]]:
    return parse_csv(path, _read_non_empty(path))
