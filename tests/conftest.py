"""The broker and the database of the tests, started before the first test's time runs, if one needs them."""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.broker import Broker, NoBroker, find_broker
from tests.postgres import NoPostgres, Postgres, find_postgres

POSTGRES = pytest.StashKey[Postgres | NoPostgres]()
BROKER = pytest.StashKey[Broker | NoBroker]()


def _needs_broker(item: pytest.Item) -> bool:
    fixtures = getattr(item, "fixturenames", ())
    return item.get_closest_marker("rabbitmq") is not None or "broker" in fixtures


def _needs_postgres(item: pytest.Item) -> bool:
    chosen = getattr(getattr(item, "callspec", None), "params", {}).values()
    return "postgresql" in chosen or "postgres" in getattr(item, "fixturenames", ())


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly:
        return
    if any(map(_needs_broker, session.items)):
        try:
            session.config.stash[BROKER] = find_broker()
        except NoBroker as error:
            session.config.stash[BROKER] = error
    if any(map(_needs_postgres, session.items)):
        try:
            session.config.stash[POSTGRES] = find_postgres()
        except NoPostgres as error:
            session.config.stash[POSTGRES] = error


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
