"""Define the command `skillq worker`, which runs a worker.

See docs/adr/0020-run-services-on-uvloop.md.
"""

from typing import Any

import click
import uvloop

import skillq_worker.__main__ as process
from skillq.runtime.settings import load_settings
from skillq_cli.options import settings_options
from skillq_worker.settings import WorkerSettings


@click.command()
@click.argument("handlers", required=False, metavar="[MODULE:HANDLERS]")
@settings_options(WorkerSettings, "handlers")
def worker(specialty: tuple[str, ...], **options: Any) -> int:
    """Serve as a worker, with your handlers or (without) simulating the work, until SIGTERM."""
    uvloop.run(
        process.run(load_settings(WorkerSettings, options | {"specialty": specialty or None}))
    )
    return 0
