"""The words of docs/glossary.md are the words of the code: class names, method names, log events, decisions, pages."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from skillq.runtime.logs import Log

ROOT = Path(__file__).parents[2]
GLOSSARY = (ROOT / "docs" / "glossary.md").read_text()
PRODUCT = sorted(
    path for folder in ("shared", "services") for path in (ROOT / folder).rglob("*.py")
)
DECISIONS = sorted((ROOT / "docs" / "adr").glob("*.md"))
PAGES = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name != "glossary.md"),
]
MOST_CLASSES = 4  # that share a method name of our own
# The methods of Python's containers, files, locks and servers, and those of an AMQP channel.
CONVENTIONAL = {
    *("acquire", "cancel", "clear", "close", "get", "open", "put", "read", "release", "run", "send", "start"),
    *("stop", "submit", "write"),
    *("ack", "consume", "declare", "nack", "publish", "subscribe"),
}  # fmt: skip


def words(text: str) -> set[str]:
    """Return the words of a text in lower case, a plural as its singular."""
    return {word.removesuffix("s") for word in re.findall(r"[a-z]+", text.lower())}


def listed() -> set[str]:
    """Return every word that the glossary lists: the first column of its tables, and the words of log events."""
    allowed, _, _ = GLOSSARY.partition("## Words we do not use")
    cells = re.findall(r"^\| ([^|]+) \|", allowed, re.MULTILINE)
    _, _, events = allowed.partition("## Words of log events")
    return set().union(*map(words, cells)) | words(events)


def unwanted() -> set[str]:
    """Return the single words that the glossary replaces."""
    _, _, table = GLOSSARY.partition("## Words we do not use")
    cells = re.findall(r"^\| ([^|(]+)", table, re.MULTILINE)[1:]
    return {
        phrase.strip() for cell in cells for phrase in cell.split(",") if " " not in phrase.strip()
    }


def classes() -> Iterator[tuple[Path, ast.ClassDef]]:
    for path in PRODUCT:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                yield path, node


def test_a_class_name_is_unique_in_the_product() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for path, node in classes():
        found[node.name].append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


def test_a_method_name_of_our_own_is_shared_by_few_classes() -> None:
    found: dict[str, set[str]] = defaultdict(set)
    for _, node in classes():
        for member in node.body:
            if isinstance(member, ast.FunctionDef | ast.AsyncFunctionDef):
                found[member.name].add(node.name)
    assert {
        name: sorted(owners)
        for name, owners in found.items()
        if len(owners) > MOST_CLASSES and name not in CONVENTIONAL and not name.startswith("__")
    } == {}


@pytest.mark.parametrize("event", Log)
def test_a_log_event_is_made_of_words_of_the_glossary(event: Log) -> None:
    assert words(event.value) <= listed()


@pytest.mark.parametrize("decision", DECISIONS, ids=lambda path: path.stem)
def test_the_title_of_a_decision_uses_words_of_the_glossary(decision: Path) -> None:
    title = decision.read_text().partition("\n")[0]
    assert words(title) & listed()
    assert not words(title) & unwanted()


def test_the_file_name_of_a_decision_has_its_number() -> None:
    numbers = [int(path.name[:4]) for path in DECISIONS]
    assert numbers == list(range(1, len(DECISIONS) + 1))
    for path, number in zip(DECISIONS, numbers, strict=True):
        assert path.read_text().startswith(f"# {number}. ")


PHRASES = [
    r"call(s|ed|ing)? (it |them |tasks |attempts |runs )?off",
    r"hand(s|ed|ing)? (it |them |tasks |back )?(in|back|out)\b",
    r"(send|sends|sent|sending) (it |them |tasks )?again",
]


@pytest.mark.parametrize("path", [*PRODUCT, *PAGES], ids=lambda path: str(path.relative_to(ROOT)))
def test_text_does_without_the_phrases_that_the_glossary_replaces(path: Path) -> None:
    text = re.sub(r"\s+", " ", re.sub(r"`[^`]*`|\"\"\"|\btest_\w+", "", path.read_text()))
    assert [found[0] for phrase in PHRASES for found in re.finditer(phrase, text)] == []


def test_a_link_to_a_decision_leads_to_one() -> None:
    linked = {
        name for path in PRODUCT for name in re.findall(r"docs/adr/([\w-]+\.md)", path.read_text())
    }
    # The first two decide about the distribution and its locks: no module is theirs.
    assert linked == {path.name for path in DECISIONS[2:]}
