"""The `skillq` command: exit 0 done, 1 tasks failed, 2 usage, 3 cannot reach."""

import os
import sys
from typing import Any

import click

from skillq.errors import SkillqError, UsageError
from skillq_cli import ask, work

USAGE, UNREACHABLE, INTERRUPTED = 2, 3, 130


class _Interrupted(Exception):
    """Raised for Ctrl-C, to which click would add a line of its own."""


class _ReaderGone(Exception):
    """Raised for a broken pipe, which click would take for a failure."""


class _Commands(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            answer = super().invoke(ctx)
            sys.stdout.flush()
        except KeyboardInterrupt as error:
            raise _Interrupted from error
        except BrokenPipeError as error:
            raise _ReaderGone from error
        return answer


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="skillq")
def cli() -> None:
    """Tasks for fleets whose workers are not equal."""


for command in (*work.COMMANDS, *ask.COMMANDS):
    cli.add_command(command)


def main() -> None:
    sys.exit(_main())


def _main() -> int:
    try:
        code = cli.main(prog_name="skillq", standalone_mode=False)
    except click.UsageError as error:
        place = error.ctx.command_path if error.ctx else "skillq"
        return _complain(f"{place}: {error.format_message()} (see {place} --help)", USAGE)
    except click.exceptions.Exit as leave:
        return leave.exit_code
    except (_Interrupted, click.Abort, KeyboardInterrupt):
        return _complain("skillq: interrupted", INTERRUPTED)
    except SkillqError as error:
        return _complain(
            f"skillq: {error}", USAGE if isinstance(error, UsageError) else UNREACHABLE
        )
    except _ReaderGone:
        # The reader, `head` say, has seen enough; nothing more can be said, at exit neither.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code if isinstance(code, int) else 0


def _complain(line: str, code: int) -> int:
    sys.stderr.write(line + "\n")
    return code


if __name__ == "__main__":
    main()
