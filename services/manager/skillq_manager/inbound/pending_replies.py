"""Who waits for what the manager will decide, by the name of the request."""

import asyncio
from collections.abc import Callable

from skillq.errors import Unreachable
from skillq_manager.core.commands import AnswerRequest, AnswerSubmission


class PendingReplies:
    def __init__(self) -> None:
        self._open: dict[str, asyncio.Future[AnswerSubmission | AnswerRequest]] = {}

    async def wait_for(
        self, request: str, put: Callable[[], None]
    ) -> AnswerSubmission | AnswerRequest:
        """`put` the request where it is decided, and wait for that.

        Raises:
            Unreachable: it has been dropped.
        """
        future: asyncio.Future[AnswerSubmission | AnswerRequest] = (
            asyncio.get_running_loop().create_future()
        )
        self._open[request] = future
        put()
        try:
            return await future
        finally:
            self._open.pop(request, None)

    def resolve(self, request: str, answer: AnswerSubmission | AnswerRequest) -> None:
        future = self._open.get(request)
        if future is not None and not future.done():
            future.set_result(answer)

    def fail_all(self, reason: str) -> None:
        """Nothing will be decided about any of them here."""
        for future in self._open.values():
            if not future.done():
                future.set_exception(Unreachable(reason))
