"""Standard streams that may be closed, have no reader any more, or be on a full disk."""

import os
import sys


def replace_closed() -> None:
    """Replace standard streams that the caller closed (`>&-`) by the null device.

    Otherwise the next socket that is opened would get the file descriptor of a closed stream. So call this
    function before anything is opened.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: PTH123, SIM115 - open until the process ends


def write_out(text: str) -> None:
    """Write text to standard output at once, and leave nothing in a buffer.

    Raises:
        OSError: the text cannot be written; a later one may be.
    """
    with open(
        sys.stdout.fileno(), "w", encoding="utf-8", errors="backslashreplace", closefd=False
    ) as out:
        out.write(text)
