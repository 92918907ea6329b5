"""Handlers in processes: real ones. Whatever happens to a process is one attempt's outcome, and none is left behind."""

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
from tests.support.virtual_time import advance
from tests.unit.worker.boss import order, until
from tests.unit.worker.calls import attempt

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
    """Cannot be read again by pickle."""

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


class Shop:
    """Attempts of the handlers above; which processes hang is in files."""

    def __init__(self, executor: HandlerExecutor, here: Path) -> None:
        self._executor, self._here = executor, here

    def begin(
        self, task_type: str, timeout: float | None = None, **payload: object
    ) -> asyncio.Task[TaskResult]:
        task = order(task_type=task_type, payload=payload, timeout=timeout)
        return asyncio.create_task(attempt(self._executor, task))

    async def do(self, task_type: str, **more: object) -> TaskResult:
        return await self.begin(task_type, **more)  # type: ignore[arg-type]

    def hanging(self) -> list[int]:
        return [int(path.suffix[1:]) for path in self._here.glob("hangs.*")]


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "tasks_in_processes.py").write_text(MY_TASKS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


@pytest.fixture
async def shop(here: Path) -> AsyncIterator[Shop]:
    with HandlerExecutor(load_handlers("tasks_in_processes:handlers")) as executor:
        yield Shop(executor, here)


async def test_it_runs_in_another_process_with_its_payload_and_context(shop: Shop) -> None:
    result = await shop.do("pid", add=3)
    assert result.outcome is Outcome.SUCCEEDED
    assert isinstance(result.output, dict)
    assert result.output["pid"] != os.getpid()
    assert (result.output["id"], result.output["add"]) == ("a", 3)


@pytest.mark.parametrize("stubborn", [False, True])
async def test_one_that_is_called_off_is_killed_whatever_it_does(
    shop: Shop, stubborn: bool
) -> None:
    running = shop.begin("hang", stubborn=stubborn)
    await until(shop.hanging)
    (pid,) = shop.hanging()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: is_gone(pid))
    assert (await shop.do("pid")).outcome is Outcome.SUCCEEDED, "and the next one runs"


async def test_one_that_takes_too_long_is_killed_and_has_timed_out(shop: Shop) -> None:
    assert (await shop.do("pid")).outcome is Outcome.SUCCEEDED  # the processes are there
    running = shop.begin("hang", timeout=60.0)
    await until(shop.hanging)
    (pid,) = shop.hanging()
    assert not is_gone(pid)
    advance(60.0)
    result = await running
    assert (result.outcome, result.error) == (Outcome.TIMED_OUT, "took longer than 60 s")
    assert "TimeoutError" in result.error_types
    await until(lambda: is_gone(pid))


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
async def test_one_that_dies_is_a_failed_attempt_and_the_next_one_runs(
    shop: Shop, how: str, error: str, kind: str
) -> None:
    result = await shop.do("die", how=how)
    assert (result.outcome, result.error) == (Outcome.FAILED, error)
    assert kind in result.error_types, "for retry_on"
    assert (await shop.do("pid")).outcome is Outcome.SUCCEEDED


async def test_the_traceback_of_what_it_raises_comes_along(shop: Shop) -> None:
    with structlog.testing.capture_logs() as entries:
        await shop.do("die", how="raise")
    (entry,) = entries
    assert entry["event"] == Log.HANDLER_RAISED
    assert 'raise Odd("cannot", "connect")' in entry["exception"]
    assert entry["exception"].endswith("Odd: cannot connect")


async def test_one_that_dies_takes_nothing_with_it(shop: Shop) -> None:
    running = shop.begin("hang")
    await until(shop.hanging)
    (pid,) = shop.hanging()
    assert (await shop.do("die", how="kill")).outcome is Outcome.FAILED
    assert not running.done()
    assert not is_gone(pid)
    running.cancel()


async def test_an_output_that_is_no_json_fails_the_attempt(shop: Shop) -> None:
    result = await shop.do("unfit")
    assert result.outcome is Outcome.FAILED
    assert result.error is not None
    assert result.error.startswith("the handler returned what cannot be written as JSON")
    assert "OutputError" in result.error_types


async def test_leaving_ends_them_all(here: Path) -> None:
    with HandlerExecutor(load_handlers("tasks_in_processes:handlers")) as executor:
        shop = Shop(executor, here)
        running = [shop.begin("hang"), shop.begin("hang", stubborn=True)]
        await until(lambda: len(shop.hanging()) == 2)
        begun = time.monotonic()
    assert all(map(is_gone, shop.hanging()))
    assert time.monotonic() - begun < 10
    await asyncio.gather(*running, return_exceptions=True)


async def test_what_it_has_started_itself_ends_with_it(shop: Shop) -> None:
    running = shop.begin("start_another")
    await until(lambda: len(shop.hanging()) == 2)
    running.cancel()
    await until(lambda: all(map(is_gone, shop.hanging())))


async def test_one_that_dies_is_noticed_though_what_it_has_started_lives_on(shop: Shop) -> None:
    result = await shop.do("fork_and_die")
    assert result.error == "its process ended with exit code 3"
    await until(lambda: shop.hanging() and all(map(is_gone, shop.hanging())))


async def test_ctrl_c_in_the_terminal_is_the_workers_affair(shop: Shop) -> None:
    result = await shop.do("group")
    assert result.output != os.getpgid(0), "a terminal interrupts its own group"


async def test_a_process_is_used_again_and_one_that_died_while_idle_is_replaced(shop: Shop) -> None:
    first, second = (await shop.do("pid")).output, (await shop.do("pid")).output
    assert isinstance(first, dict)
    assert first == second
    os.kill(int(str(first["pid"])), signal.SIGKILL)
    third = await shop.do("pid")
    assert third.outcome is Outcome.SUCCEEDED
    assert third.output != first


async def test_arguments_that_cannot_be_sent_fail_the_attempt_alone(shop: Shop) -> None:
    assert (await shop.do("lazy", words=["a"])).outcome is Outcome.FAILED
    assert (await shop.do("pid")).outcome is Outcome.SUCCEEDED
