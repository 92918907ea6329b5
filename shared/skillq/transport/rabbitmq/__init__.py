"""The transport on RabbitMQ. No other package imports its driver, aio-pika.

The transport has two robust connections: one publishes, the other consumes. Each consumer opens a plain
channel and reopens this channel by itself. The robust channels of aio-pika are not used: while one queue is
missing, a robust channel keeps its whole connection from being restored.

See docs/adr/0012-open-channels-on-robust-connections.md.
"""

from skillq.transport.rabbitmq.transport import RabbitTransport

__all__ = ["RabbitTransport"]
