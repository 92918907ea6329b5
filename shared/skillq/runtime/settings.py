"""Settings: the environment is read here, and in `skillq.timings` for the tests.

Every field of a settings class is an option of the command line, `--broker-url`, and a variable,
`SKILLQ_BROKER_URL`. Secrets may be in a file whose path is in `SKILLQ_BROKER_URL_FILE`.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from skillq import timings
from skillq.errors import UsageError
from skillq.messages.error_text import plain_error, with_value

PREFIX = "SKILLQ_"


def without_password(url: str) -> str:
    """The URL as it may be shown."""
    head, at, tail = url.rpartition("@")
    before, separator, after = head.partition("://")
    scheme, user = (before + separator, after) if separator else ("", before)
    return f"{scheme}{user.partition(':')[0]}@{tail}" if at else url


def _check_broker_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"amqp", "amqps"} or not parts.hostname:
        raise ValueError("should be amqp://user:password@host:5672/vhost or amqps://…")
    return url


BrokerUrl = Annotated[str, AfterValidator(_check_broker_url)]


def read_test_variable(name: str) -> str | None:
    """A variable that is no setting, for the tests of whole processes."""
    return os.environ.get(PREFIX + name)


class _SecretFiles(PydanticBaseSettingsSource):
    """Reads `SKILLQ_X_FILE` for any field x."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        path = os.environ.get(f"{PREFIX}{field_name.upper()}_FILE")
        if path is None:
            return None, field_name, False
        try:
            return Path(path).read_text().strip(), field_name, False
        except (OSError, ValueError) as error:  # no such file, or no text
            raise UsageError(
                f"{PREFIX}{field_name.upper()}_FILE: cannot read {path}: "
                f"{getattr(error, 'strerror', None) or 'it is no UTF-8 text'}"
            ) from error

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields
        found = {name: self.get_field_value(info, name)[0] for name, info in fields.items()}
        return {name: value for name, value in found.items() if value is not None}


class Environment(BaseSettings):
    """Settings that are read from variables and from files of secrets."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, _SecretFiles(settings_cls)


class Settings(Environment):
    """What every process has that talks to the broker."""

    broker_url: BrokerUrl = Field(
        "amqp://guest:guest@localhost:5672/",
        description="where RabbitMQ is; with TLS amqps://…, and ?cafile=FILE for an authority of your own",
    )
    connect_timeout: float = Field(
        timings.START_TIMEOUT_SECONDS,
        ge=0,
        description="seconds to wait for the broker at start",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least level logged"
    )
    log_format: Literal["console", "json"] | None = Field(
        None, description="console or json; default: console on a terminal"
    )


SettingsT = TypeVar("SettingsT", bound=BaseSettings)


def load_settings(cls: type[SettingsT], given: dict[str, Any] | None = None) -> SettingsT:
    """Read the environment; options that were given come first.

    Raises:
        UsageError: names the option, the variable and the value that is wrong.
    """
    chosen = {name: value for name, value in (given or {}).items() if value is not None}
    try:
        return cls(**chosen)
    except ValidationError as error:
        raise UsageError(_error_line(error)) from error


def _error_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return plain_error(first)  # it is about settings that do not go together, and names them
    name = str(first["loc"][0])
    value = first["input"]
    said = with_value(first, without_password(value) if isinstance(value, str) else value)
    return f"--{name.replace('_', '-')} ({PREFIX}{name.upper()}): {said}"
