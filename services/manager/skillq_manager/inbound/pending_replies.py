"""The HTTP requests that wait for a decision of the manager, by request id."""

import asyncio
from collections.abc import Callable

from skillq.errors import Unreachable
from skillq_manager.core.commands import AnswerRequest, AnswerSubmission


class PendingReplies:
    """Futures of the replies that HTTP requests wait for."""

    def __init__(self) -> None:
        self._futures: dict[str, asyncio.Future[AnswerSubmission | AnswerRequest]] = {}

    async def wait_for(
        self, request_id: str, put: Callable[[], None]
    ) -> AnswerSubmission | AnswerRequest:
        """Call `put`, which puts the request into the inbox, and wait for the reply.

        Raises:
            Unreachable: the manager stopped leading before it decided.
        """
        future: asyncio.Future[AnswerSubmission | AnswerRequest] = (
            asyncio.get_running_loop().create_future()
        )
        self._futures[request_id] = future
        put()
        try:
            return await future
        finally:
            self._futures.pop(request_id, None)

    def resolve(self, request_id: str, answer: AnswerSubmission | AnswerRequest) -> None:
        """Give a reply to its request; drop the reply if no request waits for it.

        No request waits if the submission came through the broker, or if the HTTP client has gone.
        """
        future = self._futures.get(request_id)
        if future is not None and not future.done():
            future.set_result(answer)

    def fail_all(self, reason: str) -> None:
        """Raise `Unreachable` with this reason in every waiting request."""
        for future in self._futures.values():
            if not future.done():
                future.set_exception(Unreachable(reason))
