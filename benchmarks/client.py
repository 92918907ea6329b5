"""A contender's client, in a process of its own: does what it reads from its input, and says what came of it.

many 5000    hand in so many tasks at once, await all results
one 300      so many times: hand in one, await its result
"""

import asyncio
import json
import sys
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import Any, Protocol


class Client(Protocol):
    def many(self, count: int) -> int: ...

    def one(self) -> None: ...


class AsyncClient(Protocol):
    async def many(self, count: int) -> int: ...

    async def one(self) -> None: ...


Connect = Callable[[], AbstractAsyncContextManager[AsyncClient]]


class Stopwatch:
    def __init__(self) -> None:
        self._began = time.perf_counter()

    def lap(self) -> float:
        began, self._began = self._began, time.perf_counter()
        return self._began - began


def serve(client: Client, say: Callable[[Any], None]) -> None:
    say("ready")
    for line in sys.stdin:
        word, number = line.split()
        watch = Stopwatch()
        if word == "many":
            results = client.many(int(number))
            say({"seconds": watch.lap(), "results": results})
        else:
            laps = []
            for _ in range(int(number)):
                client.one()
                laps.append(watch.lap())
            say({"laps": laps})


async def serve_async(connect: Connect, say: Callable[[Any], None]) -> None:
    async with connect() as client:
        say("ready")
        # The loop goes on meanwhile: connections want their heartbeats.
        while line := await asyncio.to_thread(sys.stdin.readline):
            word, number = line.split()
            say(await (_many if word == "many" else _one)(client, int(number)))


async def _many(client: AsyncClient, count: int) -> Any:
    watch = Stopwatch()
    results = await client.many(count)
    return {"seconds": watch.lap(), "results": results}


async def _one(client: AsyncClient, count: int) -> Any:
    watch = Stopwatch()
    laps = []
    for _ in range(count):
        await client.one()
        laps.append(watch.lap())
    return {"laps": laps}


def main() -> None:
    module = import_module(sys.argv[1])
    out, sys.stdout = sys.stdout, sys.stderr  # a library may print

    def say(answer: Any) -> None:
        print(json.dumps(answer), file=out, flush=True)

    if hasattr(module, "connect"):
        run = getattr(module, "run", asyncio.run)
        run(serve_async(module.connect, say))
    else:
        serve(module.Client(), say)


if __name__ == "__main__":
    main()
