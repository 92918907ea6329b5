"""Let an event loop run the tasks that are ready."""

import asyncio


async def run_ready_tasks() -> None:
    """Give the loop ten turns, so that tasks go as far as they can without waiting."""
    for _ in range(10):
        await asyncio.sleep(0)
