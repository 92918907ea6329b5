"""The documents are true: commands, examples, links, and generated parts."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from docs import generated
from skillq.forms import TaskForm, WorkerForm
from skillq.messages import TaskEvent, TaskStatus
from skillq_cli import command as command_line
from skillq_cli.embedded import run_embedded
from skillq_cli.files import read_work_file
from skillq_manager.core.rules.matching import BestFit
from tests.support.virtual_time import loop_clock

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
TIME_SCALE = 0.01


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


async def events_of_example(file: str) -> list[TaskEvent]:
    """Run an example, and return the events of its tasks."""
    events: list[TaskEvent] = []
    work = read_work_file(ROOT / "examples" / file)
    await run_embedded(work, BestFit(), TIME_SCALE, events.append, loop_clock())
    return events


def run_file(file: str, folder: Path, exit_code: int = 0) -> str:
    """Run `skillq run` in a folder, and return its output."""
    command = [sys.executable, "-m", "skillq_cli", "run", file, "--time-scale", str(TIME_SCALE)]
    done = subprocess.run(
        command, cwd=folder, check=False, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done.stdout


# --- generated parts


@pytest.mark.parametrize("page", generated.PAGES, ids=name)
def test_generated_parts_of_a_page_are_up_to_date(page: Path) -> None:
    assert generated.filled(page) == page.read_text(), "run python -m docs.generated"


def test_a_setting_of_two_classes_has_the_same_default_in_both() -> None:
    found: dict[str, set[object]] = {}
    for cls in generated.CLASSES:
        for field, info in cls.model_fields.items():
            found.setdefault(field, set()).add(info.default)
    assert [field for field, defaults in found.items() if len(defaults) > 1] == []


@pytest.mark.e2e
def test_the_handlers_in_the_readme_do_what_it_says(tmp_path: Path) -> None:
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    work = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert code
    assert work
    (tmp_path / "my_tasks.py").write_text(code[1])
    (tmp_path / "work.yaml").write_text(work[1])
    output = run_file("work.yaml", tmp_path)
    assert "Task page-1 assigned to Reader - Success\nSuccess rate: 100.00%\n" in output


# --- the guarantees


def test_every_test_that_a_guarantee_names_exists() -> None:
    guarantees = (ROOT / "docs" / "guarantees.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", guarantees))
    assert len(named) > 50
    assert named <= set(re.findall(r"def (test_\w+)", sources))


# --- the fields of a file


def shown_fields(heading: str) -> dict[str, str]:
    """Return the fields and defaults in the table under a heading of docs/files.md."""
    section = (ROOT / "docs" / "files.md").read_text().partition(f"## {heading}\n")[2]
    table = section.partition("\n## ")[0]
    return dict(re.findall(r"^\| `(\w+)` \|.*\| ([^|]*?) \|$", table, re.MULTILINE))


def default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if not value and not isinstance(value, int):
        return "none"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


@pytest.mark.parametrize(
    ("heading", "form"), [("Tasks", TaskForm), ("Workers", WorkerForm)], ids=["tasks", "workers"]
)
def test_the_documented_fields_of_a_file_are_those_of_the_models(
    heading: str, form: type[BaseModel]
) -> None:
    fields = {name: default(field) for name, field in form.model_fields.items()}
    assert shown_fields(heading) == fields


# --- the examples


@pytest.mark.e2e
@pytest.mark.parametrize("example", EXAMPLES, ids=name)
def test_an_example_runs_in_the_root_folder(example: Path) -> None:
    if example.stem == "resilient":  # the example also shows failing tasks
        assert run_file(name(example), ROOT, exit_code=1).endswith("Success rate: 60.00%\n")
    else:
        assert run_file(name(example), ROOT).endswith("Success rate: 100.00%\n")


def test_each_example_has_a_run_of_its_own() -> None:
    runs = [read_work_file(example).run for example in EXAMPLES]
    assert sorted(runs) == ["default", "ocr", "pipeline", "resilient"]


@pytest.mark.parametrize("example", EXAMPLES, ids=name)
def test_an_example_explains_how_to_run_it_and_what_to_look_for(example: Path) -> None:
    top = example.read_text().partition("workers:")[0]
    assert f"skillq run {name(example)}" in top
    assert "Look for:" in top


async def test_the_ocr_example_counts_the_words_of_its_pages() -> None:
    events = await events_of_example("ocr.yaml")
    outputs = {e.id: e.output for e in events if e.status is TaskStatus.SUCCEEDED}
    assert outputs["page-4"] == {"words": 2, "often": {"the": 1, "end": 1}}
    assert outputs["tally"] == {"title": "On tasks", "pages": 4, "words": 27}


async def test_the_pipeline_example_runs_as_its_comments_say() -> None:
    events = await events_of_example("pipeline.yaml")
    assigned = {e.id: e.worker for e in events if e.status is TaskStatus.ASSIGNED}
    order = list(assigned)
    assert order[0] == "page-on-call"
    assert order[-1] == "report"
    assert order.index("train-large") < order.index("train-small")
    assert assigned["page-on-call"] == assigned["get-orders"] == "Laptop"
    assert assigned["get-clicks"] == assigned["get-weather"] == "Server"
    assert assigned["join"] == "Server"
    assert assigned["train-large"] == "GPU box"


async def test_the_resilient_example_runs_as_its_comments_say() -> None:
    events = await events_of_example("resilient.yaml")
    last = {e.id: e for e in events}
    workers_by_attempt = {id: [e.worker for e in assigned(events, id)] for id in last}
    assert workers_by_attempt["easy"] == ["Small model"]
    assert workers_by_attempt["hard"] == ["Small model", "Large model"]
    assert len(workers_by_attempt["fetch"]) == 2
    assert len(workers_by_attempt["no-question"]) == 1
    assert (
        workers_by_attempt["endless"]
        == workers_by_attempt["everything"]
        == ["Large model", "Large model"]
    )
    assert workers_by_attempt["beyond"] == ["Large model"]
    assert workers_by_attempt["late"] == workers_by_attempt["publish"] == []
    assert {id: e.status for id, e in last.items() if e.status is not TaskStatus.SUCCEEDED} == {
        "no-question": TaskStatus.FAILED,
        "endless": TaskStatus.TIMED_OUT,
        "late": TaskStatus.TIMED_OUT,
        "publish": TaskStatus.FAILED,
    }
    assert last["publish"].reason == "dependency no-question failed"
    assert last["late"].reason == "its deadline of 0.15 s is over"
    assert last["report"].output == ["easy", "fetch", "hard"]


def assigned(events: list[TaskEvent], id: str) -> list[TaskEvent]:
    return [e for e in events if e.id == id and e.status is TaskStatus.ASSIGNED]


# --- commands and links


def code_lines(text: str) -> list[str]:
    """Return the lines of all code blocks."""
    return [
        line
        for part in re.split(r"^```.*$", text, flags=re.MULTILINE)[1::2]
        for line in part.splitlines()
    ]


def shown_commands(path: Path) -> list[str]:
    """Return the arguments of all `skillq` commands in code and comments, also by Compose."""
    text = path.read_text()
    if path.suffix == ".md":
        lines = code_lines(text) + re.findall(r"`(skillq [^`…|]+)`", text)
    else:
        lines = [line.lstrip("# ") for line in text.splitlines()]
    found = (
        re.match(r"(?:\$ )?(?:docker compose run --rm cli|skillq) (.*?)(?:   .*)?$", line)
        for line in lines
    )
    return [match[1] for match in found if match]


SHOWN_COMMANDS = sorted(
    {
        (name(path), command)
        for path in [*PAGES, *EXAMPLES, ROOT / "examples" / "my_tasks.py"]
        for command in shown_commands(path)
    }
)


@pytest.mark.parametrize(("page", "command"), SHOWN_COMMANDS)
def test_every_documented_command_is_valid(page: str, command: str) -> None:
    first, *arguments = shlex.split(command)
    found = command_line.load(first)
    try:
        found.make_context(first, arguments)
    except click.MissingParameter:
        pass  # the text may name a command without its file
    except click.UsageError as error:
        pytest.fail(f"{page}: skillq {command}: {error.format_message()}")


def test_documented_commands_are_found() -> None:
    assert ("README.md", "submit examples/tutorial.yaml --watch") in SHOWN_COMMANDS
    assert ("README.md", "submit examples/pipeline.yaml --watch") in SHOWN_COMMANDS
    assert ("examples/ocr.yaml", "task ocr/tally") in SHOWN_COMMANDS


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_relative_link_has_a_target(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", link):
            continue
        target, _, anchor = link.partition("#")
        file = (page.parent / target).resolve() if target else page
        assert file.exists(), f"{name(page)}: {link}"
        assert not anchor or anchor in anchors(file), f"{name(page)}: {link}"


def test_every_file_of_docs_is_named_in_a_page() -> None:
    everything = "".join(page.read_text() for page in PAGES)
    unlinked = [p.name for p in (ROOT / "docs").glob("*.*") if p.name not in everything]
    assert unlinked == []
