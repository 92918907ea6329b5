"""Collect the messages of one exchange while a test runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from skillq.messages import Message, RunEvent, RunStatus, StatusReply, decode
from skillq.transport import Consumer
from tests.support.manager_harness import ManagerHarness


class EventListener:
    """Receives every message of one exchange, in order of arrival."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer
        self.messages: list[Message] = []

    async def run(self) -> None:
        while True:
            deliveries = await self._consumer.batch()
            await self._consumer.ack(deliveries)
            self.messages += [decode(delivery.body) for delivery in deliveries]

    def received(self, *types: type[Message]) -> list[Message]:
        return [message for message in self.messages if isinstance(message, types)]

    def status_replies(self) -> list[StatusReply]:
        return [m for m in self.messages if isinstance(m, StatusReply)]

    def run_events(self, status: RunStatus) -> list[RunEvent]:
        return [m for m in self.messages if isinstance(m, RunEvent) and m.status is status]


@asynccontextmanager
async def listen(harness: ManagerHarness, exchange: str) -> AsyncIterator[EventListener]:
    listener = EventListener(await harness.transport.subscribe(exchange, ["#"]))
    listening = asyncio.create_task(listener.run())
    try:
        yield listener
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
