"""The `skillq` command: exit 0 done, 1 tasks failed, 2 usage, 3 cannot reach, 130 interrupted.

What it needs takes a while to import; so it is ready for Ctrl-C before that.
"""

import sys

from skillq.runtime.stdio import replace_closed
from skillq_cli.interrupt import leave_at_once


def main() -> None:
    replace_closed()
    leave_at_once()
    from skillq_cli import command  # noqa: PLC0415 - not before

    sys.exit(command.run())


if __name__ == "__main__":
    main()
