"""Define the settings of the commands that call the manager's API."""

from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from skillq.runtime.settings import Environment, server_url
from skillq.urls import HTTP


def _without_slash(url: str) -> str:
    return url.rstrip("/")


class ApiSettings(Environment):
    """The address of the manager's API, and its token."""

    api_url: Annotated[str, server_url(HTTP), AfterValidator(_without_slash)] = Field(
        "http://127.0.0.1:8080", description="address of the manager"
    )
    api_token: SecretStr | None = Field(None, description="the manager's token")
