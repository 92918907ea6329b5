"""Messages that nobody could read, in `skillq.dead-letters`: looked at, sent again, thrown away."""

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

_MAX_BODY = 2000  # characters shown
_EXCHANGES = {SUBMISSIONS, REPORTS, COMMANDS}  # a header must not say where else we publish


class WholeTransport(Transport, Browsable, Protocol):
    """Publishes, and looks into queues."""


class Origin(NamedTuple):
    """Where a parked message came from, and why it did not get there."""

    reason: str
    queue: str
    exchange: str
    key: str
    at: datetime | None


class UnreadableMessages:
    """One look at a time: what one is looking at, another does not see."""

    def __init__(self, transport: WholeTransport) -> None:
        self._transport = transport
        self._looking = asyncio.Lock()

    async def first_messages(self, after: int, limit: int) -> list[ParkedView]:
        """In the order in which they were parked, from after so many on, `limit` at most."""
        found: list[ParkedView] = []
        try:
            async with self._browse() as browser:
                while len(found) < limit and (letter := await browser.next_message()) is not None:
                    if after:
                        after -= 1
                    else:
                        found.append(_view(letter))
        except QueueNotFound:
            return []  # no manager has ever led on this broker
        return found

    async def count(self) -> int | None:
        """None where the broker does not say."""
        try:
            return await self._transport.message_count(DEAD_LETTERS)
        except QueueNotFound:
            return 0
        except (TransportError, Unreachable):
            return None

    async def publish_again(self, message_id: str) -> ParkedView:
        """Publish it to where it was sent first; only then is it gone from here.

        Raises:
            HTTPException: 404, there is none; 409, it does not say where it came from, or nobody takes it there.
        """
        async with self._browse() as browser:
            letter = await _find(browser, message_id)
            origin = _origin(letter)
            if origin.exchange not in _EXCHANGES or not origin.key:
                raise HTTPException(
                    409, f"message {message_id} does not say where it came from; delete it"
                )
            try:
                await self._transport.publish(origin.exchange, origin.key, _as_it_was(letter))
            except UnroutableMessage as error:
                raise HTTPException(409, one_line(f"message {message_id}: {error}")) from error
            await browser.remove(letter)
        return _view(letter)

    async def delete_message(self, message_id: str) -> ParkedView:
        async with self._browse() as browser:
            letter = await _find(browser, message_id)
            await browser.remove(letter)
        return _view(letter)

    @asynccontextmanager
    async def _browse(self) -> AsyncIterator[Browser]:
        async with self._looking, self._transport.browse(DEAD_LETTERS) as browser:
            yield browser


async def _find(browser: Browser, message_id: str) -> Delivery:
    while (letter := await browser.next_message()) is not None:
        if letter.message_id == message_id:
            return letter
    raise HTTPException(404, one_line(f"there is no parked message {message_id!r}"))


def _origin(letter: Delivery) -> Origin:
    """As `park` says it, or, where a broker has moved it, as the broker does."""
    headers = letter.headers
    if REASON_HEADER not in headers:
        return _as_the_broker_says(headers)
    at = headers.get(TIME_HEADER)
    return Origin(
        reason=str(headers[REASON_HEADER]),
        queue=str(headers.get(QUEUE_HEADER, "")),
        exchange=str(headers.get(EXCHANGE_HEADER, "")),
        key=str(headers.get(ROUTING_KEY_HEADER, "")),
        at=utc(at) if isinstance(at, int) else None,
    )


def _as_the_broker_says(headers: Mapping[str, object]) -> Origin:
    deaths = headers.get("x-death")
    last: Mapping[str, Any] = deaths[0] if isinstance(deaths, list) and deaths else {}
    at = last.get("time")
    reason = last.get("reason") or headers.get("x-first-death-reason")
    return Origin(
        reason=f"the broker moved it: {reason}" if reason else "it does not say why",
        queue=str(last.get("queue") or headers.get("x-first-death-queue", "")),
        exchange=str(last.get("exchange") or headers.get("x-first-death-exchange", "")),
        key=str(next(iter(last.get("routing-keys") or ()), "")),
        at=at.astimezone(UTC) if isinstance(at, datetime) else None,
    )


def _as_it_was(letter: Delivery) -> Outgoing:
    """Without what was said about it on the way."""
    headers = {
        name: value
        for name, value in letter.headers.items()
        if isinstance(value, str | int) and not name.startswith("x-")
    }
    return Outgoing(letter.body, letter.type, headers, letter.message_id)


def _view(letter: Delivery) -> ParkedView:
    origin = _origin(letter)
    text = letter.body[: 4 * _MAX_BODY].decode(errors="replace")
    return ParkedView(
        message_id=letter.message_id,
        type=letter.type,
        reason=origin.reason,
        queue=origin.queue,
        exchange=origin.exchange,
        routing_key=origin.key,
        parked_at=origin.at,
        size=len(letter.body),
        body=shorten(text, _MAX_BODY),
    )
