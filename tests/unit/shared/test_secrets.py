"""No part of a password is shown, however its URL is written."""

import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skillq.errors import UsageError
from skillq.runtime.settings import Environment, Settings, load_settings
from skillq.transport.rabbitmq.url import BrokerAddress
from skillq.urls import BROKER, HTTP, POSTGRESQL, ServerUrl, UrlError, UrlKind, display_url
from skillq_cli.settings import ApiSettings
from skillq_manager.settings import ManagerSettings
from skillq_manager.store.sql.store import SqlStore

ENCODE = "a character of the password has to be written as %XX"
WINDOW = 4  # so many characters in a row of a password are a part of it
RAW = [*"/#?[]\\@ \n\t\x00", "://", "\ud800"]
SETTINGS: dict[str, tuple[str, type[Environment]]] = {
    "amqp": ("broker_url", Settings),
    "postgresql": ("store_url", ManagerSettings),
    "http": ("api_url", ApiSettings),
}
EACH_ERROR = "%XX (/ as %2F, ? %3F, # %23, @ %40, & %26); ://user@host:5672/v :5432/ 65535"
KINDS = {"amqp": BROKER, "postgresql": POSTGRESQL, "http": HTTP}


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BROKER_URL", "STORE_URL", "API_URL"):
        monkeypatch.delenv(f"SKILLQ_{name}", raising=False)
        monkeypatch.delenv(f"SKILLQ_{name}_FILE", raising=False)


def load_url(scheme: str, url: str) -> str:
    """Return the error of the setting, or the URL as it is logged."""
    name, settings = SETTINGS[scheme]
    try:
        return display_url(str(getattr(load_settings(settings, {name: url}), name)))
    except UsageError as error:
        return str(error)


def broker_texts(url: str) -> str:
    try:
        address = BrokerAddress(url)
    except UsageError as error:
        return str(error)
    return f"{address.display_url} {address.user}"


@pytest.mark.parametrize("scheme", SETTINGS)
@pytest.mark.parametrize("raw", RAW, ids=repr)
@pytest.mark.parametrize("place", ["user:12{}34@host/v", "us{}er:1234@host/v", "us{}er@host/v"])
def test_a_raw_character_of_user_or_password_is_refused_with_the_remedy(
    scheme: str, raw: str, place: str
) -> None:
    url = f"{scheme}://{place.format(raw)}"
    name, _ = SETTINGS[scheme]
    assert load_url(scheme, url).startswith(
        f"--{name.replace('_', '-')} (SKILLQ_{name.upper()}): {ENCODE}"
    )


@pytest.mark.parametrize(
    "url",
    [
        "amqp://u1:12/34@host/v",
        "amqp://u1:[bracket]@host/v",
        "amqp://u:SECRET@h1/ amqp://u:SECRET@h2/",
        "amqp://u:SECRET@h1/,amqp://u:SECRET@h2/",
        "amqp://u:SECRET@h1,amqp://h2/SECRET",
        "amqp://h/v?cafile=x@SECRET",
        "postgresql://u@h/x?password=SE&CRET",
        "postgresql://u@h/x?password=SE&secret=1",
        "postgresql://u@h/x?password=SE/CRET@h",
        "postgresql://u@h/x?sslpassword=SE#CRET",
    ],
)
def test_an_ambiguous_url_is_refused_with_the_remedy(url: str) -> None:
    error = load_url(url.partition(":")[0], url)
    assert ENCODE in error
    assert not re.search("12|34|brac|SECR|CRET|secr", error.replace("%2", ""))


@pytest.mark.parametrize(
    ("scheme", "address"),
    [
        ("amqp", "u:SECRET"),
        ("amqp", "u:12345678"),
        ("amqp", ""),
        ("amqp", "u:SECRET@"),
        ("amqp", "u:SECRET@h:port"),
        ("amqp", "u:SECRET@h:0"),
        ("amqp", "u:SECRET@[::SECRET]"),
        ("amqp", "u:SECRET@h..h"),
        ("amqp", f"u:SECRET@{'h' * 64}"),
        ("amqp", "u:SECRET@h1,h2"),
        ("postgresql", "u:SECRET"),
        ("postgresql", "u:p@h1,h2:SECRET"),
        ("http", "u:SECRET"),
    ],
)
def test_an_address_that_is_none_is_refused_without_the_value(scheme: str, address: str) -> None:
    error = load_url(scheme, f"{scheme}://{address}")
    assert f"should be {KINDS[scheme].example}" in error
    assert not re.search("SECR|CRET|1234", error)


@pytest.mark.parametrize(
    "url", ["sqlite://u:SECRET@h/x", "sqlite:///a.db,amqp://u:SECRET@h", "other://u@h?p=SECRET"]
)
def test_a_store_url_that_is_none_is_refused_without_the_value(url: str) -> None:
    error = load_url("postgresql", url)
    assert "sqlite:///FILE" in error
    assert "SECRET" not in error
    with pytest.raises(UsageError, match=r"store URL: .*sqlite:///FILE") as caught:
        SqlStore(url)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("scheme", "url", "shown"),
    [
        ("amqp", "amqp://me:secret@host:5672/v", "amqp://me@host:5672/v"),
        ("amqp", "amqp://me:se:cr%40t@host", "amqp://me@host"),
        ("amqp", "amqps://:secret@host?cafile=secret", "amqps://@host"),
        ("amqp", "AMQP://me@[::1]:5672/a%2Fb", "amqp://me@[::1]:5672/a%2Fb"),
        ("postgresql", "postgresql://u@h/x?password=secret", "postgresql://u@h/x"),
        ("postgresql", "postgres://u:secret@h1,h2:5433/x", "postgres://u@h1,h2:5433/x"),
        ("postgresql", "postgresql:///x?host=/run/postgresql", "postgresql:///x"),
        ("postgresql", "sqlite:////var/a%20b@c.db", "sqlite:////var/a%20b@c.db"),
        ("postgresql", "memory://", "memory://"),
        ("http", "https://me:secret@host/skillq", "https://me@host/skillq"),
    ],
)
def test_a_url_is_shown_without_its_password_and_options(scheme: str, url: str, shown: str) -> None:
    assert load_url(scheme, url) == shown


@pytest.mark.parametrize("kind", KINDS.values())
@given(user=st.text(min_size=1), password=st.text(min_size=1))
def test_an_encoded_user_and_password_arrive_as_they_are(
    kind: UrlKind, user: str, password: str
) -> None:
    def encode(text: str) -> str:
        return "".join(f"%{byte:02X}" for byte in text.encode())

    url = ServerUrl.parse(f"{kind.schemes[0]}://{encode(user)}:{encode(password)}@host/v", kind)
    assert (url.user, url.password) == (user, password)


@pytest.mark.parametrize("scheme", SETTINGS)
def test_characters_that_are_not_ambiguous_need_no_encoding(scheme: str) -> None:
    text = f"{scheme}://üser:p:℀&=,;é100%@host/v"
    url = ServerUrl.parse(text, KINDS[scheme])
    assert (url.user, url.password) == ("üser", "p:℀&=,;é100%")
    assert url.text.isascii()
    assert load_url(scheme, text) == f"{scheme}://üser@host/v"


passwords = st.text(
    st.sampled_from("QXZJKqxzjk0987/#?[]\\@:&=%,; .é℀"), min_size=WINDOW, max_size=12
)
# A password without a host behind it may be a port, or the host itself: nobody can tell.
not_an_address = passwords.filter(
    lambda password: "@" not in password and not re.match(r"\d*([/?,]|$)", password)
)


def check_hidden(password: str, shown: str) -> None:
    """Fail if a part of a password is shown; parts that each error has are no parts of a password."""
    parts = {password[start : start + WINDOW] for start in range(len(password) - WINDOW + 1)}
    assert [part for part in parts if part in shown and part not in EACH_ERROR] == []


@pytest.mark.parametrize("scheme", SETTINGS)
@given(password=passwords)
@example(password="12/34")
@example(password="[bracket]")
@example(password="QXZJ@KQXZ/JKQX")
def test_no_part_of_a_password_before_a_host_is_shown(scheme: str, password: str) -> None:
    check_hidden(password, load_url(scheme, f"{scheme}://user:{password}@host/v"))


@given(password=passwords)
def test_no_part_of_a_password_is_shown_by_the_transport(password: str) -> None:
    check_hidden(password, broker_texts(f"amqp://user:{password}@host/v"))


@pytest.mark.parametrize("scheme", SETTINGS)
@given(password=not_an_address)
def test_no_part_of_a_password_without_a_host_is_shown(scheme: str, password: str) -> None:
    check_hidden(password, load_url(scheme, f"{scheme}://user:{password}"))


@given(password=passwords)
@example(password="QXZJ&KQXZJ")
@example(password="QX&KQXZJ=1")
def test_no_part_of_a_password_in_an_option_is_shown(password: str) -> None:
    url = f"postgresql://user@host/v?password={password}"
    check_hidden(password, load_url("postgresql", url))


@pytest.mark.parametrize("name", ["BROKER_URL", "STORE_URL"])
@pytest.mark.parametrize("value", ["amqp://u:SE/CRET@h/v", "u:SECRET"])
def test_no_part_of_a_password_in_a_variable_or_its_file_is_shown(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "secret"
    file.write_text(value)
    for variable, content in (("", value), ("_FILE", str(file)), ("_FILE", value)):
        with monkeypatch.context() as environment:
            environment.setenv(f"SKILLQ_{name}{variable}", content)
            with pytest.raises(UsageError) as caught:
                load_settings(ManagerSettings)
        assert f"SKILLQ_{name}" in str(caught.value)
        assert "CRET" not in str(caught.value)


def test_a_url_in_another_setting_is_not_shown() -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(Settings, {"connect_timeout": "amqp://u:SECRET@h/v"})
    assert str(caught.value).startswith("--connect-timeout (SKILLQ_CONNECT_TIMEOUT): should be")
    assert "SECRET" not in str(caught.value)


def test_an_error_of_the_parser_has_no_cause_that_quotes_the_url() -> None:
    with pytest.raises(UrlError) as caught:
        ServerUrl.parse("amqp://u:SECRET@[SECRET]/", BROKER)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
