"""Settings come from options, variables, secret files and defaults, in this order."""

from pathlib import Path

import pytest
from pydantic import Field, SecretStr, model_validator

from skillq.errors import UsageError
from skillq.runtime.settings import Settings, load_settings


class ExampleSettings(Settings):
    level: int = Field(3, ge=1, le=10)
    token: SecretStr | None = None

    @model_validator(mode="after")
    def _together(self) -> "ExampleSettings":
        if self.level == 10 and self.token is None:
            raise ValueError("level 10 needs SKILLQ_TOKEN")
        return self


@pytest.fixture(autouse=True)
def without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LEVEL", "TOKEN", "TOKEN_FILE", "BROKER_URL", "BROKER_URL_FILE", "LOG_LEVEL"):
        monkeypatch.delenv(f"SKILLQ_{name}", raising=False)


def settings_error(**given: object) -> str:
    with pytest.raises(UsageError) as caught:
        load_settings(ExampleSettings, given)
    line = str(caught.value)
    assert line.isprintable()
    return line


def test_an_option_overrides_a_variable_and_a_variable_overrides_the_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_settings(ExampleSettings).level == 3
    monkeypatch.setenv("SKILLQ_LEVEL", "4")
    assert load_settings(ExampleSettings, {"level": None}).level == 4
    assert load_settings(ExampleSettings, {"level": "5"}).level == 5


def test_a_secret_may_come_from_a_file_and_a_variable_has_precedence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    monkeypatch.setenv("SKILLQ_TOKEN_FILE", str(secret))
    token = load_settings(ExampleSettings).token
    assert token is not None
    assert token.get_secret_value() == "s3cret"
    monkeypatch.setenv("SKILLQ_TOKEN", "other")
    token = load_settings(ExampleSettings).token
    assert token is not None
    assert token.get_secret_value() == "other"


@pytest.mark.parametrize("problem", ["missing", "folder", "binary"])
def test_an_unreadable_secret_file_is_named(
    problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / problem
    if problem == "folder":
        path.mkdir()
    if problem == "binary":
        path.write_bytes(b"\xff\xfe")
    monkeypatch.setenv("SKILLQ_TOKEN_FILE", str(path))
    line = settings_error()
    assert line.startswith(f"SKILLQ_TOKEN_FILE: cannot read {path}: ")
    assert not line.endswith("None")


def test_a_wrong_value_is_named_with_its_option_and_its_variable() -> None:
    assert settings_error(level=11) == ("--level (SKILLQ_LEVEL): should be at most 10, not 11")
    assert settings_error(log_level="loud").startswith("--log-level (SKILLQ_LOG_LEVEL): ")


def test_settings_that_contradict_each_other_are_refused() -> None:
    assert settings_error(level=10) == "level 10 needs SKILLQ_TOKEN"


@pytest.mark.parametrize(
    "url", ["http://me:secret@host", "amqp://", "me:secret@host", "", "memory://"]
)
def test_an_invalid_broker_url_is_refused_without_showing_its_password(url: str) -> None:
    line = settings_error(broker_url=url)
    assert line.startswith("--broker-url (SKILLQ_BROKER_URL): should be amqp://user:password@")
    assert "secret" not in line


def test_unknown_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKILLQ_SOMETHING_ELSE", "1")
    assert load_settings(ExampleSettings).level == 3
