"""The commands by which operators act, against a manager that serves."""

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
from skillq.transport.memory import MemoryBroker
from skillq_cli import actions
from skillq_cli.command import COMMANDS, cli
from skillq_manager.web.server import serve
from tests.unit.manager.desk import TASKS, Desk

EVIL = "\x1b[31m\x9b2J[red]Ünïcode[/red] :smile:\r\n"


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def answer(self) -> Any:
        return json.loads(self.out)


class Terminal:
    """Runs commands as a user would, against one address."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def __call__(self, *words: str) -> Done:
        runner = CliRunner(env={"SKILLQ_API_URL": self.url, "COLUMNS": "80"})
        result = await asyncio.to_thread(runner.invoke, cli, words, standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return Done(result.return_value or 0, result.stdout, result.stderr)

    async def fails(self, kind: type[Exception], *words: str) -> str:
        with pytest.raises(kind) as caught:
            await self(*words)
        line = str(caught.value)
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


def test_every_command_that_acts_is_listed() -> None:
    listed = {name for name, place in COMMANDS.items() if place.module == "actions"}
    assert {command.name for command in actions.COMMANDS} == listed


# --- cancel ----------------------------------------------------------------------------------


async def test_tasks_are_called_off_however_they_are_named(desk: Desk, terminal: Terminal) -> None:
    await desk.submit(*TASKS)
    await desk.submit({"id": "x", "difficulty": 1}, run="Night Shift")
    done = await terminal("cancel", "2", "Night Shift/x", "--reason", "not wanted")
    assert (done.code, done.out, done.err) == (0, "2 tasks cancelled\n", "")
    assert (await terminal("cancel", "3", "--run", "Default")).out == "1 task cancelled\n"
    page = await desk.get("/api/tasks/night-shift/x")
    assert (page["status"], page["reason"]) == ("cancelled", "not wanted")
    assert desk.row("1").status == "ready"


async def test_a_run_is_called_off_as_a_whole(desk: Desk, terminal: Terminal) -> None:
    await desk.submit(*TASKS, run="Night Shift")
    await desk.submit(TASKS[0])
    done = await terminal("cancel", "--run", "Night Shift", "--all", "--json")
    assert (done.code, done.answer) == (0, {"cancelled": 3, "refused": []})
    assert desk.row("1").status == "ready"


async def test_what_cannot_be_called_off_is_a_line_each_and_keeps_no_other_from_it(
    desk: Desk, terminal: Terminal
) -> None:
    await desk.submit(*TASKS)
    junior = await desk.join("Junior", 3)
    await desk.end(junior, "1", "succeeded")
    done = await terminal("cancel", "9", "1", "2")
    assert (done.code, done.out) == (1, "1 task cancelled\n")
    assert done.err.splitlines() == [
        "skillq: default/9: there is no task '9' in run 'default'",
        "skillq: default/1: task 1 in run default has ended already: succeeded",
    ]
    assert desk.row("2").status == "cancelled"


async def test_json_names_what_could_not_be_done(desk: Desk, terminal: Terminal) -> None:
    await desk.submit(*TASKS)
    done = await terminal("cancel", "2", "nope/1", "--json")
    assert (done.code, done.err) == (1, "")
    assert done.answer == {
        "cancelled": 1,
        "refused": [{"run": "nope", "id": "1", "reason": "there is no run 'nope'"}],
    }


# --- retry -----------------------------------------------------------------------------------


async def test_tasks_are_sent_again_with_those_that_they_depend_on(
    desk: Desk, terminal: Terminal
) -> None:
    await desk.submit(TASKS[0], TASKS[2])
    await desk.give_up("1")
    done = await terminal("retry", "3", "default/1")
    assert (done.code, done.out) == (0, "2 tasks retried\n")
    assert (desk.row("1").status, desk.row("3").status) == ("ready", "blocked")


async def test_all_that_were_given_up_on_are_sent_again(desk: Desk, terminal: Terminal) -> None:
    await desk.submit(*TASKS)
    await desk.give_up("1", "2")
    one = await terminal("retry", "--all", "--type", "analysis", "--run", "Default", "--json")
    assert (one.code, one.answer) == (0, {"retried": 1, "refused": []})
    assert (await terminal("retry", "--all")).out == "1 task retried\n"
    assert (await terminal("retry", "--all")).out == "0 tasks retried\n"
    assert (await terminal("retry", "--all", "--status", "failed")).out == "1 task retried\n"
    assert {desk.row(id).status for id in "123"} == {"ready", "blocked"}


async def test_what_cannot_be_sent_again_is_a_line_each(desk: Desk, terminal: Terminal) -> None:
    await desk.submit(TASKS[0], TASKS[2])
    await desk.give_up("1")
    done = await terminal("retry", "3", "9")
    assert (done.code, done.out) == (1, "0 tasks retried\n")
    third, ninth = done.err.splitlines()
    assert third.startswith("skillq: default/3: depends on 1, which dead_lettered")
    assert ninth == "skillq: default/9: is not there"


async def test_many_are_sent_again_in_parts(
    desk: Desk, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "_MAX_TASKS_PER_REQUEST", 2)
    await desk.submit(*({"id": n, "difficulty": 1} for n in range(5)))
    await desk.post("/api/runs/default/cancel")
    assert (await terminal("retry", *map(str, range(5)))).out == "5 tasks retried\n"


# --- dead, explain ---------------------------------------------------------------------------


async def test_dead_lists_what_was_given_up_on_and_why(desk: Desk, terminal: Terminal) -> None:
    await desk.submit(*TASKS)
    await desk.give_up("1", "2")
    head, first, second = (await terminal("dead")).out.splitlines()
    assert head.split()[:5] == ["run", "id", "type", "status", "attempts"]
    assert first.split()[:6] == ["default", "1", "task", "dead_lettered", "3", "lost"]
    assert "its process was started anew" in first
    assert second.split()[1] == "2"
    assert len((await terminal("dead", "--failed", "--all")).out.splitlines()) == 1 + 3
    assert len((await terminal("dead", "--type", "analysis")).out.splitlines()) == 1 + 1
    answer = (await terminal("dead", "--run", "Default", "--json")).answer
    assert answer == await desk.get("/api/dead")


async def test_explain_says_why_worker_by_worker(desk: Desk, terminal: Terminal) -> None:
    await desk.submit({"id": "hard", "difficulty": 8}, run="Night Shift")
    await desk.join("Junior", 3)
    await desk.join("GPU box 1", 5)
    lines = (await terminal("explain", "Night Shift/hard")).out.splitlines()
    assert lines[0].split() == ["task", "night-shift/hard"]
    assert lines[2] == "reason  no worker can do it: it needs skill 8, the best has 5"
    assert lines[4].split() == ["worker", "verdict"]
    assert [line.split("  ")[0] for line in lines[5:]] == ["GPU box 1", "Junior"]
    answer = (await terminal("explain", "hard", "--run", "Night Shift", "--json")).answer
    assert answer == await desk.get("/api/tasks/night-shift/hard/explain")


async def test_a_task_shows_what_it_asks_for_now_and_how_its_attempts_ended(
    desk: Desk, terminal: Terminal
) -> None:
    await desk.submit(
        {"id": "1", "difficulty": 2, "max_attempts": 2, "escalate_by": 3},
        {"id": "busy", "difficulty": 9},
    )
    await desk.join("Ada", 4)
    await desk.join("Senior", 9)
    ada = await desk.join("Ada", 4, incarnation="Ada-2")
    await desk.end(ada, "1", "failed", attempt=2, error="no")
    shown = dict(
        line.split("  ", 1)
        for line in (await terminal("task", "1")).out.splitlines()
        if "  " in line
    )
    assert shown["attempts"].strip() == "2 made, 1 of 2 failed"
    assert shown["lost"].strip() == "1 attempts, with their workers"
    assert shown["asks now"].strip() == "skill 5; not ada (attempt 2 failed with Ada)"


async def test_workers_show_what_they_are_kept_for_and_what_they_refused(
    desk: Desk, terminal: Terminal
) -> None:
    await desk.submit({"id": "1", "difficulty": 9, "type": "ocr"})
    ada = await desk.join("Ada", 9, reserve=7)
    await desk.end(ada, "1", "refused")
    _, line = (await terminal("workers")).out.splitlines()
    assert "any, but not ocr" in line
    assert " 7 " in line


# --- parked messages -------------------------------------------------------------------------


async def test_parked_messages_are_listed_published_again_and_thrown_away(
    desk: Desk, terminal: Terminal
) -> None:
    one, other = await desk.stray("a"), await desk.stray("b")
    head, first, _ = (await terminal("dead", "--parked")).out.splitlines()
    assert head.startswith("message id")
    assert first.split()[0] == one
    assert (await terminal("dead", "--parked", "--json")).answer == await desk.get("/api/parked")
    assert (await terminal("retry", "--parked", one)).out == "1 message published again\n"
    await desk.until(lambda: desk.manager.counters.unreadable == 3)
    assert (await terminal("retry", "--parked", "--all")).out == "2 messages published again\n"
    await desk.until(lambda: desk.manager.counters.unreadable == 5)
    done = await terminal("cancel", "--parked", one, "nope", other)
    assert (done.code, done.out) == (1, "2 messages thrown away\n")
    assert done.err == "skillq: nope: there is no unreadable message 'nope'\n"
    assert (await desk.get("/api/parked"))["items"] == []


async def test_what_strangers_wrote_is_shown_and_not_obeyed(desk: Desk, terminal: Terminal) -> None:
    await desk.stray(EVIL)
    for more in ((), ("--json",)):
        shown = (await terminal("dead", "--parked", *more)).out
        assert "[red]Ünïcode[/red] :smile:" in shown
        for control in ("\x1b", "\x9b", "\r"):
            assert control not in shown


# --- what goes wrong -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "line"),
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
async def test_what_makes_no_sense_is_refused_before_anything_is_done(
    words: list[str], line: str
) -> None:
    assert line in await Terminal("http://127.0.0.1:1").fails(UsageError, *words)


async def test_a_run_that_is_not_there_is_a_usage_error(terminal: Terminal) -> None:
    for words in (["cancel", "--run", "nope", "--all"], ["retry", "--run", "nope", "--all"]):
        assert await terminal.fails(UsageError, *words) == "there is no run 'nope'"


@pytest.mark.parametrize("words", [["cancel", "1"], ["retry", "1"], ["dead"], ["explain", "1"]])
async def test_a_manager_that_is_not_there_is_unreachable(words: list[str]) -> None:
    line = await Terminal("http://127.0.0.1:1").fails(Unreachable, *words)
    assert line.startswith("no manager answers at ")


async def test_a_manager_that_does_not_lead_is_unreachable_and_says_so(
    desk: Desk, terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    await desk.submit(*TASKS)
    monkeypatch.setattr(desk.manager, "_leading", False)
    for words in (["cancel", "1"], ["retry", "--all"]):
        line = await terminal.fails(Unreachable, *words)
        assert line.endswith("this manager does not lead now; ask again in a moment")
    assert "stands by; another one leads" in (await terminal("status")).out


async def test_a_manager_that_takes_too_long_is_told_apart_from_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def keep_waiting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    monkeypatch.setattr(timings, "API_LONG_SECONDS", 0.05)
    monkeypatch.setattr(timings, "API_SECONDS", 0.05)
    server = await asyncio.start_server(keep_waiting, "127.0.0.1", 0)
    async with server:
        terminal = Terminal(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        line = await terminal.fails(Unreachable, "cancel", "1")
        assert "has not answered" in line
        assert line.endswith("before you ask again")
        assert (await terminal.fails(Unreachable, "status")).endswith(" s")


async def test_a_broker_url_that_is_wrong_is_no_matter_to_those_that_ask(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKILLQ_BROKER_URL", "nonsense")
    monkeypatch.setenv("SKILLQ_LOG_LEVEL", "nonsense")
    assert (await terminal("status")).code == 0
