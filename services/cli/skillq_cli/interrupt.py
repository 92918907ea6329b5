"""Ctrl-C. Python takes it as an exception, which an import in progress shows as its own failure, or swallows."""

import os
import signal

INTERRUPTED = 130


def exit_on_interrupt() -> None:
    """Until there is something to leave in order."""
    if (
        signal.getsignal(signal.SIGINT) is signal.default_int_handler
    ):  # it may be ignored, as in the background
        signal.signal(signal.SIGINT, _exit)


def raise_on_interrupt() -> None:
    """Raise KeyboardInterrupt from here on."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(*_: object) -> None:
    try:
        os.write(2, b"skillq: interrupted\n")
    finally:
        os._exit(INTERRUPTED)
