"""The port to the broker (`base`), its two implementations, and the dead-letter queue."""

from skillq.transport.base import (
    Browsable,
    Browser,
    Consumer,
    Delivery,
    Outgoing,
    Transport,
    read_message,
)
from skillq.transport.dead_letters import dead_letter

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
