"""Write files of tasks and workers, and read them as the command does."""

from pathlib import Path

from skillq.forms import WorkFile
from skillq_cli.files import read_work_file


def write_and_read(name: str, text: str | bytes) -> WorkFile:
    """Write a file into the current folder, and return its tasks and workers."""
    path = Path(name)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_work_file(path)
