"""The port to the broker (`base`) and its two implementations."""

from skillq.transport.base import Browsable, Browser, Consumer, Delivery, Outgoing, Transport, park

__all__ = ["Browsable", "Browser", "Consumer", "Delivery", "Outgoing", "Transport", "park"]
