"""Define the command `skillq manager`, which runs the manager.

See docs/adr/0020-run-services-on-uvloop.md.
"""

from typing import Any

import click
import uvloop

import skillq_manager.__main__ as process
from skillq.runtime.settings import load_settings
from skillq_cli.options import settings_options
from skillq_manager.settings import ManagerSettings


@click.command()
@settings_options(ManagerSettings)
def manager(**given: Any) -> int:
    """Serve as the manager, until SIGTERM."""
    uvloop.run(process.run(load_settings(ManagerSettings, given)))
    return 0
