"""The broker and the database of the tests, started before the first test's time runs, if one needs them.

Under pytest-xdist the controller starts them once, and its workers find them by their environment variables.
"""

import logging
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.broker import Broker, NoBroker, find_broker, given_broker
from tests.lanes import selection
from tests.lanes.results import Recorder
from tests.postgres import NoPostgres, Postgres, find_postgres, given_postgres

POSTGRES = pytest.StashKey[Postgres | NoPostgres]()
BROKER = pytest.StashKey[Broker | NoBroker]()
NO_BROKER, NO_POSTGRES = "no_broker", "no_postgres"  # what a worker gets instead of a server


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lanes")
    group.addoption("--lane", choices=selection.LANES, help="run the tests of this lane alone")
    group.addoption("--results", type=Path, metavar="FILE", help="write the results there")


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
    """Find the servers, or remember why there are none."""
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
    return given_broker()


def _find_postgres(config: pytest.Config) -> Postgres:
    if not selection.is_worker(config):
        return find_postgres()
    if reason := _workerinput(config).get(NO_POSTGRES):
        raise NoPostgres(reason)
    return given_postgres()


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
    """Tell a worker why there is no server."""
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
    """The broker of this run; tests do not restart it."""
    found = pytestconfig.stash[BROKER]
    if isinstance(found, NoBroker):
        pytest.fail(str(found), pytrace=False)
    return found


@pytest.fixture(scope="session")
def restartable(broker: Broker) -> Iterator[Broker]:
    """A broker that tests may restart: the one of this run, or another where that one is shared."""
    if broker.can_restart:
        yield broker
        return
    own = find_broker(restartable=True)
    yield own
    own.stop()


@pytest.fixture
def broker_url(broker: Broker) -> Iterator[str]:
    """The URL of a fresh vhost."""
    with broker.vhost() as url:
        yield url


@pytest.fixture(scope="session")
def postgres(pytestconfig: pytest.Config) -> Postgres:
    """The PostgreSQL of this run."""
    found = pytestconfig.stash[POSTGRES]
    if isinstance(found, NoPostgres):
        pytest.fail(str(found), pytrace=False)
    return found


@pytest.fixture
async def postgres_url(postgres: Postgres) -> AsyncIterator[str]:
    """The URL of a fresh database."""
    async with postgres.database() as url:
        yield url


@pytest.fixture(autouse=True)
def nothing_lost_in_the_loop(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Fail a test after which asyncio complains, as of an exception that nobody retrieved."""
    yield
    lost = [
        record.getMessage()
        for when in ("setup", "call", "teardown")
        for record in caplog.get_records(when)
        if record.name == "asyncio" and record.levelno >= logging.ERROR
    ]
    assert not lost, lost
