"""Define the commands that change tasks: cancel and retry.

A command exits with 1 if the manager has refused some of the tasks or messages.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from itertools import islice
from typing import Any, Literal

import click

from skillq.errors import UsageError
from skillq.runtime.settings import load_settings
from skillq_cli.api import Api, Json, Refused
from skillq_cli.options import settings_options
from skillq_cli.output import write_note, write_text
from skillq_cli.queries import to_json
from skillq_cli.settings import ApiSettings
from skillq_cli.task_names import TaskName, run_name, run_option, task_name

NOT_ALL_DONE = 1
_MAX_TASKS_PER_REQUEST = 1000

parked_option = click.option(
    "--parked", is_flag=True, help="IDs are of unreadable messages (dead --parked)."
)


class _ActionOutcome:
    """The number of changed tasks or messages, and those that the manager refused."""

    def __init__(self, verb: Literal["cancelled", "retried"]) -> None:
        self.verb = verb
        self.count = 0
        self.refused: list[Json] = []

    def add_answer(self, answer: Json) -> None:
        """Add the manager's answer to a request for several tasks."""
        self.count += answer.get(self.verb, 0)
        self.refused += answer.get("refused", ())

    def try_action(self, names: dict[str, str], action: Callable[[], Json]) -> None:
        """Do an action for one task or message; note a refusal, so that the next actions go on."""
        try:
            action()
        except Refused as error:
            self.refused.append({**names, "reason": str(error)})
        else:
            self.count += 1


def action_command(command: Callable[..., _ActionOutcome]) -> Callable[..., int]:
    """Add the common options of actions to a command, and print the outcome of the command."""

    @settings_options(ApiSettings)
    @click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
    @wraps(command)
    def wrapped(api_url: str | None, api_token: str | None, as_json: bool, **arguments: Any) -> int:
        settings = load_settings(ApiSettings, {"api_url": api_url, "api_token": api_token})
        with Api(settings) as api:
            outcome = command(api, **arguments)
        return _print_outcome(outcome, arguments["parked"], as_json)

    return wrapped


@click.command()
@click.argument("ids", nargs=-1, metavar="[[RUN/]ID]…")
@run_option
@click.option("--all", "select_all", is_flag=True, help="All of --run that has not ended.")
@parked_option
@click.option("--reason", metavar="TEXT", help="Shown as the reason of the tasks.")
@action_command
def cancel(
    api: Api,
    *,
    ids: Sequence[str],
    run: str | None,
    select_all: bool,
    parked: bool,
    reason: str | None,
) -> _ActionOutcome:
    """Cancel tasks, whether they wait or run. With --parked, throw messages away."""
    _check_choice(ids, select_all=select_all)
    outcome = _ActionOutcome("cancelled")
    if parked:
        _check_unreadable_options({"--run": run, "--reason": reason, "--all": select_all})
        for id in ids:
            outcome.try_action({"message_id": id}, partial(api.delete, "parked", id))
        return outcome
    body = {} if reason is None else {"reason": reason}
    if select_all:
        if run is None:
            raise UsageError("--all cancels a whole run: say which with --run")
        outcome.add_answer(api.post("runs", run_name(run), "cancel", body=body))
        return outcome
    for name in [task_name(id, run) for id in ids]:
        outcome.try_action(name._asdict(), partial(api.post, "tasks", *name, "cancel", body=body))
    return outcome


@click.command()
@click.argument("ids", nargs=-1, metavar="[[RUN/]ID]…")
@click.option("--run", metavar="RUN", help="The run of these IDs; with --all, only of this run.")
@click.option("--all", "select_all", is_flag=True, help="All dead-lettered tasks.")
@click.option("--type", metavar="TYPE", help="With --all: only of this type.")
@click.option(
    "--status",
    type=click.Choice(["dead_lettered", "failed", "timed_out", "cancelled"]),
    help="With --all: those of this status instead.",
)
@parked_option
@action_command
def retry(
    api: Api,
    *,
    ids: Sequence[str],
    run: str | None,
    select_all: bool,
    type: str | None,
    status: str | None,
    parked: bool,
) -> _ActionOutcome:
    """Retry tasks that have ended without success. With --parked, publish messages again."""
    _check_choice(ids, select_all=select_all)
    outcome = _ActionOutcome("retried")
    if parked:
        _check_unreadable_options({"--run": run, "--type": type, "--status": status})
        for id in _all_unreadable(api) if select_all else ids:
            outcome.try_action({"message_id": id}, partial(api.post, "parked", id, "retry"))
        return outcome
    if select_all:
        filters = {"run": run and run_name(run), "type": type, "status": status}
        given = {name: value for name, value in filters.items() if value is not None}
        outcome.add_answer(api.post("tasks", "retry", body=given))
        return outcome
    if type or status:
        raise UsageError(
            "--type and --status choose among --all; leave them out where IDs are given"
        )
    for batch in _batches([task_name(id, run) for id in ids]):
        names = [name._asdict() for name in batch]
        outcome.add_answer(api.post("tasks", "retry", body={"tasks": names}))
    return outcome


COMMANDS: list[click.Command] = [cancel, retry]


def _check_choice(ids: Sequence[str], *, select_all: bool) -> None:
    if select_all and ids:
        raise UsageError("give IDs or --all, not both")
    if not select_all and not ids:
        raise UsageError("give IDs, or --all")


def _check_unreadable_options(given: dict[str, object]) -> None:
    for option, value in given.items():
        if value:
            raise UsageError(f"{option} does not go with --parked: give the ids of messages")


def _all_unreadable(api: Api) -> list[str]:
    """Return the ids of all unreadable messages, listed once.

    A message that comes back as unreadable at once is thus not published for ever.
    """
    return [message["message_id"] for message in api.get_all("parked")["items"]]


def _batches(names: Sequence[TaskName]) -> Iterator[list[TaskName]]:
    remaining = iter(names)
    while batch := list(islice(remaining, _MAX_TASKS_PER_REQUEST)):
        yield batch


def _print_outcome(outcome: _ActionOutcome, parked: bool, as_json: bool) -> int:
    if as_json:
        answer = {outcome.verb: outcome.count, "refused": outcome.refused}
        write_text(to_json(answer, indent=2))
    else:
        for refused in outcome.refused:
            write_note(f"skillq: {_refused_name(refused)}: {refused['reason']}")
        noun = "message" if parked else "task"
        write_text(
            f"{outcome.count} {noun}{'' if outcome.count == 1 else 's'} {_DONE_WORDS[outcome.verb, parked]}"
        )
    return NOT_ALL_DONE if outcome.refused else 0


_DONE_WORDS = {
    ("cancelled", False): "cancelled",
    ("cancelled", True): "thrown away",
    ("retried", False): "retried",
    ("retried", True): "published again",
}


def _refused_name(refused: Json) -> str:
    return str(refused.get("message_id") or TaskName(refused["run"], refused["id"]))
