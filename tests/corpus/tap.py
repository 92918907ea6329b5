"""All messages that are published on a vhost, read from RabbitMQ's tracing; and a selection of them."""

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
from tests.broker import Broker
from tests.corpus.contents import Json, Sent

_TRACE, _QUEUE = "amq.rabbitmq.trace", "corpus.trace"
_TWICE = 2  # messages that are kept of each kind

# Fields whose values make messages of different kinds.
_KINDS = {"status", "outcome", "event", "mode", "ready", "waiting_only", "draining", "part"}
_OF_USERS = {("payload",), ("dependencies",), ("output",)}


class Tap:
    """Reads the trace, so that no queue is bound to our exchanges, and what is unroutable stays so."""

    def __init__(self, broker: Broker, url: str, transport: Transport) -> None:
        self._broker = broker
        self._vhost = urlsplit(url).path[1:]
        self._transport = transport

    async def open(self) -> None:
        binding = Binding(_TRACE, "publish.#", _QUEUE)
        await self._transport.declare(Topology((), (Queue(_QUEUE),), (binding,)))
        self._broker.ask("PUT", f"/vhosts/{self._vhost}", {"tracing": True})

    async def read(self, last: str) -> list[Sent]:
        """Return what was published, up to the message with the routing key `last`."""
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


def few_of_each(messages: Iterable[Sent]) -> list[Sent]:
    """Return those messages which have a field or a word that at most one message before them has.

    Of an unreadable message, the copy in the dead-letter queue is kept.
    """
    seen: Counter[tuple[str, ...]] = Counter()
    kept: list[Sent] = []
    for sent in filter(_is_ours, messages):
        features = {(sent.exchange, *feature) for feature in _features(sent)}
        if any(seen[feature] < _TWICE for feature in features):
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
        if path[-1] in _KINDS:
            yield body["type"], *path, str(value)


def _paths(value: Any, where: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield the path and the value of each field below `value`; names that users chose are no fields."""
    if isinstance(value, dict) and where[-1:] not in _OF_USERS:
        for name, below in value.items():
            yield from _paths(below, (*where, name))
    elif isinstance(value, list):
        for below in value:
            yield from _paths(below, where)
    else:
        yield where, value


def lines(messages: Sequence[Sent]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(_fields(sent), ensure_ascii=False) + "\n" for sent in messages)


def _fields(sent: Sent) -> Json:
    return {
        "exchange": sent.exchange,
        "routing_key": sent.routing_key,
        "properties": sent.properties,
        "headers": sent.headers,
        "body": sent.body,
    }
