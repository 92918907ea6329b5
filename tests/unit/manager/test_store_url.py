"""The URL of a store, and the user that a PostgreSQL URL may leave out."""

import pwd
from pathlib import Path

import pytest

from skillq.errors import UsageError
from skillq.urls import ServerUrl
from skillq_manager.store.sql.store import SqlStore
from skillq_manager.store.url import parse_store_url

VARIABLES = ("LOGNAME", "USER", "LNAME", "USERNAME", "PGUSER")


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a name, as a container may have it."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_store_is_memory_a_file_or_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_store_url("memory://") is None
    assert parse_store_url("sqlite:///a%20b.db") == tmp_path / "a b.db"
    assert parse_store_url("sqlite:////var/a.db") == Path("/var/a.db")
    server = parse_store_url("postgresql://h/d")
    assert isinstance(server, ServerUrl)
    assert server.path == "/d"


def test_a_process_whose_user_has_no_name_needs_a_user_in_the_url(nameless: None) -> None:
    with pytest.raises(UsageError) as caught:
        SqlStore("postgresql://host/db")
    assert "it names no user, and the user of this process has no name" in str(caught.value)
    assert "write postgresql://user:password@host" in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql://u@host/db", "postgresql://host/db?user=u"])
def test_a_user_in_the_url_is_enough(nameless: None, url: str) -> None:
    SqlStore(url)


def test_a_user_in_a_variable_of_postgresql_is_enough(
    nameless: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGUSER", "u")
    SqlStore("postgresql://host/db")


def test_the_name_of_the_user_of_the_process_is_enough() -> None:
    SqlStore("postgresql://host/db")
