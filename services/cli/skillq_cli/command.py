"""Define the command line. A command is imported when it is called, for a quick start."""

import os
import sys
from contextlib import suppress
from importlib import import_module
from typing import Any, NamedTuple

import click

from skillq.errors import SkillqError, UsageError
from skillq_cli.interrupt import INTERRUPTED, raise_on_interrupt

USAGE, UNREACHABLE = 2, 3


class CommandEntry(NamedTuple):
    """The module of a command, and its help in one line."""

    module: str
    help: str


COMMANDS = {
    "demo": CommandEntry(
        "embedded_commands", "Run the tutorial in this process: three workers, three tasks."
    ),
    "run": CommandEntry(
        "embedded_commands", "Run the workers and tasks of FILE (YAML or JSON) in this process."
    ),
    "submit": CommandEntry(
        "submit", "Submit the tasks of FILE (YAML, JSON or CSV) to the manager."
    ),
    "manager": CommandEntry("serve_manager", "Serve as the manager, until SIGTERM."),
    "worker": CommandEntry(
        "serve_worker", "Serve as a worker, with your handlers or (without) simulating the work."
    ),
    "status": CommandEntry("queries", "Tasks by status, workers, slots and runs, all together."),
    "runs": CommandEntry("queries", "List the runs."),
    "tasks": CommandEntry("queries", "List tasks, in order of submission."),
    "task": CommandEntry("queries", "Show one task and its attempts."),
    "explain": CommandEntry("queries", "Say why a task is where it is, worker by worker."),
    "dead": CommandEntry("queries", "List dead-lettered tasks, and why."),
    "cancel": CommandEntry("actions", "Cancel tasks, whether they wait or run."),
    "retry": CommandEntry("actions", "Retry tasks that have ended without success."),
    "workers": CommandEntry("queries", "List the workers, those that have left too."),
}


class _Interrupted(Exception):
    """Raised for Ctrl-C, to which click would add a line of its own."""


class _ReaderGone(Exception):
    """Raised for a broken pipe, which click would report as a failure."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = load(cmd_name)
        raise_on_interrupt()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            answer = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt as error:
            raise _Interrupted from error
        except BrokenPipeError as error:
            raise _ReaderGone from error
        return answer


def load(name: str) -> click.Command:
    """Import a command and return it."""
    command = getattr(import_module(f"skillq_cli.{COMMANDS[name].module}"), name)
    assert isinstance(command, click.Command)  # noqa: S101 - for mypy
    return command


@click.group(
    cls=_Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(package_name="skillq")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Tasks for fleets whose workers are not equal."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run() -> int:
    """Run the command that the command line names, and return the exit status."""
    try:
        code = cli.main(prog_name="skillq", standalone_mode=False)
    except click.UsageError as error:
        command_path = error.ctx.command_path if error.ctx else "skillq"
        return _print_error(
            f"{command_path}: {error.format_message()} (see {command_path} --help)", USAGE
        )
    except click.exceptions.Exit as exit_request:
        return exit_request.exit_code
    except (_Interrupted, click.Abort, KeyboardInterrupt):
        return _print_error("skillq: interrupted", INTERRUPTED)
    except SkillqError as error:
        return _print_error(
            f"skillq: {error}", USAGE if isinstance(error, UsageError) else UNREACHABLE
        )
    except (_ReaderGone, OSError) as error:
        return _on_output_error(error)
    return code if isinstance(code, int) else 0


def _on_output_error(error: _ReaderGone | OSError) -> int:
    """Handle an output that cannot be written, and return the exit status.

    Standard output becomes /dev/null: at exit, Python would try to write the rest again.
    """
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, _ReaderGone):
        return 0  # the reader, such as `head`, has read enough
    return _print_error(f"skillq: cannot go on: {error.strerror or error}", UNREACHABLE)


def _print_error(line: str, code: int) -> int:
    sys.stderr.write(line + "\n")
    return code
