"""Unreadable messages in `skillq.dead-letters`: list, publish again, delete.

See docs/adr/0007-workers-move-unreadable-messages.md.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from fastapi import HTTPException

from skillq.errors import QueueNotFound, TransportError, Unreachable, UnroutableMessage
from skillq.forms import one_line
from skillq.messages import shorten
from skillq.topology import COMMANDS, DEAD_LETTERS, REPORTS, SUBMISSIONS
from skillq.transport import Browsable, Browser, Delivery, Outgoing, Transport
from skillq.transport.dead_letters import (
    EXCHANGE_HEADER,
    QUEUE_HEADER,
    REASON_HEADER,
    ROUTING_KEY_HEADER,
    TIME_HEADER,
)
from skillq_manager.web.models import ParkedView, utc

_MAX_BODY = 2000  # characters of a body that are shown
_EXCHANGES = {SUBMISSIONS, REPORTS, COMMANDS}  # a message's header must not choose another exchange


class BrowsableTransport(Transport, Browsable, Protocol):
    """A transport that publishes messages and browses queues."""


class Origin(NamedTuple):
    """The origin of an unreadable message, and the reason why it was moved."""

    reason: str
    queue: str
    exchange: str
    key: str
    at: datetime | None


class UnreadableMessages:
    """The messages in the dead-letter queue.

    Only one browser is open at a time, because a message that one browser has is invisible to others.
    """

    def __init__(self, transport: BrowsableTransport) -> None:
        self._transport = transport
        self._browse_lock = asyncio.Lock()

    async def first_messages(self, after: int, limit: int) -> list[ParkedView]:
        """Return `limit` messages in order of the queue, after the first `after` messages."""
        views: list[ParkedView] = []
        try:
            async with self._browse() as browser:
                while len(views) < limit and (message := await browser.next_message()) is not None:
                    if after:
                        after -= 1
                    else:
                        views.append(_view(message))
        except QueueNotFound:
            return []  # no manager has led on this broker yet
        return views

    async def count(self) -> int | None:
        """Return the number of messages, or None if the broker does not return it."""
        try:
            return await self._transport.message_count(DEAD_LETTERS)
        except QueueNotFound:
            return 0
        except (TransportError, Unreachable):
            return None

    async def publish_again(self, message_id: str) -> ParkedView:
        """Publish a message again with its first exchange and key; then remove and return it.

        Raises:
            HTTPException: 404, the message does not exist; 409, its origin is unknown, or no queue takes it.
        """
        async with self._browse() as browser:
            message = await _find_message(browser, message_id)
            origin = _origin(message)
            if origin.exchange not in _EXCHANGES or not origin.key:
                raise HTTPException(
                    409, f"message {message_id} does not say where it came from; delete it"
                )
            try:
                await self._transport.publish(
                    origin.exchange, origin.key, _original_message(message)
                )
            except UnroutableMessage as error:
                raise HTTPException(409, one_line(f"message {message_id}: {error}")) from error
            await browser.remove(message)
        return _view(message)

    async def delete_message(self, message_id: str) -> ParkedView:
        """Remove a message for good; return it.

        Raises:
            HTTPException: 404, the message does not exist.
        """
        async with self._browse() as browser:
            message = await _find_message(browser, message_id)
            await browser.remove(message)
        return _view(message)

    @asynccontextmanager
    async def _browse(self) -> AsyncIterator[Browser]:
        async with self._browse_lock, self._transport.browse(DEAD_LETTERS) as browser:
            yield browser


async def _find_message(browser: Browser, message_id: str) -> Delivery:
    while (message := await browser.next_message()) is not None:
        if message.message_id == message_id:
            return message
    raise HTTPException(404, one_line(f"there is no unreadable message {message_id!r}"))


def _origin(message: Delivery) -> Origin:
    """Return the origin from our headers, or from the broker's if it moved the message."""
    headers = message.headers
    if REASON_HEADER not in headers:
        return _origin_from_broker(headers)
    at = headers.get(TIME_HEADER)
    return Origin(
        reason=str(headers[REASON_HEADER]),
        queue=str(headers.get(QUEUE_HEADER, "")),
        exchange=str(headers.get(EXCHANGE_HEADER, "")),
        key=str(headers.get(ROUTING_KEY_HEADER, "")),
        at=utc(at) if isinstance(at, int) else None,
    )


def _origin_from_broker(headers: Mapping[str, object]) -> Origin:
    x_death = headers.get("x-death")
    last: Mapping[str, Any] = x_death[0] if isinstance(x_death, list) and x_death else {}
    at = last.get("time")
    reason = last.get("reason") or headers.get("x-first-death-reason")
    return Origin(
        reason=f"the broker moved it: {reason}" if reason else "it does not say why",
        queue=str(last.get("queue") or headers.get("x-first-death-queue", "")),
        exchange=str(last.get("exchange") or headers.get("x-first-death-exchange", "")),
        key=str(next(iter(last.get("routing-keys") or ()), "")),
        at=at.astimezone(UTC) if isinstance(at, datetime) else None,
    )


def _original_message(message: Delivery) -> Outgoing:
    """Return the message without the headers that skillq or the broker added."""
    headers = {
        name: value
        for name, value in message.headers.items()
        if isinstance(value, str | int) and not name.startswith("x-")
    }
    return Outgoing(message.body, message.type, headers, message.message_id)


def _view(message: Delivery) -> ParkedView:
    origin = _origin(message)
    text = message.body[: 4 * _MAX_BODY].decode(errors="replace")
    return ParkedView(
        message_id=message.message_id,
        type=message.type,
        reason=origin.reason,
        queue=origin.queue,
        exchange=origin.exchange,
        routing_key=origin.key,
        parked_at=origin.at,
        size=len(message.body),
        body=shorten(text, _MAX_BODY),
    )
