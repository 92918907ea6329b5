"""Files of tasks and workers, written and read."""

from pathlib import Path

from skillq.forms import WorkFile
from skillq_cli.files import read_work_file


def read(name: str, text: str | bytes) -> WorkFile:
    path = Path(name)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_work_file(path)
