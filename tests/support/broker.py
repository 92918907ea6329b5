"""Find, start or install a RabbitMQ for the tests.

The sources are tried in this order, or only the source that SKILLQ_TEST_BROKER names:

| `url` | SKILLQ_TEST_BROKER_URL; its management API at SKILLQ_TEST_MANAGEMENT_URL or port 15672 |
| `installed` | the machine's own `rabbitmq-server`, as a private node on free ports |
| `docker` | a container of SKILLQ_TEST_BROKER_IMAGE (rabbitmq:4-management) |
| `apt` | Debian's package, installed first (as root), then as `installed` |
"""

import base64
import json
import os
import shutil
import socket
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit
from uuid import uuid4

from tests.support.ports import free_ports
from tests.support.waiting import NotInTime, until

START_SECONDS = 120.0
# Wait for the lock: another installation may run at the same time, such as that of a container engine.
APT_INSTALL = (
    *("apt-get", "-o", "DPkg::Lock::Timeout=300", "install"),
    *("-y", "-qq", "--no-install-recommends"),
)
POLICY = Path("/usr/sbin/policy-rc.d")
REMEDY = (
    "set SKILLQ_TEST_BROKER_URL to a RabbitMQ with the management plugin, "
    "or install rabbitmq-server, or start a Docker engine"
)


class NoBroker(Exception):
    """Raised when a source has no broker. The message is one line with the reason."""


class Node(Protocol):
    """The process or container of a broker that the tests have started."""

    def restart(self) -> None: ...

    def stop(self) -> None: ...


class Broker:
    """A running RabbitMQ, controlled through its management API."""

    def __init__(self, url: str, management: str, node: Node | None = None) -> None:
        parts = urlsplit(url)
        self.user, self._password = parts.username or "guest", parts.password or "guest"
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 5672
        self._scheme = parts.scheme
        self._management = management.rstrip("/")
        self._node = node

    @property
    def management(self) -> str:
        """Return the URL of the management API."""
        return self._management

    def url(self, vhost: str) -> str:
        credentials = f"{quote(self.user, safe='')}:{quote(self._password, safe='')}"
        return f"{self._scheme}://{credentials}@{self.host}:{self.port}/{quote(vhost, safe='')}"

    @contextmanager
    def vhost(self) -> Iterator[str]:
        """Create a vhost, yield its URL, and delete the vhost with its contents afterwards."""
        name = f"test-{uuid4().hex[:12]}"
        self._create_vhost(name)
        try:
            yield self.url(name)
        finally:
            self.request("DELETE", f"/vhosts/{name}")

    def recreate_vhost(self, url: str) -> None:
        """Delete all contents of a vhost: its connections, exchanges, queues and messages."""
        name = urlsplit(url).path[1:]
        self.request("DELETE", f"/vhosts/{name}")
        self._create_vhost(name)

    def _create_vhost(self, vhost: str) -> None:
        self.request("PUT", f"/vhosts/{vhost}", {})
        all_permissions = {"configure": ".*", "write": ".*", "read": ".*"}
        self.request("PUT", f"/permissions/{vhost}/{quote(self.user, safe='')}", all_permissions)

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Send a request to the management API and return the decoded reply."""
        credentials = base64.b64encode(f"{self.user}:{self._password}".encode()).decode()
        request = urllib.request.Request(
            f"{self._management}/api{path}",
            None if body is None else json.dumps(body).encode(),
            {"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            text = reply.read()
        return json.loads(text) if text else None

    def connections(self, url: str) -> dict[str, str]:
        """Return the open connections of a vhost: the broker's name of each, and the client's name for it."""
        vhost = urlsplit(url).path[1:]
        return {
            connection["name"]: connection.get("client_properties", {}).get("connection_name", "")
            for connection in self.request("GET", "/connections")
            if connection.get("vhost") == vhost
        }

    def close_connection(self, name: str) -> None:
        self.request("DELETE", f"/connections/{quote(name, safe='')}")

    @property
    def can_restart(self) -> bool:
        return self._node is not None

    def restart(self) -> None:
        assert self._node is not None, "only a broker that the tests started can be restarted"
        self._node.restart()
        self.wait_until_up()

    def stop(self) -> None:
        if self._node is not None:
            self._node.stop()

    def wait_until_up(self) -> None:
        try:
            until(self._is_up, f"the broker at {self.host}:{self.port} should start", START_SECONDS)
        except NotInTime as error:
            raise NoBroker(str(error)) from error

    def _is_up(self) -> bool:
        with suppress(OSError):
            socket.create_connection((self.host, self.port), timeout=5).close()
            # Right after its start, the broker sends an empty reply.
            return bool(self.request("GET", "/overview").get("rabbitmq_version"))
        return False


# --- the machine's rabbitmq-server, as a private node ------------------------------------------


def _server_path() -> str | None:
    # Debian's wrapper on the PATH changes the user, who cannot write to our directories.
    direct = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    return str(direct) if direct.exists() else shutil.which("rabbitmq-server")


class PrivateNode:
    """A RabbitMQ node with its own name, ports, cookie, data and epmd."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._home = Path(tempfile.mkdtemp(prefix="skillq-broker-"))
        self.amqp, self.management, dist, self._epmd_port = free_ports(4)
        self._log = (self._home / "console.log").open("wb")
        config = self._home / "rabbitmq.conf"
        config.write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self.amqp}\n"
            f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {self.management}\n"
            "collect_statistics_interval = 1000\n"
        )
        plugins = self._home / "enabled_plugins"
        plugins.write_text("[rabbitmq_management].\n")
        self._environment = os.environ | {
            "HOME": str(self._home),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"skillq-test-{self.amqp}@localhost",
            "RABBITMQ_DIST_PORT": str(dist),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_CONF_ENV_FILE": str(self._home / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
            "RABBITMQ_MNESIA_BASE": str(self._home / "data"),
            "RABBITMQ_LOG_BASE": str(self._home / "log"),
            "ERL_CRASH_DUMP": str(self._home / "erl_crash.dump"),
        }
        self._epmd = self._run([shutil.which("epmd") or "epmd", "-port", str(self._epmd_port)])
        self._process = self._run([server])

    def _run(self, command: list[str]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def restart(self) -> None:
        self._end(self._process)
        self._process = self._run([self._server])

    def stop(self) -> None:
        self._end(self._process)
        self._end(self._epmd)
        self._log.close()
        shutil.rmtree(self._home, ignore_errors=True)

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _installed() -> Broker:
    server = _server_path()
    if server is None:
        raise NoBroker("rabbitmq-server is not installed")
    node = PrivateNode(server)
    url = f"amqp://guest:guest@127.0.0.1:{node.amqp}"
    return _wait_or_stop(Broker(url, f"http://127.0.0.1:{node.management}", node))


def _wait_or_stop(broker: Broker) -> Broker:
    try:
        broker.wait_until_up()
    except BaseException:
        broker.stop()
        raise
    return broker


# --- Docker ------------------------------------------------------------------------------------


class ContainerNode:
    """A RabbitMQ container that keeps its ports when it is restarted."""

    def __init__(self, image: str) -> None:
        # Imported here because the import is slow and seldom needed.
        from testcontainers.core.container import DockerContainer  # noqa: PLC0415
        from testcontainers.core.wait_strategies import LogMessageWaitStrategy  # noqa: PLC0415

        self.amqp, self.management = free_ports(2)
        self._container = (
            DockerContainer(image)
            .with_env(
                "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-rabbit collect_statistics_interval 1000"
            )
            .waiting_for(LogMessageWaitStrategy("Server startup complete"))
        )
        # The annotation of `ports` does not allow an address, though Docker does.
        bound: dict[Any, Any] = self._container.ports
        bound |= {
            5672: ("127.0.0.1", self.amqp),
            15672: ("127.0.0.1", self.management),
        }
        self._container.start()

    def restart(self) -> None:
        self._container.get_wrapped_container().restart()

    def stop(self) -> None:
        self._container.stop()


def _docker() -> Broker:
    image = os.environ.get("SKILLQ_TEST_BROKER_IMAGE", "rabbitmq:4-management")
    if shutil.which("docker") is None and "DOCKER_HOST" not in os.environ:
        raise NoBroker("there is no Docker")
    try:
        node = ContainerNode(image)
    except Exception as error:
        raise NoBroker(f"Docker does not start {image}: {error}") from error
    url = f"amqp://guest:guest@127.0.0.1:{node.amqp}"
    return _wait_or_stop(Broker(url, f"http://127.0.0.1:{node.management}", node))


# --- a configured broker, and a broker from Debian ---------------------------------------------


def configured_broker() -> Broker:
    """Return the broker that SKILLQ_TEST_BROKER_URL names.

    Raises:
        NoBroker: if the variable is not set, or its management API does not answer.
    """
    url = os.environ.get("SKILLQ_TEST_BROKER_URL")
    if not url:
        raise NoBroker("SKILLQ_TEST_BROKER_URL is not set")
    management = os.environ.get("SKILLQ_TEST_MANAGEMENT_URL")
    management = management or f"http://{urlsplit(url).hostname}:15672"
    broker = Broker(url, management)
    try:
        broker.request("GET", "/overview")
    except OSError as error:
        raise NoBroker(
            f"no management API at {management} ({error}): the tests make vhosts through it; "
            "set SKILLQ_TEST_MANAGEMENT_URL"
        ) from error
    return broker


def _from_apt() -> Broker:
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise NoBroker("apt-get needs a Debian system and root")
    with no_services_started():
        install = [*APT_INSTALL, "rabbitmq-server"]
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        if subprocess.run(install, env=environment, capture_output=True, check=False).returncode:
            subprocess.run(["apt-get", "update", "-qq"], capture_output=True, check=False)
            done = subprocess.run(
                install, env=environment, capture_output=True, check=False, text=True
            )
            if done.returncode:
                raise NoBroker(f"apt-get install rabbitmq-server: {done.stderr.strip()[-200:]}")
    return _installed()


@contextmanager
def no_services_started() -> Iterator[None]:
    """Keep Debian from starting the installed service as a system service."""
    before = POLICY.read_bytes() if POLICY.exists() else None
    mode = POLICY.stat().st_mode if before is not None else 0
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink()
        if before is not None:
            POLICY.write_bytes(before)
            POLICY.chmod(mode)


SOURCES: dict[str, Callable[[], Broker]] = {
    "url": configured_broker,
    "installed": _installed,
    "docker": _docker,
    "apt": _from_apt,
}


def find_broker(*, restartable: bool = False) -> Broker:
    """Find or start a broker; `restartable` excludes the configured broker, which the tests cannot restart.

    Raises:
        NoBroker: if no source has one. The message names the sources and the remedy.
    """
    forced = os.environ.get("SKILLQ_TEST_BROKER")
    if forced is not None and forced not in SOURCES:
        raise NoBroker(f"SKILLQ_TEST_BROKER={forced}: choose one of {', '.join(SOURCES)}")
    names = [forced] if forced else list(SOURCES)
    if restartable:
        names = [name for name in names if name != "url"] or [*SOURCES][1:]
    elif not forced and os.environ.get("SKILLQ_TEST_BROKER_URL"):
        names = ["url"]
    failures = []
    for name in names:
        try:
            return SOURCES[name]()
        except NoBroker as error:
            failures.append(f"{name}: {error}")
    raise NoBroker(f"no RabbitMQ for the tests ({'; '.join(failures)}); {REMEDY}")
