"""One seed, one run, always the same."""

import asyncio
import gc
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from random import Random
from typing import Any, NoReturn

import structlog

from tests.simulation.loop import VirtualLoop
from tests.simulation.parts import Parts
from tests.simulation.scenario import Scenario, scenario
from tests.simulation.world import World


@contextmanager
def _determined(seed: int) -> Iterator[None]:
    """Ids and jitter come from the seed, too."""
    chance, urandom, state = Random(f"ids {seed}"), os.urandom, random.getstate()
    os.urandom = chance.randbytes
    random.seed(f"jitter {seed}")
    gc.disable()  # nothing is collected at a moment of its own choosing
    try:
        yield
    finally:
        gc.enable()
        os.urandom = urandom
        random.setstate(state)


@contextmanager
def _logged(world: World) -> Iterator[None]:
    """What the services log goes into the trace, where there is one."""

    def capture(_: object, level: str, event: Any) -> NoReturn:
        name = event.pop("event")
        world.say(f"{level}: {name}", **event)
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
    parts: Parts | None = None,
    trace: list[str] | None = None,
    of: Scenario | None = None,
) -> World:
    """Run a seed to its end, and return the world as it is then."""
    with _determined(seed):
        loop = VirtualLoop(Random(f"loop {seed}"))  # type: ignore[abstract]
        world = loop.world.context.run(
            lambda: World(of or scenario(seed), loop, parts or Parts(), trace)
        )
        try:
            with _logged(world):
                loop.run_until_complete(world.run())
                world.end()
        finally:
            loop.close()
            asyncio.set_event_loop(None)
    return world
