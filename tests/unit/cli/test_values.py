"""Values in files arrive as they were written, or the file is refused in one line."""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
import yaml
from hypothesis import example, given

from skillq.messages import MAX_PAYLOAD_BYTES
from skillq_cli import files, yaml_file
from skillq_cli.yaml_file import parse_yaml
from tests.support.cli_runner import RunCli, error_line
from tests.support.factories import budget
from tests.support.work_files import write_and_read

pytestmark = pytest.mark.usefixtures("tutorial_folder")
ROOT = Path(__file__).parents[3]
PARSERS = (yaml.CSafeLoader, yaml.SafeLoader)


def refusal(run_cli: RunCli, name: str, text: str | bytes, command: str = "submit") -> str:
    """Return the one line with which a command refuses a file, without the name of the file."""
    Path(name).write_bytes(text if isinstance(text, bytes) else text.encode())
    line = error_line(run_cli(command, name))
    assert line.startswith(f"skillq: {name}")
    return line.removeprefix(f"skillq: {name}")


# --- YAML ------------------------------------------------------------------------------------

TEXTS = (
    "no No NO off Off OFF on On ON yes Yes YES y Y n N none tRue nULL nan inf 0x1F 0b1 0o7 010 +49"
    " 1_000 1__0 .e5 1e e1 .5e . -. .. 12:30 1:30:05.5 2026-01-01 2026-01-01T10:00:00Z = << 1.2.3"
    " -0x1 .INFO +.nan -.nan ٣ ~~"
)

CORE: dict[str, object] = {
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
    "null": None, "Null": None, "NULL": None, "~": None, "": None, "!!null ''": None,
    "0": 0, "-7": -7, "12": 12, "-0": 0, "99999999999999999999": 99999999999999999999,
    "1.5": 1.5, "-0.25": -0.25, ".5": 0.5, "1.": 1.0, "+1.5": 1.5, "1e3": 1000.0, "2.5E-1": 0.25,
    "!!str 12": "12", "!!str yes": "yes", "!!str": "", "!!int '12'": 12, "!!float 1": 1.0,
    "!!bool 'true'": True, "'yes'": "yes", '"no"': "no", "'12'": "12", "'null'": "null", "! '12'": "12",
    '"\\ta"': "\ta", "|-\n  yes": "yes", ">-\n  12": "12", "!!map {a: 1}": {"a": 1}, "!!seq [1]": [1],
}  # fmt: skip


def value_of(written: str) -> Any:
    return parse_yaml(f"x: {written}")[0]["x"]


@pytest.mark.parametrize("written", TEXTS.split())
def test_what_is_no_value_of_the_core_schema_is_text(written: str) -> None:
    assert value_of(written) == written


@pytest.mark.parametrize("written", CORE)
def test_values_of_the_core_schema_are_what_they_stand_for(written: str) -> None:
    value = value_of(written)
    assert value == CORE[written]
    assert type(value) is type(CORE[written])


@pytest.mark.parametrize("written", ["no", "on", "yes", "y", "off", "NO"])
def test_a_country_and_an_answer_arrive_as_text_everywhere(written: str) -> None:
    work = write_and_read(
        "work.yaml",
        f"run: {written}\nworkers: [{{name: {written}, skill: 5, specialties: [{written}]}}]\n"
        f"tasks: [{{id: {written}, difficulty: 1, type: {written}, description: {written},"
        f" requires: [{written}], payload: {{{written}: {written}}}}}]",
    )
    (task,), (worker,) = work.tasks, work.workers
    assert [work.run, worker.name, *worker.specialties] == [written] * 3
    assert [task.id, task.type, task.description, *task.requires] == [written] * 4
    assert task.payload == {written: written}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3", ", line 3: is no YAML: 'a' stands twice"),
        ("tasks:\n  - {id: 1,\n     id: 2}", ", line 3: is no YAML: 'id' stands twice"),
        ("a: 1\n? [b]\n: 2", ", line 2: is no YAML: a key is a list or a mapping"),
        ("a: 1\nb: *c", ", line 2: is no YAML: found undefined alias 'c'"),
        ("a: 1\nb: !!int 010", ", line 2: is no YAML: the tag !!int does not fit its value; leave"),
        ("a: 1\nb: !!binary aGk=", ", line 2: is no YAML: the tag !!binary is unknown; leave it out"),
        ("a: !!set {b}", ", line 1: is no YAML: the tag !!set is unknown; leave it out"),
        ("a: !mine b", ", line 1: is no YAML: the tag !mine is unknown; leave it out"),
        ("a: 1\n---\nb: 2", ", line 2: is no YAML: a second document starts; a file has one"),
        ("a: 1\nb: [", ", line 2: is no YAML: "),
        ("a: 1\nb: [\n", ", line 2: is no YAML: "),
        ("a: " + "[" * 250, ", line 1: is no YAML: it is nested deeper than 200 levels"),
        ("a: " + "9" * 5000, ", line 1: is no YAML: a number of 5000 digits; write it as text"),
        ("a: 1\nb: \x07", ": is no YAML: character 9 may not stand in it"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("libyaml", [True, False], ids=["libyaml", "python"])
def test_a_mistake_is_named_with_its_line_and_a_remedy(
    run_cli: RunCli, text: str, said: str, libyaml: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(yaml, "__with_libyaml__", libyaml)
    assert said in refusal(run_cli, "work.yaml", text)


def test_a_word_that_begins_with_a_sign_for_numbers_is_read_at_once() -> None:
    began = time.process_time()
    assert value_of("1" * 60_000 + "x") == "1" * 60_000 + "x"
    assert time.process_time() - began < 2


# --- the two parsers of YAML -----------------------------------------------------------------

CORPUS = [
    *sorted((ROOT / "examples").glob("*.yaml")),
    *sorted((ROOT / "k8s").rglob("*.yaml")),
    ROOT / "docker-compose.yml",
]
# Of texts that only one parser accepts: they have signs in flow collections about which the versions of YAML
# differ, or a comment right after the sign of a block.
ODD_REFUSALS = ("found unexpected ':'", "but got '?'", "chomping or indentation", "expected ',' or")


def outcome(text: str, parser: Any) -> tuple[str, str]:
    try:
        return "accepted", repr(parse_yaml(text, parser))
    except yaml.MarkedYAMLError as error:
        return "refused", str(error.problem)
    except yaml.reader.ReaderError as error:
        return "refused", f"character {error.position}"


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: str(path.relative_to(ROOT)))
def test_both_parsers_read_a_file_of_ours_in_the_same_way(path: Path) -> None:
    for document in path.read_text().split("\n---\n"):
        by_c, by_python = (outcome(document, parser) for parser in PARSERS)
        assert by_c == by_python
        assert by_c[0] == "accepted"


TOKENS = st.sampled_from(
    [*"abno12E.~:?,[]{}#&*!|>@=\"'\\é\u2028\x85🎉", "\n", "\r\n", "\n  ", "\n ", " ", ": ", "- ", " #", "---\n",
     "...\n", "? ", "&x ", "*x", "!!str ", "!!int ", "!foo ", "|\n  ", ">-\n  ", "|2\n", "yes", "1.5", "null",
     "key: ", "x: y\n", "- a\n", "  - b\n", "\\n", "\\u00e9", '"a\\tb"', "''"]
)  # fmt: skip


@given(st.lists(TOKENS, max_size=14).map("".join))
@example("[x:]")
@budget(600)
def test_both_parsers_read_any_text_in_the_same_way(text: str) -> None:
    if yaml_file._choose_parser(text) is yaml.SafeLoader:
        return  # such a text has only one parser
    by_c, by_python = (outcome(text, parser) for parser in PARSERS)
    if by_c[0] == by_python[0] == "refused":
        return  # each parser has its own words
    if by_c != by_python:
        problem = by_c[1] if by_c[0] == "refused" else by_python[1]
        assert any(odd in problem for odd in ODD_REFUSALS), (by_c, by_python)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: '\t'\t# c", None),  # libyaml accepts it, PyYAML does not
        ("a: |\n  \tb\n", {"a": "\tb\n"}),
        ("a: b\ufeffc", {"a": "b\ufeffc"}),
        ("%FOO bar\n---\na: b", {"a": "b"}),
        ("%YAML 1.2\n---\na: yes", {"a": "yes"}),
    ],
)
def test_a_text_that_the_parsers_read_differently_is_always_read_in_one_way(
    text: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    for libyaml in (True, False):
        monkeypatch.setattr(yaml, "__with_libyaml__", libyaml)
        if value is None:
            with pytest.raises(yaml.MarkedYAMLError):
                parse_yaml(text)
        else:
            assert parse_yaml(text) == (value, False)


def test_many_tasks_are_read_in_less_time_than_libyaml_s_own_loader_takes() -> None:
    task = (
        "  - {id: task-%d, difficulty: 2, requires: [gpu, lab], payload: {path: /a/%d, width: 7}}\n"
    )
    text = "tasks:\n" + "".join(task % (n, n) for n in range(3000))

    def seconds(load: Any) -> float:
        took = []
        for _ in range(3):
            began = time.process_time()
            load(text)
            took.append(time.process_time() - began)
        return min(took)

    assert seconds(parse_yaml) < seconds(lambda text: yaml.load(text, yaml.CSafeLoader))


# --- NaN and infinity ------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["submit", "run"])
@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "tasks: [{id: t1, difficulty: 1, payload: {x: [.nan]}}]", "x.0 is nan"),
        ("a.yaml", "tasks: [{id: t1, difficulty: 1, payload: {x: {y: -.INF}}}]", "x.y is -inf"),
        ("a.yaml", "tasks: [{id: t1, difficulty: 1, payload: {x: 1e999}}]", "x is inf"),
        ("a.json", '{"tasks": [{"id": "t1", "difficulty": 1, "payload": {"x": NaN}}]}', "x is nan"),
        ("a.json", '{"tasks": [{"id": "t1", "difficulty": 1, "payload": {"x": -1e999}}]}', "x is -inf"),
        ("a.csv", 'id,difficulty,payload\nt1,1,"{""x"": Infinity}"', "x is inf"),
    ],
)  # fmt: skip
def test_a_number_that_json_cannot_express_is_refused_with_task_and_field(
    run_cli: RunCli, command: str, name: str, text: str, said: str
) -> None:
    line = refusal(run_cli, name, text, command)
    assert (
        line == f": task t1: payload: {said}, which JSON cannot express; write null or text instead"
    )


# --- CSV -------------------------------------------------------------------------------------


def csv_with_payload(payload: str) -> str:
    return 'id,difficulty,payload\na,1,"' + payload.replace('"', '""') + '"\n'


@pytest.mark.parametrize("length", [131_071, 131_073, MAX_PAYLOAD_BYTES - len('{"x":""}')])
def test_a_field_of_csv_may_be_as_long_as_a_payload(length: int) -> None:
    work = write_and_read("tasks.csv", csv_with_payload(json.dumps({"x": "y" * length})))
    assert work.tasks[0].payload == {"x": "y" * length}


def test_a_longer_payload_is_refused_with_its_size_and_the_limit(run_cli: RunCli) -> None:
    line = refusal(run_cli, "tasks.csv", csv_with_payload(json.dumps({"x": "y" * 300_000})))
    assert line == (
        ": task a: payload: is 300008 bytes; at most 262144 are allowed: pass a reference instead"
    )


ROWS = [
    ["id", "difficulty", "requires", "description"],
    ["1", "2", "gpu;lab", "a, b"],
    ["2", "3", "", "c; d"],
]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("quote", [True, False])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_what_spreadsheets_write_is_read(separator: str, mark: str, quote: bool, end: str) -> None:
    def cell(text: str) -> str:
        return f'"{text}"' if quote or set(text) & set(",;\t") else text

    lines = [separator.join(map(cell, row)) for row in ROWS]
    empty = separator * 6
    text = mark + end.join(["", empty, lines[0] + separator, empty, *lines[1:], " " + empty, ""])
    one, two = write_and_read("tasks.csv", text).tasks
    assert (one.id, one.difficulty, one.requires, one.description) == (
        "1",
        2,
        ("gpu", "lab"),
        "a, b",
    )
    assert (two.id, two.requires, two.description) == ("2", (), "c; d")


def test_a_row_of_empty_cells_in_quotation_marks_is_skipped() -> None:
    assert len(write_and_read("tasks.csv", 'id,difficulty\n"",""\n1,2,"",\n" ",\n').tasks) == 1


def test_a_value_without_a_heading_is_refused_with_its_line(run_cli: RunCli) -> None:
    assert refusal(run_cli, "tasks.csv", "id;difficulty\n;;\n1;2;;3\n") == (
        ", line 3: has more fields than the heading"
    )


# --- files that are no files of tasks --------------------------------------------------------


def naming(run_cli: RunCli, name: str) -> str:
    """Return the line with which a YAML file is refused that names another file."""
    Path("work.yaml").write_text(json.dumps({"tasks": name}))
    line = error_line(run_cli("submit", "work.yaml"))
    assert name in line
    return line


PASSWORDS = "root:x:0:0:root:/root:/bin/secret\ndaemon:x:1:1:secret:/usr/sbin:/usr/sbin/nologin\n"
NO_WORK = {
    "passwords": PASSWORDS,
    "a key": "-----BEGIN SECRET KEY-----\nc2VjcmV0\n-----END SECRET KEY-----\n",
    "settings": "# secrets\nsecret = 'secret'\n",
    "quotes": 'secret "secret",secret\n',
    "json": '{"secret": "secret", "secrets": ["secret"]}',
    "a list": '["secret"]',
    "one word": "secret",
    "columns": "user,secret\nsecret,secret\n",
}


@pytest.mark.parametrize("text", NO_WORK.values(), ids=NO_WORK)
@pytest.mark.parametrize("suffix", ["csv", "yaml", "json", ""])
def test_nothing_of_a_file_that_is_no_file_of_tasks_is_shown(
    run_cli: RunCli, text: str, suffix: str
) -> None:
    if suffix in {"csv", ""}:
        Path(f"other.{suffix}").write_text(text)
        assert "secret" not in naming(run_cli, f"other.{suffix}").lower()
    if suffix:
        assert "secret" not in refusal(run_cli, f"file.{suffix}", text).lower()


def test_the_remedy_for_a_file_without_a_heading_is_named(run_cli: RunCli) -> None:
    Path("users").write_text(PASSWORDS)
    line = naming(run_cli, "users")
    assert line.startswith("skillq: users: is no file of tasks; its first line should name columns")
    assert "id,difficulty" in line


def test_a_device_without_end_is_refused_before_it_is_read(run_cli: RunCli) -> None:
    line = naming(run_cli, "/dev/zero")
    assert line == (
        "skillq: /dev/zero: is no regular file but a device, a pipe or a socket; save its content in a file"
    )


@pytest.mark.parametrize("suffix", ["yaml", "json", "csv"])
def test_a_pipe_that_nobody_writes_to_is_refused_at_once(run_cli: RunCli, suffix: str) -> None:
    os.mkfifo(f"pipe.{suffix}")
    assert "is no regular file" in error_line(run_cli("run", f"pipe.{suffix}"))
    Path(f"link.{suffix}").symlink_to(f"pipe.{suffix}")
    assert "is no regular file" in error_line(run_cli("run", f"link.{suffix}"))


def test_a_socket_is_refused(run_cli: RunCli) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.yaml")
        assert "is no regular file" in error_line(run_cli("run", "socket.yaml"))


@pytest.mark.parametrize("suffix", ["yaml", "json", "csv"])
def test_a_file_that_is_too_large_is_refused_before_it_is_read(
    run_cli: RunCli, suffix: str
) -> None:
    with Path(f"large.{suffix}").open("wb") as file:
        file.truncate(1 << 40)  # a terabyte, none of which is on the disk
    assert error_line(run_cli("run", f"large.{suffix}")) == (
        f"skillq: large.{suffix}: has 1099511627776 bytes; at most 134217728 are allowed: "
        "split it into several files"
    )


def test_a_file_that_says_it_is_smaller_than_it_is_is_refused(
    run_cli: RunCli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "MAX_FILE_BYTES", 100)
    assert len(Path("/proc/self/status").read_bytes()) > 100
    assert Path("/proc/self/status").stat().st_size == 0
    assert "at most 100 are allowed" in naming(run_cli, "/proc/self/status")
    assert (
        len(write_and_read("small.yaml", b"tasks: [{id: 1, difficulty: 1}]".ljust(100)).tasks) == 1
    )


def test_a_folder_that_a_file_names_is_named(run_cli: RunCli, tutorial_folder: Path) -> None:
    assert "cannot be read: Is a directory" in naming(run_cli, str(tutorial_folder))
