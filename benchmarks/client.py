"""Run a contender's client: read commands from standard input, write JSON replies.

many 5000    submit 5,000 tasks at once, and wait for all results
one 300      300 times: submit one task, and wait for its result
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
        self._start = time.perf_counter()

    def lap(self) -> float:
        start, self._start = self._start, time.perf_counter()
        return self._start - start


def serve(client: Client, write_reply: Callable[[Any], None]) -> None:
    write_reply("ready")
    for line in sys.stdin:
        command, number = line.split()
        watch = Stopwatch()
        if command == "many":
            results = client.many(int(number))
            write_reply({"seconds": watch.lap(), "results": results})
        else:
            laps = []
            for _ in range(int(number)):
                client.one()
                laps.append(watch.lap())
            write_reply({"laps": laps})


async def serve_async(connect: Connect, write_reply: Callable[[Any], None]) -> None:
    async with connect() as client:
        write_reply("ready")
        # Standard input is read in a thread: the loop must go on to send heartbeats.
        while line := await asyncio.to_thread(sys.stdin.readline):
            command, number = line.split()
            write_reply(await (_many if command == "many" else _one)(client, int(number)))


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

    def write_reply(reply: Any) -> None:
        print(json.dumps(reply), file=out, flush=True)

    if hasattr(module, "connect"):
        run = getattr(module, "run", asyncio.run)
        run(serve_async(module.connect, write_reply))
    else:
        serve(module.Client(), write_reply)


if __name__ == "__main__":
    main()
