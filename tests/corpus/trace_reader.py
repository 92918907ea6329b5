"""Read all messages that are published on a vhost from RabbitMQ's tracing, and select some."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

from skillq.errors import MalformedMessage
from skillq.messages import decode
from skillq.topology import DEAD_LETTERS, Binding, Queue, Topology
from skillq.transport import Delivery, Transport
from tests.corpus.contents import Json, Sent
from tests.support.broker import Broker

_TRACE, _QUEUE = "amq.rabbitmq.trace", "corpus.trace"
_KEPT_OF_EACH = 2  # messages that have the same field or value

# Messages with different values of these fields are different kinds of messages.
_KIND_FIELDS = {"status", "outcome", "event", "mode", "ready", "waiting_only", "draining", "part"}
_USER_DATA = {("payload",), ("dependencies",), ("output",)}


class TraceReader:
    """Read the trace of a vhost.

    No queue is bound to skillq's exchanges for that, so unroutable messages stay unroutable.
    """

    def __init__(self, broker: Broker, url: str, transport: Transport) -> None:
        self._broker = broker
        self._vhost = urlsplit(url).path[1:]
        self._transport = transport

    async def open(self) -> None:
        binding = Binding(_TRACE, "publish.#", _QUEUE)
        await self._transport.declare(Topology((), (Queue(_QUEUE),), (binding,)))
        self._broker.request("PUT", f"/vhosts/{self._vhost}", {"tracing": True})

    async def read(self, last: str) -> list[Sent]:
        """Return the published messages before the message with the routing key `last`."""
        consumer = await self._transport.consume(_QUEUE, prefetch=1000)
        found: list[Sent] = []
        while not any(sent.routing_key == last for sent in found):
            deliveries = await consumer.batch()
            found += map(_sent, deliveries)
            await consumer.ack(deliveries)
        await consumer.close()
        return [sent for sent in found if sent.routing_key != last]


def _sent(delivery: Delivery) -> Sent:
    traced: Any = delivery.headers
    properties = {name: _plain(value) for name, value in traced["properties"].items()}
    headers = properties.pop("headers", {})
    (key,) = traced["routing_keys"]
    return Sent(traced["exchange_name"], key, properties, headers, delivery.body.decode())


def _plain(value: Any) -> Any:
    return int(value.timestamp()) if isinstance(value, datetime) else value


def select_messages(messages: Iterable[Sent]) -> list[Sent]:
    """Return the messages with a field or value that fewer than two kept messages have.

    Of an unreadable message, only the copy in the dead-letter queue is kept.
    """
    seen: Counter[tuple[str, ...]] = Counter()
    kept: list[Sent] = []
    for sent in filter(_is_ours, messages):
        features = {(sent.exchange, *feature) for feature in _features(sent)}
        if any(seen[feature] < _KEPT_OF_EACH for feature in features):
            kept.append(sent)
            seen.update(features)
    return kept


def _is_ours(sent: Sent) -> bool:
    if sent.exchange == DEAD_LETTERS:
        return True
    try:
        decode(sent.raw)
    except MalformedMessage:
        return False
    return True


def _features(sent: Sent) -> Iterator[tuple[str, ...]]:
    if sent.exchange == DEAD_LETTERS:
        yield (sent.headers["x-skillq-queue"],)
        return
    body = json.loads(sent.body)
    for path, value in _paths(body, ()):
        if value:
            yield body["type"], *path
        if path[-1] in _KIND_FIELDS:
            yield body["type"], *path, str(value)


def _paths(value: Any, where: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield path and value of each field below `value`. Names in user data are not fields."""
    if isinstance(value, dict) and where[-1:] not in _USER_DATA:
        for name, child in value.items():
            yield from _paths(child, (*where, name))
    elif isinstance(value, list):
        for child in value:
            yield from _paths(child, where)
    else:
        yield where, value


def json_lines(messages: Sequence[Sent]) -> str:
    """Return one JSON object per line."""
    return "".join(json.dumps(_fields(sent), ensure_ascii=False) + "\n" for sent in messages)


def _fields(sent: Sent) -> Json:
    return {
        "exchange": sent.exchange,
        "routing_key": sent.routing_key,
        "properties": sent.properties,
        "headers": sent.headers,
        "body": sent.body,
    }
