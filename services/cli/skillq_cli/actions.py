"""The commands that tell the manager what to do: cancel, retry. Exit 1: some of it could not be done."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial, wraps
from itertools import islice
from typing import Any, Literal

import click

from skillq.errors import UsageError
from skillq.forms import one_line
from skillq.runtime.settings import load_settings
from skillq_cli.api import Api, Json, Refused
from skillq_cli.options import settings_options
from skillq_cli.queries import to_json
from skillq_cli.settings import ApiSettings
from skillq_cli.task_names import TaskName, in_run, run_name, task_name

NOT_ALL_DONE = 1
_AT_ONCE = 1000  # tasks by name, in one request

parked_option = click.option(
    "--parked", is_flag=True, help="IDs are of messages that nobody could read (dead --parked)."
)


class _Outcome:
    """What was done, and what could not be."""

    def __init__(self, verb: Literal["cancelled", "retried"]) -> None:
        self.verb = verb
        self.count = 0
        self.refused: list[Json] = []

    def add_answer(self, answer: Json) -> None:
        self.count += answer.get(self.verb, 0)
        self.refused += answer.get("refused", ())

    def attempt(self, name: dict[str, str], do: Callable[[], Json]) -> None:
        """Do one; that it cannot be done is no reason to leave the others."""
        try:
            do()
        except Refused as error:
            self.refused.append({**name, "reason": str(error)})
        else:
            self.count += 1


def action_command(command: Callable[..., _Outcome]) -> Callable[..., int]:
    """Give a command the options that all of these have; say what it did."""

    @settings_options(ApiSettings)
    @click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
    @wraps(command)
    def wrapped(api_url: str | None, api_token: str | None, as_json: bool, **more: Any) -> int:
        settings = load_settings(ApiSettings, {"api_url": api_url, "api_token": api_token})
        with Api(settings) as api:
            outcome = command(api, **more)
        return _conclude(outcome, more["parked"], as_json)

    return wrapped


@click.command()
@click.argument("ids", nargs=-1, metavar="[[RUN/]ID]…")
@in_run
@click.option("--all", "whole", is_flag=True, help="All of --run that has not ended.")
@parked_option
@click.option("--reason", metavar="TEXT", help="Shown as the reason of the tasks.")
@action_command
def cancel(
    api: Api, *, ids: Sequence[str], run: str | None, whole: bool, parked: bool, reason: str | None
) -> _Outcome:
    """Call tasks off, whether they wait or run. With --parked, throw messages away."""
    _check_choice(ids, whole=whole)
    outcome = _Outcome("cancelled")
    if parked:
        _check_parked({"--run": run, "--reason": reason, "--all": whole})
        for id in ids:
            outcome.attempt({"message_id": id}, partial(api.delete, "parked", id))
        return outcome
    body = {} if reason is None else {"reason": reason}
    if whole:
        if run is None:
            raise UsageError("--all calls off a whole run: say which with --run")
        outcome.add_answer(api.post("runs", run_name(run), "cancel", body=body))
        return outcome
    for name in [task_name(id, run) for id in ids]:
        outcome.attempt(name._asdict(), partial(api.post, "tasks", *name, "cancel", body=body))
    return outcome


@click.command()
@click.argument("ids", nargs=-1, metavar="[[RUN/]ID]…")
@click.option("--run", metavar="RUN", help="The run of these IDs; with --all, only of this run.")
@click.option("--all", "whole", is_flag=True, help="All that were given up on (dead-lettered).")
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
    whole: bool,
    type: str | None,
    status: str | None,
    parked: bool,
) -> _Outcome:
    """Send tasks again that have ended without success. With --parked, publish messages again."""
    _check_choice(ids, whole=whole)
    outcome = _Outcome("retried")
    if parked:
        _check_parked({"--run": run, "--type": type, "--status": status})
        for id in _all_parked(api) if whole else ids:
            outcome.attempt({"message_id": id}, partial(api.post, "parked", id, "retry"))
        return outcome
    if whole:
        which = {"run": run and run_name(run), "type": type, "status": status}
        given = {name: value for name, value in which.items() if value is not None}
        outcome.add_answer(api.post("tasks", "retry", body=given))
        return outcome
    if type or status:
        raise UsageError(
            "--type and --status choose among --all; leave them out where IDs are given"
        )
    for part in _parts([task_name(id, run) for id in ids]):
        names = [name._asdict() for name in part]
        outcome.add_answer(api.post("tasks", "retry", body={"tasks": names}))
    return outcome


COMMANDS: list[click.Command] = [cancel, retry]


def _check_choice(ids: Sequence[str], *, whole: bool) -> None:
    if whole and ids:
        raise UsageError("give IDs or --all, not both")
    if not whole and not ids:
        raise UsageError("give IDs, or --all")


def _check_parked(given: dict[str, object]) -> None:
    for option, value in given.items():
        if value:
            raise UsageError(f"{option} does not go with --parked: give the ids of messages")


def _all_parked(api: Api) -> list[str]:
    """As they are now: one that is parked again at once is not sent for ever."""
    return [letter["message_id"] for letter in api.get_all("parked")["items"]]


def _parts(names: Sequence[TaskName]) -> Iterator[list[TaskName]]:
    rest = iter(names)
    while part := list(islice(rest, _AT_ONCE)):
        yield part


def _conclude(outcome: _Outcome, parked: bool, as_json: bool) -> int:
    if as_json:
        answer = {outcome.verb: outcome.count, "refused": outcome.refused}
        click.echo(to_json(answer, indent=2))
    else:
        for one in outcome.refused:
            click.echo(one_line(f"skillq: {_named(one)}: {one['reason']}"), err=True)
        thing = "message" if parked else "task"
        click.echo(
            f"{outcome.count} {thing}{'' if outcome.count == 1 else 's'} {_DONE[outcome.verb, parked]}"
        )
    return NOT_ALL_DONE if outcome.refused else 0


_DONE = {
    ("cancelled", False): "called off",
    ("cancelled", True): "thrown away",
    ("retried", False): "sent again",
    ("retried", True): "published again",
}


def _named(refused: Json) -> str:
    return str(refused.get("message_id") or TaskName(refused["run"], refused["id"]))
