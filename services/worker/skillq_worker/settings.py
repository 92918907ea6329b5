"""A worker's settings."""

import socket
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from pydantic_settings import NoDecode

from skillq.messages import Labels, Level, Title
from skillq.settings import Settings

HOST = "{host}"


def _split(written: Any) -> Any:
    """A comma-separated list, as a variable has it."""
    if isinstance(written, str):
        return tuple(word for part in written.split(",") if (word := part.strip()))
    return written


def _host_name() -> str:
    return socket.gethostname()


def _with_host(written: str) -> str:
    """`junior-{host}`: replicas that share their settings get names of their own."""
    return written.replace(HOST, _host_name())


class WorkerSettings(Settings):
    name: Annotated[Title, BeforeValidator(_with_host)] = Field(default_factory=_host_name)
    skill: Level = 5
    specialty: Annotated[Labels, NoDecode, BeforeValidator(_split)] = ()
    slots: Annotated[int, Field(ge=1, le=10_000)] = 1
    time_scale: Annotated[float, Field(ge=0)] = 1.0  # seconds per unit of simulated difficulty
    grace: Annotated[float, Field(ge=0)] = 30.0  # seconds to finish what runs after SIGTERM
    health_port: Annotated[int, Field(ge=0, le=65535)] = 0  # 0: none
    handlers: str | None = None  # MODULE:HANDLERS; None: the simulation
