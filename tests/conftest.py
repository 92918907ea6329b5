"""Start the broker and the database before the first test that needs one, and stop them at the end.

Under pytest-xdist the controller starts both servers once. Its workers find them by environment variables.
"""

import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lanes import selection
from tests.lanes.results import Recorder
from tests.support.broker import Broker, NoBroker, configured_broker, find_broker
from tests.support.postgres import NoPostgres, Postgres, configured_postgres, find_postgres

POSTGRES = pytest.StashKey[Postgres | NoPostgres]()
BROKER = pytest.StashKey[Broker | NoBroker]()
NO_BROKER, NO_POSTGRES = (
    "no_broker",
    "no_postgres",
)  # keys under which a worker gets the reason why a server is missing


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lanes")
    group.addoption("--lane", choices=selection.LANES, help="run the tests of this lane alone")
    group.addoption("--results", type=Path, metavar="FILE", help="write the results to this file")


def pytest_configure(config: pytest.Config) -> None:
    file: Path | None = config.option.results
    if file is not None and not selection.is_worker(config):
        config.pluginmanager.register(Recorder(file.open("w")))


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the markers
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    selection.arrange(config, items)


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    selection.check_groups(session.config, session.items)
    broker = any(map(selection.needs_broker, session.items))
    postgres = any(map(selection.needs_postgres, session.items))
    _find(session.config, broker=broker, postgres=postgres)


def _find(config: pytest.Config, *, broker: bool, postgres: bool) -> None:
    """Find or start the servers. Keep the error of a server that is missing for its fixture."""
    if broker:
        try:
            config.stash[BROKER] = _find_broker(config)
        except NoBroker as error:
            config.stash[BROKER] = error
    if postgres:
        try:
            config.stash[POSTGRES] = _find_postgres(config)
        except NoPostgres as error:
            config.stash[POSTGRES] = error


def _find_broker(config: pytest.Config) -> Broker:
    if not selection.is_worker(config):
        return find_broker()
    if reason := _workerinput(config).get(NO_BROKER):
        raise NoBroker(reason)
    return configured_broker()


def _find_postgres(config: pytest.Config) -> Postgres:
    if not selection.is_worker(config):
        return find_postgres()
    if reason := _workerinput(config).get(NO_POSTGRES):
        raise NoPostgres(reason)
    return configured_postgres()


def _workerinput(config: pytest.Config) -> dict[str, str]:
    given: dict[str, str] = config.workerinput  # type: ignore[attr-defined]
    return given


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Start the servers in the controller; the workers, its children, get its environment."""
    if not selection.may_need_servers(config.option.lane, config.args):
        return
    _find(config, broker=True, postgres=True)
    broker, postgres = config.stash[BROKER], config.stash[POSTGRES]
    if isinstance(broker, Broker):
        os.environ["SKILLQ_TEST_BROKER_URL"] = broker.url("/")
        os.environ["SKILLQ_TEST_MANAGEMENT_URL"] = broker.management
    if isinstance(postgres, Postgres):
        os.environ["SKILLQ_TEST_POSTGRES_URL"] = postgres.server_url


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Pass the reason for a missing server to a worker."""
    stash = node.config.stash
    for name, key in ((NO_BROKER, BROKER), (NO_POSTGRES, POSTGRES)):
        if isinstance(found := stash.get(key, None), Exception):
            node.workerinput[name] = str(found)


@pytest.hookimpl(trylast=True)  # after pytest-xdist has ended its workers
def pytest_sessionfinish(session: pytest.Session) -> None:
    stash = session.config.stash
    for started in (stash.get(BROKER, None), stash.get(POSTGRES, None)):
        if isinstance(started, Broker | Postgres):
            started.stop()


@pytest.fixture(scope="session")
def broker(pytestconfig: pytest.Config) -> Broker:
    """Return the broker of this test run. Tests do not restart it."""
    found = pytestconfig.stash[BROKER]
    if isinstance(found, NoBroker):
        pytest.fail(str(found), pytrace=False)
    return found


@pytest.fixture(scope="session")
def restartable(broker: Broker) -> Iterator[Broker]:
    """Yield a broker that tests may restart: the broker of this run, or another if that one is shared."""
    if broker.can_restart:
        yield broker
        return
    own = find_broker(restartable=True)
    yield own
    own.stop()


@pytest.fixture
def broker_url(broker: Broker) -> Iterator[str]:
    """Yield the URL of a new vhost."""
    with broker.vhost() as url:
        yield url


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> Postgres:
    """Return the PostgreSQL of this test run."""
    found = pytestconfig.stash[POSTGRES]
    if isinstance(found, NoPostgres):
        pytest.fail(str(found), pytrace=False)
    return found


@pytest.fixture
async def postgres_url(postgres: Postgres) -> AsyncIterator[str]:
    """Yield the URL of a new database."""
    async with postgres.database() as url:
        yield url


@pytest.fixture(autouse=True)
def no_asyncio_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test after which asyncio logs an error, such as an exception that was never retrieved."""
    yield
    errors = [
        record.getMessage()
        for when in ("setup", "call", "teardown")
        for record in caplog.get_records(when)
        if record.name == "asyncio" and record.levelno >= logging.ERROR
    ]
    assert not errors, errors
