"""An executor and a wire that do as a test of the manager wants."""

import asyncio
from collections.abc import Callable

from pydantic import JsonValue

from skillq.errors import TransportError
from skillq.messages import (
    TaskAssignment,
)
from skillq.transport import Outgoing
from skillq.transport.memory import MemoryBroker, MemoryTransport


class Count:
    """An executor that counts what it does; `held` keeps it from ending."""

    types = None

    def __init__(self, *, held: bool = False) -> None:
        self.begun: list[str] = []
        self._go_on = asyncio.Event()
        if not held:
            self._go_on.set()

    async def execute(self, task: TaskAssignment) -> JsonValue:
        self.begun.append(task.id)
        await self._go_on.wait()
        return task.id

    def let_go(self) -> None:
        self._go_on.set()


class Wire(MemoryTransport):
    """A transport whose publishes fail as a test wants: `fails` is asked with each key."""

    def __init__(self, broker: MemoryBroker) -> None:
        super().__init__(broker, app_id="manager")
        self.fails: Callable[[str], bool] = lambda _: False
        self.failed: list[str] = []

    async def publish(
        self, exchange: str, key: str, message: Outgoing, *, mandatory: bool = True
    ) -> None:
        if self.fails(key):
            self.failed.append(key)
            raise TransportError("the test says no")
        await super().publish(exchange, key, message, mandatory=mandatory)
