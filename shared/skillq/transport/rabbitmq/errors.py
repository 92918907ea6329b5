"""What the driver raises, as ours."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from aiormq import exceptions as amqp

from skillq.errors import TransportError


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn what the driver raises into a TransportError."""
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # The driver rejects what it had in flight on a dead connection with this, too.
        raise TransportError(f"{doing}: the connection to the broker was lost") from error
    except CONNECTION_EXCEPTIONS as error:
        # AMQPError, OSError, TimeoutError, but also RuntimeError: a channel in the wrong state.
        raise TransportError(f"{doing}: {reason_of(error)}") from error


def reason_of(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "the broker did not answer in time"
    if isinstance(error.__cause__, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, amqp.DeliveryError):
        return "the broker refused it"  # a queue is full, or was just going
    text = str(error.args[-1]) if error.args else ""
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__
