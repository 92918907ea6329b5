"""Tasks are read from CSV files."""

from pathlib import Path

import pytest

from tests.support.work_files import write_and_read

pytestmark = pytest.mark.usefixtures("tutorial_folder")

CSV = """id,description,difficulty,type,priority,requires,depends_on,payload,timeout
1,Simple calculation,2,,,,,,
2,"Data, ""big""
and wide",5, ocr ,3,gpu;lab,,"{""pages"": [1]}",30s
3,,8,,,gpu  lab,1 2,,
"""


def test_a_csv_file_holds_tasks() -> None:
    one, two, three = write_and_read("tasks.csv", CSV).tasks
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


def test_empty_lines_and_columns_of_a_spreadsheet_are_ignored() -> None:
    work = write_and_read("tasks.csv", "\n id , difficulty,,\n\n1,2,,\n\n2,3\n\n")
    assert [(task.id, task.difficulty) for task in work.tasks] == [("1", 2), ("2", 3)]


def test_windows_line_endings_are_accepted() -> None:
    assert [t.id for t in write_and_read("tasks.csv", "id,difficulty\r\n1,2\r\n2,3\r\n").tasks] == [
        "1",
        "2",
    ]


def test_unicode_line_separators_are_part_of_the_text() -> None:
    work = write_and_read("tasks.csv", "id,difficulty,description\n1,2,a\u2028b\x85c\n2,3,\n")
    assert [task.description for task in work.tasks] == ["a\u2028b\x85c", ""]


def test_a_yaml_file_may_name_a_csv_file_of_tasks_in_the_same_folder(tutorial_folder: Path) -> None:
    (tutorial_folder / "work").mkdir()
    (tutorial_folder / "work" / "tasks.csv").write_text(CSV)
    work = write_and_read("work/fleet.yaml", "workers: [{name: a, skill: 9}]\ntasks: tasks.csv")
    assert (len(work.workers), len(work.tasks)) == (1, 3)
