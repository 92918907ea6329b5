"""Query commands (status, runs, tasks, task, workers) against a running manager."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, NoReturn

import click
import pytest
import structlog
from click.testing import CliRunner, Result

from skillq.errors import Unreachable, UsageError
from skillq.runtime import logs
from skillq_cli import queries
from skillq_manager.web.server import serve
from tests.support.manager_harness import TASKS, ApiHarness
from tests.support.waiting import until_async

CONTROL_TEXT = "\x1b[31m\x9b2J[red]Ünïcode[/red] :smile:\r\n"


class CommandRunner:
    """Runs commands of the CLI as a user does, against the manager at one address."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.group = click.Group(commands={str(c.name): c for c in queries.COMMANDS})

    async def __call__(self, *arguments: str, **variables: str) -> Result:
        env = {"SKILLQ_API_URL": self.url, "COLUMNS": "80"} | variables
        return await asyncio.to_thread(CliRunner(env=env).invoke, self.group, arguments)

    async def output_of(self, *arguments: str, **variables: str) -> str:
        result = await self(*arguments, **variables)
        assert result.exception is None, result.exception
        return result.stdout

    async def error_of(self, error_type: type[Exception], *arguments: str, **variables: str) -> str:
        result = await self(*arguments, **variables)
        assert isinstance(result.exception, error_type), result.output
        assert result.stdout == ""
        line = str(result.exception)
        assert line.isprintable()
        return line


@pytest.fixture
async def api() -> AsyncIterator[ApiHarness]:
    logs.configure("error", "json")
    async with ApiHarness() as api:
        yield api
    structlog.reset_defaults()


@pytest.fixture
async def runner(api: ApiHarness, fast_server_stop: None) -> AsyncIterator[CommandRunner]:
    async with serve(api.app, "127.0.0.1", 0) as (host, port):
        yield CommandRunner(f"http://{host}:{port}")


def script_watch(
    monkeypatch: pytest.MonkeyPatch,
    *actions: Callable[[], object],
    finally_raise: type[BaseException],
) -> None:
    """In each pause of a watch, run the next action; after the last, raise the exception."""
    steps = iter(actions)

    def pause(seconds: float) -> None:
        assert seconds == 1.0
        step = next(steps, None)
        if step is None:
            raise finally_raise
        step()

    monkeypatch.setattr("skillq_cli.queries.sleep", pause)


# --- tables ----------------------------------------------------------------------------------


async def test_status_shows_tasks_workers_slots_and_runs(
    api: ApiHarness, runner: CommandRunner
) -> None:
    await api.submit(*TASKS)
    junior = await api.connect_fake_worker("Junior", 3, slots=2)
    await junior.end_attempt("1", "succeeded")
    shown = (await runner.output_of("status")).splitlines()
    assert [line.split(maxsplit=1) for line in shown if not line.startswith("success")] == [
        ["tasks", "3 (2 ready, 1 succeeded)"],
        ["workers", "1 (1 connected)"],
        ["slots", "2 (0 busy, 2 free)"],
        ["runs", "1 open, 0 ended"],
    ]
    assert "success rate  100.00%" in shown


async def test_lists_show_a_line_for_each(api: ApiHarness, runner: CommandRunner) -> None:
    await api.submit(*TASKS, run="Night Shift")
    await api.connect_fake_worker("GPU box 1", 9, specialties=("ocr", "gpu"))
    await until_async(
        lambda: api.manager.state.workers.workers["gpu-box-1"].attempts,
        "a task should be assigned",
    )
    head, run = (await runner.output_of("runs")).splitlines()
    assert head.split() == [
        "run",
        "title",
        "tasks",
        "ended",
        "success",
        "submitted",
        "finished",
        "now",
    ]
    assert run.startswith("night-shift")
    assert "Night Shift" in run
    *_, third = (await runner.output_of("tasks")).splitlines()
    assert "waits for 1 of the tasks it depends on" in third
    *_, worker = (await runner.output_of("workers")).splitlines()
    assert worker.startswith("GPU box 1")
    assert "ocr, gpu" in worker
    assert "any" in worker


async def test_an_empty_manager_shows_empty_tables(runner: CommandRunner) -> None:
    for command in ("runs", "tasks", "workers"):
        assert len((await runner.output_of(command)).splitlines()) == 1
    assert "0 (none)" in await runner.output_of("status")


async def test_a_task_shows_its_definition_output_and_attempts(
    api: ApiHarness, runner: CommandRunner
) -> None:
    await api.submit(*TASKS)
    junior = await api.connect_fake_worker("Junior", 3)
    await junior.start_attempt("1", at=1_800_000_000)
    await junior.end_attempt("1", "succeeded", output={"größe": 3}, finished_at=1_800_000_001)
    shown = await runner.output_of("task", "1", TZ="UTC")
    assert "default/1" in shown
    assert '{"größe": 3}' in shown
    assert "1 of 1 made" in shown
    assert shown.splitlines()[-1].split()[:3] == ["1", "Junior", "succeeded"]
    third = (await runner.output_of("task", "default/3")).splitlines()
    assert [line.split() for line in third if line[:3] in {"tim", "dep"}] == [
        ["depends", "on", "1"],
        ["timeout", "30", "s"],
    ]


async def test_a_task_is_found_by_any_form_of_its_run_and_id(
    api: ApiHarness, runner: CommandRunner
) -> None:
    await api.submit({"id": "a.b:c@d", "difficulty": 1}, run="Night Shift / 2")
    for arguments in (
        ("night-shift-2/a.b:c@d",),
        ("Night Shift / 2/a.b:c@d",),
        ("a.b:c@d", "--run", "Night Shift / 2"),
    ):
        assert "night-shift-2/a.b:c@d" in await runner.output_of("task", *arguments)


async def test_filters_narrow_the_list_of_tasks(api: ApiHarness, runner: CommandRunner) -> None:
    await api.submit(*TASKS)
    await api.submit({"id": "x", "difficulty": 1}, run="Night Shift")
    await api.connect_fake_worker("Junior", 3)
    await until_async(lambda: api.task_row("1").worker, "task 1 should be assigned")

    async def ids(*arguments: str) -> list[str]:
        return [
            t["id"]
            for t in json.loads(await runner.output_of("tasks", "--json", *arguments))["items"]
        ]

    assert await ids("--run", "Night Shift") == ["x"]
    assert await ids("--status", "blocked") == ["3"]
    assert await ids("--type", "analysis") == ["2"]
    assert await ids("--worker", "Junior") == ["1"]


async def test_a_shortened_list_says_so_and_the_option_all_shows_everything(
    api: ApiHarness, runner: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillq_cli.api._MAX_PAGE", 4)
    await api.submit(*({"id": n, "difficulty": 1} for n in range(10)))
    short = await runner("tasks", "--limit", "3")
    assert len(short.stdout.splitlines()) == 1 + 3
    assert "--all" in short.stderr
    whole = await runner("tasks", "--all")
    assert len(whole.stdout.splitlines()) == 1 + 10
    assert whole.stderr == ""
    answer = json.loads(await runner.output_of("tasks", "--all", "--json"))
    assert [task["id"] for task in answer["items"]] == [str(n) for n in range(10)]
    assert answer["next_cursor"] is None


async def test_json_output_is_the_answer_of_the_api(api: ApiHarness, runner: CommandRunner) -> None:
    await api.submit(*TASKS)
    await api.connect_fake_worker("Junior", 3)
    for arguments, path in (
        (("status",), "summary"),
        (("runs",), "runs"),
        (("tasks",), "tasks"),
        (("task", "2"), "tasks/default/2"),
        (("workers",), "workers"),
    ):
        assert json.loads(await runner.output_of(*arguments, "--json")) == await api.get(
            f"/api/{path}"
        )


# --- texts of users --------------------------------------------------------------------------


@pytest.mark.parametrize("variables", [{}, {"FORCE_COLOR": "1", "TERM": "xterm"}])
async def test_control_characters_and_markup_of_users_are_escaped(
    api: ApiHarness, runner: CommandRunner, variables: dict[str, str]
) -> None:
    await api.submit(
        {
            "id": "a",
            "difficulty": 1,
            "description": CONTROL_TEXT,
            "payload": {CONTROL_TEXT: CONTROL_TEXT},
        },
        run=CONTROL_TEXT,
    )
    worker = await api.connect_fake_worker(CONTROL_TEXT, 3)
    run = api.manager.state.workers.workers[worker.profile.name].attempts
    await until_async(lambda: run, "a task should be assigned")
    wide = {"COLUMNS": "300"} | variables
    for arguments in (
        ("runs",),
        ("tasks",),
        ("workers",),
        ("task", "a", "--run", CONTROL_TEXT),
        ("tasks", "--json"),
        ("workers", "--json"),
        ("task", "a", "--run", CONTROL_TEXT, "--json"),
    ):
        shown = await runner.output_of(*arguments, **wide)
        assert "[red]Ünïcode[/red] :smile:" in shown
        for control in ("\x1b[31m", "\x9b", "\r"):
            assert control not in shown


async def test_escaped_json_output_decodes_to_the_original_text(
    api: ApiHarness, runner: CommandRunner
) -> None:
    text = CONTROL_TEXT + "\u202e\U000e0001🦀"
    await api.submit({"id": "a", "difficulty": 1, "description": text})
    shown = await runner.output_of("tasks", "--json")
    assert "🦀" in shown
    assert "\u202e" not in shown
    assert json.loads(shown)["items"][0]["description"] == text


@pytest.mark.parametrize("columns", ["40", "60", "80", "100", "200"])
async def test_on_a_narrow_terminal_no_text_is_cut_off(
    api: ApiHarness, runner: CommandRunner, columns: str
) -> None:
    await api.submit({"id": "Z" * 128, "difficulty": 1, "description": "Q" * 60})
    await api.submit({"id": "a", "difficulty": 1, "type": "X" * 40})
    shown = await runner.output_of("tasks", FORCE_COLOR="1", NO_COLOR="1", COLUMNS=columns)
    assert [shown.count(letter) for letter in "ZQX"] == [128, 60, 40]
    for letter in "wkc":  # the letters of the reason "no worker is connected"
        assert shown.count(letter) >= 2 * "no worker is connected".count(letter)


async def test_without_a_terminal_a_task_is_one_line(
    api: ApiHarness, runner: CommandRunner
) -> None:
    await api.submit({"id": "z" * 128, "difficulty": 1, "description": "d" * 60})
    (_, line) = (await runner.output_of("tasks")).splitlines()
    assert ("z" * 128 in line, "d" * 60 in line) == (True, True)


# --- errors ----------------------------------------------------------------------------------


async def test_unknown_tasks_runs_and_workers_are_named(
    api: ApiHarness, runner: CommandRunner
) -> None:
    await api.submit(*TASKS)
    error_of = runner.error_of
    assert await error_of(UsageError, "task", "9") == "there is no task '9' in run 'default'"
    assert await error_of(UsageError, "task", "nope/1") == "there is no run 'nope'"
    assert "'***'" in await error_of(UsageError, "task", "***/1")
    assert await error_of(UsageError, "tasks", "--run", "nope") == "there is no run 'nope'"
    assert "worker 'nope'" in await error_of(UsageError, "tasks", "--worker", "nope")
    assert "given twice" in await error_of(UsageError, "task", "a/1", "--run", "b")


async def test_without_a_manager_the_error_names_the_address_and_a_remedy() -> None:
    line = await CommandRunner("http://user:s3cret@127.0.0.1:1").error_of(Unreachable, "status")
    assert line.startswith("no manager answers at http://user@127.0.0.1:1: is it running, ")


async def test_an_option_overrides_the_environment_and_a_token_may_be_in_a_file(
    tmp_path: Path,
) -> None:
    secret = tmp_path / "token"
    secret.write_text("s3cret\n")
    async with (
        ApiHarness(token="s3cret") as api,
        serve(api.app, "127.0.0.1", 0) as (host, port),
    ):
        runner = CommandRunner("http://127.0.0.1:1")
        url = ("--api-url", f"http://{host}:{port}/")
        assert await runner.output_of("status", *url, SKILLQ_API_TOKEN_FILE=str(secret))
        assert await runner.output_of("status", *url, SKILLQ_API_TOKEN="s3cret")
        assert await runner.output_of("status", *url, "--api-token", "s3cret")
        wanted = await runner.error_of(Unreachable, "status", *url, SKILLQ_API_TOKEN="")
        assert wanted.endswith("wants a token: --api-token")
        wrong = await runner.error_of(Unreachable, "status", *url, "--api-token", "wrong")
        assert "refuses the token" in wrong
        assert "wrong" not in wrong


async def test_an_invalid_address_is_refused_and_option_and_variable_are_named() -> None:
    line = await CommandRunner("localhost:8080").error_of(UsageError, "status")
    assert line.startswith("--api-url (SKILLQ_API_URL): should be http://host:port")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 301 Moved\r\nLocation: /\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]",
    ],
)
async def test_a_server_that_is_no_skillq_manager_is_recognised(answer: bytes) -> None:
    async def serve_other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    other = await asyncio.start_server(serve_other, "127.0.0.1", 0)
    async with other:
        port = other.sockets[0].getsockname()[1]
        line = await CommandRunner(f"http://127.0.0.1:{port}").error_of(Unreachable, "status")
        assert "is no skillq manager" in line


async def test_an_error_of_the_manager_is_shown_with_its_text(
    api: ApiHarness, runner: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> NoReturn:
        raise RuntimeError("secret")

    monkeypatch.setattr(api.store, "runs", fail)
    line = await runner.error_of(Unreachable, "runs")
    assert line.endswith("cannot answer: the manager failed to answer; its log says why")


# --- watching --------------------------------------------------------------------------------


def submit_from_thread(api: ApiHarness, *tasks: Any) -> Callable[[], object]:
    loop = asyncio.get_running_loop()
    return lambda: asyncio.run_coroutine_threadsafe(api.submit(*tasks), loop).result()


def do_nothing() -> None: ...


async def test_a_watch_prints_one_json_line_per_change_until_it_is_interrupted(
    api: ApiHarness, runner: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_watch(
        monkeypatch,
        do_nothing,
        submit_from_thread(api, TASKS[0]),
        do_nothing,
        finally_raise=KeyboardInterrupt,
    )
    lines = (await runner.output_of("tasks", "--watch", "--json")).splitlines()
    assert [len(json.loads(line)["items"]) for line in lines] == [0, 1]


async def test_a_watch_without_a_terminal_prints_a_table_per_change(
    api: ApiHarness, runner: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_watch(
        monkeypatch, do_nothing, submit_from_thread(api, TASKS[0]), finally_raise=KeyboardInterrupt
    )
    shown = await runner.output_of("runs", "--watch")
    assert shown.count("submitted") == 2


async def test_a_watch_on_a_terminal_redraws_the_screen(
    api: ApiHarness, runner: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_watch(monkeypatch, submit_from_thread(api, TASKS[0]), finally_raise=KeyboardInterrupt)
    shown = await runner.output_of("status", "--watch", FORCE_COLOR="1", TERM="xterm")
    assert "1 (1 ready)" in shown
    assert shown.count("\x1b[?1049h") == shown.count("\x1b[?1049l") == 1


@pytest.mark.parametrize("flags", [(), ("--json",)])
async def test_a_watch_goes_on_after_the_manager_was_restarted(
    api: ApiHarness, runner: CommandRunner, monkeypatch: pytest.MonkeyPatch, flags: tuple[str, ...]
) -> None:
    runs = api.store.runs

    async def fail() -> NoReturn:
        raise RuntimeError("gone")

    script_watch(
        monkeypatch,
        lambda: setattr(api.store, "runs", fail),
        do_nothing,
        lambda: setattr(api.store, "runs", runs),
        finally_raise=KeyboardInterrupt,
    )
    result = await runner("status", "--watch", *flags)
    assert result.exception is None
    assert result.output.count("cannot answer") == 1
    assert result.stdout.count("success_rate" if flags else "workers") == 2


async def test_a_watch_of_an_unknown_run_ends_at_once(runner: CommandRunner) -> None:
    assert "there is no run" in await runner.error_of(UsageError, "tasks", "--run", "x", "--watch")
