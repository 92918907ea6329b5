"""The broker of the tests. It is started before the first test's time runs, and only if one needs it."""

import logging
from collections.abc import Iterator

import pytest

from tests.broker import Broker, NoBroker, find_broker

BROKER = pytest.StashKey[Broker | NoBroker]()


def _needs_broker(item: pytest.Item) -> bool:
    fixtures = getattr(item, "fixturenames", ())
    return item.get_closest_marker("rabbitmq") is not None or "broker" in fixtures


def pytest_collection_finish(session: pytest.Session) -> None:
    if session.config.option.collectonly or not any(map(_needs_broker, session.items)):
        return
    try:
        session.config.stash[BROKER] = find_broker()
    except NoBroker as error:
        session.config.stash[BROKER] = error


def pytest_sessionfinish(session: pytest.Session) -> None:
    broker = session.config.stash.get(BROKER, None)
    if isinstance(broker, Broker):
        broker.stop()


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
