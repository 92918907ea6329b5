"""Define the settings of a worker."""

import socket
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import NoDecode

from skillq import timings
from skillq.messages import MAX_LABELS, Labels, Lease, Level, WorkerTitle
from skillq.runtime.settings import Settings

HOST = "{host}"
_DEFAULT = Lease()


def _split_list(value: Any) -> Any:
    """Return the items of a comma-separated text, as an environment variable has it."""
    if isinstance(value, str):
        return tuple(item for part in value.split(",") if (item := part.strip()))
    return value


def _host_name() -> str:
    return socket.gethostname()


def _with_host(value: str) -> str:
    """Replace {host} by the host's name: replicas with the same settings need unlike names."""
    return value.replace(HOST, _host_name())


class WorkerSettings(Settings):
    """The settings of a worker: each field is an option and an environment variable."""

    name: Annotated[WorkerTitle, BeforeValidator(_with_host)] = Field(
        default_factory=_host_name,
        description="its name, {host} standing for the host's; default: the host's",
    )
    skill: Level = Field(5, description="skill level, 1-10")
    specialty: Annotated[Labels, NoDecode, BeforeValidator(_split_list)] = Field(
        (), max_length=MAX_LABELS, description="what it is especially good at"
    )
    slots: Annotated[int, Field(ge=1, le=10_000)] = Field(1, description="attempts at a time")
    time_scale: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="seconds per unit of simulated difficulty"
    )
    reserve: Annotated[int, Field(ge=0, le=10)] = Field(
        0, description="take tasks easier than this only when they have waited long"
    )
    on_lost_lease: Literal["continue", "abort"] = Field(
        "continue", description="what becomes of running attempts when others must have them by now"
    )
    heartbeat: float = Field(
        _DEFAULT.heartbeat,
        ge=timings.MIN_HEARTBEAT_SECONDS,
        description="how often it says that it lives, in seconds",
    )
    suspect_after: float = Field(
        _DEFAULT.suspect_after,
        gt=0,
        description="seconds of silence after which it gets nothing new; three heartbeats at least",
    )
    dead_after: float = Field(
        _DEFAULT.dead_after,
        ge=timings.MIN_DEAD_AFTER_SECONDS,
        le=timings.MAX_LEASE_SECONDS,
        description="its lease: seconds of silence after which others get what it holds",
    )
    grace: float = Field(
        timings.GRACE_SECONDS,
        ge=0,
        allow_inf_nan=False,
        description="seconds to finish what runs after SIGTERM",
    )
    health_port: int = Field(0, ge=0, le=65535, description="port for /livez and /readyz; 0: none")
    handlers: str | None = Field(
        None, description="MODULE:HANDLERS; without it the work is simulated"
    )

    @property
    def lease(self) -> Lease:
        """The lease that these settings ask for."""
        return Lease(
            heartbeat=self.heartbeat,
            suspect_after=self.suspect_after,
            dead_after=self.dead_after,
        )

    @model_validator(mode="after")
    def _lease_fits(self) -> Self:
        if self.suspect_after < timings.MISSED_HEARTBEATS * self.heartbeat:
            raise ValueError(
                f"--suspect-after (SKILLQ_SUSPECT_AFTER): {self.suspect_after:g} s are fewer than "
                f"{timings.MISSED_HEARTBEATS} heartbeats of {self.heartbeat:g} s; raise it, or lower --heartbeat"
            )
        if self.dead_after <= self.suspect_after:
            raise ValueError(
                f"--dead-after (SKILLQ_DEAD_AFTER): {self.dead_after:g} s should be more than "
                f"--suspect-after, {self.suspect_after:g} s"
            )
        return self
