"""Forms of tasks and workers are validated strictly; an error is one line."""

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from skillq.forms import (
    SubmissionForm,
    TaskForm,
    WorkerForm,
    WorkFile,
    explain_form,
    one_line,
    reject_duplicate_names,
)
from skillq.messages import Submission, Task, decode, encode

TASK: dict[str, Any] = {"id": 1, "difficulty": 2}


def form_error(data: object, form: type[BaseModel] = WorkFile) -> str:
    with pytest.raises(ValidationError) as caught:
        form.model_validate(data)
    return explain_form(caught.value, data)


def task_error(**fields: object) -> str:
    return form_error({"tasks": [TASK | fields]})


def worker_error(*workers: object) -> str:
    return form_error({"tasks": [TASK], "workers": workers})


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"difficulty": 11}, "difficulty: should be at most 10, not 11"),
        ({"difficulty": True}, "difficulty: should be a number, not true"),
        ({"dificulty": 1}, "unknown field 'dificulty' (did you mean 'difficulty'?)"),
        ({"depends_on": "a"}, "depends_on: should be a list, not 'a'"),
        ({"payload": [1]}, "payload: should be a mapping of names to values, not [1]"),
        ({"type": "***"}, "type: '***' has no letter a-z or digit to make a name from"),
        (
            {"depends_on": ["a b"]},
            "depends_on.0: may hold letters, digits and _ . : @ + - only, "
            "and begins with a letter, a digit or _, not 'a b'",
        ),
        (
            {"payload": {"a": "x" * 300_000}},
            "payload: is 300008 bytes; at most 262144 are allowed: pass a reference instead",
        ),
    ],
)
def test_an_error_in_a_task_is_one_line_with_its_id_field_and_value(
    fields: dict[str, object], line: str
) -> None:
    assert task_error(**fields) == f"task 1: {line}"


@pytest.mark.parametrize(
    ("worker", "line"),
    [
        (
            {"name": "Junior", "skil": 3},
            "worker Junior: unknown field 'skil' (did you mean 'skill'?)",
        ),
        ({"name": "Junior"}, "worker Junior: skill is missing"),
        ({"skill": 3}, "worker number 1: name is missing"),
        ("Junior", "worker number 1: should be a mapping of fields to values, not 'Junior'"),
        ({"name": "all", "skill": 3}, "worker all: name: 'all' is reserved: choose another name"),
        (
            {"name": "Junior", "skill": 3, "handlers": "my_tasks"},
            "worker Junior: handlers: should be module:attribute, as my_tasks:handlers, not 'my_tasks'",
        ),
    ],
)
def test_an_error_in_a_worker_is_one_line_with_its_name(worker: object, line: str) -> None:
    assert worker_error(worker) == line


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize(
    ("form", "field"),
    [(form, field) for form in (TaskForm, WorkerForm) for field in form.model_fields],
)
def test_no_field_takes_true_or_false_as_another_type(
    form: type[BaseModel], field: str, value: bool
) -> None:
    with pytest.raises(ValidationError) as caught:
        form.model_validate({"id": 1, "difficulty": 1, "name": "Ada", "skill": 1} | {field: value})
    errors = {error["loc"][0]: error["msg"] for error in caught.value.errors()}
    assert field in errors
    numbers = {
        "difficulty",
        "priority",
        "max_attempts",
        "escalate_by",
        "skill",
        "slots",
        "reserve",
    } | {
        "timeout",
        "deadline",
        "unroutable_after",
    }
    assert ("should be a number, not " in errors[field]) == (field in numbers)


def test_a_duplicate_name_in_a_json_object_is_refused() -> None:
    assert reject_duplicate_names([("a", 1), ("b", 2)]) == {"a": 1, "b": 2}
    with pytest.raises(ValueError, match="'b' stands twice in one object"):
        reject_duplicate_names([("a", 1), ("b", 2), ("b", 3), ("c", 4)])


def test_two_workers_with_the_same_name_in_any_case_are_refused() -> None:
    ada = {"name": "Ada", "skill": 3}
    assert worker_error(ada, ada) == "worker Ada: two workers have this name; give each its own"
    assert worker_error(ada, ada | {"name": "ADA"}) == (
        "worker ADA: would be ada on the wire, as Ada is; give it another name"
    )


@pytest.mark.parametrize(
    ("data", "line"),
    [
        ({}, "tasks is missing"),
        ([], "should be a mapping of fields to values, not []"),
        ({"tasks": []}, "tasks: should have at least one item"),
        ({"tasks": "a"}, "tasks: should be a list, not 'a'"),
        ({"task": [TASK]}, "unknown field 'task' (did you mean 'tasks'?)"),
        ({"tasks": [TASK], "zebra": 1}, "unknown field 'zebra' (known are run, tasks, workers)"),
        ({"tasks": [TASK, TASK]}, "task 1: two tasks have this id; give each its own"),
        (
            {"tasks": [TASK | {"depends_on": [2]}, {"id": 2, "difficulty": 1, "depends_on": [1]}]},
            "task 1: depends on itself (1 → 2 → 1); break the cycle",
        ),
    ],
)
def test_an_error_of_the_whole_file_is_named_without_an_item(data: object, line: str) -> None:
    assert form_error(data) == line


def test_a_submission_with_workers_is_refused_and_the_known_fields_are_named() -> None:
    line = form_error({"tasks": [TASK], "workers": []}, SubmissionForm)
    assert line == "unknown field 'workers' (known are run, tasks)"


def test_further_errors_are_counted_except_those_that_follow_from_the_first() -> None:
    assert task_error(difficulty=0, priority=0).endswith(", not 0 (and 1 more)")
    assert form_error({"tasks": ["a"]}).endswith("not 'a'")


def test_user_text_in_an_error_cannot_break_the_line_or_control_a_terminal() -> None:
    line = task_error(id="a\x1b[31m\nb", **{"zz\r": 1})
    assert line.isprintable()
    assert line.startswith(r"task a\x1b[31m\nb: unknown field 'zz\r'")
    assert one_line("größe \ud800 🦀\x9b") == r"größe \ud800 🦀\x9b"


def test_a_task_form_is_encoded_as_the_same_task() -> None:
    form, task = TaskForm(id="a", difficulty=3), Task(id="a", difficulty=3)
    assert form.fingerprint() == task.fingerprint()
    sent = Submission(submission_id="s", run="r", run_title="r", tasks=(form,))
    received = decode(encode(sent))
    assert isinstance(received, Submission)
    assert received.tasks == (task,)


def test_a_file_is_read_with_default_values() -> None:
    worker = {"name": 1, "skill": 3, "handlers": "my.tasks:work.handlers"}
    file = WorkFile.model_validate({"tasks": [TASK | {"timeout": "2m"}], "workers": [worker]})
    assert (file.run, file.tasks[0].id, file.tasks[0].timeout) == ("default", "1", 120.0)
    assert (file.workers[0].name, file.workers[0].slots) == ("1", 1)
