"""Standard streams that may be closed, have no reader any more, be on a full disk, or lack characters."""

import codecs
import json
import os
import sys
from io import TextIOWrapper

_ESCAPE = "skillq.escape"  # the name of an error handler of Python's codecs


def _escape(error: UnicodeError) -> tuple[str, int]:
    """Return the escapes of JSON for characters that an encoding lacks: JSON stays JSON."""
    assert isinstance(error, UnicodeEncodeError)  # noqa: S101 - for mypy
    return json.dumps(error.object[error.start : error.end])[1:-1], error.end


codecs.register_error(_ESCAPE, _escape)


def prepare() -> None:
    """Prepare the standard streams of a process, before anything is opened or written."""
    replace_closed()
    escape_unencodable()


def escape_unencodable() -> None:
    """Let standard output and error escape characters that their encoding lacks, such as emoji in Latin-1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors=_ESCAPE)


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
        sys.stdout.fileno(), "w", encoding=sys.stdout.encoding, errors=_ESCAPE, closefd=False
    ) as out:
        out.write(text)
