"""The manager's process: chooses transport, store and clock, and runs the manager."""

import asyncio
import random
import signal
import sys

import structlog
import uvloop

from skillq.errors import SkillqError, UsageError
from skillq.runtime import gc_tuning, logs, stdio
from skillq.runtime.clock import steady_clock
from skillq.runtime.settings import load_settings
from skillq.transport.rabbitmq import RabbitTransport
from skillq.urls import display_url
from skillq_manager.core.state import BACKLOG_FROM, BACKLOG_KEEP, State
from skillq_manager.manager import Manager
from skillq_manager.outbound.run_summary import SummaryPrinter
from skillq_manager.settings import POLICIES, ManagerSettings
from skillq_manager.store import open_store
from skillq_manager.store.url import MEMORY
from skillq_manager.web.app import create_app
from skillq_manager.web.server import serve

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def run(settings: ManagerSettings) -> None:
    """Serve until SIGTERM or SIGINT or, with `stop_when_done`, until all tasks have ended.

    A second signal ends the process at once.
    """
    logs.configure(settings.log_level, settings.log_format)
    gc_tuning.collect_rarely()
    structlog.contextvars.bind_contextvars(service="manager")
    # Until the manager exists, SIGTERM acts as Ctrl-C. Without a handler, process 1 of a container ignores it.
    asyncio.get_running_loop().add_signal_handler(
        signal.SIGTERM, signal.raise_signal, signal.SIGINT
    )
    transport = RabbitTransport(
        settings.broker_url,
        app_id="manager",
        connection_name="skillq manager",
        connect_timeout=settings.connect_timeout,
    )
    store = open_store(settings.store_url, connect_timeout=settings.connect_timeout)
    async with store, transport, SummaryPrinter(store) as summaries:
        manager = Manager(
            transport,
            store,
            lambda: State(
                POLICIES[settings.policy](),
                chance=random.random,
                expected_workers=settings.expected_workers,
                retries=settings.retries,
                store=store.id,
                backlog_keep=0 if settings.store_url == MEMORY else BACKLOG_KEEP,
                backlog_from=BACKLOG_FROM,
            ),
            clock=steady_clock(),
            stop_when_done=settings.stop_when_done,
            on_complete=summaries.print_later,
        )
        app = create_app(manager, transport, settings.api_token)
        log = structlog.get_logger()
        log.info(
            logs.Log.STARTED,
            broker=display_url(settings.broker_url),
            store=display_url(settings.store_url),
            policy=settings.policy,
        )
        _stop_on_signals(manager)
        async with serve(app, settings.http_host, settings.http_port):
            await manager.run()
        log.info(logs.Log.STOPPED)


def _stop_on_signals(manager: Manager) -> None:
    """Let the first signal stop the manager in order, and the second one end the process."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        manager.stop()
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    for number in _SIGNALS:
        loop.add_signal_handler(number, stop)


def main() -> int:
    """Run the manager; return the exit status: 0, 2 (usage), 3 (other errors) or 130 (Ctrl-C)."""
    stdio.prepare()
    try:
        uvloop.run(run(load_settings(ManagerSettings)))
    except SkillqError as error:
        sys.stderr.write(f"skillq manager: {error}\n")
        return 2 if isinstance(error, UsageError) else 3
    except KeyboardInterrupt:
        sys.stderr.write("skillq manager: interrupted\n")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
