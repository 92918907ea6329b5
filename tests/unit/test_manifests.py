"""The promises of k8s/, tested on the output of `kubectl kustomize`."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from skillq_manager.settings import ManagerSettings
from skillq_worker.settings import WorkerSettings

pytestmark = pytest.mark.timeout(300)  # the first run on a machine may install kubectl

ROOT = Path(__file__).parents[2]
TIERS = {"worker-junior": 3, "worker-intermediate": 6, "worker-senior": 9}
FOLDERS_AS_RESOURCES = 21  # the minor version of kubectl that first takes a folder as a resource

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def manifests(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    return _build("dev", tmp_path_factory.mktemp("k8s"))


@pytest.fixture(scope="module")
def highly_available(tmp_path_factory: pytest.TempPathFactory) -> list[Manifest]:
    return _build("ha", tmp_path_factory.mktemp("k8s"))


def _build(name: str, folder: Path) -> list[Manifest]:
    tree = shutil.copytree(ROOT / "k8s", folder, dirs_exist_ok=True)
    overlay = tree / "overlays" / name
    kubectl = _kubectl()
    if _minor_version(kubectl) < FOLDERS_AS_RESOURCES:
        _use_old_field_names(overlay / "kustomization.yaml")
    return [m for m in yaml.safe_load_all(_output(kubectl, "kustomize", str(overlay))) if m]


def _kubectl() -> str:
    if not shutil.which("kubectl"):
        if os.geteuid() != 0 or not shutil.which("apt-get"):
            pytest.fail("kubectl is missing: install it (Debian: kubernetes-client)", pytrace=False)
        _output("apt-get", "update", "-q")
        _output("apt-get", "install", "-yq", "--no-install-recommends", "kubernetes-client")
    return shutil.which("kubectl") or pytest.fail("kubectl was installed and is not on the path")


def _output(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def _minor_version(kubectl: str) -> int:
    client = yaml.safe_load(_output(kubectl, "version", "--client", "-o", "json"))["clientVersion"]
    return int(client["minor"].rstrip("+"))


def _use_old_field_names(file: Path) -> None:
    """Rename fields for kubectl 1.20 of Debian 12: `bases`, `patchesStrategicMerge`."""
    kustomization = yaml.safe_load(file.read_text())
    folders = [r for r in kustomization["resources"] if not r.endswith(".yaml")]
    kustomization["bases"] = folders
    kustomization["resources"] = [r for r in kustomization["resources"] if r not in folders]
    patches = kustomization.pop("patches", [])
    kustomization["patchesStrategicMerge"] = [patch["path"] for patch in patches]
    file.write_text(yaml.safe_dump(kustomization))


def of_kind(manifests: list[Manifest], *kinds: str) -> dict[str, Manifest]:
    return {m["metadata"]["name"]: m for m in manifests if m["kind"] in kinds}


def workloads(manifests: list[Manifest]) -> dict[str, Manifest]:
    return of_kind(manifests, "Deployment", "StatefulSet", "Job")


def pod(workload: Manifest) -> Manifest:
    spec: Manifest = workload["spec"]["template"]["spec"]
    return spec


def containers(workload: Manifest) -> list[Manifest]:
    spec = pod(workload)
    return [*spec.get("initContainers", []), *spec["containers"]]


def services_of_ours(manifests: list[Manifest]) -> dict[str, Manifest]:
    return {
        name: w
        for name, w in of_kind(manifests, "Deployment").items()
        if name in {"manager", *TIERS}
    }


def config(manifests: list[Manifest]) -> dict[str, str]:
    (found,) = (m["data"] for m in manifests if m["kind"] == "ConfigMap")
    return dict(found)


def environment(manifests: list[Manifest], workload: Manifest) -> dict[str, str]:
    """Return the environment of the first container."""
    (main, *_) = pod(workload)["containers"]
    shared = config(manifests) if "envFrom" in main else {}
    return shared | {e["name"]: e.get("value", "from a secret") for e in main.get("env", [])}


def secret_paths(workload: Manifest) -> Iterator[str]:
    spec = pod(workload)
    mounts = {m["name"]: m for m in spec["containers"][0].get("volumeMounts", [])}
    for volume in spec.get("volumes", []):
        for item in volume.get("secret", {}).get("items", []):
            yield f"{mounts[volume['name']]['mountPath']}/{item['path']}"


def test_every_object_is_strictly_valid_for_the_newest_kubernetes(
    manifests: list[Manifest], highly_available: list[Manifest]
) -> None:
    newest = kubernetes_validate.latest_version()
    for manifest in [*manifests, *highly_available]:
        kubernetes_validate.validate(manifest, newest, strict=True)


def test_every_pod_passes_the_restricted_pod_security_standard(manifests: list[Manifest]) -> None:
    for name, workload in workloads(manifests).items():
        context = pod(workload)["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["runAsUser"] > 0, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in containers(workload):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
    (namespace,) = of_kind(manifests, "Namespace").values()
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_no_pod_gets_a_token_of_the_kubernetes_api(manifests: list[Manifest]) -> None:
    for name, workload in workloads(manifests).items():
        assert pod(workload)["automountServiceAccountToken"] is False, name
    for name, account in of_kind(manifests, "ServiceAccount").items():
        assert account["automountServiceAccountToken"] is False, name


def test_every_container_has_requests_and_limits(manifests: list[Manifest]) -> None:
    for name, workload in workloads(manifests).items():
        for container in containers(workload):
            assert container["resources"].keys() == {"requests", "limits"}, name
            for amounts in container["resources"].values():
                assert amounts.keys() == {"cpu", "memory"}, name


def test_the_probes_of_manager_and_workers_use_the_ports_they_listen_on(
    manifests: list[Manifest],
) -> None:
    for name, workload in services_of_ours(manifests).items():
        (container,) = pod(workload)["containers"]
        (port,) = container["ports"]
        setting = "SKILLQ_HTTP_PORT" if name == "manager" else "SKILLQ_HEALTH_PORT"
        assert environment(manifests, workload)[setting] == str(port["containerPort"]), name
        for probe, path in {"livenessProbe": "/livez", "readinessProbe": "/readyz"}.items():
            assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}, name


def test_a_pod_has_more_time_to_stop_than_its_tasks_have(manifests: list[Manifest]) -> None:
    grace = int(config(manifests)["SKILLQ_GRACE"])
    for name, workload in services_of_ours(manifests).items():
        assert pod(workload)["terminationGracePeriodSeconds"] >= grace + 10, name


def test_there_is_a_tier_of_workers_for_each_skill_of_the_tutorial(
    manifests: list[Manifest],
) -> None:
    found = services_of_ours(manifests)
    skills = {name: int(environment(manifests, found[name])["SKILLQ_SKILL"]) for name in TIERS}
    assert skills == TIERS


def test_the_tiers_differ_only_in_name_label_and_skill(manifests: list[Manifest]) -> None:
    found = services_of_ours(manifests)
    normalised = [
        yaml.safe_dump(found[name])
        .replace(name, "worker-tier")
        .replace(name.removeprefix("worker-"), "tier")
        .replace(f"value: '{skill}'", "value: skill")
        .replace(f'value: "{skill}"', "value: skill")
        for name, skill in TIERS.items()
    ]
    assert normalised[0] == normalised[1] == normalised[2]


def test_replicas_of_a_worker_have_names_of_their_own(manifests: list[Manifest]) -> None:
    for name in TIERS:
        worker = services_of_ours(manifests)[name]
        assert "SKILLQ_NAME" not in environment(manifests, worker), name
        assert "hostname" not in pod(worker), name


def test_only_one_manager_at_a_time_uses_the_store_file(manifests: list[Manifest]) -> None:
    manager = services_of_ours(manifests)["manager"]
    assert manager["spec"]["replicas"] == 1
    assert manager["spec"]["strategy"] == {"type": "Recreate"}


def store(manager: Manifest) -> Manifest:
    """Return the volume of the manager's store, with its folder in the container."""
    (container,) = pod(manager)["containers"]
    (mount,) = (m for m in container["volumeMounts"] if m["name"] == "store")
    (volume,) = (v for v in pod(manager)["volumes"] if v["name"] == "store")
    found: Manifest = {"folder": mount["mountPath"]} | volume
    return found


def test_the_store_file_of_the_manager_outlives_its_pod(manifests: list[Manifest]) -> None:
    manager = services_of_ours(manifests)["manager"]
    store_volume = store(manager)
    file = environment(manifests, manager)["SKILLQ_STORE_URL"].removeprefix("sqlite:///")
    assert Path(file).parent == Path(store_volume["folder"])
    claim = of_kind(manifests, "PersistentVolumeClaim")[
        store_volume["persistentVolumeClaim"]["claimName"]
    ]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]


def test_two_managers_share_a_database_and_no_file(highly_available: list[Manifest]) -> None:
    manager = services_of_ours(highly_available)["manager"]
    assert manager["spec"]["replicas"] == 2
    assert manager["spec"]["strategy"]["type"] == "RollingUpdate"
    variables = environment(highly_available, manager)
    assert "SKILLQ_STORE_URL" not in variables
    assert variables["SKILLQ_STORE_URL_FILE"] in set(secret_paths(manager))
    assert "store" not in {volume["name"] for volume in pod(manager)["volumes"]}
    assert not of_kind(highly_available, "PersistentVolumeClaim")
    (budget,) = of_kind(highly_available, "PodDisruptionBudget").values()
    labels = manager["spec"]["template"]["metadata"]["labels"]
    assert budget["spec"]["selector"]["matchLabels"] == labels
    assert budget["spec"]["maxUnavailable"] == 1


def test_secrets_reach_our_processes_as_files_only(
    manifests: list[Manifest], highly_available: list[Manifest]
) -> None:
    for overlay in (manifests, highly_available):
        _check_secrets(overlay)


def _check_secrets(manifests: list[Manifest]) -> None:
    for name, workload in workloads(manifests).items():
        if name == "rabbitmq":  # its image reads no files
            continue
        variables = environment(manifests, workload)
        named = {v for k, v in variables.items() if k.endswith("_FILE")}
        assert named == set(secret_paths(workload)), name
        assert "from a secret" not in variables.values(), name
        assert not {"SKILLQ_BROKER_URL", "SKILLQ_API_TOKEN"} & variables.keys(), name


def test_every_variable_of_a_service_is_a_known_setting(manifests: list[Manifest]) -> None:
    fields = {*ManagerSettings.model_fields, *WorkerSettings.model_fields}
    settings = {f"SKILLQ_{field.upper()}" for field in fields}
    for name, workload in services_of_ours(manifests).items():
        used = {v.removesuffix("_FILE") for v in environment(manifests, workload)}
        assert used <= settings, name


def test_a_service_selects_only_the_pods_of_its_name(
    manifests: list[Manifest],
) -> None:
    for name, service in of_kind(manifests, "Service").items():
        selected = {
            w["metadata"]["name"]
            for w in workloads(manifests).values()
            if service["spec"]["selector"].items()
            <= w["spec"]["template"]["metadata"]["labels"].items()
        }
        assert selected == {name}


def test_the_tutorial_waits_for_a_worker_of_each_tier(manifests: list[Manifest]) -> None:
    assert int(config(manifests)["SKILLQ_EXPECTED_WORKERS"]) == len(TIERS)
    (job,) = of_kind(manifests, "Job").values()
    (submit,) = pod(job)["containers"]
    assert submit["args"][:2] == ["submit", "examples/tutorial.yaml"]
    assert (ROOT / submit["args"][1]).is_file()
