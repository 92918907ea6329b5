"""Settings of a process, from the command line, the environment and files of secrets.

Only this module, and `skillq.timings` for the tests, reads the environment.

Every field of a settings class is an option of the command line, `--broker-url`, and a variable,
`SKILLQ_BROKER_URL`. Secrets may be in a file whose path is in `SKILLQ_BROKER_URL_FILE`.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from skillq import timings
from skillq.errors import UsageError
from skillq.messages.error_text import URL_ERROR, plain_error, with_value
from skillq.urls import BROKER, ServerUrl, UrlError, UrlKind

PREFIX = "SKILLQ_"


def server_url(kind: UrlKind) -> AfterValidator:
    """Return the check of a setting that is a URL of this kind."""

    def check(url: str) -> str:
        try:
            ServerUrl.parse(url, kind)
        except UrlError as error:
            raise url_error(str(error)) from error
        return url

    return AfterValidator(check)


def url_error(text: str) -> PydanticCustomError:
    """Return the error of a URL that is refused: its message has no value, which may hold a password."""
    return PydanticCustomError(URL_ERROR, "{text}", {"text": text})


BrokerUrl = Annotated[str, server_url(BROKER)]


def read_test_variable(name: str) -> str | None:
    """Return the variable `SKILLQ_<name>`, or None; it is for tests, and no setting."""
    return os.environ.get(PREFIX + name)


def is_set(variable: str) -> bool:
    """Return whether a variable of another program has a value."""
    return bool(os.environ.get(variable))


class _SecretFiles(PydanticBaseSettingsSource):
    """The source of settings that reads the file named by `SKILLQ_X_FILE` for a field x."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        name = f"{PREFIX}{field_name.upper()}_FILE"
        path = os.environ.get(name)
        if path is None:
            return None, field_name, False
        try:
            return Path(path).read_text(encoding="utf-8").strip(), field_name, False
        except (OSError, ValueError) as error:  # there is no such file, or it is no text
            # A value that is no full path may be the secret itself.
            shown_path = (
                path if path.startswith("/") and "@" not in path else "the file that it names"
            )
            raise UsageError(
                f"{name}: cannot read {shown_path}: "
                f"{getattr(error, 'strerror', None) or 'it is no UTF-8 text'}"
            ) from error

    def __call__(self) -> dict[str, Any]:
        fields = self.settings_cls.model_fields
        values = {name: self.get_field_value(info, name)[0] for name, info in fields.items()}
        return {name: value for name, value in values.items() if value is not None}


class Environment(BaseSettings):
    """Base of settings that are read from variables and from files of secrets."""

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
    """The settings of all processes that connect to the broker."""

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
    """Read settings from the environment; options in `given` that are not None come first.

    Raises:
        UsageError: a value is wrong; the message names the option, the variable and the value.
    """
    chosen = {name: value for name, value in (given or {}).items() if value is not None}
    try:
        return cls(**chosen)
    except ValidationError as error:
        raise UsageError(_error_line(error)) from error


def _error_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        return plain_error(
            first
        )  # several settings contradict each other, and the message names them
    name = str(first["loc"][0])
    value = first["input"]
    text = with_value(first, "a URL" if isinstance(value, str) and "://" in value else value)
    return f"--{name.replace('_', '-')} ({PREFIX}{name.upper()}): {text}"
