"""The command that serves as the manager."""

import asyncio
from typing import Any

import click

import skillq_manager.__main__ as process
from skillq.settings import load
from skillq_cli.options import settings_options
from skillq_manager.settings import ManagerSettings


@click.command()
@settings_options(ManagerSettings)
def manager(**given: Any) -> int:
    """Serve as the manager, until SIGTERM."""
    asyncio.run(process.run(load(ManagerSettings, given)))
    return 0
