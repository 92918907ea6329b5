"""What users write: read strictly, and refused in one line that names the item as they know it."""

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


def complaint(data: object, form: type[BaseModel] = WorkFile) -> str:
    with pytest.raises(ValidationError) as caught:
        form.model_validate(data)
    return explain_form(caught.value, data)


def of_task(**fields: object) -> str:
    return complaint({"tasks": [TASK | fields]})


def of_workers(*workers: object) -> str:
    return complaint({"tasks": [TASK], "workers": workers})


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
def test_what_is_wrong_with_a_task_is_one_line_with_its_id_field_and_value(
    fields: dict[str, object], line: str
) -> None:
    assert of_task(**fields) == f"task 1: {line}"


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
def test_what_is_wrong_with_a_worker_is_one_line_with_its_name(worker: object, line: str) -> None:
    assert of_workers(worker) == line


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize(
    ("form", "field"),
    [(form, field) for form in (TaskForm, WorkerForm) for field in form.model_fields],
)
def test_no_field_takes_a_yes_or_a_no_for_something_else(
    form: type[BaseModel], field: str, value: bool
) -> None:
    with pytest.raises(ValidationError) as caught:
        form.model_validate({"id": 1, "difficulty": 1, "name": "Ada", "skill": 1} | {field: value})
    complaints = {error["loc"][0]: error["msg"] for error in caught.value.errors()}
    assert field in complaints
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
    assert ("should be a number, not " in complaints[field]) == (field in numbers)


def test_a_name_that_stands_twice_in_an_object_is_refused() -> None:
    assert reject_duplicate_names([("a", 1), ("b", 2)]) == {"a": 1, "b": 2}
    with pytest.raises(ValueError, match="'b' stands twice in one object"):
        reject_duplicate_names([("a", 1), ("b", 2), ("b", 3), ("c", 4)])


def test_two_workers_of_one_name_are_refused_however_it_is_written() -> None:
    ada = {"name": "Ada", "skill": 3}
    assert of_workers(ada, ada) == "worker Ada: two workers have this name; give each its own"
    assert of_workers(ada, ada | {"name": "ADA"}) == (
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
def test_what_is_wrong_with_the_whole_is_told_as_such(data: object, line: str) -> None:
    assert complaint(data) == line


def test_a_submission_has_no_workers_and_says_what_it_has() -> None:
    line = complaint({"tasks": [TASK], "workers": []}, SubmissionForm)
    assert line == "unknown field 'workers' (known are run, tasks)"


def test_other_complaints_are_counted_but_not_those_that_go_with_the_first() -> None:
    assert of_task(difficulty=0, priority=0).endswith(", not 0 (and 1 more)")
    assert complaint({"tasks": ["a"]}).endswith("not 'a'")


def test_what_users_wrote_cannot_break_the_line_or_steer_a_terminal() -> None:
    line = of_task(id="a\x1b[31m\nb", **{"zz\r": 1})
    assert line.isprintable()
    assert line.startswith(r"task a\x1b[31m\nb: unknown field 'zz\r'")
    assert one_line("größe \ud800 🦀\x9b") == r"größe \ud800 🦀\x9b"


def test_a_task_of_a_form_is_on_the_wire_what_the_same_task_is() -> None:
    form, task = TaskForm(id="a", difficulty=3), Task(id="a", difficulty=3)
    assert form.fingerprint() == task.fingerprint()
    sent = Submission(submission_id="s", run="r", run_title="r", tasks=(form,))
    received = decode(encode(sent))
    assert isinstance(received, Submission)
    assert received.tasks == (task,)


def test_a_file_is_read_with_its_defaults() -> None:
    worker = {"name": 1, "skill": 3, "handlers": "my.tasks:work.handlers"}
    file = WorkFile.model_validate({"tasks": [TASK | {"timeout": "2m"}], "workers": [worker]})
    assert (file.run, file.tasks[0].id, file.tasks[0].timeout) == ("default", "1", 120.0)
    assert (file.workers[0].name, file.workers[0].slots) == ("1", 1)
