"""Handle Ctrl-C during the imports of a command.

Python raises KeyboardInterrupt, which an import in progress may report as its own failure, or swallow.
So until the imports are done, Ctrl-C ends the process at once.
"""

import os
import signal

INTERRUPTED = 130


def exit_on_interrupt() -> None:
    """Let Ctrl-C end the process at once."""
    # SIGINT may be ignored, for example in a background job of a shell; it stays ignored then.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _exit)


def raise_on_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt again."""
    if signal.getsignal(signal.SIGINT) is _exit:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _exit(*_: object) -> None:
    try:
        os.write(2, b"skillq: interrupted\n")
    finally:
        os._exit(INTERRUPTED)
