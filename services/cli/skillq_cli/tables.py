"""Format the manager's answers as tables, and texts of users literally, without markup."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import zip_longest
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from skillq.forms import one_line
from skillq.messages import shorten

_MAX_DESCRIPTION, _MAX_REASON = 60, 200
_GAP = 2
_SHRINKABLE_COLUMNS = {
    "description",
    "reason",
    "error",
    "now",
    "specialties",
    "types",
    "verdict",
    "body",
}
_MIN_SHRUNK_WIDTH = 7

_STYLES = {
    "running": "cyan",
    "assigned": "cyan",
    "succeeded": "green",
    "connected": "green",
    "failed": "red",
    "timed_out": "red",
    "dead_lettered": "red",
    "lost": "red",
    "cancelled": "yellow",
    "suspect": "yellow",
    "draining": "yellow",
}

Answer = Mapping[str, Any]


def status(answer: Answer) -> RenderableType:
    """Format the answer of `/api/summary`."""
    slots, runs = answer["slots"], answer["runs"]
    workers = sum(answer["workers"].values())
    return _pairs(
        {
            "tasks": f"{answer['total']} ({_counts(answer['tasks'])})",
            "success rate": _rate(answer["success_rate"]),
            "workers": f"{workers} ({_counts(answer['workers'])})",
            "slots": f"{slots['total']} ({slots['busy']} busy, {slots['free']} free)",
            "runs": f"{runs['open']} open, {runs['ended']} ended",
            "manager": _leadership(answer["manager"]),
        }
    )


def _leadership(manager: Answer) -> str | None:
    """Return a remark on a manager that does not lead or gets no heartbeats; else None."""
    if not manager["leading"]:
        return "stands by; another one leads"
    return "gets no heartbeats, and judges no worker" if manager["blind"] else None


def runs(answer: Answer) -> RenderableType:
    """Format the answer of `/api/runs`."""
    table = _PlainTable("run", "title", "tasks", "ended", "success", "submitted", "finished", "now")
    for run in answer["items"]:
        table.add_row(
            run["run"],
            run["title"],
            run["tasks"],
            run["ended"],
            _rate(run["success_rate"]),
            _time(run["submitted_at"]),
            _time(run["finished_at"]),
            _counts(run["counts"]),
        )
    return table


def tasks(answer: Answer) -> RenderableType:
    """Format the answer of `/api/tasks`."""
    table = _PlainTable(
        "run", "id", "type", "difficulty", "priority", "status", "worker", "description", "reason"
    )
    for task in answer["items"]:
        table.add_row(
            task["run"],
            task["id"],
            task["type"],
            task["difficulty"],
            task["priority"],
            task["status"],
            task["worker"],
            shorten(task["description"], _MAX_DESCRIPTION),
            shorten(task["reason"] or "", _MAX_REASON),
        )
    return table


def task(answer: Answer) -> RenderableType:
    """Format one task and its attempts."""
    times = {name: _time(answer[f"{name}_at"]) for name in ("submitted", "started", "finished")}
    plain_fields = ("status", "reason", "worker", "type", "difficulty", "priority")
    fields = _pairs(
        {"task": f"{answer['run']}/{answer['id']}", "description": answer["description"]}
        | {name: answer[name] for name in plain_fields}
        | {
            "requires": ", ".join(answer["requires"]),
            "depends on": ", ".join(answer["depends_on"]),
            "timeout": None if answer["timeout"] is None else f"{answer['timeout']:g} s",
            "attempts": _attempts_text(answer),
            "lost": f"{answer['losses']} attempts, with their workers"
            if answer["losses"]
            else None,
            "asks now": _need_text(answer["asks"]),
        }
        | times
        | {
            "payload": _json(answer["payload"] or None),
            "output": _json(answer["output"]),
            "error": answer["error"],
        }
    )
    return Group(fields, "", _attempts(answer["attempts"])) if answer["attempts"] else fields


def _attempts_text(task: Answer) -> str:
    """Return the number of attempts.

    Some attempts, such as lost ones, do not count against the limit. Then the text gives the number of
    failures, too.
    """
    number, max_attempts = task["attempt"], task["max_attempts"]
    if number <= max_attempts and not task["losses"]:
        return f"{number} of {max_attempts} made"
    return f"{number} made, {task['failures']} of {max_attempts} failed"


def _need_text(need: Answer | None) -> str | None:
    if need is None:
        return None
    parts = [f"skill {need['difficulty']}"]
    if need["requires"]:
        parts.append(", ".join(need["requires"]))
    if need["excluded"]:
        parts.append(f"not {', '.join(need['excluded'])}")
    reason = f" ({need['because']})" if need["because"] else ""
    return "; ".join(parts) + reason


def explanation(answer: Answer) -> RenderableType:
    """Format the answer of `explain`: the need of a task, and the verdict on each worker."""
    fields = _pairs(
        {
            "task": f"{answer['run']}/{answer['id']}",
            "status": answer["status"],
            "reason": answer["reason"],
            "asks now": _need_text(answer["asks"]),
        }
    )
    table = _PlainTable("worker", "verdict")
    for worker in answer["workers"]:
        table.add_row(worker["worker"], worker["verdict"])
    return Group(fields, "", table) if answer["workers"] else fields


def dead(answer: Answer) -> RenderableType:
    """Format the answer of `/api/dead`."""
    table = _PlainTable("run", "id", "type", "status", "attempts", "worker", "finished", "reason")
    for task in answer["items"]:
        outcomes = Counter(a["outcome"] for a in task["attempts"] if a["counted"])
        table.add_row(
            task["run"],
            task["id"],
            task["type"],
            task["status"],
            _counts(outcomes),
            task["worker"],
            _time(task["finished_at"]),
            shorten(task["reason"] or "", _MAX_REASON),
        )
    return table


def parked(answer: Answer) -> RenderableType:
    """Format the answer of `/api/parked`: the unreadable messages."""
    table = _PlainTable("message id", "type", "queue", "routing key", "parked", "reason", "body")
    for message in answer["items"]:
        table.add_row(
            message["message_id"],
            shorten(message["type"], _MAX_DESCRIPTION),
            message["queue"],
            message["routing_key"],
            _time(message["parked_at"]),
            shorten(message["reason"], _MAX_REASON),
            shorten(message["body"], _MAX_DESCRIPTION),
        )
    return table


def _attempts(answer: Iterable[Answer]) -> RenderableType:
    table = _PlainTable(
        "attempt", "worker", "outcome", "assigned", "started", "finished", "counted", "error"
    )
    for attempt in answer:
        table.add_row(
            attempt["attempt"],
            attempt["worker"],
            attempt["outcome"],
            _time(attempt["assigned_at"]),
            _time(attempt["started_at"]),
            _time(attempt["finished_at"]),
            "yes" if attempt["counted"] else "no",
            shorten(attempt["error"] or "", _MAX_REASON),
        )
    return table


def workers(answer: Answer) -> RenderableType:
    """Format the answer of `/api/workers`."""
    table = _PlainTable(
        "name",
        "skill",
        "specialties",
        "types",
        "reserve",
        "running",
        "waiting",
        "slots",
        "status",
        "last seen",
        "start",
    )
    for worker in answer["items"]:
        table.add_row(
            worker["name"],
            worker["skill"],
            ", ".join(worker["specialties"]),
            _types(worker),
            worker["reserve"] or None,
            worker["running"],
            worker["waiting"] or None,
            worker["slots"],
            worker["status"],
            _time(worker["last_seen"]),
            worker["incarnation"],
        )
    return table


def _types(worker: Answer) -> str:
    types = "any" if worker["types"] is None else ", ".join(worker["types"])
    return f"{types}, but not {', '.join(worker['refused'])}" if worker["refused"] else types


# --- the layout


class _PlainTable:
    """A table without borders. Wide cells are folded, not cut: a cut id would be useless."""

    def __init__(self, *columns: str) -> None:
        self._columns = columns
        self._rows: list[tuple[str, ...]] = []

    def add_row(self, *values: object) -> None:
        self._rows.append(tuple("" if v is None else one_line(str(v)) for v in values))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = [self._columns, *self._rows]
        widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
        self._shrink(widths, options.max_width - _GAP * (len(widths) - 1))
        # Not rich's own table: it lays out a thousand rows a second, and a list may have a hundred thousand.
        for number, line in enumerate(lines):
            yield from _layout_row(console, line, widths, "" if number else "bold")

    def _shrink(self, widths: list[int], max_width: int) -> None:
        """Reduce the widths to `max_width` in all, the widest first, names and numbers last."""
        ranks = [column in _SHRINKABLE_COLUMNS for column in self._columns]
        while sum(widths) > max_width and max(widths) > 1:
            index = max(
                range(len(widths)),
                key=lambda i: (ranks[i] and widths[i] > _MIN_SHRUNK_WIDTH, widths[i]),
            )
            widths[index] -= 1


def _layout_row(
    console: Console, line: Sequence[str], widths: Sequence[int], style: str
) -> Iterator[Text]:
    """Yield the lines of one row: more than one if a cell is folded."""
    cells = [
        [_cell(value)] if cell_len(value) <= width else _fold_cell(console, value, width)
        for value, width in zip(line, widths, strict=True)
    ]
    for parts in zip_longest(*cells, fillvalue=Text()):
        text = Text(no_wrap=True, overflow="ignore", style=style)
        for part, width in zip(parts, widths, strict=True):
            text.append_text(part).append(" " * (width - part.cell_len + _GAP))
        text.rstrip()
        yield text


def _fold_cell(console: Console, value: str, width: int) -> list[Text]:
    return list(_cell(value).wrap(console, width, overflow="fold"))


def _pairs(pairs: Mapping[str, object]) -> Table:
    """Return a grid with one line for each pair that has a value."""
    table = Table.grid(padding=(0, _GAP))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        if value not in {None, ""}:
            table.add_row(name, _cell(one_line(str(value))))
    return table


def _cell(text: str) -> Text:
    """Return a cell as Text, in which rich does not look for markup."""
    return Text(text, style=_STYLES.get(text, ""))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {status}" for status, n in counts.items() if n) or "none"


def _rate(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.2f}%"


def _time(iso_time: str | None) -> str:
    """Return an ISO time in the local time zone, or an empty text."""
    if iso_time is None:
        return ""
    return datetime.fromisoformat(iso_time).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _json(value: object) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)
