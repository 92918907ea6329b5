"""The dead-letter queue: move an unreadable delivery to it, with headers that say why.

See docs/adr/0007-workers-move-unreadable-messages.md.
"""

from collections.abc import Mapping

from skillq.messages import shorten
from skillq.runtime.clock import steady_clock
from skillq.topology import DEAD_LETTERS
from skillq.transport.base import (
    Consumer,
    Delivery,
    HeaderValue,
    Outgoing,
    Transport,
    new_message_id,
)

REASON_HEADER = "x-skillq-reason"
QUEUE_HEADER = "x-skillq-queue"
EXCHANGE_HEADER = "x-skillq-exchange"
ROUTING_KEY_HEADER = "x-skillq-routing-key"
TIME_HEADER = "x-skillq-parked-at"  # seconds since the epoch
DEAD_LETTER_HEADERS = (
    REASON_HEADER,
    QUEUE_HEADER,
    EXCHANGE_HEADER,
    ROUTING_KEY_HEADER,
    TIME_HEADER,
)
# Characters; a reason may quote input of any length, and headers must fit into one frame.
MAX_REASON = 1000
MAX_KEPT_HEADERS = 64 * 1024  # bytes; half a frame
_HEADER_OVERHEAD = 16  # bytes that AMQP adds to the name and the value


def _kept_headers(headers: Mapping[str, object]) -> dict[str, HeaderValue]:
    """Return headers that are text or numbers, as many as leave room for the reason."""
    kept: dict[str, HeaderValue] = {}
    room = MAX_KEPT_HEADERS
    for name, value in headers.items():
        if isinstance(value, str | int):
            room -= len(name.encode()) + len(str(value).encode()) + _HEADER_OVERHEAD
            if room >= 0:
                kept[name] = value
    return kept


async def dead_letter(
    transport: Transport, consumer: Consumer, delivery: Delivery, reason: str
) -> None:
    """Move an unreadable delivery to the queue `skillq.dead-letters`.

    Headers of the copy say why, and where the delivery came from.

    Raises:
        TransportError: the broker did not confirm the copy; the delivery stays unacknowledged.
    """
    headers = _kept_headers(delivery.headers)
    copy = Outgoing(
        delivery.body,
        delivery.type,
        headers
        | {
            REASON_HEADER: shorten(reason, MAX_REASON),
            QUEUE_HEADER: delivery.queue,
            EXCHANGE_HEADER: delivery.exchange,
            ROUTING_KEY_HEADER: delivery.routing_key,
            TIME_HEADER: int(steady_clock()()),
        },
        delivery.message_id or new_message_id(),
    )
    await transport.publish(DEAD_LETTERS, delivery.queue, copy)
    await consumer.ack([delivery])
