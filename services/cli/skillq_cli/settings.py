"""Define the settings of the commands that call the manager's API."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from skillq.runtime.settings import Environment


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("should be http://host:port or https://…")
    return url.rstrip("/")


class ApiSettings(Environment):
    """The address of the manager's API, and its token."""

    api_url: Annotated[str, AfterValidator(_http_url)] = Field(
        "http://127.0.0.1:8080", description="address of the manager"
    )
    api_token: SecretStr | None = Field(None, description="the manager's token")
