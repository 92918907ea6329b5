"""The commands that ask the manager, against a manager that serves."""

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
from skillq.transport.memory import MemoryBroker
from skillq_cli import queries
from skillq_manager.web.server import serve
from tests.unit.manager.desk import TASKS, Desk

EVIL = "\x1b[31m\x9b2J[red]Ünïcode[/red] :smile:\r\n"


class Terminal:
    """Runs commands as a user would, against one address."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.group = click.Group(commands={str(c.name): c for c in queries.COMMANDS})

    async def __call__(self, *words: str, **variables: str) -> Result:
        env = {"SKILLQ_API_URL": self.url, "COLUMNS": "80"} | variables
        return await asyncio.to_thread(CliRunner(env=env).invoke, self.group, words)

    async def shows(self, *words: str, **variables: str) -> str:
        result = await self(*words, **variables)
        assert result.exception is None, result.exception
        return result.stdout

    async def fails(self, kind: type[Exception], *words: str, **variables: str) -> str:
        result = await self(*words, **variables)
        assert isinstance(result.exception, kind), result.output
        assert result.stdout == ""
        line = str(result.exception)
        assert line.isprintable()
        return line


@pytest.fixture
async def desk() -> AsyncIterator[Desk]:
    logs.configure("error", "json")
    async with Desk(MemoryBroker()).open() as desk:
        yield desk
    structlog.reset_defaults()


@pytest.fixture
async def terminal(desk: Desk, hasty_server: None) -> AsyncIterator[Terminal]:
    async with serve(desk.app, "127.0.0.1", 0) as (host, port):
        yield Terminal(f"http://{host}:{port}")


def watched(
    monkeypatch: pytest.MonkeyPatch, *meanwhile: Callable[[], object], then: type[BaseException]
) -> None:
    """Let these happen in the pauses of a watch, one in each, and `then` be raised."""
    happenings = iter(meanwhile)

    def pause(seconds: float) -> None:
        assert seconds == 1.0
        happening = next(happenings, None)
        if happening is None:
            raise then
        happening()

    monkeypatch.setattr("skillq_cli.queries.sleep", pause)


# --- tables ----------------------------------------------------------------------------------


async def test_status_shows_everything_together(desk: Desk, terminal: Terminal) -> None:
    await desk.submit(*TASKS)
    junior = await desk.join("Junior", 3, slots=2)
    await desk.end(junior, "1", "succeeded")
    shown = (await terminal.shows("status")).splitlines()
    assert [line.split(maxsplit=1) for line in shown if not line.startswith("success")] == [
        ["tasks", "3 (2 ready, 1 succeeded)"],
        ["workers", "1 (1 connected)"],
        ["slots", "2 (0 busy, 2 free)"],
        ["runs", "1 open, 0 ended"],
    ]
    assert "success rate  100.00%" in shown


async def test_lists_show_a_line_for_each(desk: Desk, terminal: Terminal) -> None:
    await desk.submit(*TASKS, run="Night Shift")
    await desk.join("GPU box 1", 9, specialties=("ocr", "gpu"))
    await desk.until(lambda: desk.manager.state.workers.workers["gpu-box-1"].attempts)
    head, run = (await terminal.shows("runs")).splitlines()
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
    *_, third = (await terminal.shows("tasks")).splitlines()
    assert "waits for 1 of the tasks it depends on" in third
    *_, worker = (await terminal.shows("workers")).splitlines()
    assert worker.startswith("GPU box 1")
    assert "ocr, gpu" in worker
    assert "any" in worker


async def test_an_empty_manager_shows_empty_tables(terminal: Terminal) -> None:
    for command in ("runs", "tasks", "workers"):
        assert len((await terminal.shows(command)).splitlines()) == 1
    assert "0 (none)" in await terminal.shows("status")


async def test_a_task_shows_its_definition_output_and_attempts(
    desk: Desk, terminal: Terminal
) -> None:
    await desk.submit(*TASKS)
    junior = await desk.join("Junior", 3)
    await desk.begin(junior, "1", at=1_800_000_000)
    await desk.end(junior, "1", "succeeded", output={"größe": 3}, finished_at=1_800_000_001)
    shown = await terminal.shows("task", "1", TZ="UTC")
    assert "default/1" in shown
    assert '{"größe": 3}' in shown
    assert "1 of 1 made" in shown
    assert shown.splitlines()[-1].split()[:3] == ["1", "Junior", "succeeded"]
    third = (await terminal.shows("task", "default/3")).splitlines()
    assert [line.split() for line in third if line[:3] in {"tim", "dep"}] == [
        ["depends", "on", "1"],
        ["timeout", "30", "s"],
    ]


async def test_a_task_is_found_by_run_and_id_however_they_are_given(
    desk: Desk, terminal: Terminal
) -> None:
    await desk.submit({"id": "a.b:c@d", "difficulty": 1}, run="Night Shift / 2")
    for words in (
        ("night-shift-2/a.b:c@d",),
        ("Night Shift / 2/a.b:c@d",),
        ("a.b:c@d", "--run", "Night Shift / 2"),
    ):
        assert "night-shift-2/a.b:c@d" in await terminal.shows("task", *words)


async def test_filters_narrow_what_tasks_shows(desk: Desk, terminal: Terminal) -> None:
    await desk.submit(*TASKS)
    await desk.submit({"id": "x", "difficulty": 1}, run="Night Shift")
    await desk.join("Junior", 3)
    await desk.until(lambda: desk.row("1").worker)

    async def ids(*words: str) -> list[str]:
        return [
            t["id"] for t in json.loads(await terminal.shows("tasks", "--json", *words))["items"]
        ]

    assert await ids("--run", "Night Shift") == ["x"]
    assert await ids("--status", "blocked") == ["3"]
    assert await ids("--type", "analysis") == ["2"]
    assert await ids("--worker", "Junior") == ["1"]


async def test_a_list_that_goes_on_says_so_and_all_shows_all_of_it(
    desk: Desk, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("skillq_cli.api._MAX_PAGE", 4)
    await desk.submit(*({"id": n, "difficulty": 1} for n in range(10)))
    short = await terminal("tasks", "--limit", "3")
    assert len(short.stdout.splitlines()) == 1 + 3
    assert "--all" in short.stderr
    whole = await terminal("tasks", "--all")
    assert len(whole.stdout.splitlines()) == 1 + 10
    assert whole.stderr == ""
    answer = json.loads(await terminal.shows("tasks", "--all", "--json"))
    assert [task["id"] for task in answer["items"]] == [str(n) for n in range(10)]
    assert answer["next_cursor"] is None


async def test_json_is_what_the_api_answers(desk: Desk, terminal: Terminal) -> None:
    await desk.submit(*TASKS)
    await desk.join("Junior", 3)
    for words, path in (
        (("status",), "summary"),
        (("runs",), "runs"),
        (("tasks",), "tasks"),
        (("task", "2"), "tasks/default/2"),
        (("workers",), "workers"),
    ):
        assert json.loads(await terminal.shows(*words, "--json")) == await desk.get(f"/api/{path}")


# --- what users wrote is obeyed by nobody ----------------------------------------------------


@pytest.mark.parametrize("variables", [{}, {"FORCE_COLOR": "1", "TERM": "xterm"}])
async def test_control_characters_and_markup_of_users_are_shown_and_not_obeyed(
    desk: Desk, terminal: Terminal, variables: dict[str, str]
) -> None:
    await desk.submit(
        {"id": "a", "difficulty": 1, "description": EVIL, "payload": {EVIL: EVIL}}, run=EVIL
    )
    who = await desk.join(EVIL, 3)
    run = desk.manager.state.workers.workers[who.name].attempts
    await desk.until(lambda: run)
    wide = {"COLUMNS": "300"} | variables
    for words in (
        ("runs",),
        ("tasks",),
        ("workers",),
        ("task", "a", "--run", EVIL),
        ("tasks", "--json"),
        ("workers", "--json"),
        ("task", "a", "--run", EVIL, "--json"),
    ):
        shown = await terminal.shows(*words, **wide)
        assert "[red]Ünïcode[/red] :smile:" in shown
        for control in ("\x1b[31m", "\x9b", "\r"):
            assert control not in shown


async def test_json_stays_the_same_for_a_program_whatever_is_escaped(
    desk: Desk, terminal: Terminal
) -> None:
    wild = EVIL + "\u202e\U000e0001🦀"
    await desk.submit({"id": "a", "difficulty": 1, "description": wild})
    shown = await terminal.shows("tasks", "--json")
    assert "🦀" in shown
    assert "\u202e" not in shown
    assert json.loads(shown)["items"][0]["description"] == wild


@pytest.mark.parametrize("columns", ["40", "60", "80", "100", "200"])
async def test_on_a_terminal_nothing_is_cut_off_however_narrow_it_is(
    desk: Desk, terminal: Terminal, columns: str
) -> None:
    await desk.submit({"id": "Z" * 128, "difficulty": 1, "description": "Q" * 60})
    await desk.submit({"id": "a", "difficulty": 1, "type": "X" * 40})
    shown = await terminal.shows("tasks", FORCE_COLOR="1", NO_COLOR="1", COLUMNS=columns)
    assert [shown.count(letter) for letter in "ZQX"] == [128, 60, 40]
    for letter in "wkc":  # of: no worker is connected
        assert shown.count(letter) >= 2 * "no worker is connected".count(letter)


async def test_off_a_terminal_a_task_is_a_line(desk: Desk, terminal: Terminal) -> None:
    await desk.submit({"id": "z" * 128, "difficulty": 1, "description": "d" * 60})
    (_, line) = (await terminal.shows("tasks")).splitlines()
    assert ("z" * 128 in line, "d" * 60 in line) == (True, True)


# --- what goes wrong -------------------------------------------------------------------------


async def test_what_is_not_there_is_named(desk: Desk, terminal: Terminal) -> None:
    await desk.submit(*TASKS)
    fails = terminal.fails
    assert await fails(UsageError, "task", "9") == "there is no task '9' in run 'default'"
    assert await fails(UsageError, "task", "nope/1") == "there is no run 'nope'"
    assert "'***'" in await fails(UsageError, "task", "***/1")
    assert await fails(UsageError, "tasks", "--run", "nope") == "there is no run 'nope'"
    assert "worker 'nope'" in await fails(UsageError, "tasks", "--worker", "nope")
    assert "given twice" in await fails(UsageError, "task", "a/1", "--run", "b")


async def test_a_manager_that_is_not_there_is_told_with_its_address_and_a_remedy() -> None:
    line = await Terminal("http://user:geheim@127.0.0.1:1").fails(Unreachable, "status")
    assert line.startswith("no manager answers at http://user@127.0.0.1:1: is it running, ")


async def test_an_option_comes_before_the_environment_and_a_file_holds_a_token(
    tmp_path: Path,
) -> None:
    secret = tmp_path / "token"
    secret.write_text("geheim\n")
    async with (
        Desk(MemoryBroker(), token="geheim").open() as desk,
        serve(desk.app, "127.0.0.1", 0) as (host, port),
    ):
        terminal = Terminal("http://127.0.0.1:1")
        url = ("--api-url", f"http://{host}:{port}/")
        assert await terminal.shows("status", *url, SKILLQ_API_TOKEN_FILE=str(secret))
        assert await terminal.shows("status", *url, SKILLQ_API_TOKEN="geheim")
        assert await terminal.shows("status", *url, "--api-token", "geheim")
        wanted = await terminal.fails(Unreachable, "status", *url, SKILLQ_API_TOKEN="")
        assert wanted.endswith("wants a token: --api-token")
        wrong = await terminal.fails(Unreachable, "status", *url, "--api-token", "wrong")
        assert "refuses the token" in wrong
        assert "wrong" not in wrong


async def test_an_address_that_is_none_is_refused_with_option_and_variable() -> None:
    line = await Terminal("localhost:8080").fails(UsageError, "status")
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
async def test_another_server_at_that_address_is_told_apart_from_a_manager(answer: bytes) -> None:
    async def serve_other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    other = await asyncio.start_server(serve_other, "127.0.0.1", 0)
    async with other:
        port = other.sockets[0].getsockname()[1]
        line = await Terminal(f"http://127.0.0.1:{port}").fails(Unreachable, "status")
        assert "is no skillq manager" in line


async def test_a_manager_that_fails_is_told_with_what_it_said(
    desk: Desk, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail() -> NoReturn:
        raise RuntimeError("secret")

    monkeypatch.setattr(desk.store, "runs", fail)
    line = await terminal.fails(Unreachable, "runs")
    assert line.endswith("cannot answer: the manager failed to answer; its log says why")


# --- watching --------------------------------------------------------------------------------


def later(desk: Desk, *tasks: Any) -> Callable[[], object]:
    loop = asyncio.get_running_loop()
    return lambda: asyncio.run_coroutine_threadsafe(desk.submit(*tasks), loop).result()


def nothing() -> None: ...


async def test_a_watch_prints_one_json_line_per_change_until_it_is_interrupted(
    desk: Desk, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched(monkeypatch, nothing, later(desk, TASKS[0]), nothing, then=KeyboardInterrupt)
    lines = (await terminal.shows("tasks", "--watch", "--json")).splitlines()
    assert [len(json.loads(line)["items"]) for line in lines] == [0, 1]


async def test_a_watch_off_a_terminal_prints_a_table_per_change(
    desk: Desk, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched(monkeypatch, nothing, later(desk, TASKS[0]), then=KeyboardInterrupt)
    shown = await terminal.shows("runs", "--watch")
    assert shown.count("submitted") == 2


async def test_a_watch_on_a_terminal_draws_over_what_was_there(
    desk: Desk, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched(monkeypatch, later(desk, TASKS[0]), then=KeyboardInterrupt)
    shown = await terminal.shows("status", "--watch", FORCE_COLOR="1", TERM="xterm")
    assert "1 (1 ready)" in shown
    assert shown.count("\x1b[?1049h") == shown.count("\x1b[?1049l") == 1


@pytest.mark.parametrize("more", [(), ("--json",)])
async def test_a_watch_outlives_a_manager_that_is_started_anew(
    desk: Desk, terminal: Terminal, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    whole = desk.store.runs

    async def fail() -> NoReturn:
        raise RuntimeError("gone")

    watched(
        monkeypatch,
        lambda: setattr(desk.store, "runs", fail),
        nothing,
        lambda: setattr(desk.store, "runs", whole),
        then=KeyboardInterrupt,
    )
    result = await terminal("status", "--watch", *more)
    assert result.exception is None
    assert result.output.count("cannot answer") == 1
    assert result.stdout.count("success_rate" if more else "workers") == 2


async def test_a_watch_of_what_is_not_there_ends_at_once(terminal: Terminal) -> None:
    assert "there is no run" in await terminal.fails(UsageError, "tasks", "--run", "x", "--watch")
