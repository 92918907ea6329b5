"""The `skillq` command: exit 0 done, 1 tasks failed, 2 usage, 3 cannot reach, 130 interrupted.

What it needs takes a while to import; so it is ready for Ctrl-C before that.
"""

import sys

from skillq.runtime.stdio import replace_closed
from skillq_cli.interrupt import exit_on_interrupt


def main() -> None:
    replace_closed()
    exit_on_interrupt()
    from skillq_cli import command  # noqa: PLC0415 - not before

    sys.exit(command.run())


if __name__ == "__main__":
    main()
