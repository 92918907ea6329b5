"""Tasks in a CSV file."""

from pathlib import Path

import pytest

from tests.unit.cli.papers import read

pytestmark = pytest.mark.usefixtures("here")

CSV = """id,description,difficulty,type,priority,requires,depends_on,payload,timeout
1,Simple calculation,2,,,,,,
2,"Data, ""big""
and wide",5, ocr ,3,gpu;lab,,"{""pages"": [1]}",30s
3,,8,,,gpu  lab,1 2,,
"""


def test_a_csv_file_holds_tasks() -> None:
    one, two, three = read("tasks.csv", CSV).tasks
    assert (one.description, one.difficulty, one.type, one.priority) == (
        "Simple calculation",
        2,
        "task",
        1,
    )
    assert two.description == 'Data, "big"\nand wide'
    assert (two.type, two.priority, two.timeout) == ("ocr", 3, 30.0)
    assert (two.requires, two.payload) == (("gpu", "lab"), {"pages": [1]})
    assert (three.requires, three.depends_on) == (("gpu", "lab"), ("1", "2"))


def test_a_spreadsheet_s_empty_lines_and_columns_are_passed_over() -> None:
    work = read("tasks.csv", "\n id , difficulty,,\n\n1,2,,\n\n2,3\n\n")
    assert [(task.id, task.difficulty) for task in work.tasks] == [("1", 2), ("2", 3)]


def test_line_ends_of_windows_are_line_ends() -> None:
    assert [t.id for t in read("tasks.csv", "id,difficulty\r\n1,2\r\n2,3\r\n").tasks] == ["1", "2"]


def test_characters_that_only_some_take_for_line_ends_are_text() -> None:
    work = read("tasks.csv", "id,difficulty,description\n1,2,a\u2028b\x85c\n2,3,\n")
    assert [task.description for task in work.tasks] == ["a\u2028b\x85c", ""]


def test_a_file_of_workers_may_name_a_csv_file_of_tasks_beside_it(here: Path) -> None:
    (here / "work").mkdir()
    (here / "work" / "tasks.csv").write_text(CSV)
    work = read("work/fleet.yaml", "workers: [{name: a, skill: 9}]\ntasks: tasks.csv")
    assert (len(work.workers), len(work.tasks)) == (1, 3)
