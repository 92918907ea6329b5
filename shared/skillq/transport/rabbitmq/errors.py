"""Translation of the driver's exceptions into `skillq.errors`."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from aiormq import exceptions as amqp

from skillq.errors import TransportError


@contextmanager
def translate_driver_errors(action: str) -> Iterator[None]:
    """Translate exceptions of the driver in this context; `action` begins the error message.

    Raises:
        TransportError: The driver raised an exception.
    """
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # The driver also cancels its pending calls when their connection is lost.
        raise TransportError(f"{action}: the connection to the broker was lost") from error
    except CONNECTION_EXCEPTIONS as error:
        # AMQPError, OSError and TimeoutError, but also RuntimeError: a channel in the wrong state.
        raise TransportError(f"{action}: {error_reason(error)}") from error


def error_reason(error: BaseException) -> str:
    """Return the reason of a driver's exception as one line of text."""
    if isinstance(error, TimeoutError):
        return "the broker did not answer in time"
    if isinstance(error.__cause__, ConnectionRefusedError):
        return "connection refused"
    if isinstance(error, amqp.DeliveryError):
        return "the broker refused it"  # a queue is full, or is being deleted
    text = str(error.args[-1]) if error.args else ""
    return text.strip().splitlines()[0] if text.strip() else type(error).__name__
