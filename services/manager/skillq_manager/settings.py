"""The manager's settings."""

from ipaddress import ip_address
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from skillq.settings import Settings
from skillq_manager.core.matching import Arrival, BestFit, Policy

POLICIES: dict[str, type[Policy]] = {"best-fit": BestFit, "arrival": Arrival}


class ManagerSettings(Settings):
    http_host: str = "127.0.0.1"
    http_port: Annotated[int, Field(ge=0, le=65535)] = 8080
    api_token: SecretStr | None = None
    expected_workers: Annotated[int, Field(ge=0)] = (
        0  # how many must be there before the first assignment
    )
    policy: Literal["best-fit", "arrival"] = "best-fit"
    stop_when_done: bool = False

    @model_validator(mode="after")
    def _token_off_loopback(self) -> Self:
        if self.api_token is None and not _is_loopback(self.http_host):
            raise ValueError(
                "off loopback, set SKILLQ_API_TOKEN, which clients then send as a bearer token"
            )
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
