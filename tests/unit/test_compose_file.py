"""The promises of docker-compose.yml that the file itself shows."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from skillq_manager.settings import ManagerSettings
from skillq_worker.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())[
    "services"
]
WORKERS = {"junior": 3, "intermediate": 6, "senior": 9}
OURS = ["manager", *WORKERS, "tutorial", "cli"]


@pytest.mark.parametrize("name", OURS)
def test_our_containers_have_no_capabilities_and_write_only_to_tmp_and_the_store(
    name: str,
) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    writable = [volume for volume in service.get("volumes", []) if not volume.endswith(":ro")]
    assert writable == (["manager:/var/lib/skillq"] if name == "manager" else [])


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_is_named_by_its_tier_and_its_container(name: str) -> None:
    environment = SERVICES[name]["environment"]
    assert environment["SKILLQ_NAME"] == f"{name.capitalize()}-{{host}}"
    assert environment["SKILLQ_SKILL"] == WORKERS[name]


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_has_more_time_to_stop_than_its_tasks_have(name: str) -> None:
    service = SERVICES[name]
    allowed = int(service["stop_grace_period"].removesuffix("s"))
    assert allowed >= service["environment"]["SKILLQ_GRACE"] + 10


@pytest.mark.parametrize("name", ["manager", *WORKERS])
def test_every_variable_of_a_service_is_a_known_setting(name: str) -> None:
    settings = ManagerSettings if name == "manager" else WorkerSettings
    known = {f"SKILLQ_{field.upper()}" for field in settings.model_fields}
    assert SERVICES[name]["environment"].keys() <= known


def test_ports_are_published_on_the_loopback_address_only() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_a_dependent_service_waits_until_the_other_is_healthy() -> None:
    for name, service in SERVICES.items():
        for other, condition in service.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}, name
            assert "healthcheck" in SERVICES[other], other
