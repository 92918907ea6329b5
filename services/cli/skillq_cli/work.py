"""Commands that get work done: demo, run, submit, manager, worker."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import click
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

import skillq_manager.__main__ as manager_process
import skillq_worker.__main__ as worker_process
from skillq import logs
from skillq.client import Client, Receipt, RunResult
from skillq.errors import UsageError
from skillq.forms import WorkFile, one_line
from skillq.messages import TaskStatus
from skillq.settings import PREFIX, Settings, load
from skillq.summary import Ended, success_rate, summary
from skillq.transport.rabbitmq import RabbitTransport
from skillq_cli import tutorial
from skillq_cli.embedded import run_embedded
from skillq_cli.files import read_work_file
from skillq_cli.options import settings_options
from skillq_cli.progress import progress
from skillq_manager.settings import POLICIES, ManagerSettings
from skillq_worker.settings import WorkerSettings

TASKS_FAILED = 1


class RunSettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    policy: Literal["best-fit", "arrival"] = Field("best-fit", description="who gets what")
    time_scale: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="seconds per unit of simulated difficulty"
    )


as_json = click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
a_file = click.argument("file", type=click.Path(path_type=Path))


@click.command()
@click.option(
    "--scenario",
    type=click.Choice(list(tutorial.SCENARIOS)),
    default="well",
    help="well: best fit; failures: in order of arrival, able or not.",
)
@as_json
def demo(scenario: str, as_json: bool) -> int:
    """Run the tutorial in this process: three workers, three tasks."""
    chosen = tutorial.SCENARIOS[scenario]
    return _run(chosen.work, chosen.policy, tutorial.TIME_SCALE, as_json)


@click.command()
@a_file
@settings_options(RunSettings)
@as_json
def run(file: Path, as_json: bool, **given: Any) -> int:
    """Run the workers and tasks of FILE (YAML or JSON) in this process."""
    settings = load(RunSettings, given)
    work = read_work_file(file)
    with _about(file):
        return _run(work, settings.policy, settings.time_scale, as_json)


def _run(work: WorkFile, policy: str, time_scale: float, as_json: bool) -> int:
    logs.configure("warning", "console")
    with progress(len(work.tasks), quiet=as_json) as display:
        ended = asyncio.run(run_embedded(work, POLICIES[policy](), time_scale, display.on_event))
    return _conclude(work.run, ended, Counter(e.status for e in ended), as_json)


@click.command()
@a_file
@click.option(
    "--run", "run_name", metavar="NAME", help="The run to add the tasks to; default: the file's."
)
@click.option(
    "--watch", is_flag=True, help="Stay until all tasks of the run have ended; print the summary."
)
@settings_options(Settings, "log_level", "log_format")
@as_json
def submit(file: Path, run_name: str | None, watch: bool, as_json: bool, **given: Any) -> int:
    """Hand the tasks of FILE (YAML, JSON or CSV) to the manager; its workers are left aside."""
    settings = load(Settings, given)
    work = read_work_file(file)
    if run_name is not None:
        work = _renamed(work, run_name)
    logs.configure("error", "console")
    if watch:
        with progress(len(work.tasks), quiet=as_json) as display:
            result = asyncio.run(_complete(settings, file, work, display.on_event))
        ended = _ended(work, result)
        return _conclude(work.run, ended, result.counts, as_json)
    receipt = asyncio.run(_submit(settings, file, work))
    _print_receipt(work, receipt, as_json)
    return 0


@contextmanager
def _about(file: Path) -> Iterator[None]:
    """Say which file it is that is refused."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error


def _renamed(work: WorkFile, run: str) -> WorkFile:
    try:
        return WorkFile.model_validate(work.model_dump() | {"run": run})
    except ValueError as error:
        raise UsageError(f"--run: {run!r} makes no name; use letters a-z and digits") from error


async def _submit(settings: Settings, file: Path, work: WorkFile) -> Receipt | None:
    async with _transport(settings) as transport:
        client = Client(transport, name="cli", patience=settings.connect_timeout)
        with _about(file):
            return await client.submit(work.run, work.tasks)


async def _complete(settings: Settings, file: Path, work: WorkFile, on_event: Any) -> RunResult:
    async with _transport(settings) as transport:
        client = Client(transport, name="cli", patience=settings.connect_timeout)
        with _about(file):
            return await client.complete(work.run, work.tasks, on_event)


def _transport(settings: Settings) -> RabbitTransport:
    return RabbitTransport(
        settings.broker_url,
        app_id="cli",
        connection_name="skillq submit",
        connect_timeout=settings.connect_timeout,
    )


def _ended(work: WorkFile, result: RunResult) -> list[Ended]:
    seen = (result.tasks.get(task.id) for task in work.tasks)
    return [
        Ended(e.id, e.worker, e.status, e.reason)
        for e in seen
        if e is not None and e.status.is_terminal
    ]


def _print_receipt(work: WorkFile, receipt: Receipt | None, as_json: bool) -> None:
    if as_json:
        answer = {"accepted": receipt.accepted, "known": receipt.known} if receipt else None
        _print(json.dumps({"run": work.run, "tasks": len(work.tasks), "answer": answer}))
    elif receipt is None:
        _print(f"{len(work.tasks)} tasks are with the broker; no manager has answered yet")
    elif receipt.accepted or not receipt.known:
        _print(f"{receipt.accepted} tasks accepted in run {work.run}" + _already(receipt))
    else:
        _print(
            f"nothing new: run {work.run} had all {receipt.known} tasks already; "
            "--run NAME makes another run of them"
        )


def _already(receipt: Receipt) -> str:
    return f", {receipt.known} were there already" if receipt.known else ""


def _conclude(
    run: str, ended: Sequence[Ended], counts: dict[TaskStatus, int], as_json: bool
) -> int:
    if as_json:
        tasks = [e._asdict() for e in ended]
        rate = round(success_rate(counts), 2)
        _print(json.dumps({"run": run, "success_rate": rate, "counts": counts, "tasks": tasks}))
    else:
        for line in summary(ended, counts):
            _print(line)
    all_well = all(status is TaskStatus.SUCCEEDED for status, n in counts.items() if n)
    return 0 if all_well else TASKS_FAILED


def _print(line: str) -> None:
    sys.stdout.write(one_line(line) + "\n")


@click.command()
@settings_options(ManagerSettings)
def manager(**given: Any) -> int:
    """Serve as the manager, until SIGTERM."""
    asyncio.run(manager_process.run(load(ManagerSettings, given)))
    return 0


@click.command()
@click.argument("handlers", required=False, metavar="[MODULE:HANDLERS]")
@settings_options(WorkerSettings, "handlers")
def worker(specialty: tuple[str, ...], **given: Any) -> int:
    """Serve as a worker, with your handlers or (without) simulating the work, until SIGTERM."""
    asyncio.run(worker_process.run(load(WorkerSettings, given | {"specialty": specialty or None})))
    return 0


COMMANDS = [demo, run, submit, manager, worker]
