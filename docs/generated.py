"""What our pages say and the code knows better: the life of a task, the settings, the times.

    python -m docs.generated

writes them into their pages, between their markers. A test fails where they differ from the code.
"""

import ast
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from pydantic.fields import FieldInfo

from skillq import timings
from skillq.messages import Lease, TaskStatus
from skillq.runtime.settings import Settings
from skillq_cli import command, embedded_commands
from skillq_cli.settings import ApiSettings
from skillq_manager.core.rules.leases import LeasePolicy
from skillq_manager.core.rules.lifecycle import TRANSITIONS
from skillq_manager.core.rules.retry import RetryPolicy
from skillq_manager.settings import ManagerSettings
from skillq_worker.settings import WorkerSettings

ROOT = Path(__file__).parents[1]
_HEADING = "# --- "
CLASSES = (Settings, ManagerSettings, embedded_commands.RunSettings, WorkerSettings, ApiSettings)


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
    asking = [c for c, place in command.COMMANDS.items() if place.module in {"queries", "actions"}]
    having = [
        c
        for c in command.COMMANDS
        if any(parameter.name == name for parameter in command.load(c).params)
    ]
    all_ask = set(asking) <= set(having)
    own = [f"`{c}`" for c in having if not (all_ask and c in asking)]
    return ", ".join([*own, "query commands"] if all_ask else own)


def _default(field: FieldInfo) -> str:
    default = field.default
    if field.default_factory is not None or default in {None, ()}:
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def times() -> str:
    """A table of all leases and periods."""
    lease, policy, again = Lease(), LeasePolicy(), RetryPolicy()
    rows = [
        (lease.heartbeat, "a worker's heartbeat, give or take a tenth"),
        (lease.suspect_after, "silence after which a worker gets nothing new"),
        (lease.dead_after, "silence after which its attempts are lost"),
        (lease.fence_after, "without a confirmed heartbeat, a worker begins nothing more"),
        (lease.dead_after, "and then, with `--on-lost-lease abort`, gives up what runs"),
        (policy.resend_after, "an assignment that heartbeats do not name is sent again"),
        (policy.sweep_every, "how often all this is looked at"),
        (timings.OVERDUE_SLACK_SECONDS, "what a worker has, after a timeout, to say so itself"),
        (policy.reserve_for, "how long easy work waits until reserved workers take it"),
        (timings.PROBE_SECONDS, "the manager's messages to itself"),
        (timings.HEARTBEATS_LOST_SECONDS, "without one of them, it judges nobody"),
        (timings.LEADER_LEASE_SECONDS, "a leader's lease"),
        (timings.RENEW_SECONDS, "how often a leader renews it"),
        (timings.STAND_BY_SECONDS, "how often the others ask for it"),
        (timings.TAKE_OVER_SECONDS, "how long one waits for another who has its queue or its name"),
        (again.base, "longest pause after a first failure; it doubles"),
        (again.cap, "longest pause of all"),
        (timings.WORKER_QUEUE_EXPIRES_SECONDS, "a worker's queue without a worker is deleted"),
    ]
    lines = [f"| {seconds:g} | {meaning} |" for seconds, meaning in rows]
    return "\n".join(["| seconds | |", "|--:|---|", *lines])


def all_timings() -> str:
    """A table of each duration in `skillq.timings`, with its docstring, under the headings of that module."""
    lines = ["| seconds | name | meaning |", "|--:|---|---|"]
    group = ""
    for heading, name, meaning in _documented(Path(timings.__file__).read_text()):
        if heading != group:
            group = heading
            lines.append(f"| | | **{group}** |")
        lines.append(
            f"| {getattr(timings, name):g} | `{name.removesuffix('_SECONDS')}` | {meaning} |"
        )
    return "\n".join(lines)


def _documented(source: str) -> Iterator[tuple[str, str, str]]:
    """Each duration: the heading above it, its name, its docstring.

    Raises:
        ValueError: a duration has no docstring.
    """
    lines = source.splitlines()
    statements = ast.parse(source).body
    for statement, after in zip(statements, [*statements[1:], None], strict=True):
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) if name.endswith("_SECONDS"):
                match after:
                    case ast.Expr(value=ast.Constant(value=str(meaning))):
                        above = reversed(lines[: statement.lineno])
                        heading = next(line for line in above if line.startswith(_HEADING))
                        yield heading.removeprefix(_HEADING), name, meaning
                    case _:
                        raise ValueError(f"{name} in skillq/timings.py has no docstring")


PAGES: Mapping[Path, Mapping[str, Callable[[], str]]] = {
    ROOT / "docs" / "lifecycle.md": {"lifecycle": lifecycle},
    ROOT / "docs" / "reference.md": {"settings": settings},
    ROOT / "docs" / "guarantees.md": {"times": times},
    ROOT / "docs" / "protocol.md": {"timings": all_timings},
}


def filled(page: Path) -> str:
    """The page with each of its blocks as the code has it.

    Raises:
        ValueError: a block's markers are missing.
    """
    text = page.read_text()
    for name, make in PAGES[page].items():
        begin, end = f"<!-- {name}: made by docs/generated.py -->\n", f"<!-- end of {name} -->"
        before, found, rest = text.partition(begin)
        _, found_too, after = rest.partition(end)
        if not (found and found_too):
            raise ValueError(f"the markers of {name} are missing")
        text = before + begin + make() + "\n" + end + after
    return text


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(filled(page))
