"""The manager's window: who may look, probes, metrics, and the server behind it."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from skillq import timings
from skillq.errors import UsageError
from skillq.messages import (
    MAX_MESSAGE_BYTES,
)
from skillq.transport.memory import MemoryBroker, MemoryTransport
from skillq_manager.web.app import create_app
from skillq_manager.web.server import serve
from tests.unit.manager.desk import TASKS, Desk, refused

# --- who may ---------------------------------------------------------------------------------


async def test_a_token_guards_the_api_and_leaves_probes_and_metrics_open() -> None:
    async with Desk(MemoryBroker(), token="geheim-ü").open() as desk:
        for given in ("Bearer wrong", "Basic geheim-ü", "Bearer ", ""):
            raw = {b"Authorization": given.encode()} if given else {}
            for path in ("runs", "summary", "tasks?limit=0"):
                response = await desk.http.get(f"/api/{path}", headers=raw)
                assert "Authorization: Bearer" in refused(response, 401)
                assert response.headers["www-authenticate"] == "Bearer"
            response = await desk.http.post("/api/tasks", json={}, headers=raw)
            refused(response, 401)
        right = {b"Authorization": "Bearer geheim-ü".encode()}
        assert (await desk.http.get("/api/summary", headers=right)).status_code == 200
        for path in ("/livez", "/readyz", "/metrics"):
            assert (await desk.http.get(path)).status_code == 200


async def test_an_empty_token_is_refused_instead_of_guarding_nothing(desk: Desk) -> None:
    with pytest.raises(UsageError, match=r"SKILLQ_API_TOKEN.*empty"):
        create_app(desk.manager, MemoryTransport(MemoryBroker()), SecretStr(""))


# --- probes, metrics, description ------------------------------------------------------------


async def test_it_is_ready_once_its_consumers_are_proven_live_and_not_before() -> None:
    desk = Desk(MemoryBroker())
    async with desk.http:
        line = refused(await desk.http.get("/readyz"), 503)
        assert "broker" in line
        assert (await desk.http.get("/livez")).status_code == 200
    async with Desk(MemoryBroker()).open() as desk:
        assert await desk.get("/readyz") == {"status": "ready"}


async def test_metrics_are_what_prometheus_reads_and_say_what_the_summary_says(desk: Desk) -> None:
    await desk.submit(*TASKS)
    junior = await desk.join("Junior", 3, slots=2)
    await desk.end(junior, "1", "succeeded")
    response = await desk.http.get("/metrics")
    families = {f.name: f for f in text_string_to_metric_families(response.text)}
    values = {(s.name, *s.labels.values()): s.value for f in families.values() for s in f.samples}
    assert values["skillq_tasks", "succeeded"] == 1
    assert values["skillq_tasks", "ready"] == values["skillq_ready_tasks",] == 2
    assert values["skillq_tasks_ended_total", "succeeded"] == 1
    assert values["skillq_workers", "connected"] == 1
    assert (values["skillq_slots", "busy"], values["skillq_slots", "free"]) == (0, 2)
    assert (values["skillq_runs", "open"], values["skillq_runs", "ended"]) == (1, 0)
    assert values["skillq_manager_ready",] == 1
    assert all(family.documentation for family in families.values())
    assert (values["skillq_manager_leader",], values["skillq_manager_blind",]) == (1, 0)
    assert values["skillq_dead_letters",] == 0
    assert len(values) < 40


async def test_messages_that_are_parked_now_are_in_the_metrics_as_far_as_the_broker_says(
    desk: Desk,
) -> None:
    async def gauge() -> float | None:
        found = (await desk.http.get("/metrics")).text.partition("\nskillq_dead_letters ")[2]
        return float(found.splitlines()[0]) if found else None

    await desk.stray()
    assert await gauge() == 1
    desk._manager_transport._open = False
    assert await gauge() is None
    desk._manager_transport._open = True


async def test_the_api_describes_itself_without_the_outside_world(desk: Desk) -> None:
    paths = (await desk.get("/openapi.json"))["paths"]
    assert {
        "/api/summary",
        "/api/runs",
        "/api/runs/{run}",
        "/api/tasks",
        "/api/tasks/{run}/{id}",
        "/api/tasks/{run}/{id}/explain",
        "/api/tasks/{run}/{id}/cancel",
        "/api/tasks/{run}/{id}/retry",
        "/api/tasks/retry",
        "/api/runs/{run}/cancel",
        "/api/dead",
        "/api/parked",
        "/api/parked/{message_id}",
        "/api/parked/{message_id}/retry",
        "/api/workers",
        "/livez",
        "/readyz",
        "/metrics",
    } == set(paths)
    body = paths["/api/tasks"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body["additionalProperties"] is False
    for page in ("/docs", "/redoc"):
        refused(await desk.http.get(page), 404)


async def test_the_body_in_the_description_refers_to_what_the_description_holds(desk: Desk) -> None:
    description = await desk.get("/openapi.json")
    references: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            references.extend(v for k, v in node.items() if k == "$ref")
        for child in node.values() if isinstance(node, dict) else node:
            if isinstance(child, dict | list):
                walk(child)

    walk(description)
    for reference in references:
        found = description
        for step in reference.removeprefix("#/").split("/"):
            found = found[step]


# --- the server ------------------------------------------------------------------------------


@dataclass
class Served:
    client: httpx.AsyncClient
    address: tuple[str, int]


@asynccontextmanager
async def served(desk: Desk) -> AsyncIterator[Served]:
    async with (
        serve(desk.app, "127.0.0.1", 0) as address,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{address[1]}") as client,
    ):
        yield Served(client, address)


async def elapsed(work: Awaitable[object]) -> float:
    started = asyncio.get_running_loop().time()
    await work
    return asyncio.get_running_loop().time() - started


async def test_it_serves_on_a_free_port_and_says_which(desk: Desk) -> None:
    async with served(desk) as http:
        assert http.address[0] == "127.0.0.1"
        assert http.address[1] > 0
        assert (await http.client.get("/livez")).json() == {"status": "live"}
        assert (await http.client.post("/api/tasks", json={"tasks": TASKS})).status_code == 201


async def test_a_body_over_the_limit_is_refused_over_the_wire_too(desk: Desk) -> None:
    async with served(desk) as http:
        body = b" " * (MAX_MESSAGE_BYTES + 1)
        headers = {"Content-Type": "application/json"}
        refused(await http.client.post("/api/tasks", content=body, headers=headers), 413)


async def test_a_port_in_use_is_one_line_that_names_the_option(desk: Desk) -> None:
    async with served(desk) as http:
        with pytest.raises(UsageError, match=r"^--http-port: \d+ on 127.0.0.1 is in use"):
            async with serve(desk.app, *http.address):
                pass


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "a" * 300])
async def test_a_foreign_host_is_one_line_that_names_the_option(desk: Desk, host: str) -> None:
    with pytest.raises(UsageError, match=r"^--http-host: .* is no address of this machine$"):
        async with serve(desk.app, host, 0):
            pass


async def test_open_connections_do_not_hold_up_its_end(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = asyncio.Event()

    async def ponder() -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(desk.store, "runs", ponder)
    serving = serve(desk.app, "127.0.0.1", 0)
    address = await serving.__aenter__()
    with socket.create_connection(address) as half, socket.create_connection(address):
        half.sendall(b"GET /livez HTTP/1.1\r\nHost:")
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{address[1]}")
        async with client:
            await client.get("/livez")  # kept alive
            asking = asyncio.create_task(client.get("/api/runs"))
            await reached.wait()
            assert (
                await elapsed(serving.__aexit__(None, None, None)) < 1.0 + timings.HTTP_END_SECONDS
            )
            with pytest.raises(httpx.TransportError):
                await asking


async def test_its_end_is_prompt_when_nobody_is_connected(desk: Desk) -> None:
    serving = serve(desk.app, "127.0.0.1", 0)
    await serving.__aenter__()
    assert await elapsed(serving.__aexit__(None, None, None)) < 1.0


async def test_signals_stay_with_the_process(desk: Desk) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with served(desk):
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
