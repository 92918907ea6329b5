"""The port to the broker (`base`) and its two implementations."""

from skillq.transport.base import (
    Browsable,
    Browser,
    Consumer,
    Delivery,
    Outgoing,
    Transport,
    dead_letter,
    read_message,
)

__all__ = [
    "Browsable",
    "Browser",
    "Consumer",
    "Delivery",
    "Outgoing",
    "Transport",
    "dead_letter",
    "read_message",
]
