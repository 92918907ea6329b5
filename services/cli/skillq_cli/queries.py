"""Define the commands that query the manager, such as status, tasks and workers."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from time import sleep
from typing import Any, NamedTuple

import click
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from skillq import timings
from skillq.errors import Unreachable, UsageError
from skillq.messages import TaskStatus
from skillq.runtime.settings import load_settings
from skillq_cli import tables
from skillq_cli.api import Api, Json
from skillq_cli.options import settings_options
from skillq_cli.output import write_note, write_text
from skillq_cli.settings import ApiSettings
from skillq_cli.task_names import run_option, task_name

_UNLIMITED_WIDTH = 1_000_000  # without a terminal, lines are not folded: programs read line by line

Fetch = Callable[[Api], Json]
Draw = Callable[[Json], RenderableType]


class QueryOptions(NamedTuple):
    """The address of the manager, and how a query shows the answer."""

    settings: ApiSettings
    as_json: bool
    watch: bool


def query_command(command: Callable[..., None]) -> Callable[..., None]:
    """Add the common options of queries to a command."""

    @settings_options(ApiSettings)
    @click.option("--json", "as_json", is_flag=True, help="Print what the API answers.")
    @click.option("--watch", is_flag=True, help="Show it anew every second, until Ctrl-C.")
    @wraps(command)
    def wrapped(
        api_url: str | None, api_token: str | None, as_json: bool, watch: bool, **arguments: Any
    ) -> None:
        settings = load_settings(ApiSettings, {"api_url": api_url, "api_token": api_token})
        command(QueryOptions(settings, as_json, watch), **arguments)

    return wrapped


limit_option = click.option(
    "--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="So many."
)
all_option = click.option(
    "--all", "fetch_all", is_flag=True, help="All of them, whatever --limit says."
)


@click.command()
@query_command
def status(options: QueryOptions) -> None:
    """Tasks by status, workers, slots and runs, all together."""
    _show(options, lambda api: api.get("summary"), tables.status)


@click.command()
@query_command
def runs(options: QueryOptions) -> None:
    """List the runs."""
    _show(options, lambda api: api.get_all("runs"), tables.runs)


@click.command()
@click.option("--run", metavar="RUN", help="Only of this run.")
@click.option(
    "--status", type=click.Choice([s.value for s in TaskStatus]), help="Only of this status."
)
@click.option("--type", metavar="TYPE", help="Only of this type.")
@click.option("--worker", metavar="WORKER", help="Only with this worker.")
@limit_option
@all_option
@query_command
def tasks(
    options: QueryOptions,
    *,
    run: str | None,
    status: str | None,
    type: str | None,
    worker: str | None,
    limit: int,
    fetch_all: bool,
) -> None:
    """List tasks, in order of submission."""
    filters = {"run": run, "status": status, "type": type, "worker": worker}
    if fetch_all:
        _show(options, lambda api: api.get_all("tasks", **filters), tables.tasks)
    else:
        _show(options, lambda api: api.get("tasks", **filters, limit=limit), tables.tasks)


@click.command()
@click.argument("id", metavar="[RUN/]ID")
@run_option
@query_command
def task(options: QueryOptions, id: str, run: str | None) -> None:
    """Show one task and its attempts."""
    path = ("tasks", *task_name(id, run))
    _show(options, lambda api: api.get(*path), tables.task)


@click.command()
@click.argument("id", metavar="[RUN/]ID")
@run_option
@query_command
def explain(options: QueryOptions, id: str, run: str | None) -> None:
    """Say why a task is where it is, worker by worker."""
    path = ("tasks", *task_name(id, run), "explain")
    _show(options, lambda api: api.get(*path), tables.explanation)


@click.command()
@click.option("--run", metavar="RUN", help="Only of this run.")
@click.option("--type", metavar="TYPE", help="Only of this type.")
@click.option("--failed", is_flag=True, help="Those that failed or timed out, too.")
@click.option("--parked", is_flag=True, help="Unreadable messages, instead of tasks.")
@limit_option
@all_option
@query_command
def dead(
    options: QueryOptions,
    *,
    run: str | None,
    type: str | None,
    failed: bool,
    parked: bool,
    limit: int,
    fetch_all: bool,
) -> None:
    """List dead-lettered tasks, and why; `retry` retries them."""
    filters: dict[str, str | None] = {"run": run, "type": type, "all": "true" if failed else None}
    if parked and any(filters.values()):
        raise UsageError("--run, --type and --failed are of tasks; leave them out with --parked")
    path, draw = ("parked", tables.parked) if parked else ("dead", tables.dead)
    if fetch_all:
        _show(options, lambda api: api.get_all(path, **filters), draw)
    else:
        _show(options, lambda api: api.get(path, **filters, limit=limit), draw)


@click.command()
@query_command
def workers(options: QueryOptions) -> None:
    """List the workers, those that have left too."""
    _show(options, lambda api: api.get_all("workers"), tables.workers)


COMMANDS: list[click.Command] = [status, runs, tasks, task, explain, dead, workers]


# --- showing


def _show(options: QueryOptions, fetch: Fetch, draw: Draw) -> None:
    with Api(options.settings) as api:
        answer = fetch(api)  # an error of the first request ends a watch, too
        if options.watch:
            with _until_interrupted():
                (_watch_json if options.as_json else _watch_table)(api, answer, fetch, draw)
        elif options.as_json:
            write_text(to_json(answer, indent=2))
        else:
            _print(_console(), draw(answer))
            _hint_at_more(answer)


def _hint_at_more(answer: Json) -> None:
    if answer.get("next_cursor") is not None:
        write_note("There are more: --all shows them, or a larger --limit.")


def _watch_json(api: Api, answer: Json, fetch: Fetch, draw: Draw) -> None:
    """Print each changed answer as one line of JSON."""
    last_line = None
    for current in _poll_answers(api, answer, fetch):
        line = None if isinstance(current, Unreachable) else to_json(current)
        if line is None and last_line is not None:
            write_note(str(current))
        elif line is not None and line != last_line:
            write_text(line)
        last_line = line


def _watch_table(api: Api, answer: Json, fetch: Fetch, draw: Draw) -> None:
    """Refresh one table on a terminal; without a terminal, print each changed table."""
    console = _console()
    if not console.is_terminal:
        last_text = None
        for current in _poll_answers(api, answer, fetch):
            if str(current) != last_text:
                _print(console, _render_answer(current, draw))
            last_text = str(current)
        return
    with Live(console=console, auto_refresh=False, screen=True) as live:
        for current in _poll_answers(api, answer, fetch):
            live.update(_render_answer(current, draw), refresh=True)


def _poll_answers(api: Api, answer: Json, fetch: Fetch) -> Iterator[Json | Unreachable]:
    """Yield the first answer, then one answer a second, or the error while no manager answers."""
    yield answer
    while True:
        sleep(timings.WATCH_SECONDS)
        try:
            yield fetch(api)
        except Unreachable as error:
            yield error


def _render_answer(current: Json | Unreachable, draw: Draw) -> RenderableType:
    return Text(str(current)) if isinstance(current, Unreachable) else draw(current)


@contextmanager
def _until_interrupted() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        return


def _console() -> Console:
    console = Console(highlight=False, markup=False, emoji=False)
    return console if console.is_terminal else Console(highlight=False, width=_UNLIMITED_WIDTH)


def _print(console: Console, renderable: RenderableType) -> None:
    if console.is_terminal:
        console.print(renderable)
        return
    with console.capture() as captured:
        console.print(renderable)
    # The padding of cells is cut off: the widest cell may be very wide.
    write_text("\n".join(map(str.rstrip, captured.get().splitlines())))


def to_json(answer: Json, indent: int | None = None) -> str:
    """Return JSON with all control characters escaped: a terminal would obey them."""
    text = json.dumps(answer, ensure_ascii=False, indent=indent)
    return re.sub(r"[^\n -~]", lambda match: _escape_char(match[0]), text)


def _escape_char(char: str) -> str:
    return char if char.isprintable() else json.dumps(char)[1:-1]
