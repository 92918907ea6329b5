"""The settings of the manager: command-line options and environment variables."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from skillq import timings
from skillq.errors import UsageError
from skillq.runtime.settings import Settings, url_error
from skillq.urls import is_loopback
from skillq_manager.core.rules.matching import Arrival, BestFit, Policy
from skillq_manager.core.rules.retry import RetryPolicy
from skillq_manager.store.url import parse_store_url

POLICIES: dict[str, type[Policy]] = {"best-fit": BestFit, "arrival": Arrival}
_RETRIES = RetryPolicy()


def _check_store_url(url: str) -> str:
    try:
        parse_store_url(url)
    except UsageError as error:
        raise url_error(str(error)) from error
    return url


class ManagerSettings(Settings):
    """The settings of a manager; the descriptions are the help texts of the options."""

    store_url: Annotated[str, AfterValidator(_check_store_url)] = Field(
        "sqlite:///skillq.db",
        description="where tasks are kept: sqlite:///FILE, postgresql://… or memory://",
    )
    http_host: str = Field("127.0.0.1", description="address to serve HTTP on")
    http_port: int = Field(8080, ge=0, le=65535, description="port to serve HTTP on")
    api_token: SecretStr | None = Field(None, description="what clients send as a bearer token")
    expected_workers: int = Field(
        0, ge=0, description="how many workers must be connected before the first assignment"
    )
    policy: Literal["best-fit", "arrival"] = Field("best-fit", description="who gets what")
    stop_when_done: bool = Field(
        False, description="stop, and let all workers drain and leave, when all tasks have ended"
    )

    retry_delay: float = Field(
        _RETRIES.base,
        gt=0,
        description="longest pause in seconds after a first failure; it doubles each time",
    )
    retry_max_delay: float = Field(
        _RETRIES.cap,
        gt=0,
        le=timings.MAX_RETRY_MAX_DELAY_SECONDS,
        description="longest pause in seconds between attempts",
    )
    max_losses: int = Field(
        _RETRIES.max_losses,
        ge=1,
        le=1000,
        description="a task that loses so many attempts is dead-lettered",
    )

    @property
    def retries(self) -> RetryPolicy:
        """Return the retry policy of these settings."""
        return RetryPolicy(self.retry_delay, self.retry_max_delay, self.max_losses)

    @model_validator(mode="after")
    def _delays_fit(self) -> Self:
        if self.retry_max_delay < self.retry_delay:
            raise ValueError(
                f"--retry-max-delay (SKILLQ_RETRY_MAX_DELAY): {self.retry_max_delay:g} s are fewer "
                f"than --retry-delay, {self.retry_delay:g} s; raise the one, or lower the other"
            )
        return self

    @model_validator(mode="after")
    def _token_off_loopback(self) -> Self:
        if self.api_token is None and not is_loopback(self.http_host):
            raise ValueError(
                "off loopback, set SKILLQ_API_TOKEN, which clients then send as a bearer token"
            )
        return self
