"""Put many items into few messages, none of which is too large to send."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from pydantic_core import from_json

from skillq.messages import MAX_MESSAGE_BYTES
from skillq.transport.base import Outgoing

Item = TypeVar("Item")

# Levels of JSON that a message adds around a payload or an output, and some to spare.
_ENVELOPE_LEVELS = 20


def split_to_fit(
    make: Callable[[tuple[Item, ...]], Outgoing], items: Sequence[Item]
) -> tuple[list[tuple[Outgoing, Sequence[Item]]], list[Item]]:
    """Return messages that carry `items`, and the items that are too large for any message.

    `make` builds one message from several items. A message that exceeds `MAX_MESSAGE_BYTES` is split in two
    halves, again and again. Each message is returned with its items.
    """
    outgoing = make(tuple(items))
    if len(outgoing.body) <= MAX_MESSAGE_BYTES:
        return [(outgoing, items)], []
    if len(items) == 1:
        return [], list(items)
    middle = len(items) // 2
    first, too_large = split_to_fit(make, items[:middle])
    second, also_too_large = split_to_fit(make, items[middle:])
    return first + second, too_large + also_too_large


def check_readable(body: bytes) -> None:
    """Refuse JSON that no reader of a message can read: readers accept 200 levels.

    Raises:
        ValueError: the body is nested too deep, or is no JSON.
    """
    from_json(b"[" * _ENVELOPE_LEVELS + body + b"]" * _ENVELOPE_LEVELS)
