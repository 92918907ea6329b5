"""Start the worker's process with the RabbitMQ transport, the real clock and an executor."""

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import structlog
import uvloop

from skillq.errors import SkillqError, UsageError
from skillq.messages import WorkerProfile, slug
from skillq.runtime import gc_tuning, logs, stdio
from skillq.runtime.clock import steady_clock
from skillq.runtime.settings import load_settings
from skillq.transport.rabbitmq import RabbitTransport
from skillq.urls import display_url
from skillq_worker.execution.executor import Executor, HandlerExecutor
from skillq_worker.execution.handlers import load_handlers
from skillq_worker.execution.simulation import Simulation
from skillq_worker.health import serve_health
from skillq_worker.settings import WorkerSettings
from skillq_worker.worker import Worker


async def run(settings: WorkerSettings) -> None:
    """Run a worker until SIGTERM, SIGINT or a Stop message; a second signal skips the grace.

    Raises:
        UsageError: a setting or the handlers' module is wrong, or the worker's name is in use.
        Unreachable: the broker cannot be reached, or refuses the credentials.
    """
    logs.configure(settings.log_level, settings.log_format)
    gc_tuning.collect_rarely()
    structlog.contextvars.bind_contextvars(service="worker")
    # Until the worker exists, SIGTERM acts as Ctrl-C: process 1 of a container would ignore SIGTERM by default.
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGTERM, signal.raise_signal, signal.SIGINT
    )
    profile = make_profile(settings)
    with open_executor(settings.handlers, profile, settings.time_scale) as executor:
        profile = profile.model_copy(update={"types": executor.types})
        transport = RabbitTransport(
            settings.broker_url,
            app_id=f"worker {profile.name}",
            connection_name=f"skillq worker {profile.title}",
            connect_timeout=settings.connect_timeout,
        )
        async with transport:
            worker = Worker(
                transport,
                profile,
                executor,
                clock=steady_clock(),
                grace=settings.grace,
                cancel_on_lost_lease=settings.on_lost_lease == "abort",
            )
            structlog.get_logger().info(
                logs.Log.STARTED, worker=profile.title, broker=display_url(settings.broker_url)
            )
            _stop_on_signals(worker)
            async with serve_health(settings.health_port, lambda: worker.is_ready):
                await worker.run()
        structlog.get_logger().info(logs.Log.STOPPED, worker=profile.title)


def make_profile(settings: WorkerSettings) -> WorkerProfile:
    """Return the profile of a new worker, with a new incarnation."""
    return WorkerProfile(
        name=slug(settings.name),
        title=settings.name,
        incarnation=uuid4().hex,
        skill=settings.skill,
        specialties=settings.specialty,
        slots=settings.slots,
        reserve=settings.reserve,
        lease=settings.lease,
    )


@contextmanager
def open_executor(
    handlers: str | None, profile: WorkerProfile, time_scale: float
) -> Iterator[Executor]:
    """Open an executor for the user's handlers, or for the simulation if `handlers` is None.

    Raises:
        UsageError: the handlers cannot be imported.
    """
    if handlers is None:
        yield Simulation(profile, time_scale)
        return
    with HandlerExecutor(load_handlers(handlers)) as executor:
        yield executor


def _stop_on_signals(worker: Worker) -> None:
    def stop() -> None:
        worker.stop(now=worker.is_draining)

    for signal_number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signal_number, stop)


def main() -> int:
    """Run the worker's process and return its exit status: 0, 2 (usage), 3 or 130."""
    stdio.prepare()
    handlers = sys.argv[1] if len(sys.argv) > 1 else None
    try:
        uvloop.run(run(load_settings(WorkerSettings, {"handlers": handlers})))
    except SkillqError as error:
        sys.stderr.write(f"skillq worker: {error}\n")
        return 2 if isinstance(error, UsageError) else 3
    except KeyboardInterrupt:
        sys.stderr.write("skillq worker: interrupted\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
