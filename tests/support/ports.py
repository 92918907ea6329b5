"""Find free loopback ports. No two processes get the same port."""

import fcntl
import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

# below 32768: the system gives no such port to a client while a server restarts
FIRST, LAST = 20_000, 32_699
FOLDER = Path(tempfile.gettempdir()) / f"skillq-test-ports-{os.geteuid()}"

_claims: dict[int, int] = {}  # the open file of each port that this process has claimed


def free_ports(count: int) -> list[int]:
    """Return free ports that belong to this process until it ends."""
    found: list[int] = []
    candidate = FIRST + os.getpid() % (LAST - FIRST)
    for _ in range(LAST - FIRST):
        if len(found) == count:
            break
        candidate = candidate + 1 if candidate < LAST else FIRST
        if _is_free(candidate) and _claim(candidate):
            found.append(candidate)
    if len(found) < count:
        raise OSError(f"there are no {count} free ports between {FIRST} and {LAST}")
    return found


def _is_free(port: int) -> bool:
    with suppress(OSError), socket.socket() as probe:
        probe.bind(("127.0.0.1", port))
        return True
    return False


def _claim(port: int) -> bool:
    """Lock the file of this port; the system releases the lock when the process ends."""
    if port in _claims:
        return False
    FOLDER.mkdir(mode=0o700, exist_ok=True)
    file = os.open(FOLDER / str(port), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return False
    _claims[port] = file
    return True
