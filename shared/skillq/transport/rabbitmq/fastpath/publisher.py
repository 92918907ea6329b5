"""A channel that publishes: one write for each message, and one future for its confirm.

See docs/adr/0018-pass-messages-by-the-driver.md.
"""

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
from skillq.transport.rabbitmq.fastpath.reader import FRAME_OVERHEAD, method_index

_ACK, _NACK = method_index(Basic.Ack), method_index(Basic.Nack)
_CONFIRM = struct.Struct(">4xQB")  # number of the last confirmed message, flags
_MULTIPLE = 1


class _Unconfirmed(NamedTuple):
    # Exchange, routing key and message id. They identify the message if the broker returns it.
    identity: tuple[str, str, str]
    deadline: float
    confirmed: asyncio.Future[bool]


class Publisher(FastChannel):
    """Publishes messages in order. After its channel has ended, another publisher is needed."""

    def __init__(self, channel: AbstractChannel, writer: FrameWriter, encoder: Encoder) -> None:
        super().__init__(channel, writer)
        self._encoder = encoder
        self._max_payload = (
            channel.connection.connection_tune.frame_max or FRAME_MAX_SIZE
        ) - FRAME_OVERHEAD
        self._loop = asyncio.get_running_loop()
        self._last_number = 0
        # By number: the broker counts the messages of a channel in the same way.
        self._unconfirmed: dict[int, _Unconfirmed] = {}
        self._timer: asyncio.TimerHandle | None = None

    def publish_unconfirmed(self, exchange: str, key: str, message: Outgoing) -> None:
        """Publish a message without a confirm.

        Raises:
            AMQPConnectionError: The channel has ended.
        """
        self._publish(exchange, key, message, mandatory=False)

    def publish(self, exchange: str, key: str, message: Outgoing) -> asyncio.Future[bool]:
        """Publish a message; return a future of its confirm.

        The future's result says whether the message reached a queue. The future fails with DeliveryError
        if the broker refuses the message, and with TimeoutError after `timings.RPC_SECONDS`.

        Raises:
            AMQPConnectionError: The channel has ended.
        """
        identity = self._publish(exchange, key, message, mandatory=True)
        confirmed: asyncio.Future[bool] = self._loop.create_future()
        deadline = self._loop.time() + timings.RPC_SECONDS
        self._last_number += 1
        self._unconfirmed[self._last_number] = _Unconfirmed(identity, deadline, confirmed)
        if self._timer is None:
            self._timer = self._loop.call_at(deadline, self._on_timer)
        return confirmed

    def _publish(
        self, exchange: str, key: str, message: Outgoing, *, mandatory: bool
    ) -> tuple[str, str, str]:
        if self.ended or self.writer.is_closing:
            raise amqp.AMQPConnectionError("the connection to the broker was lost")
        if not message.message_id:
            message = replace(message, message_id=uuid4().hex)
        number = self.channel.number
        self.writer.send(
            self._encoder.publish(
                number, self._max_payload, exchange, key, message, mandatory=mandatory
            )
        )
        return exchange, key, message.message_id

    def handle_method(self, index: bytes, payload: bytes) -> bool:
        if index not in (_ACK, _NACK):
            return False
        last, bits = _CONFIRM.unpack_from(payload)
        numbers = [*takewhile(last.__ge__, self._unconfirmed)] if bits & _MULTIPLE else [last]
        self._settle(numbers, None if index == _ACK else amqp.DeliveryError(None, Basic.Nack()))
        return True

    def handle_message(self, method: bytes, header: bytes, body: bytes) -> None:
        """Handle a message that the broker returns as unroutable; its confirm arrives later."""
        identity = read_return(method, header)
        for message in self._unconfirmed.values():
            if message.identity == identity and not message.confirmed.done():
                message.confirmed.set_result(False)
                return

    def on_closed(self, reason: Exception) -> None:
        self._settle([*self._unconfirmed], reason)

    def _settle(self, numbers: Iterable[int], error: Exception | None) -> None:
        for number in numbers:
            message = self._unconfirmed.pop(number, None)
            if message is None or message.confirmed.done():
                continue  # the message was returned, or its caller stopped waiting
            if error is None:
                message.confirmed.set_result(True)
            else:
                message.confirmed.set_exception(error)

    def _on_timer(self) -> None:
        """Fail the overdue messages. One timer for all messages costs less than one for each."""
        # After a stall of this process, confirms may wait in the socket: let the loop read them first.
        self._loop.call_soon(self._loop.call_soon, self._fail_overdue)

    def _fail_overdue(self) -> None:
        now = self._loop.time()
        overdue = [
            *takewhile(lambda number: self._unconfirmed[number].deadline <= now, self._unconfirmed)
        ]
        self._settle(overdue, TimeoutError())
        self._timer = None
        if self._unconfirmed:
            first = next(iter(self._unconfirmed.values()))
            self._timer = self._loop.call_at(first.deadline, self._on_timer)
