"""What the README says and the code knows better: the life of a task, and the settings.

    python -m docs.generated

writes both into README.md, between their markers. A test fails where they differ from the code.
"""

from collections.abc import Iterable
from pathlib import Path

import click
from pydantic.fields import FieldInfo

from skillq.messages import TaskStatus
from skillq.settings import Settings
from skillq_cli import ask, work
from skillq_cli.settings import ApiSettings
from skillq_manager.core.lifecycle import TRANSITIONS
from skillq_manager.settings import ManagerSettings
from skillq_worker.settings import WorkerSettings

README = Path(__file__).parents[1] / "README.md"
CLASSES = (Settings, ManagerSettings, work.RunSettings, WorkerSettings, ApiSettings)


def lifecycle() -> str:
    """`lifecycle.TRANSITIONS` as Mermaid; a status that no move leads to is not drawn."""
    lines = [
        "stateDiagram-v2",
        f"    [*] --> {TaskStatus.BLOCKED}: submitted, depends on others",
        f"    [*] --> {TaskStatus.READY}: submitted",
    ]
    for status, moves in TRANSITIONS.items():
        lines += [f"    {status} --> {to}: {why}" for to, why in moves.items()]
    return "\n".join(["```mermaid", *lines, "```"])


def settings() -> str:
    """A table of all settings, with the commands that have them."""
    fields: dict[str, FieldInfo] = {}
    for cls in reversed(CLASSES):
        fields = {**cls.model_fields, **fields}
    rows = [
        f"| {_option(name)} | {_commands(name)} | {_default(field)} | {field.description} |"
        for name, field in fields.items()
    ]
    return "\n".join(["| option | of | default | meaning |", "|---|---|---|---|", *rows])


def _option(name: str) -> str:
    return "the argument `HANDLERS`" if name == "handlers" else f"`--{name.replace('_', '-')}`"


def _commands(name: str) -> str:
    own = ", ".join(f"`{command.name}`" for command in _having(name, work.COMMANDS))
    asking = "those that ask" if len(_having(name, ask.COMMANDS)) == len(ask.COMMANDS) else ""
    return ", ".join(filter(None, (own, asking)))


def _having(name: str, commands: Iterable[click.Command]) -> list[click.Command]:
    return [c for c in commands if any(parameter.name == name for parameter in c.params)]


def _default(field: FieldInfo) -> str:
    default = field.default
    if field.default_factory is not None or default in {None, ()}:
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


BLOCKS = {"lifecycle": lifecycle, "settings": settings}


def filled(text: str) -> str:
    """The text with each block as the code has it.

    Raises:
        ValueError: a block's markers are missing.
    """
    for name, make in BLOCKS.items():
        begin, end = f"<!-- {name}: made by docs/generated.py -->\n", f"\n<!-- end of {name} -->"
        before, found, rest = text.partition(begin)
        _, found_too, after = rest.partition(end)
        if not (found and found_too):
            raise ValueError(f"the markers of {name} are missing")
        text = before + begin + make() + end + after
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
