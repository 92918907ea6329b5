"""Commit for ever in a process that a test kills, and print the number of each finished commit."""

import asyncio
import sys
from itertools import count

from skillq_manager.store.sql.store import SqlStore
from tests.contract.store_history import add, assign, end, start

SIZE = 20


async def run(url: str) -> None:
    async with SqlStore(url, lease_seconds=0.0) as store:
        await store.acquire()
        for n in count(1):
            ids = [f"{n}-{i}" for i in range(SIZE)]
            seqs = range(n * SIZE, n * SIZE + SIZE)
            await store.commit([add(seq, id) for seq, id in zip(seqs, ids, strict=True)])
            await store.commit([step for id in ids for step in (assign(id), start(id))])
            await store.commit([end(id, output=[n]) for id in ids])
            sys.stdout.write(f"{n}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1]))
