"""Define the command `skillq submit`, which submits tasks to the manager over the broker."""

import asyncio
import json
from pathlib import Path
from typing import Any

import click

from skillq.client import Client, Receipt, RunResult
from skillq.errors import UsageError
from skillq.forms import WorkFile
from skillq.messages.error_text import with_count
from skillq.runtime import gc_tuning, logs
from skillq.runtime.settings import Settings, load_settings
from skillq.summary import EndedTask
from skillq.transport.rabbitmq import RabbitTransport
from skillq_cli.exit_status import (
    file_argument,
    json_option,
    naming_file,
    print_outcome,
)
from skillq_cli.files import read_work_file
from skillq_cli.options import settings_options
from skillq_cli.output import write_line
from skillq_cli.progress import progress


@click.command()
@file_argument
@click.option(
    "--run", "run_name", metavar="NAME", help="The run to add the tasks to; default: the file's."
)
@click.option(
    "--watch", is_flag=True, help="Stay until all tasks of the run have ended; print the summary."
)
@settings_options(Settings, "log_level", "log_format")
@json_option
def submit(file: Path, run_name: str | None, watch: bool, as_json: bool, **given: Any) -> int:
    """Submit the tasks of FILE (YAML, JSON or CSV) to the manager; its workers are left aside."""
    settings = load_settings(Settings, given)
    gc_tuning.collect_rarely()  # a file may have many tasks
    work = read_work_file(file)
    if run_name is not None:
        work = _with_run_name(work, run_name)
    logs.configure("error", "console")
    if watch:
        with progress(len(work.tasks), quiet=as_json) as display:
            result = asyncio.run(_complete(settings, file, work, display.on_event))
        ended = _ended_tasks(work, result)
        return print_outcome(work.run, ended, result.counts, as_json)
    receipt = asyncio.run(_submit(settings, file, work))
    _print_receipt(work, receipt, as_json)
    return 0


def _with_run_name(work: WorkFile, run: str) -> WorkFile:
    try:
        return WorkFile.model_validate(work.model_dump() | {"run": run})
    except ValueError as error:
        raise UsageError(f"--run: {run!r} makes no name; use letters a-z and digits") from error


async def _submit(settings: Settings, file: Path, work: WorkFile) -> Receipt | None:
    async with _transport(settings) as transport:
        client = Client(transport, name="cli", patience=settings.connect_timeout)
        with naming_file(file):
            return await client.submit(work.run, work.tasks)


async def _complete(settings: Settings, file: Path, work: WorkFile, on_event: Any) -> RunResult:
    async with _transport(settings) as transport:
        client = Client(transport, name="cli", patience=settings.connect_timeout)
        with naming_file(file):
            return await client.complete(work.run, work.tasks, on_event)


def _transport(settings: Settings) -> RabbitTransport:
    return RabbitTransport(
        settings.broker_url,
        app_id="cli",
        connection_name="skillq submit",
        connect_timeout=settings.connect_timeout,
    )


def _ended_tasks(work: WorkFile, result: RunResult) -> list[EndedTask]:
    events = (result.tasks.get(task.id) for task in work.tasks)
    return [
        EndedTask(event.id, event.worker, event.status, event.reason)
        for event in events
        if event is not None and event.status.is_terminal
    ]


def _print_receipt(work: WorkFile, receipt: Receipt | None, as_json: bool) -> None:
    if as_json:
        answer = {"accepted": receipt.accepted, "known": receipt.known} if receipt else None
        write_line(json.dumps({"run": work.run, "tasks": len(work.tasks), "answer": answer}))
    elif receipt is None:
        write_line(
            f"{with_count(len(work.tasks), 'task')} with the broker; no manager has answered yet"
        )
    elif receipt.accepted or not receipt.known:
        write_line(
            f"{with_count(receipt.accepted, 'task')} accepted in run {work.run}"
            + _known_text(receipt)
        )
    else:
        write_line(
            f"nothing new: run {work.run} had all {receipt.known} tasks already; "
            "--run NAME makes another run of them"
        )


def _known_text(receipt: Receipt) -> str:
    return f", {receipt.known} were there already" if receipt.known else ""
