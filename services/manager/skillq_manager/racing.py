"""Work that goes on together until one part of it ends."""

import asyncio
from collections.abc import Awaitable


async def first_of(*work: Awaitable[None]) -> None:
    """Run all until one ends, and end the others; its error is ours."""
    tasks = [asyncio.ensure_future(w) for w in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
