"""A channel to publish on: for each message one write, and one future for its confirm."""

import asyncio
import struct
from collections.abc import Iterable
from dataclasses import replace
from itertools import takewhile
from typing import NamedTuple
from uuid import uuid4

from aiormq import exceptions as amqp
from aiormq.abc import AbstractChannel
from pamqp.commands import Basic
from pamqp.constants import FRAME_MAX_SIZE

from skillq import timings
from skillq.transport.base import Outgoing
from skillq.transport.rabbitmq.fastpath.channel import FastChannel, FrameWriter
from skillq.transport.rabbitmq.fastpath.decode import read_return
from skillq.transport.rabbitmq.fastpath.encode import Encoder
from skillq.transport.rabbitmq.fastpath.reader import AROUND, index_of

_ACK, _NACK = index_of(Basic.Ack), index_of(Basic.Nack)
_CONFIRM = struct.Struct(">4xQB")  # how many messages, and what of them
_MULTIPLE = 1


class _Unconfirmed(NamedTuple):
    # Exchange, key, and message id: by these it is known if it comes back.
    name: tuple[str, str, str]
    until: float
    confirmed: asyncio.Future[bool]


class Publisher(FastChannel):
    """Publishes, in order. Once it has ended it takes another one."""

    def __init__(self, channel: AbstractChannel, wire: FrameWriter, encoder: Encoder) -> None:
        super().__init__(channel, wire)
        self._encoder = encoder
        self._room = (channel.connection.connection_tune.frame_max or FRAME_MAX_SIZE) - AROUND
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self._sent: dict[int, _Unconfirmed] = {}  # by number, which the broker counts along
        self._timer: asyncio.TimerHandle | None = None

    def publish_unconfirmed(self, exchange: str, key: str, message: Outgoing) -> None:
        self._publish(exchange, key, message, mandatory=False)

    def publish(self, exchange: str, key: str, message: Outgoing) -> asyncio.Future[bool]:
        """Whether some queue took it, once the broker says so."""
        name = self._publish(exchange, key, message, mandatory=True)
        confirmed: asyncio.Future[bool] = self._loop.create_future()
        until = self._loop.time() + timings.RPC_SECONDS
        self._count += 1
        self._sent[self._count] = _Unconfirmed(name, until, confirmed)
        if self._timer is None:
            self._timer = self._loop.call_at(until, self._expire)
        return confirmed

    def _publish(
        self, exchange: str, key: str, message: Outgoing, *, mandatory: bool
    ) -> tuple[str, str, str]:
        if self.ended or self.wire.is_closing:
            raise amqp.AMQPConnectionError("the connection to the broker was lost")
        if not message.message_id:
            message = replace(message, message_id=uuid4().hex)
        number = self.channel.number
        self.wire.send(
            self._encoder.publish(number, self._room, exchange, key, message, mandatory=mandatory)
        )
        return exchange, key, message.message_id

    def handle_method(self, index: bytes, payload: bytes) -> bool:
        if index not in (_ACK, _NACK):
            return False
        last, bits = _CONFIRM.unpack_from(payload)
        numbers = [*takewhile(last.__ge__, self._sent)] if bits & _MULTIPLE else [last]
        self._settle(numbers, None if index == _ACK else amqp.DeliveryError(None, Basic.Nack()))
        return True

    def handle_message(self, method: bytes, header: bytes, body: bytes) -> None:
        """One came back; its confirm comes later."""
        name = read_return(method, header)
        for sent in self._sent.values():
            if sent.name == name and not sent.confirmed.done():
                sent.confirmed.set_result(False)
                return

    def on_closed(self, reason: Exception) -> None:
        self._settle([*self._sent], reason)

    def _settle(self, numbers: Iterable[int], error: Exception | None) -> None:
        for number in numbers:
            sent = self._sent.pop(number, None)
            if sent is None or sent.confirmed.done():
                continue  # it returned, or nobody waits any more
            if error is None:
                sent.confirmed.set_result(True)
            else:
                sent.confirmed.set_exception(error)

    def _expire(self) -> None:
        """Give up what was not confirmed in time. One timer for all costs less than one for each."""
        # Confirms may be there that we have not read, if we have stood still: after the next look at the socket.
        self._loop.call_soon(self._loop.call_soon, self._give_up)

    def _give_up(self) -> None:
        now = self._loop.time()
        late = [*takewhile(lambda number: self._sent[number].until <= now, self._sent)]
        self._settle(late, TimeoutError())
        self._timer = None
        if self._sent:
            first = next(iter(self._sent.values()))
            self._timer = self._loop.call_at(first.until, self._expire)
