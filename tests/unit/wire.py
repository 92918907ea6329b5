"""A way to the broker that can be made to fail."""

from collections.abc import Callable

from skillq.errors import TransportError
from skillq.transport import Outgoing
from skillq.transport.memory import MemoryBroker, MemoryTransport


class Wire(MemoryTransport):
    """A transport whose publishes fail as a test wants: `fails` is asked with each key."""

    def __init__(self, broker: MemoryBroker, app_id: str = "manager") -> None:
        super().__init__(broker, app_id=app_id)
        self.fails: Callable[[str], bool] = lambda _: False
        self.failed: list[str] = []

    async def publish(self, exchange: str, key: str, message: Outgoing) -> None:
        self._check(key)
        await super().publish(exchange, key, message)

    async def publish_unconfirmed(self, exchange: str, key: str, message: Outgoing) -> None:
        self._check(key)
        await super().publish_unconfirmed(exchange, key, message)

    def _check(self, key: str) -> None:
        if self.fails(key):
            self.failed.append(key)
            raise TransportError("the test says no")
