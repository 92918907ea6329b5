"""Run the `skillq` command.

Exit statuses: 0 done, 1 tasks failed, 2 usage, 3 unreachable, 130 interrupted. The imports of a command take a while, so the process handles Ctrl-C before it imports them.
"""

import sys

from skillq.runtime import stdio
from skillq_cli.interrupt import exit_on_interrupt


def main() -> None:
    """Run the command line and exit with its status."""
    stdio.prepare()
    exit_on_interrupt()
    from skillq_cli import command  # noqa: PLC0415 - after Ctrl-C is handled

    sys.exit(command.run())


if __name__ == "__main__":
    main()
