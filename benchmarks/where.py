"""Measure the CPU time of skillq's processes per task and step, with py-spy.

    python -m benchmarks.where [--tasks 20000] [--only NAME] [--stacks FOLDER]

The CPU time of a process, read from /proc, is split over the steps by their share of the samples. Waiting does not
count.
"""

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.running import running
from tests.support.broker import find_broker

RATE = 250  # samples per second
WARM_UP = 1_000
IDLE = re.compile(
    r"(select \(selectors\.py|_worker \(concurrent/futures/thread\.py|wait \(threading\.py|serve_async|"
    r"_WorkItem\.run \(concurrent/futures/thread\.py|get \(queue\.py)[^;]*$"
)
FSYNC = "__exit__ (contextlib.py"  # the end of the store's transaction, which waits for the disk
# The first of these frames that occurs in a stack decides the step. docs/performance.md shows the steps.
STEPS = {
    "manager": {
        "Inbox.receive_from": "parse, look up known tasks",
        "Triage._with_known_tasks": "parse, look up known tasks",
        "State.handle": "decide",
        "WriteBatch.__init__": "commit: rows and the rest",
        "Statement.run": "commit: SQL",
        "SqlStore.commit": "commit: rows and the rest",
        "_transaction (skillq_manager": "commit: rows and the rest",
        "Sqlite.read": "read back: payloads, runs",
        "SqlStore.bodies": "read back: payloads, runs",
        "Outbox._send_assignments": "assignments: make and encode",
        "Outbox.event_messages": "events: make, encode, send",
        "Outbox._publish_unsent_events": "events: make, encode, send",
        "_complete_event (skillq_manager": "events: make, encode, send",
        "RabbitTransport.publish": "publish, receive, ack",
        "FrameWriter._send_buffered": "publish, receive, ack",
        "FrameReader.feed_data": "publish, receive, ack",
        "ReconnectingConsumer.ack": "publish, receive, ack",
        "log_decisions (skillq_manager": "log and count",
        "Counters.count_decisions": "log and count",
        "Triage.sort": "parse, look up known tasks",
    },
    "worker": {
        "read_message (skillq": "parse, accept",
        "Worker._accept_assignment": "parse, accept",
        "HandlerLoop._run_loop": "run: handler loop",
        "make_result (skillq_worker": "run: result, timeout",
        "AttemptSlots._fill": "run: result, timeout",
        "AttemptSlots._start": "run: result, timeout",
        "Worker._on_attempt_ended": "run: slot, log, report",
        "_CrossLoopQueue.receive_all": "run: change threads",
        "HandlerLoop._wake_handlers": "run: change threads",
        "HandlerLoop.cancel_call": "run: change threads",
        "Worker._on_results_confirmed": "report",
        "RabbitTransport.publish": "publish, confirm",
        "Reporter.": "report",
        "FrameWriter._send_buffered": "publish, confirm",
        "FrameReader.feed_data": "receive, ack",
        "ReconnectingConsumer.ack": "receive, ack",
    },
    "client": {
        "_task (contenders/skillq": "make the task",
        "encode_tasks (skillq": "submit",
        "to_messages (skillq": "submit",
        "RabbitTransport.publish": "publish, confirm",
        "OpenRun._submit_call": "submit",
        "OpenRun._publish_calls": "submit",
        "decode (skillq": "receive: read messages",
        "OpenRun.handle_event": "receive: find the caller",
        "Results.__anext__": "receive: find the caller",
        "FrameWriter._send_buffered": "publish, confirm",
        "FrameReader.feed_data": "receive, ack",
        "ReconnectingConsumer.ack": "receive, ack",
    },
}


@contextmanager
def sampled(pid: int, file: Path) -> Iterator[None]:
    spy = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or "py-spy"
    command = [
        spy,
        "record",
        "--pid",
        str(pid),
        "--rate",
        str(RATE),
        "--format",
        "raw",
        "--output",
        str(file),
        "--duration",
        "600",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as sampling:
        try:
            yield
        finally:
            sampling.send_signal(signal.SIGINT)


def steps_of(file: Path, steps: dict[str, str]) -> tuple[Counter[str], int]:
    """Return the samples per step, and the samples that waited for the disk."""
    found: Counter[str] = Counter()
    fsyncs = 0
    for line in file.read_text().splitlines():
        stack, _, count = line.rpartition(" ")
        if IDLE.search(stack):
            continue
        if FSYNC in stack and "do_execute" in stack:
            fsyncs += int(count)
            continue
        found[_step(stack, steps)] += int(count)
    return found, fsyncs


def _step(stack: str, steps: dict[str, str]) -> str:
    return next((step for frame, step in steps.items() if frame in stack), "event loop, rest")


def profile(contender: Contender, tasks: int, folder: Path) -> None:
    with ExitStack() as stack:
        broker = find_broker()
        stack.callback(broker.stop)
        system = stack.enter_context(running(contender, broker))
        system.request(f"many {WARM_UP}")
        manager, first, second, client = system.pids
        whole = {"manager": [manager], "worker": [first, second], "client": [client]}
        with ExitStack() as sampling:
            for name, pids in whole.items():
                sampling.enter_context(sampled(pids[0], folder / f"{name}.txt"))
            time.sleep(1.0)  # py-spy reads the symbols of the processes
            before = {name: machine.cpu_seconds(pids) for name, pids in whole.items()}
            many = system.request(f"many {tasks}")
            after = {name: machine.cpu_seconds(pids) for name, pids in whole.items()}
        print(
            f"{contender.title}: {tasks:,} tasks, {tasks / many['seconds']:,.0f} tasks/s while sampled\n"
        )
        for name in whole:
            used = (after[name] - before[name]) / tasks * 1e6
            _print(name, used, *steps_of(folder / f"{name}.txt", STEPS[name]), tasks)


def _print(name: str, used: float, found: Counter[str], fsyncs: int, tasks: int) -> None:
    print(f"{name}{'s' if name == 'worker' else ''}: {used:.0f} µs of CPU per task")
    for step, count in found.most_common():
        print(f"  {used * count / found.total():6.1f}  {step}")
    if fsyncs:
        print(f"  {fsyncs / RATE / tasks * 1e6:6.1f}  (waiting for the disk: not CPU)")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tasks", type=int, default=20_000)
    parser.add_argument("--only", default="skillq, SQLite", help="the contender")
    parser.add_argument(
        "--stacks", type=Path, help="keep the stacks in this folder, for flame graphs"
    )
    options = parser.parse_args()
    contender = next(c for c in CONTENDERS if c.title == options.only)
    with tempfile.TemporaryDirectory() as name:
        folder: Any = options.stacks or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        profile(contender, options.tasks, folder)


if __name__ == "__main__":
    main()
