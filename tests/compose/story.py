"""Test fields `docker compose up` promises with the real images, from the first start to the end.

The module is not part of `make test`, because it needs a Docker engine: `.venv/bin/pytest tests/compose/story.py`. The tests
share one stack and run in order; each also passes alone.
"""

import base64
import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from skillq.messages import slug
from skillq.topology import MANAGER, worker_topology
from tests.support.ports import free_ports
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(600)  # the first test builds the images

ROOT = Path(__file__).parents[2]
PROJECT = "skillq-story"  # .ci/run removes the containers that a failed run has left
TOKEN = "story"
SUMMARY = re.compile(
    r"^All tasks completed\n"
    r"Task 1 assigned to Junior-\w+ - Success\n"
    r"Task 2 assigned to Intermediate-\w+ - Success\n"
    r"Task 3 assigned to Senior-\w+ - Success\n"
    r"Success rate: 100\.00%$",
    re.MULTILINE,
)
OURS = {"skillq", "skillq_manager", "skillq_worker", "skillq_cli"}
OTHERS = {"fastapi", "uvicorn", "rich", "hatchling", "pip"}
PACKAGES = {
    "manager": {"skillq", "skillq_manager", "fastapi", "uvicorn"},
    "junior": {"skillq", "skillq_worker"},
    "cli": {*OURS, "fastapi", "uvicorn", "rich"},
}
WHO_AM_I = f"""
import importlib.util, json, os
found = [name for name in {sorted(OURS | OTHERS)} if importlib.util.find_spec(name)]
print(json.dumps([os.getuid(), found]))
"""


class Stack:
    """A Compose project on its own ports."""

    def __init__(self) -> None:
        self._amqp, self._management, self._http = free_ports(3)
        self._environment = os.environ | {
            "COMPOSE_PROJECT_NAME": PROJECT,
            "RABBITMQ_PORT": str(self._amqp),
            "RABBITMQ_UI_PORT": str(self._management),
            "SKILLQ_HTTP_PORT": str(self._http),
            "SKILLQ_API_TOKEN": TOKEN,
            "SKILLQ_TIME_SCALE": "0.3",
        }

    def compose(self, *arguments: str, seconds: float = 120) -> str:
        """Run `docker compose …`; return its standard output."""
        done = subprocess.run(
            ["docker", "compose", *arguments],
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        output = f"docker compose {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        assert done.returncode == 0, output
        return done.stdout

    def up(self, *arguments: str) -> None:
        """Start all services; return when they are healthy, because the tutorial waits for that."""
        self.compose("up", "--detach", *arguments, seconds=200)

    def down(self) -> None:
        self.compose("--profile", "cli", "down", "--volumes", "--rmi", "local", seconds=180)

    def containers(self, service: str) -> list[str]:
        return sorted(self.compose("ps", "--quiet", service).split())

    def container_starts(self, service: str) -> str:
        """Return the ids of the containers of a service with their start times."""
        fields = "{{.Id}} {{.State.StartedAt}}"
        return _docker("inspect", "--format", fields, *self.containers(service))

    def cli(self, *arguments: str, options: tuple[str, ...] = (), seconds: float = 120) -> str:
        return self.compose("run", "--rm", *options, "cli", *arguments, seconds=seconds)

    def api(self, path: str) -> Any:
        url = f"http://127.0.0.1:{self._http}/api/{path}"
        return _json(url, f"Bearer {TOKEN}")

    def juniors(self) -> list[str]:
        names: list[str] = [worker["name"] for worker in self.api("workers")["items"]]
        return [name for name in names if name.startswith("Junior-")]

    def management(self, path: str) -> Any:
        credentials = base64.b64encode(b"guest:guest").decode()
        return _json(f"http://127.0.0.1:{self._management}/api/{path}", f"Basic {credentials}")

    def connection_names(self) -> set[str]:
        """Return the names that clients gave to their connections."""
        return {
            connection["client_properties"].get("connection_name", "")
            for connection in self.management("connections")
        }

    def message_counters(self) -> dict[str, Any]:
        counters: dict[str, Any] = self.management("overview").get("message_stats", {})
        return counters


def _json(url: str, authorization: str) -> Any:
    request = urllib.request.Request(url, headers={"Authorization": authorization})
    with urllib.request.urlopen(request, timeout=10) as response:
        return json.load(response)


def _docker(*arguments: str) -> str:
    """Run `docker …`; return its output. `docker compose logs` would add control characters to logs."""
    done = subprocess.run(
        ["docker", *arguments], capture_output=True, text=True, timeout=60, check=True
    )
    return done.stdout.strip()


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    stack = Stack()
    try:
        stack.compose("--profile", "cli", "build", seconds=500)
        stack.up()
        yield stack
    finally:
        try:  # pytest shows the logs of a failed test
            sys.stdout.write(stack.compose("logs", "--no-color", "--tail", "200"))
        finally:
            stack.down()


def test_up_runs_the_tutorial_and_its_summary_is_in_the_managers_log(stack: Stack) -> None:
    (manager,) = stack.containers("manager")
    until(lambda: SUMMARY.search(_docker("logs", manager)), "the summary should be in the log")
    assert len(SUMMARY.findall(_docker("logs", manager))) == 1


def test_a_second_up_restarts_no_container_and_runs_no_task_again(stack: Stack) -> None:
    services = ("rabbitmq", "manager", "junior", "intermediate", "senior")
    before = {service: stack.container_starts(service) for service in services}
    stack.up()
    assert {service: stack.container_starts(service) for service in services} == before
    (run,) = stack.api("runs")["items"]
    assert (run["run"], run["tasks"]) == ("tutorial", 3)


def test_five_juniors_have_five_different_names(stack: Stack) -> None:
    stack.up("--scale", "junior=5")
    until(lambda: len(stack.juniors()) == 5, "there should be five juniors")
    assert len(set(stack.juniors())) == 5


def test_fifty_tasks_from_the_command_line_all_succeed(stack: Stack, tmp_path: Path) -> None:
    tasks = [{"id": n, "description": f"Task {n}", "difficulty": 1 + n % 3} for n in range(50)]
    file = tmp_path / "fifty.json"
    file.write_text(json.dumps({"tasks": tasks}))
    file.chmod(0o644)  # for the user in the container
    mounted = ("--volume", f"{file}:/app/fifty.json:ro")
    output = stack.cli("submit", "fifty.json", "--run", "fifty", "--watch", options=mounted)
    assert "Success rate: 100.00%" in output
    page = stack.api("tasks?run=fifty&limit=100")
    assert [task["status"] for task in page["items"]] == ["succeeded"] * 50


@pytest.mark.parametrize("example", ["tutorial", "pipeline"])
def test_an_example_can_be_submitted(stack: Stack, example: str) -> None:
    file = f"examples/{example}.yaml"
    output = stack.cli("submit", file, "--run", f"{example} again", "--watch")
    assert "Success rate: 100.00%" in output


def test_the_management_api_shows_exchanges_queues_and_bindings_by_name(stack: Stack) -> None:
    workers = stack.api("workers")["items"]
    expected = [MANAGER, *(worker_topology(slug(worker["name"])) for worker in workers)]
    exchanges = {x["name"]: x["type"] for x in stack.management("exchanges/%2F")}
    queues = {q["name"] for q in stack.management("queues/%2F")}
    bindings = {
        (b["source"], b["routing_key"], b["destination"])
        for b in stack.management("bindings/%2F")
        if b["source"]
    }
    for topology in expected:
        assert {exchanges.get(name) for name in topology.exchanges} <= {"topic"}
        assert {queue.name for queue in topology.queues} <= queues
        assert {(b.exchange, b.key, b.queue) for b in topology.bindings} <= bindings


def test_connections_are_named_after_the_manager_and_each_worker(stack: Stack) -> None:
    names = {f"skillq worker {worker['name']}" for worker in stack.api("workers")["items"]}
    until(
        lambda: all(any(s.startswith(n) for s in stack.connection_names()) for n in names),
        f"each of {sorted(names)} should have a connection",
    )
    assert any(name.startswith("skillq manager") for name in stack.connection_names())


def test_the_management_api_shows_the_rate_of_messages(stack: Stack) -> None:
    until(
        lambda: stack.message_counters().get("publish_details", {}).get("rate", 0) > 0,
        "the rate of published messages should be shown",
    )
    assert stack.message_counters()["publish"] > 0


def test_sigterm_ends_a_worker_cleanly_and_at_once(stack: Stack) -> None:
    (senior,) = stack.containers("senior")
    started = time.monotonic()
    stack.compose("stop", "senior")
    assert time.monotonic() - started < 5
    assert _docker("inspect", "--format", "{{.State.ExitCode}}", senior) == "0"
    stack.up()


@pytest.mark.parametrize("service", PACKAGES)
def test_an_image_runs_as_nobody_and_holds_only_its_own_packages(
    stack: Stack, service: str
) -> None:
    run = ["run", "--rm", "--no-deps", "--entrypoint", "python", service, "-c", WHO_AM_I]
    user, found = json.loads(stack.compose(*run))
    assert user >= 1000
    assert set(found) == PACKAGES[service]
