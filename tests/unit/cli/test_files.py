"""Work files in YAML, JSON and CSV are read strictly; an error is one line."""

import json
from pathlib import Path

import pytest

from skillq.errors import UsageError
from skillq_cli.files import read_work_file
from tests.support.work_files import write_and_read

pytestmark = pytest.mark.usefixtures("tutorial_folder")


def file_error(name: str, text: str | bytes) -> str:
    with pytest.raises(UsageError) as caught:
        write_and_read(name, text)
    line = str(caught.value)
    assert line.startswith(name), "the line names the file"
    assert line.isprintable(), "the text is one line without control characters"
    assert len(line) < 600
    return line


YAML = """
run: Nightly batch
workers:
  - {name: Junior, skill: 3, slots: 2}
  - {name: Expert, skill: 7, specialties: [ocr, gpu]}
tasks:
  - {id: 1, description: Simple calculation, difficulty: 2}
  - {id: two, difficulty: 5, depends_on: [1], priority: 3, timeout: 30s, max_attempts: 3,
     type: ocr, requires: [gpu], payload: {pages: [1, 2], deep: {a: null}}}
"""


def test_yaml_and_json_files_with_the_same_content_are_equal() -> None:
    in_yaml = write_and_read("work.yaml", YAML)
    in_json = write_and_read("work.json", json.dumps(in_yaml.model_dump(mode="json")))
    assert in_json == in_yaml
    first, second = in_yaml.tasks
    assert (first.id, first.type, first.priority, first.payload) == ("1", "task", 1, {})
    assert (second.depends_on, second.timeout, second.max_attempts) == (("1",), 30.0, 3)
    assert (second.type, second.requires) == ("ocr", ("gpu",))
    assert second.payload == {"pages": [1, 2], "deep": {"a": None}}
    assert [worker.name for worker in in_yaml.workers] == ["Junior", "Expert"]
    assert in_yaml.run == "Nightly batch"


@pytest.mark.parametrize("name", ["work.yml", "WORK.YAML", "w.ork.yaml"])
def test_the_file_extension_decides_the_format(name: str) -> None:
    assert len(write_and_read(name, YAML).tasks) == 2


def test_a_byte_order_mark_is_ignored() -> None:
    assert write_and_read("work.yaml", b"\xef\xbb\xbf" + YAML.encode()) == write_and_read(
        "plain.yaml", YAML
    )
    assert write_and_read("work.csv", b"\xef\xbb\xbfid,difficulty\n1,2\n").tasks[0].id == "1"


@pytest.mark.parametrize(
    ("written", "seconds"), [("30", 30), ("1.5", 1.5), ("250ms", 0.25), ("5m", 300), ("2h", 7200)]
)
def test_a_timeout_may_have_a_unit(written: str, seconds: float) -> None:
    work = write_and_read("work.yaml", f"tasks: [{{id: 1, difficulty: 1, timeout: {written}}}]")
    assert work.tasks[0].timeout == seconds


@pytest.mark.parametrize(
    "id", ["12:30", "1:30:05", "010", "0o17", "0x1F", "0b11", "1_000", "2026-01-01", "a"]
)
def test_an_id_in_yaml_stays_as_it_was_written(id: str) -> None:
    work = write_and_read("work.yaml", f"tasks: [{{id: {id}, difficulty: 1}}]")
    assert work.tasks[0].id == id


@pytest.mark.parametrize(
    "written", ["0", "-7", "12", "1.5", "-0.25", "1e3", "1E-3", "2.5e+10", "true", "null", '"a"']
)
def test_a_json_value_is_the_same_in_yaml(written: str) -> None:
    work = write_and_read(
        "work.yaml", f"tasks: [{{id: 1, difficulty: 1, payload: {{x: {written}}}}}]"
    )
    value = json.loads(written)
    assert work.tasks[0].payload == {"x": value}
    assert type(work.tasks[0].payload["x"]) is type(value)


@pytest.mark.parametrize("written", ["12:30", "2026-01-01", "+4930123", "007", "1_000", "="])
def test_times_dates_and_codes_in_a_payload_stay_text(written: str) -> None:
    work = write_and_read(
        "work.yaml", f"tasks: [{{id: 1, difficulty: 1, payload: {{x: {written}}}}}]"
    )
    assert work.tasks[0].payload == {"x": written}


# --- errors ----------------------------------------------------------------------------------


def with_task(**fields: object) -> str:
    return json.dumps(
        {"tasks": [{"id": "ok", "difficulty": 1}, {"id": "t1", "difficulty": 1} | fields]}
    )


def with_worker(**fields: object) -> str:
    return json.dumps(
        {
            "workers": [{"name": "Ada", "skill": 1}, {"name": "Bob", "skill": 2} | fields],
            "tasks": [{"id": 1, "difficulty": 1}],
        }
    )


@pytest.mark.parametrize("level", [0, 11, -1, 10**30])
def test_a_difficulty_outside_1_to_10_is_refused(level: int) -> None:
    line = file_error("work.json", with_task(difficulty=level))
    assert line.startswith("work.json: task t1: difficulty: ")
    assert "should be at least 1, not " in line or "should be at most 10, not " in line
    assert line.endswith(str(level))


@pytest.mark.parametrize("level", [0, 11])
def test_a_skill_outside_1_to_10_is_refused(level: int) -> None:
    line = file_error("work.json", with_worker(skill=level))
    assert line.startswith("work.json: worker Bob: skill: ")
    assert str(level) in line


TASKS: dict[str, tuple[dict[str, object], str]] = {
    "no difficulty": ({"difficulty": None}, "difficulty: "),
    "half a difficulty": ({"difficulty": 2.5}, "difficulty: "),
    "a yes": ({"difficulty": True}, "difficulty: should be a number, not true"),
    "a word": ({"difficulty": "hard"}, "difficulty: "),
    "an unknown field": ({"colour": "red"}, "unknown field 'colour' (known are id, difficulty"),
    "a misspelt field": (
        {"dificulty": 3},
        "unknown field 'dificulty' (did you mean 'difficulty'?)",
    ),
    "a field of Python": ({"model_config": 1}, "unknown field 'model_config'"),
    "priority 0": ({"priority": 0}, "priority: "),
    "a list as payload": ({"payload": [1]}, "payload: should be a mapping of names to values"),
    "a large payload": ({"payload": {"x": "y" * 300_000}}, "pass a reference instead"),
    "a timeout of nothing": ({"timeout": 0}, "timeout: "),
    "a timeout of words": ({"timeout": "soon"}, "timeout: "),
    "a text as list": ({"depends_on": "ok"}, "depends_on: should be a list, not 'ok'"),
    "a type that makes no name": ({"type": "…"}, "type: '…' has no letter a-z or digit"),
    "control characters": ({"type": "\x1b…\n"}, "type: "),
    "no attempt": ({"max_attempts": 0}, "max_attempts: "),
}


@pytest.mark.parametrize("name", TASKS)
def test_an_error_in_a_task_names_the_task(name: str) -> None:
    fields, expected = TASKS[name]
    line = file_error("work.json", with_task(**fields))
    assert line.startswith("work.json: task t1: ")
    assert expected in line


@pytest.mark.parametrize("id", ["", "a b", "-x", "a/b", None, True, 1.5, [1], "x" * 129, "é"])
def test_an_invalid_id_is_refused(id: object) -> None:
    line = file_error("work.json", with_task(id=id))
    assert line.startswith("work.json: task ")
    assert "id: " in line


def test_a_missing_field_is_named() -> None:
    assert file_error("work.yaml", "tasks: [{id: 1}]") == (
        "work.yaml: task 1: difficulty is missing"
    )
    assert file_error("work.yaml", "tasks: [{difficulty: 1}]") == (
        "work.yaml: task number 1: id is missing"
    )


WORKERS: dict[str, tuple[dict[str, object], str]] = {
    "no name": ({"name": ""}, "name: "),
    "the reserved name": ({"name": "ALL"}, "name: 'ALL' is reserved: choose another name"),
    "a name of signs": ({"name": "***"}, "name: '***' has no letter a-z or digit"),
    "no slots": ({"slots": 0}, "slots: "),
    "an unknown field": ({"speciality": "x"}, "unknown field 'speciality' (did you mean"),
    "handlers without colon": ({"handlers": "my_tasks"}, "should be module:attribute"),
}


@pytest.mark.parametrize("name", WORKERS)
def test_an_error_in_a_worker_names_the_worker(name: str) -> None:
    fields, expected = WORKERS[name]
    line = file_error("work.json", with_worker(**fields))
    assert line.startswith("work.json: worker ")
    assert expected in line


def test_two_workers_with_one_name_are_refused() -> None:
    assert file_error("work.json", with_worker(name="Ada")) == (
        "work.json: worker Ada: two workers have this name; give each its own"
    )


def test_two_workers_whose_titles_make_the_same_name_are_refused() -> None:
    assert file_error("work.json", with_worker(name="ADA!")) == (
        "work.json: worker ADA!: would be ada on the wire, as Ada is; give it another name"
    )


def test_two_tasks_with_one_id_are_refused() -> None:
    line = file_error("work.yaml", "tasks: [{id: 1, difficulty: 1}, {id: '1', difficulty: 2}]")
    assert line == "work.yaml: task 1: two tasks have this id; give each its own"


def test_a_cycle_is_refused_and_shown() -> None:
    line = file_error(
        "work.yaml",
        "tasks: [{id: a, difficulty: 1, depends_on: [c]}, {id: b, difficulty: 1, depends_on: [a]},"
        " {id: c, difficulty: 1, depends_on: [b]}]",
    )
    assert "depends on itself (" in line
    assert "→" in line
    assert line.endswith("; break the cycle")


def test_a_task_that_depends_on_itself_is_a_cycle() -> None:
    line = file_error("work.yaml", "tasks: [{id: a, difficulty: 1, depends_on: [a]}]")
    assert line == "work.yaml: task a: depends on itself (a → a); break the cycle"


def test_of_several_errors_the_first_is_shown_and_the_others_are_counted() -> None:
    line = file_error("work.yaml", "tasks: [{id: 1, difficulty: 0}, {id: 2, difficulty: 11}]")
    assert line.startswith("work.yaml: task 1: ")
    assert line.endswith("(and 1 more)")


INVALID_FILES = {
    "empty.yaml": (b"", "is empty; write tasks into it, as tasks: [{id: 1, difficulty: 2}]"),
    "blank.yml": (b"\n# nothing\n", "is empty; write tasks into it, as tasks: ["),
    "blank.json": (
        b" \n",
        """is empty; write tasks into it, as {"tasks": [{"id": 1, "difficulty": 2}]}""",
    ),
    "blank.csv": (b"\n\n", "is empty; write tasks into it, a heading and a line for each task"),
    "list.yaml": (b"- 1", "should be a mapping"),
    "text.yaml": (b"hello", "should be a mapping"),
    "no_tasks.yaml": (b"workers: []", "tasks is missing"),
    "zero_tasks.yaml": (b"tasks: []", "tasks: should have at least one item"),
    "null_tasks.yaml": (b"tasks:", "tasks: should be a list"),
    "odd_task.yaml": (b"tasks: [1]", "task number 1: should be a mapping of fields"),
    "unknown.yaml": (b"task: []\ntasks: [{id: 1, difficulty: 1}]", "did you mean 'tasks'?"),
    "open.yaml": (b"tasks: [", "line 1: is no YAML"),
    "tab.yaml": (b"tasks:\n\t- id: 1", "line 2: is no YAML"),
    "twice.yaml": (b"tasks: []\ntasks: []", "line 2: is no YAML: 'tasks' stands twice"),
    "twice.csv": (b"id,difficulty, id\n1,2,3\n", "the heading has 'id' twice"),
    "nameless.csv": (b"id,difficulty,,\n1,2,3,\n", "unknown field ''"),
    "twice_in_payload.csv": (
        b'id,difficulty,payload\n1,2,"{""a"": 1, ""a"": 2}"\n',
        "line 2: payload is no JSON: 'a' stands twice",
    ),
    "merge.yaml": (b"tasks: [&a {id: 1, difficulty: 1}, {<<: *a, id: 2}]", "unknown field '<<'"),
    "yes.yaml": (
        b"tasks: [{id: 1, difficulty: 1, timeout: yes}]",
        "task 1: timeout: should be a number, not 'yes'",
    ),
    "exponent.yaml": (b"tasks: [{id: 1e3, difficulty: 1}]", "id: "),
    "twice.json": (b'{"tasks": [], "tasks": []}', "is no JSON: 'tasks' stands twice"),
    "two.yaml": (b"a: 1\n---\nb: 2", "is no YAML: "),
    "alias.yaml": (b"tasks: *nobody", "is no YAML: found undefined alias"),
    "python.yaml": (b"tasks: !!python/object/apply:os.abort []", "is no YAML: "),
    "stamp.yaml": (b"tasks: !!timestamp soon", "the tag !!timestamp is unknown; leave it out"),
    "bool.yaml": (b"tasks: !!bool soon", "the tag !!bool does not fit its value; leave it out"),
    "int.yaml": (b"tasks: !!int soon", "is no YAML: "),
    "zero.yaml": (b"tasks: \x00", "character 8 may not stand in it"),
    "latin.yaml": ("tasks: é".encode("latin-1"), "is not UTF-8 text (byte 7); save it as UTF-8"),
    "utf16.yaml": ("tasks: []".encode("utf-16"), "is not UTF-8 text (byte 0)"),
    "key.yaml": (b"? [a]\n: 1", "is no YAML: "),
    "circle.yaml": (b"&a {tasks: *a}", "holds what no message can carry: Circular"),
    "nan.yaml": (b"tasks: [{id: 1, difficulty: 1, payload: {x: .nan}}]", "payload: x is nan"),
    "nan.json": (b'{"tasks": [{"id": 1, "difficulty": 1, "payload": {"x": NaN}}]}', "x is nan"),
    "half.json": (
        rb'{"tasks": [{"id": 1, "difficulty": 1, "description": "\ud800"}]}',
        "no message",
    ),
    "deep.json": (b'{"tasks": ' + b"[" * 300 + b"]" * 300 + b"}", "recursion limit"),
    "deeper.json": (b"[" * 100_000, "is no JSON: "),
    "deeper.yaml": (b"[" * 1500, "is no YAML: "),
    "empty.json": (b"", "is empty; write tasks into it, as"),
    "comma.json": (b'{"tasks": [],}', "is no JSON: "),
    "list.json": (b"[]", "should be a mapping"),
    "empty.csv": (b"", "is empty; write tasks into it, a heading and a line"),
    "heading.csv": (b"id,difficulty\n", "tasks: should have at least one item"),
    "bar.csv": (b"id|difficulty\n1|2\n", "with commas, semicolons or tabs between"),
    "long.csv": (b"id,difficulty\n1,2,3\n", "line 2: has more fields than the heading"),
    "quote.csv": (b'id,difficulty\n"1,2\n', "is no CSV: "),
    "payload.csv": (b"id,difficulty,payload\n1,2,{x}\n", "line 2: payload is no JSON: "),
    "deep.csv": (b"id,difficulty,payload\n1,2," + b"[" * 100_000, "payload is no JSON: "),
    "words.csv": (b"id,difficulty\n1,hard\n", "task 1: difficulty: "),
    "level.csv": (b"id,difficulty\n1,11\n", "task 1: difficulty: "),
    "missing.csv": (b"id\n1\n", "task 1: difficulty is missing"),
    "column.csv": (b"id,difficulty,color\n1,1,red\n", "task 1: unknown field 'color'"),
    "work.txt": (b"tasks: []", "a file ends in .yaml, .yml, .json or .csv, not in '.txt'"),
    "work": (b"tasks: []", "a file ends in .yaml, .yml, .json or .csv, not in ''"),
}


@pytest.mark.parametrize("name", INVALID_FILES)
def test_an_invalid_file_is_refused_with_the_reason(name: str) -> None:
    text, expected = INVALID_FILES[name]
    assert expected in file_error(name, text)


def nested_aliases(levels: int, first: str, repeat: str) -> str:
    """Return YAML in which each level names the level before it nine times."""
    lines = [f"a0: &a0 {first}"]
    lines += [
        f"a{n}: &a{n} " + repeat.format(", ".join([f"*a{n - 1}"] * 9)) for n in range(1, levels)
    ]
    return "\n".join(lines) + "\ntasks: [{id: 1, difficulty: 1}]\n"


@pytest.mark.parametrize(
    ("first", "repeat"),
    [("[x]", "[{}]"), ("{x: y}", "[{}]"), ("{x: y}", "{{<<: [{}]}}"), ("[x]", "{{k: [{}]}}")],
)
def test_aliases_that_would_fill_the_memory_are_refused_quickly(first: str, repeat: str) -> None:
    line = file_error("work.yaml", nested_aliases(40, first, repeat))
    assert line.startswith("work.yaml: holds what no message can carry: its aliases repeat ")


def test_a_reasonable_number_of_aliases_is_expanded() -> None:
    text = "x" * 1000
    tasks = ", ".join(f"{{id: {n}, difficulty: 1, payload: *p}}" for n in range(1000))
    work = write_and_read(
        "work.yaml", f"tasks: [{{id: a, difficulty: 1, payload: &p {{x: {text}}}}}, {tasks}]"
    )
    assert {task.payload["x"] for task in work.tasks} == {text}
    assert len(work.tasks) == 1001


def test_a_mapping_with_many_keys_is_read_quickly() -> None:
    keys = ", ".join(f"k{n}: 1" for n in range(10_000))
    work = write_and_read("work.yaml", f"tasks: [{{id: a, difficulty: 1, payload: {{{keys}}}}}]")
    assert len(work.tasks[0].payload) == 10_000


def test_a_missing_file_is_refused() -> None:
    for name in ("none.yaml", "none.json", "none.csv", "no/where.yaml"):
        with pytest.raises(UsageError, match="there is no such file"):
            read_work_file(Path(name))


def test_a_folder_instead_of_a_file_is_refused(tutorial_folder: Path) -> None:
    (tutorial_folder / "folder.yaml").mkdir()
    with pytest.raises(UsageError, match=r"folder.yaml: cannot be read: Is a directory"):
        read_work_file(Path("folder.yaml"))


@pytest.mark.parametrize("name", ["none.csv", "a\0b.csv", "\ud800.csv", "x" * 300 + ".csv"])
def test_a_missing_csv_file_that_a_file_names_is_refused_in_one_line(name: str) -> None:
    Path("fleet.json").write_text(json.dumps({"tasks": name}))
    with pytest.raises(UsageError) as caught:
        read_work_file(Path("fleet.json"))
    assert str(caught.value).isprintable()
