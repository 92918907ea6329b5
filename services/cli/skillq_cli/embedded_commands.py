"""Define the commands that run tasks in this process: demo and run."""

from collections import Counter
from pathlib import Path
from typing import Any, Literal

import click
import uvloop
from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from skillq.forms import WorkFile
from skillq.runtime import gc_tuning, logs
from skillq.runtime.settings import PREFIX, load_settings
from skillq_cli import tutorial
from skillq_cli.embedded import run_embedded
from skillq_cli.exit_status import file_argument, json_option, naming_file, print_outcome
from skillq_cli.files import read_work_file
from skillq_cli.options import settings_options
from skillq_cli.progress import progress
from skillq_manager.settings import POLICIES


class RunSettings(BaseSettings):
    """The settings of `skillq run`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    policy: Literal["best-fit", "arrival"] = Field("best-fit", description="who gets what")
    time_scale: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="seconds per unit of simulated difficulty"
    )


@click.command()
@click.option(
    "--scenario",
    type=click.Choice(list(tutorial.SCENARIOS)),
    default="well",
    help="well: best fit; failures: in order of arrival, able or not.",
)
@json_option
def demo(scenario: str, as_json: bool) -> int:
    """Run the tutorial in this process: three workers, three tasks."""
    gc_tuning.collect_rarely()
    chosen = tutorial.SCENARIOS[scenario]
    return _run(chosen.work, chosen.policy, tutorial.TIME_SCALE, as_json)


@click.command()
@file_argument
@settings_options(RunSettings)
@json_option
def run(file: Path, as_json: bool, **given: Any) -> int:
    """Run the workers and tasks of FILE (YAML or JSON) in this process."""
    settings = load_settings(RunSettings, given)
    gc_tuning.collect_rarely()  # a file may have many tasks
    work = read_work_file(file)
    with naming_file(file):
        return _run(work, settings.policy, settings.time_scale, as_json)


def _run(work: WorkFile, policy: str, time_scale: float, as_json: bool) -> int:
    with progress(len(work.tasks), quiet=as_json) as display:
        logs.configure("warning", "console")  # after the display has redirected standard error
        ended = uvloop.run(run_embedded(work, POLICIES[policy](), time_scale, display.on_event))
    return print_outcome(work.run, ended, Counter(e.status for e in ended), as_json)
