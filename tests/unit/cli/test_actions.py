"""Action commands (cancel, retry, dead, explain) against a running manager."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import structlog
from click.testing import CliRunner

from skillq import timings
from skillq.errors import Unreachable, UsageError
from skillq.runtime import logs
from skillq_cli import actions
from skillq_cli.command import COMMANDS, cli
from skillq_manager.web.server import serve
from tests.support.manager_harness import TASKS, ApiHarness
from tests.support.waiting import until_async

CONTROL_TEXT = "\x1b[31m\x9b2J[red]Ünïcode[/red] :smile:\r\n"


@dataclass
class CommandResult:
    exit_status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class CommandRunner:
    """Runs commands of the CLI as a user does, against the manager at one address."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def __call__(self, *arguments: str) -> CommandResult:
        click_runner = CliRunner(env={"SKILLQ_API_URL": self.url, "COLUMNS": "80"})
        result = await asyncio.to_thread(click_runner.invoke, cli, arguments, standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return CommandResult(result.return_value or 0, result.stdout, result.stderr)

    async def error_of(self, error_type: type[Exception], *arguments: str) -> str:
        with pytest.raises(error_type) as caught:
            await self(*arguments)
        line = str(caught.value)
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


def test_every_command_of_the_module_actions_is_listed() -> None:
    listed = {name for name, entry in COMMANDS.items() if entry.module == "actions"}
    assert {command.name for command in actions.COMMANDS} == listed


# --- cancel ----------------------------------------------------------------------------------


async def test_tasks_are_cancelled_by_any_form_of_their_names(
    api: ApiHarness, runner: CommandRunner
) -> None:
    await api.submit(*TASKS)
    await api.submit({"id": "x", "difficulty": 1}, run="Night Shift")
    done = await runner("cancel", "2", "Night Shift/x", "--reason", "not wanted")
    assert (done.exit_status, done.out, done.err) == (0, "2 tasks cancelled\n", "")
    assert (await runner("cancel", "3", "--run", "Default")).out == "1 task cancelled\n"
    page = await api.get("/api/tasks/night-shift/x")
    assert (page["status"], page["reason"]) == ("cancelled", "not wanted")
    assert api.task_row("1").status == "ready"


async def test_a_run_is_cancelled_as_a_whole(api: ApiHarness, runner: CommandRunner) -> None:
    await api.submit(*TASKS, run="Night Shift")
    await api.submit(TASKS[0])
    done = await runner("cancel", "--run", "Night Shift", "--all", "--json")
    assert (done.exit_status, done.json) == (0, {"cancelled": 3, "refused": []})
    assert api.task_row("1").status == "ready"


async def test_each_task_that_cannot_be_cancelled_is_one_line_and_the_others_are_cancelled(
    api: ApiHarness, runner: CommandRunner
) -> None:
    await api.submit(*TASKS)
    junior = await api.connect_fake_worker("Junior", 3)
    await junior.end_attempt("1", "succeeded")
    done = await runner("cancel", "9", "1", "2")
    assert (done.exit_status, done.out) == (1, "1 task cancelled\n")
    assert done.err.splitlines() == [
        "skillq: default/9: there is no task '9' in run 'default'",
        "skillq: default/1: task 1 in run default has ended already: succeeded",
    ]
    assert api.task_row("2").status == "cancelled"


async def test_json_output_names_the_tasks_that_were_refused(
    api: ApiHarness, runner: CommandRunner
) -> None:
    await api.submit(*TASKS)
    done = await runner("cancel", "2", "nope/1", "--json")
    assert (done.exit_status, done.err) == (1, "")
    assert done.json == {
        "cancelled": 1,
        "refused": [{"run": "nope", "id": "1", "reason": "there is no run 'nope'"}],
    }


# --- retry -----------------------------------------------------------------------------------


async def test_tasks_are_retried_together_with_their_dependencies(
    api: ApiHarness, runner: CommandRunner
) -> None:
    await api.submit(TASKS[0], TASKS[2])
    await api.dead_letter_tasks("1")
    done = await runner("retry", "3", "default/1")
    assert (done.exit_status, done.out) == (0, "2 tasks retried\n")
    assert (api.task_row("1").status, api.task_row("3").status) == ("ready", "blocked")


async def test_retry_all_retries_every_dead_lettered_task(
    api: ApiHarness, runner: CommandRunner
) -> None:
    await api.submit(*TASKS)
    await api.dead_letter_tasks("1", "2")
    one = await runner("retry", "--all", "--type", "analysis", "--run", "Default", "--json")
    assert (one.exit_status, one.json) == (0, {"retried": 1, "refused": []})
    assert (await runner("retry", "--all")).out == "1 task retried\n"
    assert (await runner("retry", "--all")).out == "0 tasks retried\n"
    assert (await runner("retry", "--all", "--status", "failed")).out == "1 task retried\n"
    assert {api.task_row(id).status for id in "123"} == {"ready", "blocked"}


async def test_each_task_that_cannot_be_retried_is_one_line(
    api: ApiHarness, runner: CommandRunner
) -> None:
    await api.submit(TASKS[0], TASKS[2])
    await api.dead_letter_tasks("1")
    done = await runner("retry", "3", "9")
    assert (done.exit_status, done.out) == (1, "0 tasks retried\n")
    third, ninth = done.err.splitlines()
    assert third.startswith("skillq: default/3: depends on 1, which dead_lettered")
    assert ninth == "skillq: default/9: is not there"


async def test_many_tasks_are_retried_in_several_requests(
    api: ApiHarness, runner: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "_MAX_TASKS_PER_REQUEST", 2)
    await api.submit(*({"id": n, "difficulty": 1} for n in range(5)))
    await api.post("/api/runs/default/cancel")
    assert (await runner("retry", *map(str, range(5)))).out == "5 tasks retried\n"


# --- dead, explain ---------------------------------------------------------------------------


async def test_dead_lists_dead_lettered_tasks_and_their_reasons(
    api: ApiHarness, runner: CommandRunner
) -> None:
    await api.submit(*TASKS)
    await api.dead_letter_tasks("1", "2")
    head, first, second = (await runner("dead")).out.splitlines()
    assert head.split()[:5] == ["run", "id", "type", "status", "attempts"]
    assert first.split()[:6] == ["default", "1", "task", "dead_lettered", "3", "lost"]
    assert "its process was restarted" in first
    assert second.split()[1] == "2"
    assert len((await runner("dead", "--failed", "--all")).out.splitlines()) == 1 + 3
    assert len((await runner("dead", "--type", "analysis")).out.splitlines()) == 1 + 1
    answer = (await runner("dead", "--run", "Default", "--json")).json
    assert answer == await api.get("/api/dead")


async def test_explain_gives_a_reason_for_each_worker(
    api: ApiHarness, runner: CommandRunner
) -> None:
    await api.submit({"id": "hard", "difficulty": 8}, run="Night Shift")
    await api.connect_fake_worker("Junior", 3)
    await api.connect_fake_worker("GPU box 1", 5)
    lines = (await runner("explain", "Night Shift/hard")).out.splitlines()
    assert lines[0].split() == ["task", "night-shift/hard"]
    assert lines[2] == "reason  no worker can do it: it needs skill 8, the best has 5"
    assert lines[4].split() == ["worker", "verdict"]
    assert [line.split("  ")[0] for line in lines[5:]] == ["GPU box 1", "Junior"]
    answer = (await runner("explain", "hard", "--run", "Night Shift", "--json")).json
    assert answer == await api.get("/api/tasks/night-shift/hard/explain")


async def test_task_shows_its_present_need_and_how_its_attempts_ended(
    api: ApiHarness, runner: CommandRunner
) -> None:
    await api.submit(
        {"id": "1", "difficulty": 2, "max_attempts": 2, "escalate_by": 3},
        {"id": "busy", "difficulty": 9},
    )
    await api.connect_fake_worker("Ada", 4)
    await api.connect_fake_worker("Senior", 9)
    ada = await api.connect_fake_worker("Ada", 4, incarnation="Ada-2")
    await ada.end_attempt("1", "failed", attempt=2, error="no")
    shown = dict(
        line.split("  ", 1) for line in (await runner("task", "1")).out.splitlines() if "  " in line
    )
    assert shown["attempts"].strip() == "2 made, 1 of 2 failed"
    assert shown["lost"].strip() == "1 attempts, with their workers"
    assert shown["asks now"].strip() == "skill 5; not ada (attempt 2 failed with Ada)"


async def test_workers_shows_reserve_levels_and_refused_types(
    api: ApiHarness, runner: CommandRunner
) -> None:
    await api.submit({"id": "1", "difficulty": 9, "type": "ocr"})
    ada = await api.connect_fake_worker("Ada", 9, reserve=7)
    await ada.end_attempt("1", "refused")
    _, line = (await runner("workers")).out.splitlines()
    assert "any, but not ocr" in line
    assert " 7 " in line


# --- unreadable messages ---------------------------------------------------------------------


async def test_unreadable_messages_are_listed_published_again_and_deleted(
    api: ApiHarness, runner: CommandRunner
) -> None:
    one, other = await api.send_unreadable("a"), await api.send_unreadable("b")
    head, first, _ = (await runner("dead", "--parked")).out.splitlines()
    assert head.startswith("message id")
    assert first.split()[0] == one
    assert (await runner("dead", "--parked", "--json")).json == await api.get("/api/parked")
    assert (await runner("retry", "--parked", one)).out == "1 message published again\n"
    await until_async(
        lambda: api.manager.counters.unreadable == 3, "the messages should be unreadable again"
    )
    assert (await runner("retry", "--parked", "--all")).out == "2 messages published again\n"
    await until_async(
        lambda: api.manager.counters.unreadable == 5, "the messages should be unreadable again"
    )
    done = await runner("cancel", "--parked", one, "nope", other)
    assert (done.exit_status, done.out) == (1, "2 messages thrown away\n")
    assert done.err == "skillq: nope: there is no unreadable message 'nope'\n"
    assert (await api.get("/api/parked"))["items"] == []


async def test_control_characters_in_unreadable_messages_are_escaped(
    api: ApiHarness, runner: CommandRunner
) -> None:
    await api.send_unreadable(CONTROL_TEXT)
    for more in ((), ("--json",)):
        shown = (await runner("dead", "--parked", *more)).out
        assert "[red]Ünïcode[/red] :smile:" in shown
        for control in ("\x1b", "\x9b", "\r"):
            assert control not in shown


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["cancel"], "give IDs, or --all"),
        (["cancel", "1", "--all"], "not both"),
        (["cancel", "--all"], "say which with --run"),
        (["cancel", "a/1", "--run", "b"], "given twice"),
        (["cancel", "***/1"], "'***'"),
        (["cancel", "--parked", "--all"], "--all does not go with --parked"),
        (["cancel", "--parked", "1", "--run", "a"], "--run does not go with --parked"),
        (["retry"], "give IDs, or --all"),
        (["retry", "1", "--type", "ocr"], "leave them out"),
        (["retry", "--parked", "1", "--status", "failed"], "--status does not go with --parked"),
        (["dead", "--parked", "--failed"], "leave them out with --parked"),
        (["explain", "a/1", "--run", "b"], "given twice"),
    ],
)
async def test_contradictory_options_are_refused_before_a_request_is_sent(
    arguments: list[str], line: str
) -> None:
    assert line in await CommandRunner("http://127.0.0.1:1").error_of(UsageError, *arguments)


async def test_an_unknown_run_is_a_usage_error(runner: CommandRunner) -> None:
    for arguments in (["cancel", "--run", "nope", "--all"], ["retry", "--run", "nope", "--all"]):
        assert await runner.error_of(UsageError, *arguments) == "there is no run 'nope'"


@pytest.mark.parametrize("arguments", [["cancel", "1"], ["retry", "1"], ["dead"], ["explain", "1"]])
async def test_without_a_manager_a_command_raises_unreachable(arguments: list[str]) -> None:
    line = await CommandRunner("http://127.0.0.1:1").error_of(Unreachable, *arguments)
    assert line.startswith("no manager answers at ")


async def test_a_standby_manager_refuses_actions_with_a_clear_line(
    api: ApiHarness, runner: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.submit(*TASKS)
    monkeypatch.setattr(api.manager, "_leading", False)
    for arguments in (["cancel", "1"], ["retry", "--all"]):
        line = await runner.error_of(Unreachable, *arguments)
        assert line.endswith("this manager does not lead now; ask again in a moment")
    assert "stands by; another one leads" in (await runner("status")).out


async def test_a_manager_that_does_not_answer_in_time_has_an_error_line_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def never_answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    monkeypatch.setattr(timings, "API_LONG_SECONDS", 0.05)
    monkeypatch.setattr(timings, "API_SECONDS", 0.05)
    server = await asyncio.start_server(never_answer, "127.0.0.1", 0)
    async with server:
        runner = CommandRunner(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        line = await runner.error_of(Unreachable, "cancel", "1")
        assert "has not answered" in line
        assert line.endswith("before you ask again")
        assert (await runner.error_of(Unreachable, "status")).endswith(" s")


async def test_an_invalid_broker_url_does_not_matter_to_commands_over_http(
    runner: CommandRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKILLQ_BROKER_URL", "nonsense")
    monkeypatch.setenv("SKILLQ_LOG_LEVEL", "nonsense")
    assert (await runner("status")).exit_status == 0
