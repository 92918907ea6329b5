"""Run the simulation of one seed. The same seed gives the same run."""

import asyncio
import gc
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, NoReturn

import structlog

from tests.simulation.components import Components
from tests.simulation.loop import VirtualLoop
from tests.simulation.scenario import Scenario, scenario
from tests.simulation.world import World


@contextmanager
def _determined(seed: int) -> Iterator[None]:
    """Derive random ids and jitter from the seed."""
    chance, urandom, state = Random(f"ids {seed}"), os.urandom, random.getstate()
    os.urandom = chance.randbytes
    random.seed(f"jitter {seed}")
    gc.disable()  # garbage collection would run at different moments
    try:
        yield
    finally:
        gc.enable()
        os.urandom = urandom
        random.setstate(state)


@contextmanager
def _logged(world: World) -> Iterator[None]:
    """Add the log of the services to the trace, if there is one."""

    def capture(_: object, level: str, event: Any) -> NoReturn:
        name = event.pop("event")
        world.trace_event(f"{level}: {name}", **event)
        raise structlog.DropEvent

    before = structlog.get_config()
    level = 50 if world.trace is None else 10
    structlog.configure(
        processors=[capture],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.ReturnLoggerFactory(),
        cache_logger_on_first_use=False,
    )
    try:
        yield
    finally:
        structlog.configure(**before)


def simulate(
    seed: int,
    *,
    parts: Components | None = None,
    trace: list[str] | None = None,
    of: Scenario | None = None,
) -> World:
    """Run a seed to its end; return the final world."""
    with _determined(seed):
        loop = VirtualLoop(Random(f"loop {seed}"))  # type: ignore[abstract]
        world = loop.world_process.context.run(
            lambda: World(of or scenario(seed), loop, parts or Components(), trace)
        )
        try:
            with _logged(world):
                loop.run_until_complete(world.run())
                world.end()
        finally:
            loop.close()
            asyncio.set_event_loop(None)
    return world
