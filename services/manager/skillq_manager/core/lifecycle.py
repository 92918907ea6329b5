"""The life of a task, on one screen.

Every change of a status anywhere goes through `check`. The diagram in the README is drawn from this table.
"""

from collections.abc import Mapping

from skillq.messages import TaskStatus

BLOCKED, READY, ASSIGNED, RUNNING = (
    TaskStatus.BLOCKED,
    TaskStatus.READY,
    TaskStatus.ASSIGNED,
    TaskStatus.RUNNING,
)
SUCCEEDED, FAILED, TIMED_OUT, CANCELLED, DEAD_LETTERED = (
    TaskStatus.SUCCEEDED,
    TaskStatus.FAILED,
    TaskStatus.TIMED_OUT,
    TaskStatus.CANCELLED,
    TaskStatus.DEAD_LETTERED,
)

TRANSITIONS: Mapping[TaskStatus, Mapping[TaskStatus, str]] = {
    BLOCKED: {
        READY: "its dependencies succeeded",
        FAILED: "a dependency did not succeed",
    },
    READY: {
        ASSIGNED: "matched with a worker",
    },
    ASSIGNED: {
        RUNNING: "the worker began",
        READY: "handed back, lost, or to be tried again",
        SUCCEEDED: "done",
        FAILED: "the work said no",
        TIMED_OUT: "took too long",
        DEAD_LETTERED: "lost too often",
    },
    RUNNING: {
        READY: "handed back, lost, or to be tried again",
        SUCCEEDED: "done",
        FAILED: "the work said no",
        TIMED_OUT: "took too long",
        DEAD_LETTERED: "lost too often",
    },
    SUCCEEDED: {},
    FAILED: {},
    TIMED_OUT: {},
    CANCELLED: {},
    DEAD_LETTERED: {},
}


class InvalidTransition(Exception):
    """Raised when a task is asked to make a move that is not in the table; nothing has changed."""


def check(status: TaskStatus, to: TaskStatus) -> TaskStatus:
    """The new status.

    Raises:
        InvalidTransition: the table has no such move.
    """
    if to not in TRANSITIONS[status]:
        raise InvalidTransition(f"a {status} task cannot become {to}")
    return to
