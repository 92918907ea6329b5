"""Read CPU seconds and peak memory of processes and their children from /proc."""

import os
import platform
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")
_LISTENS = "0A"


@dataclass(frozen=True)
class _Process:
    parent: int
    seconds: float  # CPU seconds, those of ended children included


def tree(roots: Iterable[int]) -> set[int]:
    """Return the processes and all their descendants."""
    parents = {pid: process.parent for pid, process in _processes()}
    found = {pid for pid in roots if pid in parents}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def cpu_seconds(roots: Iterable[int]) -> float:
    wanted = tree(roots)
    return sum(process.seconds for pid, process in _processes() if pid in wanted)


def peak_mib(roots: Iterable[int]) -> float:
    """Return the sum of the peak resident sizes of the processes, in MiB."""
    return sum(_peak_kib(pid) for pid in tree(roots)) / 1024


def listener(port: int) -> int | None:
    """Return the process that listens on a port of this machine, or None if it is not visible."""
    inodes = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENS and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for pid, _ in _processes():
        with suppress(OSError):
            if any(str(fd.readlink()) in inodes for fd in Path(f"/proc/{pid}/fd").iterdir()):
                return pid
    return None


def describe() -> dict[str, Any]:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpus": os.cpu_count(),
        "cpu": names[0] if names else platform.machine(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def _processes() -> Iterator[tuple[int, _Process]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                # The name in parentheses may hold anything.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                ticks = sum(map(int, fields[11:15]))
                yield int(entry.name), _Process(int(fields[1]), ticks / _TICKS)


def _peak_kib(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
    return 0
