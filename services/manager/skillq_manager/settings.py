"""The manager's settings."""

from ipaddress import ip_address
from typing import Literal, Self

from pydantic import Field, SecretStr, model_validator

from skillq.settings import Settings
from skillq_manager.core.matching import Arrival, BestFit, Policy

POLICIES: dict[str, type[Policy]] = {"best-fit": BestFit, "arrival": Arrival}


class ManagerSettings(Settings):
    store_url: str = Field(
        "sqlite:///skillq.db",
        description="where tasks are kept: sqlite:///FILE, postgresql://… or memory://",
    )
    http_host: str = Field("127.0.0.1", description="address to serve HTTP on")
    http_port: int = Field(8080, ge=0, le=65535, description="port to serve HTTP on")
    api_token: SecretStr | None = Field(None, description="what clients send as a bearer token")
    expected_workers: int = Field(
        0, ge=0, description="how many workers must be there before the first assignment"
    )
    policy: Literal["best-fit", "arrival"] = Field("best-fit", description="who gets what")
    stop_when_done: bool = Field(
        False, description="leave, and send all workers home, when all tasks are done"
    )

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
