"""RabbitMQ through aio-pika; the one package that imports it.

Two robust connections, one that publishes and one that consumes. Channels are ours: aio-pika's robust
channels keep a whole connection down while one queue is missing, so each consumer here keeps a plain
channel open by itself and waits alone.
"""

from skillq.transport.rabbitmq.transport import RabbitTransport

__all__ = ["RabbitTransport"]
