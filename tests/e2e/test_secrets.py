"""Passwords with special characters work, and no process shows a part of them."""

from collections.abc import Iterator
from contextlib import ExitStack
from urllib.parse import quote, urlsplit

import pytest

from tests.e2e.processes import System, tasks_file, wait_for_result
from tests.support.broker import Broker
from tests.support.postgres import Postgres

PASSWORD = "Qx/7#k?[@:%\\ü&Z]"


@pytest.fixture
def broker_user(broker: Broker, system: System) -> Iterator[str]:
    """The URL of the vhost for a user whose password has special characters."""
    parts = urlsplit(system.broker_url)
    vhost = parts.path[1:]
    user = f"user/{vhost}"
    broker.request("PUT", f"/users/{quote(user, safe='')}", {"password": PASSWORD, "tags": ""})
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    broker.request("PUT", f"/permissions/{vhost}/{quote(user, safe='')}", everything)
    login = f"{quote(user, safe='')}:{quote(PASSWORD, safe='')}"
    yield f"amqp://{login}@{parts.hostname}:{parts.port}/{vhost}"
    broker.request("DELETE", f"/users/{quote(user, safe='')}")


def test_a_system_whose_passwords_have_special_characters_works_and_logs_no_part_of_them(
    system: System, broker_user: str, postgres: Postgres
) -> None:
    with ExitStack() as stack:
        parts = urlsplit(stack.enter_context(postgres.database_sync()))
        assert parts.password
        store = f"postgresql://{parts.username}@{parts.hostname}:{parts.port}{parts.path}"
        store_url = f"{store}?password={quote(parts.password, safe='')}"
        manager = system.start_manager(broker_url=broker_user, store_url=store_url)
        worker = system.start_worker("one", broker_url=broker_user)
        file = system.write_file("tasks.json", tasks_file(2))
        client = system.start_watching_submit(file, "--broker-url", broker_user)
        assert wait_for_result(client)["counts"] == {"succeeded": 2}
        [started] = manager.logged("started")
        assert started["store"] == store
        shown = manager.out + manager.err + worker.out + worker.err
    for text in (PASSWORD, quote(PASSWORD, safe=""), parts.password):
        assert [
            text[at : at + 4] for at in range(len(text) - 3) if text[at : at + 4] in shown
        ] == []
