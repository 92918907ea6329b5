"""Write the parts of our pages that come from the code: the life of a task, settings, durations.

    python -m docs.generated

replaces the text between the markers in each page. A test fails if a page differs from the code.
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
    """Return `lifecycle.TRANSITIONS` as a Mermaid diagram, without a status that no move reaches."""
    lines = [
        "stateDiagram-v2",
        f"    [*] --> {TaskStatus.BLOCKED}: submitted, depends on others",
        f"    [*] --> {TaskStatus.READY}: submitted",
    ]
    for status, moves in TRANSITIONS.items():
        lines += [f"    {status} --> {to}: {why}" for to, why in moves.items()]
    return "\n".join(["```mermaid", *lines, "```"])


def settings() -> str:
    """Return a table of all settings, with the commands that have them."""
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
    queries = [c for c, entry in command.COMMANDS.items() if entry.module in {"queries", "actions"}]
    having = [
        c
        for c in command.COMMANDS
        if any(parameter.name == name for parameter in command.load(c).params)
    ]
    in_all_queries = set(queries) <= set(having)
    own = [f"`{c}`" for c in having if not (in_all_queries and c in queries)]
    return ", ".join([*own, "query commands"] if in_all_queries else own)


def _default(field: FieldInfo) -> str:
    default = field.default
    if field.default_factory is not None or default in {None, ()}:
        return ""
    if isinstance(default, bool):
        return "yes" if default else "no"
    return f"`{default:g}`" if isinstance(default, float) else f"`{default}`"


def times() -> str:
    """Return a table of the leases and periods that the guarantees depend on."""
    lease, policy, retry = Lease(), LeasePolicy(), RetryPolicy()
    rows = [
        (lease.heartbeat, "period of a worker's heartbeats, plus or minus a tenth"),
        (lease.suspect_after, "silence after which a worker is suspect and gets no new attempts"),
        (lease.dead_after, "silence after which a worker is lost, and its attempts with it"),
        (
            lease.fence_after,
            "time without a confirmed heartbeat after which a worker starts no attempts",
        ),
        (
            lease.dead_after,
            "the same, after which it cancels running attempts, with `--on-lost-lease abort`",
        ),
        (policy.resend_after, "time after which an assignment that no heartbeat names is resent"),
        (policy.sweep_every, "period at which the manager checks all this"),
        (
            timings.OVERDUE_SLACK_SECONDS,
            "time after a timeout in which the worker may report it itself",
        ),
        (policy.reserve_for, "time that an easy task waits until reserved workers take it"),
        (timings.PROBE_SECONDS, "period of the manager's probes to itself"),
        (
            timings.HEARTBEATS_LOST_SECONDS,
            "time without a probe after which the manager judges no worker",
        ),
        (timings.LEADER_LEASE_SECONDS, "a leader's lease"),
        (timings.RENEW_SECONDS, "period at which a leader renews its lease"),
        (timings.STAND_BY_SECONDS, "period at which standby managers try to lead"),
        (
            timings.TAKE_OVER_SECONDS,
            "time that a process waits for another process with its queue or name",
        ),
        (retry.base, "longest back-off after a first failure; it doubles"),
        (retry.cap, "longest back-off of all"),
        (
            timings.WORKER_QUEUE_EXPIRES_SECONDS,
            "time after which a worker's queue without a consumer is deleted",
        ),
    ]
    lines = [f"| {seconds:g} | {meaning} |" for seconds, meaning in rows]
    return "\n".join(["| seconds | |", "|--:|---|", *lines])


def all_timings() -> str:
    """Return a table of the durations in `skillq.timings`, with the headings of that module."""
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
    """Yield the heading above each duration, the name of the duration and its docstring.

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
    """Return the text of the page with each generated block made again.

    Raises:
        ValueError: the markers of a block are missing.
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
