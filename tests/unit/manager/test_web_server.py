"""The HTTP API: the token, probes, metrics, the description and the server."""

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
from tests.support.manager_harness import TASKS, ApiHarness, error_line

# --- the token -------------------------------------------------------------------------------


async def test_a_token_guards_the_api_but_not_probes_and_metrics() -> None:
    async with ApiHarness(token="geheim-ü") as api:
        for given in ("Bearer wrong", "Basic geheim-ü", "Bearer ", ""):
            raw = {b"Authorization": given.encode()} if given else {}
            for path in ("runs", "summary", "tasks?limit=0"):
                response = await api.http.get(f"/api/{path}", headers=raw)
                assert "Authorization: Bearer" in error_line(response, 401)
                assert response.headers["www-authenticate"] == "Bearer"
            response = await api.http.post("/api/tasks", json={}, headers=raw)
            error_line(response, 401)
        right = {b"Authorization": "Bearer geheim-ü".encode()}
        assert (await api.http.get("/api/summary", headers=right)).status_code == 200
        for path in ("/livez", "/readyz", "/metrics"):
            assert (await api.http.get(path)).status_code == 200


async def test_an_empty_token_is_refused(api: ApiHarness) -> None:
    with pytest.raises(UsageError, match=r"SKILLQ_API_TOKEN.*empty"):
        create_app(api.manager, MemoryTransport(MemoryBroker()), SecretStr(""))


# --- probes, metrics, description ------------------------------------------------------------


async def test_the_api_is_ready_once_the_manager_is_ready_and_not_before() -> None:
    api = ApiHarness()
    async with api.http:
        line = error_line(await api.http.get("/readyz"), 503)
        assert "broker" in line
        assert (await api.http.get("/livez")).status_code == 200
    async with ApiHarness() as api:
        assert await api.get("/readyz") == {"status": "ready"}


async def test_metrics_are_readable_by_prometheus_and_agree_with_the_summary(
    api: ApiHarness,
) -> None:
    await api.submit(*TASKS)
    junior = await api.connect_fake_worker("Junior", 3, slots=2)
    await junior.end_attempt("1", "succeeded")
    response = await api.http.get("/metrics")
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


async def test_metrics_show_the_length_of_the_dead_letter_queue_while_the_broker_answers(
    api: ApiHarness,
) -> None:
    async def gauge() -> float | None:
        found = (await api.http.get("/metrics")).text.partition("\nskillq_dead_letters ")[2]
        return float(found.splitlines()[0]) if found else None

    await api.send_unreadable()
    assert await gauge() == 1
    api.manager_transport._open = False
    assert await gauge() is None
    api.manager_transport._open = True


async def test_the_api_describes_itself_without_external_pages(api: ApiHarness) -> None:
    paths = (await api.get("/openapi.json"))["paths"]
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
        error_line(await api.http.get(page), 404)


async def test_all_references_in_the_openapi_description_resolve(api: ApiHarness) -> None:
    description = await api.get("/openapi.json")
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
class RunningServer:
    client: httpx.AsyncClient
    address: tuple[str, int]


@asynccontextmanager
async def running_server(api: ApiHarness) -> AsyncIterator[RunningServer]:
    async with (
        serve(api.app, "127.0.0.1", 0) as address,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{address[1]}") as client,
    ):
        yield RunningServer(client, address)


async def elapsed(work: Awaitable[object]) -> float:
    started = asyncio.get_running_loop().time()
    await work
    return asyncio.get_running_loop().time() - started


async def test_the_server_listens_on_a_free_port_and_returns_its_address(api: ApiHarness) -> None:
    async with running_server(api) as server:
        assert server.address[0] == "127.0.0.1"
        assert server.address[1] > 0
        assert (await server.client.get("/livez")).json() == {"status": "live"}
        assert (await server.client.post("/api/tasks", json={"tasks": TASKS})).status_code == 201


async def test_a_body_over_the_limit_is_refused_by_the_real_server(api: ApiHarness) -> None:
    async with running_server(api) as server:
        body = b" " * (MAX_MESSAGE_BYTES + 1)
        headers = {"Content-Type": "application/json"}
        error_line(await server.client.post("/api/tasks", content=body, headers=headers), 413)


async def test_a_port_in_use_is_an_error_of_one_line_that_names_the_option(api: ApiHarness) -> None:
    async with running_server(api) as server:
        with pytest.raises(UsageError, match=r"^--http-port: \d+ on 127.0.0.1 is in use"):
            async with serve(api.app, *server.address):
                pass


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1", "a" * 300])
async def test_a_foreign_host_is_an_error_of_one_line_that_names_the_option(
    api: ApiHarness, host: str
) -> None:
    with pytest.raises(UsageError, match=r"^--http-host: .* is no address of this machine$"):
        async with serve(api.app, host, 0):
            pass


async def test_open_connections_do_not_delay_the_end_of_the_server(
    api: ApiHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = asyncio.Event()

    async def wait_for_ever() -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(api.store, "runs", wait_for_ever)
    serving = serve(api.app, "127.0.0.1", 0)
    address = await serving.__aenter__()
    with socket.create_connection(address) as half, socket.create_connection(address):
        half.sendall(b"GET /livez HTTP/1.1\r\nHost:")
        client = httpx.AsyncClient(base_url=f"http://127.0.0.1:{address[1]}")
        async with client:
            await client.get("/livez")  # kept alive
            request = asyncio.create_task(client.get("/api/runs"))
            await reached.wait()
            assert (
                await elapsed(serving.__aexit__(None, None, None)) < 1.0 + timings.HTTP_END_SECONDS
            )
            with pytest.raises(httpx.TransportError):
                await request


async def test_the_server_ends_promptly_when_nobody_is_connected(api: ApiHarness) -> None:
    serving = serve(api.app, "127.0.0.1", 0)
    await serving.__aenter__()
    assert await elapsed(serving.__aexit__(None, None, None)) < 1.0


async def test_the_server_leaves_signal_handlers_alone(api: ApiHarness) -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    async with running_server(api):
        assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
