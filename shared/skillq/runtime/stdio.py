"""Standard output and error as they are: closed by a shell, cut off by a reader, on a disk that is full."""

import os
import sys


def replace_closed() -> None:
    """What was closed (`>&-`) swallows what is written; else the next socket would take its place.

    Call it before anything is opened.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - for ever


def write_out(text: str) -> None:
    """Write to standard output at once, and leave nothing in a buffer for later.

    Raises:
        OSError: it cannot be written; the next text may be.
    """
    with open(
        sys.stdout.fileno(), "w", encoding="utf-8", errors="backslashreplace", closefd=False
    ) as out:
        out.write(text)
