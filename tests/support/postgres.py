"""Find, start or install a PostgreSQL for the tests.

The sources are tried in this order, or only the source that SKILLQ_TEST_POSTGRES names:

| `url` | SKILLQ_TEST_POSTGRES_URL, whose user may create databases |
| `installed` | the machine's own server, as a private one on a free port |
| `docker` | a container of SKILLQ_TEST_POSTGRES_IMAGE (postgres:17) |
| `apt` | Debian's package, installed first (as root), then as `installed` |
"""

import asyncio
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg  # type: ignore[import-untyped]

from tests.support.broker import APT_INSTALL, no_services_started
from tests.support.ports import free_ports

START_SECONDS = 60.0
USER, PASSWORD = "skillq", "secret"
REMEDY = (
    "set SKILLQ_TEST_POSTGRES_URL to a PostgreSQL whose user may create databases, "
    "or install postgresql, or start a Docker engine"
)


class NoPostgres(Exception):
    """Raised when a source has no PostgreSQL. The message is one line with the reason."""


class Server(Protocol):
    """The process or container of a PostgreSQL that the tests have started."""

    def stop(self) -> None: ...


class Postgres:
    """A running PostgreSQL."""

    def __init__(self, url: str, server: Server | None = None) -> None:
        self._url = url
        self._server = server

    @property
    def server_url(self) -> str:
        """Return the URL under which databases are created."""
        return self._url

    def url(self, database: str) -> str:
        return urlsplit(self._url)._replace(path=f"/{database}").geturl()

    @asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """Create a database, yield its URL, and drop the database afterwards."""
        name = f"test_{uuid4().hex[:12]}"
        await self.execute(f'CREATE DATABASE "{name}"')
        try:
            yield self.url(name)
        finally:
            await self.execute(f'DROP DATABASE "{name}" WITH (FORCE)')

    @contextmanager
    def database_sync(self) -> Iterator[str]:
        """Do the same as `database` outside of an event loop."""
        name = f"test_{uuid4().hex[:12]}"
        asyncio.run(self.execute(f'CREATE DATABASE "{name}"'))
        try:
            yield self.url(name)
        finally:
            asyncio.run(self.execute(f'DROP DATABASE "{name}" WITH (FORCE)'))

    async def execute(self, statement: str) -> None:
        connection: Any = await asyncpg.connect(self._url, timeout=10)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                asyncio.run(self.execute("SELECT 1"))
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                if time.monotonic() > deadline:
                    raise NoPostgres(
                        f"it did not start in {START_SECONDS:.0f} s: {error}"
                    ) from error
                time.sleep(0.1)
            else:
                return

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop()


def _wait_or_stop(postgres: Postgres) -> Postgres:
    try:
        postgres.wait_until_up()
    except BaseException:
        postgres.stop()
        raise
    return postgres


# --- the machine's server, as a private cluster -----------------------------------------------


def server_programs() -> Path | None:
    # Debian does not put the programs on the PATH. Each release has a folder.
    releases = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    newest = max(releases, key=lambda path: float(path.parts[-3]), default=None)
    if newest is not None:
        return newest.parent
    found = shutil.which("postgres")
    return None if found is None else Path(found).parent


class PrivateServer:
    """A PostgreSQL cluster with its own port, password and data.

    PostgreSQL refuses to run as root. For root it is started as another user.
    """

    def __init__(self, programs: Path, *, durable: bool) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="skillq-postgres-"))
        (self.port,) = free_ports(1)
        self._log = (self._home / "console.log").open("wb")
        self._user = _unprivileged_user()
        password = self._home / "password"
        password.write_text(f"{PASSWORD}\n")
        for path in (self._home, password):
            if self._user is not None:
                shutil.chown(path, self._user)
        data = self._home / "data"
        options = ["--encoding=UTF8", "--locale=C.UTF-8", "--auth=scram-sha-256", "--no-sync"]
        options += [f"--username={USER}", f"--pwfile={password}"]
        exit_status = self._run([programs / "initdb", f"--pgdata={data}", *options]).wait()
        if exit_status:
            raise NoPostgres(f"initdb: {self._last_line()}")
        parameters = {
            "listen_addresses": "127.0.0.1",
            "port": str(self.port),
            "unix_socket_directories": "",
            "fsync": "on" if durable else "off",  # the tests kill clients, never the server
        }
        settings = [
            word for name, value in parameters.items() for word in ("-c", f"{name}={value}")
        ]
        self._process = self._run([programs / "postgres", "-D", data, *settings])

    def _run(self, command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            cwd=self._home,
            user=self._user,
            extra_groups=None if self._user is None else [],
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _last_line(self) -> str:
        lines = (self._home / "console.log").read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "no reason given")

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        shutil.rmtree(self._home, ignore_errors=True)


def _unprivileged_user() -> str | None:
    if os.geteuid() != 0:
        return None
    users = {entry.pw_name for entry in pwd.getpwall()}
    return next((name for name in ("postgres", "nobody") if name in users), None)


def _installed(durable: bool) -> Postgres:
    programs = server_programs()
    if programs is None:
        raise NoPostgres("no server is installed")
    server = PrivateServer(programs, durable=durable)
    return _wait_or_stop(
        Postgres(f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{server.port}/postgres", server)
    )


# --- Docker, a configured server, and one from Debian --------------------------------------------


def _docker(durable: bool) -> Postgres:
    image = os.environ.get("SKILLQ_TEST_POSTGRES_IMAGE", "postgres:17")
    if shutil.which("docker") is None and "DOCKER_HOST" not in os.environ:
        raise NoPostgres("there is no Docker")
    # Imported here because the import is slow and seldom needed.
    from testcontainers.core.container import DockerContainer  # noqa: PLC0415

    (port,) = free_ports(1)
    container = DockerContainer(image).with_env("POSTGRES_USER", USER)
    container.with_env("POSTGRES_PASSWORD", PASSWORD)
    bound: dict[Any, Any] = container.ports
    bound[5432] = ("127.0.0.1", port)
    try:
        container.start()
    except Exception as error:
        raise NoPostgres(f"Docker does not start {image}: {error}") from error
    url = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{port}/postgres"
    return _wait_or_stop(Postgres(url, container))


def configured_postgres() -> Postgres:
    """Return the PostgreSQL that SKILLQ_TEST_POSTGRES_URL names.

    Raises:
        NoPostgres: if the variable is not set, or nothing answers there.
    """
    url = os.environ.get("SKILLQ_TEST_POSTGRES_URL")
    if not url:
        raise NoPostgres("SKILLQ_TEST_POSTGRES_URL is not set")
    return _wait_or_stop(Postgres(url))


def _from_apt(durable: bool) -> Postgres:
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        raise NoPostgres("apt-get needs a Debian system and root")
    install = [*APT_INSTALL, "postgresql"]
    with no_services_started():
        failure = _apt(install)
        if failure:
            _apt(["apt-get", "update", "-qq"])
            failure = _apt(install)
    if failure:
        raise NoPostgres(f"apt-get install postgresql: {failure[-200:]}")
    return _installed(durable)


def _apt(command: list[str]) -> str:
    """Run a command; return its error, or an empty text."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    done = subprocess.run(command, env=environment, capture_output=True, check=False, text=True)
    return (done.stderr.strip() or "failed") if done.returncode else ""


SOURCES: dict[str, Callable[[bool], Postgres]] = {
    "url": lambda durable: configured_postgres(),
    "installed": _installed,
    "docker": _docker,
    "apt": _from_apt,
}


def find_postgres(*, durable: bool = False) -> Postgres:
    """Find or start a PostgreSQL; a started server that is `durable` survives a crash of the machine.

    Raises:
        NoPostgres: if no source has one. The message names the sources and the remedy.
    """
    forced = os.environ.get("SKILLQ_TEST_POSTGRES")
    if forced is not None and forced not in SOURCES:
        raise NoPostgres(f"SKILLQ_TEST_POSTGRES={forced}: choose one of {', '.join(SOURCES)}")
    if not forced and os.environ.get("SKILLQ_TEST_POSTGRES_URL"):
        forced = "url"
    failures = []
    for name in [forced] if forced else list(SOURCES):
        try:
            return SOURCES[name](durable)
        except NoPostgres as error:
            failures.append(f"{name}: {error}")
    raise NoPostgres(f"no PostgreSQL for the tests ({'; '.join(failures)}); {REMEDY}")
