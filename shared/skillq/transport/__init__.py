"""The port to the broker (`base`) and its two implementations."""

from skillq.transport.base import Consumer, Delivery, Outgoing, Transport, park

__all__ = ["Consumer", "Delivery", "Outgoing", "Transport", "park"]
