"""The manager's answers as tables. What users wrote is shown as they wrote it, and obeyed by nobody."""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from skillq.forms import one_line
from skillq.messages import shorten

_MAX_DESCRIPTION, _MAX_REASON = 60, 200

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
    slots, runs = answer["slots"], answer["runs"]
    workers = sum(answer["workers"].values())
    return _pairs(
        {
            "tasks": f"{answer['total']} ({_counts(answer['tasks'])})",
            "success rate": _rate(answer["success_rate"]),
            "workers": f"{workers} ({_counts(answer['workers'])})",
            "slots": f"{slots['total']} ({slots['busy']} busy, {slots['free']} free)",
            "runs": f"{runs['open']} open, {runs['ended']} ended",
        }
    )


def runs(answer: Answer) -> RenderableType:
    table = _table("run", "title", "tasks", "ended", "success", "submitted", "finished", "now")
    for run in answer["items"]:
        _row(
            table,
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
    table = _table(
        "run", "id", "type", "difficulty", "priority", "status", "worker", "description", "reason"
    )
    for task in answer["items"]:
        _row(
            table,
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
    times = {name: _time(answer[f"{name}_at"]) for name in ("submitted", "started", "finished")}
    plain = ("status", "reason", "worker", "type", "difficulty", "priority")
    about = _pairs(
        {"task": f"{answer['run']}/{answer['id']}", "description": answer["description"]}
        | {name: answer[name] for name in plain}
        | {
            "requires": ", ".join(answer["requires"]),
            "depends on": ", ".join(answer["depends_on"]),
            "timeout": None if answer["timeout"] is None else f"{answer['timeout']:g} s",
            "attempts": f"{answer['attempt']} of {answer['max_attempts']} made",
        }
        | times
        | {
            "payload": _json(answer["payload"] or None),
            "output": _json(answer["output"]),
            "error": answer["error"],
        }
    )
    return Group(about, "", _attempts(answer["attempts"])) if answer["attempts"] else about


def _attempts(answer: Iterable[Answer]) -> RenderableType:
    table = _table(
        "attempt", "worker", "outcome", "assigned", "started", "finished", "counted", "error"
    )
    for attempt in answer:
        _row(
            table,
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
    table = _table(
        "name", "skill", "specialties", "types", "running", "slots", "status", "last seen", "start"
    )
    for worker in answer["items"]:
        _row(
            table,
            worker["name"],
            worker["skill"],
            ", ".join(worker["specialties"]),
            "any" if worker["types"] is None else ", ".join(worker["types"]),
            worker["running"],
            worker["slots"],
            worker["status"],
            _time(worker["last_seen"]),
            worker["incarnation"],
        )
    return table


# --- how


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    for column in columns:
        # Where there is no room, fold: an id cut short is no id.
        table.add_column(column, overflow="fold")
    return table


def _pairs(pairs: Mapping[str, object]) -> Table:
    """Those that have a value, one a line."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in pairs.items():
        if value not in {None, ""}:
            table.add_row(name, _cell(value))
    return table


def _row(table: Table, *values: object) -> None:
    table.add_row(*map(_cell, values))


def _cell(value: object) -> Text:
    """As Text, in which rich finds no markup."""
    text = "" if value is None else one_line(str(value))
    return Text(text, style=_STYLES.get(text, ""))


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{n} {status}" for status, n in counts.items() if n) or "none"


def _rate(percent: float | None) -> str:
    return "" if percent is None else f"{percent:.2f}%"


def _time(written: str | None) -> str:
    """In the reader's own time."""
    if written is None:
        return ""
    return datetime.fromisoformat(written).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _json(value: object) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)
