"""Write texts to the standard streams of a command.

`click.echo` writes UTF-8 to a stream in ASCII; this module leaves the encoding to the stream.
"""

import sys

from skillq.forms import one_line


def write_text(text: str) -> None:
    """Write a text and a line break to standard output at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def write_line(line: str) -> None:
    """Write a text as one line, without control characters."""
    write_text(one_line(line))


def write_note(line: str) -> None:
    """Write one line to standard error."""
    sys.stderr.write(one_line(line) + "\n")
    sys.stderr.flush()
