"""Where the time of a task goes in skillq's processes: µs of CPU per task and step, by sampling them with py-spy.

    python -m benchmarks.where [--tasks 20000] [--only NAME] [--stacks FOLDER]

A step's share of a process's samples, times what /proc says the process used. Waiting is left out.
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
FSYNC = "__exit__ (contextlib.py"  # of the store's transaction: it waits for the disk
# The first that occurs in a stack, from the outside, says which step it is.
STEPS = {
    "manager": {
        "pump (skillq_manager/inbox": "parse: read messages",
        "_with_known (skillq_manager": "parse: look up what is known",
        "State.handle": "decide",
        "Batch.__init__": "commit: make rows",
        "Statement.run": "commit: SQL",
        "SqlStore.commit": "commit: around it",
        "_transaction (skillq_manager": "commit: around it",
        "Sqlite.read": "read: bodies, runs",
        "SqlStore.bodies": "read: bodies, runs",
        "_send_assignments": "assignments: make and dump",
        "Outbox.news": "events: make and dump",
        "_tell_all (skillq": "events: send",
        "_complete_event": "events: make and dump",
        "RabbitTransport.publish": "publish, confirm",
        "_send_following (skillq": "publish, confirm",
        "feed_data (skillq": "receive",
        "KeptConsumer.ack": "ack",
        "_tell (skillq_manager/manager": "tell: log, count",
        "Sorter.sort": "parse: around it",
    },
    "worker": {
        "message_in": "parse: read messages",
        "_accept (skillq_worker": "accept",
        "_run_loop (skillq_worker": "run: the handlers' loop",
        "result (skillq_worker/results": "run: write the result",
        "_fill (skillq_worker/slots": "run: begin",
        "_begin (skillq_worker/slots": "run: begin",
        "_over (skillq_worker/worker": "run: slot, log, report",
        "take (skillq_worker/loops": "run: there and back",
        "call_off (skillq_worker/loops": "run: there and back",
        "_forget (skillq_worker": "report: forget",
        "RabbitTransport.publish": "publish, confirm",
        "Reporter": "report: make and dump",
        "_send_following (skillq": "publish, confirm",
        "feed_data (skillq": "receive",
        "KeptConsumer.ack": "ack",
    },
    "client": {
        "_task (contenders/skillq": "make the task",
        "write (skillq/handed": "hand in: check and write",
        "messages (skillq/handed": "hand in: put together",
        "RabbitTransport.publish": "publish, confirm",
        "_hand_in (skillq": "hand in: around it",
        "decode (skillq": "hear: read messages",
        "hear (skillq": "hear: who waits for it",
        "__anext__ (skillq": "give results out",
        "_send_following (skillq": "publish, confirm",
        "feed_data (skillq": "receive",
        "ack (skillq": "ack",
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
    """Samples by step, and those that waited for the disk."""
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
    return next((step for word, step in steps.items() if word in stack), "event loop, rest")


def profile(contender: Contender, tasks: int, folder: Path) -> None:
    with ExitStack() as stack:
        broker = find_broker()
        stack.callback(broker.stop)
        system = stack.enter_context(running(contender, broker))
        system.ask(f"many {WARM_UP}")
        manager, first, second, client = system.pids
        whole = {"manager": [manager], "worker": [first, second], "client": [client]}
        with ExitStack() as sampling:
            for name, pids in whole.items():
                sampling.enter_context(sampled(pids[0], folder / f"{name}.txt"))
            time.sleep(1.0)  # py-spy reads their symbols
            before = {name: machine.cpu_seconds(pids) for name, pids in whole.items()}
            many = system.ask(f"many {tasks}")
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
