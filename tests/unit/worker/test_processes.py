"""Handlers in real processes: the end of a process is the outcome of one attempt, and no process is left."""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog

from skillq.messages import Outcome, TaskResult
from skillq.runtime.logs import Log
from skillq_worker.execution.executor import HandlerExecutor
from skillq_worker.execution.handlers import load_handlers
from tests.support.attempt_runs import run_attempt
from tests.support.fake_manager import assignment
from tests.support.virtual_time import advance
from tests.support.waiting import until_async

pytestmark = pytest.mark.timeout(60)

MY_TASKS = '''
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from skillq_worker import Context, Handlers

handlers = Handlers()


class Odd(ConnectionError):
    """An exception that cannot be unpickled."""

    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


@handlers.task(process=True)
def pid(context: Context, add: int = 0) -> dict[str, object]:
    return {"pid": os.getpid(), "id": context.id, "add": add}


@handlers.task(process=True)
def hang(stubborn: bool = False) -> None:
    if stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Path(f"hangs.{os.getpid()}").touch()
    while True:
        time.sleep(60)


@handlers.task(process=True)
def die(how: str) -> None:
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "_exit":
        os._exit(7)
    if how == "zero":
        os._exit(0)
    if how == "exit":
        sys.exit("enough")
    if how == "interrupt":
        raise KeyboardInterrupt
    raise Odd("cannot", "connect")


@handlers.task(process=True)
def start_another() -> None:
    code = "import os, time; open(f'hangs.{os.getpid()}', 'w'); time.sleep(600)"
    subprocess.Popen([sys.executable, "-c", code])
    hang()


@handlers.task(process=True)
def fork_and_die() -> None:
    if os.fork() == 0:
        hang()
    while not list(Path().glob("hangs.*")):
        time.sleep(0.01)
    os._exit(3)


@handlers.task(process=True)
def group() -> int:
    return os.getpgid(0)


@handlers.task(process=True)
def lazy(words: Iterator[str]) -> int:
    return len(list(words))


@handlers.task(process=True)
def unfit() -> object:
    return object()
'''


class ProcessHarness:
    """Runs attempts of the handlers above. A hanging process writes a file whose name has its pid."""

    def __init__(self, executor: HandlerExecutor, folder: Path) -> None:
        self._executor, self._folder = executor, folder

    def start(
        self, task_type: str, timeout: float | None = None, **payload: object
    ) -> asyncio.Task[TaskResult]:
        task = assignment(task_type=task_type, payload=payload, timeout=timeout)
        return asyncio.create_task(run_attempt(self._executor, task))

    async def run(self, task_type: str, **more: object) -> TaskResult:
        return await self.start(task_type, **more)  # type: ignore[arg-type]

    def hanging(self) -> list[int]:
        return [int(path.suffix[1:]) for path in self._folder.glob("hangs.*")]


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tasks_in_processes.py").write_text(MY_TASKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
async def harness(folder: Path) -> AsyncIterator[ProcessHarness]:
    with HandlerExecutor(load_handlers("tasks_in_processes:handlers")) as executor:
        yield ProcessHarness(executor, folder)


async def test_a_process_handler_runs_in_another_process_with_its_payload_and_context(
    harness: ProcessHarness,
) -> None:
    result = await harness.run("pid", add=3)
    assert result.outcome is Outcome.SUCCEEDED
    assert isinstance(result.output, dict)
    assert result.output["pid"] != os.getpid()
    assert (result.output["id"], result.output["add"]) == ("a", 3)


@pytest.mark.parametrize("stubborn", [False, True])
async def test_the_process_of_a_cancelled_attempt_is_killed_even_if_it_ignores_sigterm(
    harness: ProcessHarness, stubborn: bool
) -> None:
    running = harness.start("hang", stubborn=stubborn)
    await until_async(harness.hanging, "a process should hang")
    (pid,) = harness.hanging()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until_async(lambda: is_gone(pid), "the process should end")
    assert (await harness.run("pid")).outcome is Outcome.SUCCEEDED, "the next attempt runs"


async def test_a_process_handler_that_takes_too_long_is_killed_and_times_out(
    harness: ProcessHarness,
) -> None:
    assert (await harness.run("pid")).outcome is Outcome.SUCCEEDED  # the processes have started
    running = harness.start("hang", timeout=60.0)
    await until_async(harness.hanging, "a process should hang")
    (pid,) = harness.hanging()
    assert not is_gone(pid)
    advance(60.0)
    result = await running
    assert (result.outcome, result.error) == (Outcome.TIMED_OUT, "took longer than 60 s")
    assert "TimeoutError" in result.error_types
    await until_async(lambda: is_gone(pid), "the process should end")


@pytest.mark.parametrize(
    ("how", "error", "kind"),
    [
        ("kill", "its process was killed by signal 9 (Killed)", "TaskFailed"),
        ("_exit", "its process ended with exit code 7", "TaskFailed"),
        ("zero", "its process ended with exit code 0", "TaskFailed"),
        ("exit", "SystemExit: enough", "SystemExit"),
        ("interrupt", "KeyboardInterrupt: ", "KeyboardInterrupt"),
        ("raise", "Odd: cannot connect", "ConnectionError"),
    ],
)
async def test_the_death_of_a_process_fails_its_attempt_and_the_next_attempt_runs(
    harness: ProcessHarness, how: str, error: str, kind: str
) -> None:
    result = await harness.run("die", how=how)
    assert (result.outcome, result.error) == (Outcome.FAILED, error)
    assert kind in result.error_types, "for retry_on"
    assert (await harness.run("pid")).outcome is Outcome.SUCCEEDED


async def test_the_traceback_of_an_exception_in_a_process_is_logged(
    harness: ProcessHarness,
) -> None:
    with structlog.testing.capture_logs() as entries:
        await harness.run("die", how="raise")
    (entry,) = entries
    assert entry["event"] == Log.HANDLER_RAISED
    assert 'raise Odd("cannot", "connect")' in entry["exception"]
    assert entry["exception"].endswith("Odd: cannot connect")


async def test_the_death_of_a_process_does_not_affect_other_processes(
    harness: ProcessHarness,
) -> None:
    running = harness.start("hang")
    await until_async(harness.hanging, "a process should hang")
    (pid,) = harness.hanging()
    assert (await harness.run("die", how="kill")).outcome is Outcome.FAILED
    assert not running.done()
    assert not is_gone(pid)
    running.cancel()


async def test_an_output_of_a_process_that_is_not_json_fails_the_attempt(
    harness: ProcessHarness,
) -> None:
    result = await harness.run("unfit")
    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert result.error.startswith("the handler returned what cannot be written as JSON")
    assert "OutputError" in result.error_types


async def test_closing_the_executor_ends_all_processes(folder: Path) -> None:
    with HandlerExecutor(load_handlers("tasks_in_processes:handlers")) as executor:
        harness = ProcessHarness(executor, folder)
        running = [harness.start("hang"), harness.start("hang", stubborn=True)]
        await until_async(lambda: len(harness.hanging()) == 2, "two processes should hang")
        started = time.monotonic()
    assert all(map(is_gone, harness.hanging()))
    assert time.monotonic() - started < 10
    await asyncio.gather(*running, return_exceptions=True)


async def test_child_processes_of_a_handler_process_end_with_it(harness: ProcessHarness) -> None:
    running = harness.start("start_another")
    await until_async(lambda: len(harness.hanging()) == 2, "two processes should hang")
    running.cancel()
    await until_async(lambda: all(map(is_gone, harness.hanging())), "all processes should end")


async def test_the_death_of_a_process_is_noticed_even_if_its_child_lives_on(
    harness: ProcessHarness,
) -> None:
    result = await harness.run("fork_and_die")
    assert result.error == "its process ended with exit code 3"
    await until_async(
        lambda: harness.hanging() and all(map(is_gone, harness.hanging())),
        "all processes should end",
    )


async def test_a_handler_process_is_in_a_process_group_of_its_own(harness: ProcessHarness) -> None:
    result = await harness.run("group")
    assert result.output != os.getpgid(0), "Ctrl-C in a terminal interrupts the group of the worker"


async def test_an_idle_process_is_reused_and_a_dead_idle_process_is_replaced(
    harness: ProcessHarness,
) -> None:
    first, second = (await harness.run("pid")).output, (await harness.run("pid")).output
    assert isinstance(first, dict)
    assert first == second
    os.kill(int(str(first["pid"])), signal.SIGKILL)
    third = await harness.run("pid")
    assert third.outcome is Outcome.SUCCEEDED
    assert third.output != first


async def test_arguments_that_cannot_be_pickled_fail_only_their_attempt(
    harness: ProcessHarness,
) -> None:
    assert (await harness.run("lazy", words=["a"])).outcome is Outcome.FAILED
    assert (await harness.run("pid")).outcome is Outcome.SUCCEEDED
