"""Who waits for what the manager will decide, by the name of the request."""

import asyncio
from collections.abc import Callable

from skillq.errors import Unreachable
from skillq_manager.core.commands import Answer, Reply


class Questions:
    def __init__(self) -> None:
        self._open: dict[str, asyncio.Future[Answer | Reply]] = {}

    async def ask(self, request: str, put: Callable[[], None]) -> Answer | Reply:
        """`put` the request where it is decided, and wait for that.

        Raises:
            Unreachable: it has been dropped.
        """
        future: asyncio.Future[Answer | Reply] = asyncio.get_running_loop().create_future()
        self._open[request] = future
        put()
        try:
            return await future
        finally:
            self._open.pop(request, None)

    def answer(self, request: str, answer: Answer | Reply) -> None:
        future = self._open.get(request)
        if future is not None and not future.done():
            future.set_result(answer)

    def drop(self, reason: str) -> None:
        """Nothing will be decided about any of them here."""
        for future in self._open.values():
            if not future.done():
                future.set_exception(Unreachable(reason))
