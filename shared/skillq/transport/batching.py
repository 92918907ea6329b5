"""Many items into few messages, none of them too large."""

from collections.abc import Callable, Sequence
from typing import TypeVar

from pydantic_core import from_json

from skillq.messages import MAX_MESSAGE_BYTES
from skillq.transport.base import Outgoing

Item = TypeVar("Item")

_ENVELOPE_LEVELS = 20  # levels that messages put around a payload or an output, and then some


def split_to_fit(
    make: Callable[[tuple[Item, ...]], Outgoing], items: Sequence[Item]
) -> tuple[list[tuple[Outgoing, Sequence[Item]]], list[Item]]:
    """The messages, each with its items; and the items that are too large for a message of their own."""
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
    """Refuse JSON that no reader of a message will read: readers go down to 200 levels.

    Raises:
        ValueError: it is nested too deep, or no JSON.
    """
    from_json(b"[" * _ENVELOPE_LEVELS + body + b"]" * _ENVELOPE_LEVELS)
